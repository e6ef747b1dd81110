//! What the machine itself costs: the least work that each job of a node can be done with, by the
//! plainest program that does it. `perf/run` measures the node as a ratio to these, in one run.
//!
//! ```text
//! floors receive                 (a) read(2) into 256 KiB and count newlines, all connections
//! floors update ROOT LIST        (b) open, two pwrite, close of each file, in inode order
//! floors append FILE BYTES COUNT (c) O_DIRECT writes of BYTES, one behind the other
//! floors create ROOT BYTES COUNT (d) open, fallocate of BYTES, pwrite of a header, close of each
//!                                new file, ten in each new directory
//! floors answer                  (e) read a carbonlink question and send an empty answer, a thread
//!                                for each connection, until it is killed
//! ```
//! Those that end print one JSON object; times are CPU time of the process unless they say
//! otherwise. Those that listen print where, first.

#![allow(unsafe_code, reason = "a floor is system calls and nothing else")]
#![allow(clippy::print_stdout, reason = "the result goes there")]
#![allow(missing_docs, reason = "a program, not a library")]

use std::fs::OpenOptions;
use std::io::{Error, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use carbyne::limits::READ_BYTES;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["receive"] => receive(),
        ["answer"] => answer(),
        ["update", root, list] => update(Path::new(root), Path::new(list)),
        ["append", file, bytes, count] => append(Path::new(file), bytes.parse()?, count.parse()?),
        ["create", root, bytes, count] => create(Path::new(root), bytes.parse()?, count.parse()?),
        _ => Err("floors receive | answer | update | append | create ARGUMENT...".into()),
    }
}

/// CPU time of the process: user and system, in nanoseconds as the scheduler counts.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer describes `time`, which outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    let seconds = Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0));
    seconds + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// Receives until every connection that was opened is closed again.
fn receive() -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    println!("{{\"listening\": \"{}\"}}", listener.local_addr()?);
    std::io::stdout().flush()?;
    let mut connections: Vec<TcpStream> = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    let (mut lines, mut bytes, mut reads) = (0, 0, 0_u64);
    let mut started = None;
    loop {
        let mut polls = vec![poll_in(listener.as_raw_fd())];
        polls.extend(connections.iter().map(|connection| poll_in(connection.as_raw_fd())));
        wait(&mut polls)?;
        let ready: Vec<bool> = polls[1..].iter().map(|poll| poll.revents != 0).collect();
        let mut still = Vec::with_capacity(connections.len());
        for (mut connection, is_ready) in connections.into_iter().zip(ready) {
            match if is_ready { connection.read(&mut buffer) } else { Ok(usize::MAX) } {
                Ok(0) => continue,
                Ok(usize::MAX) => {}
                Ok(count) => {
                    reads += 1;
                    bytes += count;
                    lines += memchr::memchr_iter(b'\n', &buffer[..count]).count();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            still.push(connection);
        }
        connections = still;
        if polls[0].revents != 0 {
            let (connection, _) = listener.accept()?;
            connection.set_nonblocking(true)?;
            connections.push(connection);
            started.get_or_insert_with(|| (Instant::now(), cpu_time()));
        }
        if let (Some((start, cpu)), true) = (started, connections.is_empty()) {
            let (elapsed, cpu) = (start.elapsed(), cpu_time() - cpu);
            println!(
                "{{\"lines\": {lines}, \"bytes\": {bytes}, \"reads\": {reads}, \
                 \"seconds\": {:.6}, \"cpu_s\": {:.9}}}",
                elapsed.as_secs_f64(),
                cpu.as_secs_f64()
            );
            return Ok(());
        }
    }
}

fn poll_in(fd: i32) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}

fn wait(polls: &mut [libc::pollfd]) -> Result<(), Failure> {
    let count = libc::nfds_t::try_from(polls.len())?;
    // SAFETY: pointer and count describe `polls`, which outlives the call.
    let ready = unsafe { libc::poll(polls.as_mut_ptr(), count, -1) };
    if ready < 0 { Err(Error::last_os_error().into()) } else { Ok(()) }
}

/// Answers every carbonlink question with an empty pickled dictionary, until it is killed.
fn answer() -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{{\"listening\": \"{}\"}}", listener.local_addr()?);
    std::io::stdout().flush()?;
    loop {
        let (connection, _) = listener.accept()?;
        connection.set_nodelay(true)?;
        std::thread::spawn(move || {
            // An error is the end of the connection.
            let _ = answer_one(connection);
        });
    }
}

fn answer_one(mut connection: TcpStream) -> Result<(), Failure> {
    let (mut length, mut question) = ([0; 4], Vec::new());
    loop {
        connection.read_exact(&mut length)?;
        question.resize(usize::try_from(u32::from_be_bytes(length))?, 0);
        connection.read_exact(&mut question)?;
        connection.write_all(&[0, 0, 0, 4, 0x80, 2, b'}', b'.'])?;
    }
}

/// A file of the sweep, and the two slots that are written: offset and bytes, which are the ones
/// that are there already.
struct Target {
    path: Vec<u8>,
    writes: [(i64, [u8; 12]); 2],
}

