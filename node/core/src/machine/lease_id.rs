//! Ids of leases that nobody named: positive, and not taken for consecutive.
//!
//! Promises: of different numbers different ids, as far as their bits go. Must never know: leases.

use super::command::Stamp;

/// Bits of a number that are mixed into an id that also says its shard: with the shards', below a sign.
const SHARDED_BITS: u32 = 47;

/// The one that every replica computes alike of a request's stamp, so that ids of two members do not run
/// beside each other.
pub fn of_stamp(stamp: Stamp) -> i64 {
    let mixed = mix(stamp.id ^ stamp.origin.rotate_left(32));
    (mixed >> 1).max(1).cast_signed()
}

/// The one of a number that the engine counts, which a shard finds again as the remainder.
pub fn of_shard(number: u64, shard: usize, shards: usize) -> i64 {
    let mixed = (mix(number) >> (u64::BITS - SHARDED_BITS)).max(1);
    (mixed * shards as u64 + shard as u64).cast_signed()
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(number: u64) -> u64 {
    let mut mixed = number;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids are in logs and in clients' hands: another mixing would pick ids that are taken.
    #[test]
    fn ids_are_what_they_always_were() {
        let stamp = |origin, id| Stamp {
            origin,
            id,
            ..Stamp::default()
        };
        assert_eq!(of_stamp(stamp(0, 0)), 1);
        assert_eq!(of_stamp(stamp(7, 1)), 5_609_593_743_101_883_677);
        assert_eq!(of_shard(1_000, 3, 16), 1_702_710_560_120_099);
        for shard in 0..1_024 {
            let id = of_shard(u64::MAX - shard as u64, shard, 1_024);
            assert!(id > 0 && id % 1_024 == shard as i64, "{id}");
        }
    }
}
