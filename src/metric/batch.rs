//! What one core sends to another: points for the core that owns their metrics.
//!
//! ```text
//! record := timestamp u32 | name length u16 | value f64 bits u64 | name bytes      (native order)
//! points := record*
//! replay := (arrival u32 | record)*                           points of earlier runs, from the log
//! ```
//! The bytes never leave the process.

use crate::limits::NAME_BYTES_MAX;
use crate::metric::point::{Arrival, Point};

const HEAD_BYTES: usize = 14;

/// Longest possible record.
pub const RECORD_BYTES_MAX: usize = HEAD_BYTES + NAME_BYTES_MAX;

/// Appends one record.
pub fn push(batch: &mut Vec<u8>, name: &[u8], point: Point) {
    let name_bytes = u16::try_from(name.len()).expect("a canonical name is at most 4,000 bytes");
    // In one piece: each call that extends a vector looks at its capacity again.
    let mut head = [0; HEAD_BYTES];
    head[..4].copy_from_slice(&point.timestamp_s.to_ne_bytes());
    head[4..6].copy_from_slice(&name_bytes.to_ne_bytes());
    head[6..].copy_from_slice(&point.value.to_bits().to_ne_bytes());
    batch.reserve(HEAD_BYTES + name.len());
    batch.extend_from_slice(&head);
    batch.extend_from_slice(name);
}

/// Appends one record of an earlier run, with its arrival.
pub fn push_arrival(batch: &mut Vec<u8>, name: &[u8], arrival: Arrival) {
    batch.extend_from_slice(&arrival.arrived_s.to_ne_bytes());
    push(batch, name, arrival.point());
}

/// Reads a batch that [`push_arrival`] filled.
pub fn arrivals(mut batch: &[u8]) -> impl Iterator<Item = (&[u8], Arrival)> {
    std::iter::from_fn(move || {
        let (arrived_s, rest) = batch.split_first_chunk()?;
        let mut records = records(rest);
        let (name, point) = records.next().expect("an arrival has its point behind it");
        batch = records.rest;
        Some((name, Arrival::new(point, u32::from_ne_bytes(*arrived_s))))
    })
}

/// The records of a batch, in order.
#[derive(Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

/// Reads a batch that [`push`] filled.
pub fn records(batch: &[u8]) -> Records<'_> {
    Records { rest: batch }
}

impl<'a> Iterator for Records<'a> {
    type Item = (&'a [u8], Point);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, rest) = self.rest.split_first_chunk::<HEAD_BYTES>()?;
        let [t0, t1, t2, t3, n0, n1, value @ ..] = *head;
        let (name, rest) = rest.split_at(usize::from(u16::from_ne_bytes([n0, n1])));
        self.rest = rest;
        let timestamp_s = u32::from_ne_bytes([t0, t1, t2, t3]);
        Some((name, Point { timestamp_s, value: f64::from_bits(u64::from_ne_bytes(value)) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_went_in() {
        let sent: Vec<(Vec<u8>, Point)> = (0..100u32)
            .map(|n| (vec![b'x'; n as usize], Point { timestamp_s: n, value: f64::from(n) / 3.0 }))
            .collect();
        let mut batch = Vec::new();
        for (name, point) in &sent {
            push(&mut batch, name, *point);
        }
        let got: Vec<(Vec<u8>, Point)> =
            records(&batch).map(|(name, point)| (name.to_vec(), point)).collect();
        assert_eq!(got, sent);
        let mut replayed = Vec::new();
        for (name, point) in &sent {
            push_arrival(&mut replayed, name, Arrival::new(*point, point.timestamp_s + 7));
        }
        let got = arrivals(&replayed).map(|(name, arrival)| (name.to_vec(), arrival));
        let want = sent.into_iter().map(|(name, p)| (name, Arrival::new(p, p.timestamp_s + 7)));
        assert!(got.eq(want));
    }
}
