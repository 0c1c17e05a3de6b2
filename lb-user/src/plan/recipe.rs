//! What the lists of a service port are made of, and how they are made: in the order of addresses, each as often as it
//! weighs, or as Maglev tables.

use std::net::{IpAddr, SocketAddr};

use lb_common::{abi::backend_flags, hash};

use super::{
    lists::{LIST_FLAGS, Lists},
    maglev::{self, Member},
};
use crate::desired::{Algorithm, DesiredPort, Protocol};

/// Everything that decides what the slots hold. Equal ones make equal lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recipe {
    algorithm: Algorithm,
    maglev_size: Option<u32>,
    protocol: Protocol,
    /// In the order of their addresses.
    entries: Vec<Entry>,
}

/// An endpoint that has an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    endpoint: SocketAddr,
    id: u32,
    /// Those of its lists, in [`LIST_FLAGS`].
    flags: u32,
    weight: u32,
}

impl Recipe {
    /// For a port without endpoints.
    pub(super) fn new(algorithm: Algorithm, port: &DesiredPort, protocol: Protocol) -> Self {
        Self {
            algorithm,
            maglev_size: port.maglev_size,
            protocol,
            entries: Vec::new(),
        }
    }

    /// Adds the endpoint whose address comes next; `flags`: those of its row.
    pub(super) fn push(&mut self, endpoint: SocketAddr, id: u32, flags: u32) {
        let weight = backend_flags::weight(flags);
        let flags = flags & LIST_FLAGS.into_iter().fold(0, |all, flag| all | flag);
        self.entries.push(Entry {
            endpoint,
            id,
            flags,
            weight,
        });
    }

    /// Whether to make the lists takes long, so that they are kept.
    pub(super) fn is_dear(&self) -> bool {
        self.algorithm == Algorithm::Maglev
    }

    /// Makes the lists.
    pub(super) fn lists(&self) -> Lists {
        Lists::new(&LIST_FLAGS.map(|flag| {
            let entries = self.entries.iter().filter(|entry| entry.flags & flag != 0);
            let entries: Vec<Entry> = entries.copied().collect();
            match self.algorithm {
                Algorithm::Random | Algorithm::LeastConnections => repeated(&entries),
                Algorithm::Maglev => self.table(&entries),
            }
        }))
    }

    fn table(&self, entries: &[Entry]) -> Vec<u32> {
        let n_backends = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        let size = match (n_backends, self.maglev_size) {
            // There is nothing to look up.
            (0 | 1, _) => n_backends,
            (_, Some(size)) => size,
            (_, None) => maglev::default_size(n_backends),
        };
        let member = |entry: &Entry| Member {
            identity: identity(entry.endpoint, self.protocol),
            weight: entry.weight,
        };
        let members: Vec<_> = entries.iter().map(member).collect();
        let places = maglev::populate(&members, size);
        let ids = places.into_iter().filter_map(|index| {
            let entry = entries.get(usize::try_from(index).ok()?)?;
            Some(entry.id)
        });
        ids.collect()
    }
}

/// Slots of a list in which some have several, unless it has more endpoints.
const MAX_REPEATED: u32 = 4_096;

/// Each as often as it weighs, with as few slots as tell the weights; with the most that there are it is nearly so.
fn repeated(entries: &[Entry]) -> Vec<u32> {
    let unit = entries
        .iter()
        .fold(0, |unit, entry| divisor(unit, entry.weight))
        .max(1);
    let total: u32 = entries.iter().map(|entry| entry.weight / unit).sum();
    let n_slots = |entry: &Entry| {
        let share = entry.weight / unit;
        if total <= MAX_REPEATED {
            return share;
        }
        let exact = u64::from(share) * u64::from(MAX_REPEATED) / u64::from(total);
        u32::try_from(exact).unwrap_or(share).max(1)
    };
    let ids = entries
        .iter()
        .flat_map(|entry| (0..n_slots(entry)).map(|_| entry.id));
    ids.collect()
}

/// The greatest common divisor (Euclid); of 0 and another number the other.
fn divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { divisor(b, a % b) }
}

