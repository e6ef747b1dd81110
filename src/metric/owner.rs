//! Which shard owns a metric.

use crate::metric::name::NameHash;

/// The number of a shard: 0 up to the number of cores in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardId(pub u16);

impl ShardId {
    /// Position in tables of shards.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The owner of a name among `count` shards: the hash's high bits, scaled (Lemire's reduction).
/// The hash is xxh3-64 of the canonical name, the same on every machine and in every release.
pub fn owner(name: &[u8], count: u16) -> ShardId {
    let scaled = (u128::from(NameHash::of(name).0) * u128::from(count)) >> 64;
    ShardId(u16::try_from(scaled).expect("a 64-bit hash scaled to a u16 stays below it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_stable_and_balanced() {
        assert_eq!(owner(b"servers.web1.cpu.user", 1), ShardId(0));
        let golden: Vec<u16> =
            ["a", "a.b.c", "servers.web1.cpu.user"].map(|n| owner(n.as_bytes(), 64).0).to_vec();
        assert_eq!(golden, [57, 18, 49]);
        let mut counts = [0usize; 7];
        for n in 0..70_000 {
            counts[owner(format!("metric.{n}").as_bytes(), 7).index()] += 1;
        }
        assert!(counts.iter().all(|&count| (9_500..10_500).contains(&count)), "{counts:?}");
    }
}
