//! The lists of one service port: which backends serve which kind of traffic.
//!
//! All lists of a port stand in neighbouring slots, so that one allocation and one write make them.

use std::{collections::BTreeMap, sync::Arc};

use lb_common::abi::{Service, SlotRange, backend_flags};

/// The flag of each list, in the order in which the lists stand in their slots.
pub(super) const LIST_FLAGS: [u32; 3] = [
    backend_flags::IN_CLUSTER,
    backend_flags::IN_EXTERNAL_LOCAL,
    backend_flags::IN_INTERNAL_LOCAL,
];

/// The slots of each list, and who stands in them. Copies share them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lists {
    slots: [Arc<[u32]>; 3],
    /// Each backend that stands in a list, by its id, with the flags of its lists.
    members: Arc<[(u32, u32)]>,
}

impl Lists {
    /// The lists with these ids in their slots.
    pub(super) fn new(slots: [Vec<u32>; 3]) -> Self {
        let mut members = BTreeMap::new();
        for (list, flag) in slots.iter().zip(LIST_FLAGS) {
            for id in list {
                *members.entry(*id).or_default() |= flag;
            }
        }
        Self {
            slots: slots.map(Into::into),
            members: members.into_iter().collect(),
        }
    }

    /// Number of slots.
    pub(super) fn len(&self) -> u32 {
        let len: usize = self.slots.iter().map(|list| list.len()).sum();
        u32::try_from(len).unwrap_or(u32::MAX)
    }

    /// The content of all slots.
    pub(super) fn ids(&self) -> Vec<u32> {
        self.slots.concat()
    }

    /// Each backend that stands in a list, with the flags of its lists.
    pub(super) fn members(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.members.iter().copied()
    }

    /// The flags of the lists that a backend stands in.
    pub(super) fn flags_of(&self, id: u32) -> u32 {
        let found = self.members.binary_search_by_key(&id, |(id, _)| *id);
        let member = found.ok().and_then(|at| self.members.get(at));
        member.map_or(0, |(_, flags)| *flags)
    }

    /// Where each list stands if the first slot is `base`; an empty list stands nowhere.
    pub(super) fn ranges(&self, base: u32) -> [SlotRange; 3] {
        let mut base = base;
        self.slots.each_ref().map(|list| {
            let count = u32::try_from(list.len()).unwrap_or(u32::MAX);
            let range = if count == 0 {
                SlotRange::default()
            } else {
                SlotRange { base, count }
            };
            base = base.saturating_add(count);
            range
        })
    }
}

/// The first slot of a service's lists; `None`: they are all empty.
pub(super) fn first_slot(service: &Service) -> Option<u32> {
    let ranges = [
        service.cluster,
        service.external_local,
        service.internal_local,
    ];
    ranges
        .into_iter()
        .find(|range| range.count > 0)
        .map(|range| range.base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_stand_one_after_the_other_and_empty_ones_nowhere() {
        let lists = Lists::new([vec![7, 8], Vec::new(), vec![7]]);
        assert_eq!(lists.ids(), [7, 8, 7]);
        let [cluster, external_local, internal_local] = lists.ranges(100);
        assert_eq!(
            cluster,
            SlotRange {
                base: 100,
                count: 2
            }
        );
        assert_eq!(external_local, SlotRange::default());
        assert_eq!(
            internal_local,
            SlotRange {
                base: 102,
                count: 1
            }
        );
        assert_eq!(
            lists.flags_of(7),
            backend_flags::IN_CLUSTER | backend_flags::IN_INTERNAL_LOCAL
        );
        assert_eq!(lists.flags_of(9), 0);
        let both = backend_flags::IN_CLUSTER | backend_flags::IN_INTERNAL_LOCAL;
        let members: Vec<_> = lists.members().collect();
        assert_eq!(members, [(7, both), (8, backend_flags::IN_CLUSTER)]);
    }

    #[test]
    fn the_first_slot_is_that_of_the_first_list_that_has_one() {
        let range = SlotRange { base: 5, count: 1 };
        assert_eq!(first_slot(&Service::default()), None);
        assert_eq!(
            first_slot(&Service {
                internal_local: range,
                ..Service::default()
            }),
            Some(5)
        );
    }
}