/// Writes a point into the first and second archive of every file of a list.
fn update(root: &Path, list: &Path) -> Result<(), Failure> {
    let mut paths: Vec<(u64, PathBuf)> = Vec::new();
    for line in std::fs::read_to_string(list)?.lines() {
        let path = PathBuf::from(line);
        paths.push((std::fs::metadata(root.join(&path))?.ino(), path));
    }
    paths.sort();
    let targets: Result<Vec<Target>, Failure> =
        paths.into_iter().map(|(_, path)| target(root, path)).collect();
    let targets = targets?;
    let directory = std::fs::File::open(root)?;
    let (start, cpu) = (Instant::now(), cpu_time());
    for target in &targets {
        write_target(directory.as_raw_fd(), target)?;
    }
    let (elapsed, cpu) = (start.elapsed(), cpu_time() - cpu);
    println!(
        "{{\"updates\": {}, \"seconds\": {:.6}, \"cpu_s\": {:.9}}}",
        targets.len(),
        elapsed.as_secs_f64(),
        cpu.as_secs_f64()
    );
    Ok(())
}

fn target(root: &Path, path: PathBuf) -> Result<Target, Failure> {
    let file = std::fs::File::open(root.join(&path))?;
    let mut writes = [(0, [0; 12]); 2];
    for (index, write) in writes.iter_mut().enumerate() {
        let mut offset = [0; 4];
        file.read_exact_at(&mut offset, 16 + 12 * u64::try_from(index)?)?;
        let offset = u32::from_be_bytes(offset);
        // The middle of the archive: a page that a node's updates touch sooner or later too.
        write.0 = i64::from(offset) + 12 * 100;
        file.read_exact_at(&mut write.1, u64::try_from(write.0)?)?;
    }
    let mut path = path.as_os_str().as_bytes().to_vec();
    path.push(0);
    Ok(Target { path, writes })
}

fn write_target(directory: i32, target: &Target) -> Result<(), Failure> {
    // SAFETY: the path ends in NUL.
    let fd = unsafe { libc::openat(directory, target.path.as_ptr().cast(), libc::O_RDWR) };
    if fd < 0 {
        return Err(Error::last_os_error().into());
    }
    for (offset, bytes) in &target.writes {
        // SAFETY: pointer and length describe `bytes`, which outlives the call.
        let count = unsafe { libc::pwrite(fd, bytes.as_ptr().cast(), bytes.len(), *offset) };
        if count != 12 {
            return Err(Error::last_os_error().into());
        }
    }
    // SAFETY: `fd` was opened above and nothing else knows it.
    unsafe { libc::close(fd) };
    Ok(())
}

/// A header of two archives.
const HEADER_BYTES: usize = 40;

/// Files of a directory, as the sender's metrics have them.
const LEAVES: usize = 10;

/// Makes files with blocks of their own and a header.
fn create(root: &Path, bytes: i64, count: usize) -> Result<(), Failure> {
    let header = [0x5a_u8; HEADER_BYTES];
    let (start, cpu) = (Instant::now(), cpu_time());
    let mut directory = PathBuf::new();
    for number in 0..count {
        if number.is_multiple_of(LEAVES) {
            directory = root.join(format!("directory{}", number / LEAVES));
            std::fs::create_dir(&directory)?;
        }
        let path = directory.join(format!("leaf{}.wsp", number % LEAVES));
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        // SAFETY: plain numbers and a descriptor that is open for the call.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes) } != 0 {
            return Err(Error::last_os_error().into());
        }
        file.write_all_at(&header, 0)?;
    }
    let (elapsed, cpu) = (start.elapsed(), cpu_time() - cpu);
    println!(
        "{{\"creates\": {count}, \"seconds\": {:.6}, \"cpu_s\": {:.9}}}",
        elapsed.as_secs_f64(),
        cpu.as_secs_f64()
    );
    Ok(())
}

/// What O_DIRECT asks of addresses and lengths.
const ALIGNMENT: usize = 4_096;

/// Writes a file from its beginning to its end, past the page cache.
fn append(path: &Path, bytes: usize, count: u64) -> Result<(), Failure> {
    if bytes == 0 || !bytes.is_multiple_of(ALIGNMENT) {
        return Err("BYTES is a multiple of 4096".into());
    }
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)?;
    // The log's segments have their size before they are written.
    file.set_len(bytes as u64 * count)?;
    let memory = vec![0x5a_u8; bytes + ALIGNMENT];
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    let block = &memory[start..start + bytes];
    let (began, cpu) = (Instant::now(), cpu_time());
    for number in 0..count {
        file.write_all_at(block, number * bytes as u64)?;
    }
    let (elapsed, cpu) = (began.elapsed(), cpu_time() - cpu);
    std::fs::remove_file(path)?;
    println!(
        "{{\"writes\": {count}, \"bytes\": {bytes}, \"seconds\": {:.6}, \"cpu_s\": {:.9}}}",
        elapsed.as_secs_f64(),
        cpu.as_secs_f64()
    );
    Ok(())
}
