//! Finds the ends of fields and lines: every byte up to 0x20, 64 bytes at a time.
//!
//! These are the blanks, the LF, and control characters, which belong to a name: callers check the
//! byte. Sketch: a 56-byte line costs some 25 instructions to compare and four for each of its
//! three ends; a bytewise search took 100.

use wide::u8x16;

const BLOCK_BYTES: usize = 64;

/// Positions of the bytes up to 0x20, ascending.
#[derive(Debug, Clone)]
pub(crate) struct Blanks<'a> {
    blocks: &'a [[u8; BLOCK_BYTES]],
    tail: &'a [u8],
    /// Where the block after the one in `found` begins.
    next_block: usize,
    /// One bit for each byte of the current block that is still to be told.
    found: u64,
}

impl<'a> Blanks<'a> {
    pub(crate) fn new(buffer: &'a [u8]) -> Blanks<'a> {
        let (blocks, tail) = buffer.as_chunks();
        Blanks { blocks, tail, next_block: 0, found: 0 }
    }

    fn load(&mut self) -> Option<()> {
        while self.found == 0 {
            if let Some((block, blocks)) = self.blocks.split_first() {
                self.found = up_to_space(block);
                self.blocks = blocks;
            } else if self.tail.is_empty() {
                return None;
            } else {
                let mut block = [u8::MAX; BLOCK_BYTES];
                block[..self.tail.len()].copy_from_slice(self.tail);
                self.found = up_to_space(&block);
                self.tail = &[];
            }
            self.next_block += BLOCK_BYTES;
        }
        Some(())
    }
}

impl Iterator for Blanks<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.found == 0 {
            self.load()?;
        }
        let at = self.found.trailing_zeros() as usize;
        self.found &= self.found - 1;
        Some(self.next_block - BLOCK_BYTES + at)
    }
}

/// A bit for each byte up to 0x20; the first byte's is the lowest.
fn up_to_space(block: &[u8; BLOCK_BYTES]) -> u64 {
    let limit = u8x16::splat(b' ');
    let (quarters, _) = block.as_chunks::<16>();
    quarters.iter().enumerate().fold(0, |found, (index, quarter)| {
        let bytes = u8x16::new(*quarter);
        let is_low = bytes.min(limit).simd_eq(bytes);
        found | u64::from(is_low.to_bitmask()) << (16 * index)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_low_byte_is_found_at_every_offset() {
        for length in 0..200 {
            for at in 0..length {
                for byte in [0, b'\t', b'\n', b' '] {
                    let mut buffer = vec![b'!'; length];
                    buffer[at] = byte;
                    buffer[length - 1] = byte;
                    let mut want = vec![at, length - 1];
                    want.dedup();
                    assert_eq!(Blanks::new(&buffer).collect::<Vec<_>>(), want);
                }
            }
            let none: Vec<u8> = (0x21..=u8::MAX).cycle().take(length).collect();
            assert_eq!(Blanks::new(&none).next(), None);
        }
    }
}
