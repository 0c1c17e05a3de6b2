//! The choice of a backend for a new connection.

use crate::{
    abi::SlotRange,
    flow::FlowKey,
    hash::{self, HashKey},
    net::addr::Addr,
};

/// Seed of the key under which Maglev services look packets up, unless a flag gives another.
pub const MAGLEV_SEED: u64 = 0;
/// The key that it stands for.
pub const MAGLEV_KEY: HashKey = hash::expand(MAGLEV_SEED);

/// What stands for a random number where the same packet is to have the same slot on every node: a hash of it as the
/// client has sent it. Nodes are to have the same key, so it is no secret.
#[inline(always)]
pub fn of_packet<A: Addr>(key: &HashKey, packet: &FlowKey<A>) -> u32 {
    let ends = &packet.ends;
    hash::tuple(key, ends.src, ends.dst, packet.ports(), packet.proto) as u32
}

/// The slot that `random` falls on, uniformly; `None`: the range is empty.
///
/// Multiply and shift (Lemire 2019) instead of a remainder: no division, and a bias below
/// count / 2^32.
#[inline(always)]
pub fn uniform(range: SlotRange, random: u32) -> Option<u32> {
    if range.count == 0 {
        return None;
    }
    let offset = (u64::from(random) * u64::from(range.count)) >> 32;
    Some(range.base.wrapping_add(offset as u32))
}

/// How busy a backend is, to be compared with another.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    connections: u32,
    weight: u32,
}

impl Load {
    /// Of a backend with so many connections, modulo 2^32: a count that is off may be below 0, which counts as none.
    #[inline(always)]
    pub fn new(connections: u32, weight: u32) -> Self {
        let is_negative = connections >> 31 != 0;
        Self {
            connections: if is_negative { 0 } else { connections },
            weight,
        }
    }

    /// True if this one has fewer connections for its weight.
    #[inline(always)]
    pub fn is_less_than(self, other: Self) -> bool {
        u64::from(self.connections) * u64::from(other.weight)
            < u64::from(other.connections) * u64::from(self.weight)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::net::{addr::Addr4, ip::Ends};

    #[test]
    fn an_empty_range_has_no_slot() {
        assert_eq!(uniform(SlotRange { base: 7, count: 0 }, 1), None);
    }

    #[test]
    fn equal_shares_of_the_random_numbers_fall_on_each_slot() {
        let range = SlotRange {
            base: 100,
            count: 4,
        };
        for share in 0..4_u32 {
            let first = share << 30;
            assert_eq!(uniform(range, first), Some(100 + share));
            assert_eq!(uniform(range, first + ((1 << 30) - 1)), Some(100 + share));
        }
    }

    /// Pinned: nodes of different releases serve the same clients.
    #[test]
    fn a_packet_falls_on_the_same_slot_in_every_release() {
        let addr = |last| Addr4::from(Ipv4Addr::new(192, 0, 2, last));
        let mut packet = FlowKey {
            ends: Ends {
                src: addr(1),
                dst: addr(2),
            },
            sport: 40_000,
            dport: 80,
            proto: 6,
        };
        assert_eq!(of_packet(&MAGLEV_KEY, &packet), 1_447_871_275);
        assert_ne!(of_packet(&hash::expand(1), &packet), 0);
        packet.sport += 1;
        assert_eq!(of_packet(&MAGLEV_KEY, &packet), 2_277_065_401);
    }

    #[test]
    fn loads_are_compared_by_weight_and_never_below_none() {
        let is_less =
            |a: (u32, u32), b: (u32, u32)| Load::new(a.0, a.1).is_less_than(Load::new(b.0, b.1));
        assert!(is_less((1, 1), (2, 1)) && !is_less((2, 1), (2, 1)));
        assert!(is_less((5, 3), (2, 1)) && is_less((2, 1), (5, 2)));
        let below = 0_u32.wrapping_sub(3);
        assert!(is_less((below, 1), (1, 1)) && !is_less((below, 1), (0, 1)));
        assert!(is_less((u32::MAX / 2 - 1, 1), (u32::MAX / 2, 1)));
    }

    proptest! {
        #[test]
        fn the_slot_is_inside_the_range(base in 0..1_000_000_u32, count in 1..100_000_u32, random in any::<u32>()) {
            let slot = uniform(SlotRange { base, count }, random).expect("not empty");
            prop_assert!((base..base + count).contains(&slot));
        }
    }
}