/// Who an endpoint is on every node.
fn identity(endpoint: SocketAddr, protocol: Protocol) -> u64 {
    let address = match endpoint.ip() {
        IpAddr::V4(addr) => u128::from(u32::from(addr)),
        IpAddr::V6(addr) => u128::from(addr),
    };
    let last = u64::from(endpoint.port()) << 8 | u64::from(protocol.number());
    let half = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or_default();
    let words = [half(address >> 64), half(address), last];
    words.into_iter().fold(0, |bits: u64, word| {
        hash::finish(bits.wrapping_add(word).wrapping_add(1))
    })
}

#[cfg(test)]
mod tests {
    use lb_common::abi::backend_flags::{IN_CLUSTER, IN_INTERNAL_LOCAL, SERVING, of_weight};

    use super::*;

    fn endpoint(last: u8, port: u16) -> SocketAddr {
        SocketAddr::new([10, 244, 1, last].into(), port)
    }

    fn recipe(algorithm: Algorithm, maglev_size: Option<u32>, ids: &[u32]) -> Recipe {
        let port = DesiredPort {
            maglev_size,
            ..DesiredPort::default()
        };
        let mut recipe = Recipe::new(algorithm, &port, Protocol::Tcp);
        for (last, id) in (1..).zip(ids) {
            recipe.push(endpoint(last, 80), *id, SERVING | IN_CLUSTER);
        }
        recipe
    }

    #[test]
    fn random_lists_have_each_endpoint_once_in_the_order_of_addresses() {
        let mut recipe = recipe(Algorithm::Random, Some(64), &[9, 3]);
        recipe.push(endpoint(8, 80), 5, IN_CLUSTER | IN_INTERNAL_LOCAL);
        assert_eq!(recipe.lists().ids(), [9, 3, 5, 5]);
    }

    #[test]
    fn random_lists_have_each_endpoint_as_often_as_it_weighs() {
        let of = |weights: &[u32]| {
            let mut recipe = recipe(Algorithm::Random, None, &[]);
            for (last, weight) in (1..).zip(weights) {
                recipe.push(
                    endpoint(last, 80),
                    last.into(),
                    IN_CLUSTER | of_weight(*weight),
                );
            }
            let lists = recipe.lists();
            let ids = lists.ids();
            (1..)
                .take(weights.len())
                .map(|id| ids.iter().filter(|it| **it == id).count())
                .collect::<Vec<_>>()
        };
        assert_eq!(of(&[1, 2, 5]), [1, 2, 5]);
        assert_eq!(of(&[100, 50, 25]), [4, 2, 1]);
        assert_eq!(of(&[7, 7, 7]), [1, 1, 1]);
        // Too many to tell them exactly.
        let mut many = vec![100; 99];
        many.push(1);
        let counts = of(&many);
        assert_eq!((counts[0], counts[99]), (41, 1));
        assert!(counts.iter().sum::<usize>() <= 4_096);
    }

    /// The numbers that a node gives to endpoints are its own.
    #[test]
    fn a_maglev_table_is_the_same_whatever_the_ids_are() {
        let here = recipe(Algorithm::Maglev, None, &[1, 2, 3])
            .lists()
            .ids()
            .to_vec();
        let there = recipe(Algorithm::Maglev, None, &[7, 5, 6])
            .lists()
            .ids()
            .to_vec();
        let renamed: Vec<u32> = here.iter().map(|id| [7, 5, 6][*id as usize - 1]).collect();
        assert_eq!((there, here.len()), (renamed, 4_096));
    }

    #[test]
    fn a_table_has_the_size_that_the_service_asks_for_or_none_if_there_is_one_endpoint() {
        let of = |size, ids: &[u32]| recipe(Algorithm::Maglev, size, ids).lists().len();
        assert_eq!(of(Some(1_000), &[1, 2]), 1_000);
        assert_eq!((of(Some(1_000), &[1]), of(None, &[])), (1, 0));
    }

    #[test]
    fn an_endpoint_is_its_address_port_and_protocol() {
        let identities = [
            identity(endpoint(1, 80), Protocol::Tcp),
            identity(endpoint(2, 80), Protocol::Tcp),
            identity(endpoint(1, 81), Protocol::Tcp),
            identity(endpoint(1, 80), Protocol::Udp),
            identity("[fd00::1]:80".parse().expect("literal"), Protocol::Tcp),
        ];
        for (at, one) in identities.iter().enumerate() {
            assert!(!identities[at + 1..].contains(one), "{at}");
        }
    }
}
