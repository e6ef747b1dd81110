//! A Whisper file as a `Vec<u8>`: `File::drive` does what a job asks for and checks that it asks
//! for nothing outside the file, nothing twice, and in no more phases than promised.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use carbyne::metric::point::{Arrival, Point};
use carbyne::metric::series::{Aggregation, Retention, SeriesSpec};
use carbyne::whisper::{
    Bases, Fetch, FetchError, HEADER_BYTES_MAX, Header, HeaderError, NotCovered, Outcome, Step,
    Transfer, Update,
};
use sha2::{Digest, Sha256};

/// A file in memory, with what its owner remembers.
pub(crate) struct File {
    /// All of it.
    pub(crate) bytes: Vec<u8>,
    pub(crate) header: Header,
    pub(crate) bases: Bases,
}

impl File {
    pub(crate) fn create(
        shape: &[(u32, u32)],
        x_files_factor: f32,
        aggregation: Aggregation,
    ) -> File {
        let retention = |&(step_s, slot_count): &(u32, u32)| Retention { step_s, slot_count };
        let retentions = shape.iter().map(retention).collect();
        let spec = SeriesSpec { retentions, x_files_factor, aggregation };
        let header = Header::new(&spec).expect("valid archives");
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        bytes.resize(to_usize(header.file_bytes()), 0);
        File { bytes, header, bases: Bases::EMPTY }
    }

    pub(crate) fn open(bytes: Vec<u8>) -> Result<File, HeaderError> {
        let head = &bytes[..bytes.len().min(HEADER_BYTES_MAX)];
        let header = Header::parse(head, to_u64(bytes.len()))?;
        Ok(File { bytes, header, bases: Bases::UNKNOWN })
    }

    pub(crate) fn update_many(
        &mut self,
        job: &mut Update,
        points: &[Point],
        now_s: u32,
    ) -> Outcome {
        job.begin_many(&self.header, &self.bases, points, now_s);
        self.drive(job)
    }

    pub(crate) fn update_arrivals(&mut self, job: &mut Update, points: &[Arrival]) -> Outcome {
        job.begin_arrivals(&self.header, &self.bases, points);
        self.drive(job)
    }

    pub(crate) fn update(
        &mut self,
        job: &mut Update,
        point: Point,
        now_s: u32,
    ) -> Result<(), NotCovered> {
        let begun = job.begin_one(&self.header, &self.bases, point, now_s);
        self.drive(job);
        begun
    }

    fn drive(&mut self, job: &mut Update) -> Outcome {
        let (mut read_phases, mut write_phases) = (0, 0);
        loop {
            match job.step() {
                Step::Read => {
                    assert_eq!(write_phases, 0, "a read after the write");
                    read_phases += 1;
                    let (transfers, arena) = job.reads();
                    self.check_transfers(transfers);
                    for t in transfers {
                        let from = to_usize(t.offset);
                        arena[t.start..][..t.len].copy_from_slice(&self.bytes[from..][..t.len]);
                    }
                }
                Step::Write => {
                    write_phases += 1;
                    let (transfers, arena) = job.writes();
                    self.check_transfers(transfers);
                    for t in transfers {
                        let to = to_usize(t.offset);
                        self.bytes[to..][..t.len].copy_from_slice(&arena[t.start..][..t.len]);
                    }
                }
                Step::Done => break,
            }
        }
        assert_eq!(job.step(), Step::Done);
        assert!(read_phases <= 2 && write_phases <= 1, "{read_phases} {write_phases}");
        self.bases = *job.bases();
        self.check_bases();
        job.outcome()
    }

    /// Transfers are whole slots of one archive each, disjoint.
    fn check_transfers(&self, transfers: &[Transfer]) {
        let mut pieces: Vec<(u64, u64)> = Vec::new();
        for t in transfers {
            let end = t.offset + to_u64(t.len);
            assert!(t.len > 0 && end <= self.header.file_bytes(), "{t:?}");
            let holds = |archive: &&carbyne::whisper::Archive| {
                t.offset >= u64::from(archive.offset) && end <= archive.end()
            };
            let archive = self.header.archives().iter().find(holds).expect("within an archive");
            assert_eq!((t.offset - u64::from(archive.offset)) % 12, 0, "{t:?}");
            assert_eq!(t.len % 12, 0, "{t:?}");
            pieces.push((t.offset, end));
        }
        pieces.sort_unstable();
        assert!(pieces.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{pieces:?}");
    }

    /// What is remembered is what the file says.
    fn check_bases(&self) {
        for (at, archive) in self.header.archives().iter().enumerate() {
            if let Some(base_s) = self.bases.get(at) {
                let from = to_usize(archive.slot_offset(0));
                assert_eq!(base_s.to_be_bytes(), self.bytes[from..from + 4], "base of {at}");
            }
        }
    }

    pub(crate) fn fetch(
        &self,
        from_s: i64,
        until_s: i64,
        now_s: u32,
        step_s: Option<u32>,
    ) -> Fetched {
        let Some(fetch) = Fetch::plan(&self.header, from_s, until_s, now_s, step_s)? else {
            return Ok(None);
        };
        let read = |t: &Transfer| &self.bytes[to_usize(t.offset)..][..t.len];
        let base: [u8; 4] = read(&fetch.base_read())[..4].try_into().unwrap();
        let reads = fetch.reads(u32::from_be_bytes(base));
        let bytes: Vec<u8> = reads.transfers().iter().flat_map(read).copied().collect();
        assert_eq!(bytes.len(), reads.total_bytes());
        let mut values = Vec::new();
        fetch.decode(&bytes, &mut values);
        Ok(Some((fetch, values)))
    }

    pub(crate) fn sha256(&self) -> String {
        Sha256::digest(&self.bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

pub(crate) type Fetched = Result<Option<(Fetch, Vec<Option<f64>>)>, FetchError>;

pub(crate) fn to_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap()
}

pub(crate) fn to_usize(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}
