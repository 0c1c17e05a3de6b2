//! The lists of one service port: which backends serve which kind of traffic.
//!
//! All lists of a port stand in neighbouring slots, so that one allocation and one write make them.

use std::{borrow::Cow, collections::BTreeMap, iter, sync::Arc};

use lb_common::abi::{Service, SlotRange, backend_flags};

/// The flag of each list, in the order in which the lists stand in their slots.
pub(super) const LIST_FLAGS: [u32; 3] = [
    backend_flags::IN_CLUSTER,
    backend_flags::IN_EXTERNAL_LOCAL,
    backend_flags::IN_INTERNAL_LOCAL,
];

/// Slots that are looked through for a backend. Where there are more it is noted who stands in them.
const FEW: usize = 64;

/// The slots of each list, and who stands in them. Copies share them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lists {
    /// The content of all slots.
    ids: Arc<[u32]>,
    /// How many of them each list has.
    counts: [u32; 3],
    /// [`Self::members`], where there are more than [`FEW`] slots.
    members: Option<Arc<[Member]>>,
}

/// A backend that stands in a list, by its id, with the flags of its lists.
pub(super) type Member = (u32, u32);

impl Lists {
    /// The lists with these ids in their slots.
    pub(super) fn new(slots: &[Vec<u32>; 3]) -> Self {
        let counts = slots
            .each_ref()
            .map(|list| u32::try_from(list.len()).unwrap_or(u32::MAX));
        let ids: Arc<[u32]> = slots.concat().into();
        let mut lists = Self {
            ids,
            counts,
            members: None,
        };
        if lists.ids.len() > FEW {
            lists.members = Some(lists.looked_through().collect());
        }
        lists
    }

    /// Number of slots.
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.ids.len()).unwrap_or(u32::MAX)
    }

    /// The content of all slots.
    pub(super) fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Each backend that stands in a list, by its id.
    pub(super) fn members(&self) -> Cow<'_, [Member]> {
        match &self.members {
            Some(members) => Cow::Borrowed(members),
            None => self.looked_through().collect(),
        }
    }

    fn looked_through(&self) -> impl Iterator<Item = Member> + use<> {
        let mut members: BTreeMap<u32, u32> = BTreeMap::new();
        for (id, flag) in self.slots() {
            *members.entry(id).or_default() |= flag;
        }
        members.into_iter()
    }

    /// The flags of the lists that a backend stands in.
    pub(super) fn flags_of(&self, id: u32) -> u32 {
        let Some(members) = &self.members else {
            let slots = self.slots().filter(|(there, _)| *there == id);
            return slots.fold(0, |flags, (_, flag)| flags | flag);
        };
        let found = members.binary_search_by_key(&id, |(id, _)| *id);
        let member = found.ok().and_then(|at| members.get(at));
        member.map_or(0, |(_, flags)| *flags)
    }

    /// What stands in each slot, with the flag of its list.
    fn slots(&self) -> impl Iterator<Item = Member> + '_ {
        let flags = self.counts.into_iter().zip(LIST_FLAGS);
        let flags = flags.flat_map(|(count, flag)| iter::repeat_n(flag, count as usize));
        self.ids.iter().copied().zip(flags)
    }

    /// Where each list stands if the first slot is `base`; an empty list stands nowhere.
    pub(super) fn ranges(&self, base: u32) -> [SlotRange; 3] {
        let mut base = base;
        self.counts.map(|count| {
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
        let lists = Lists::new(&[vec![7, 8], Vec::new(), vec![7]]);
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
        assert_eq!(
            *lists.members(),
            [(7, both), (8, backend_flags::IN_CLUSTER)]
        );
    }

    #[test]
    fn long_lists_know_who_stands_in_them_as_short_ones_find_it_out() {
        let ids: Vec<u32> = (1..=40).collect();
        let [short, long] = [1, 2].map(|times| {
            let cluster = ids.iter().rev().copied().cycle().take(times * ids.len());
            Lists::new(&[cluster.collect(), Vec::new(), vec![5]])
        });
        assert!(short.members.is_none() && long.members.is_some());
        assert_eq!(short.members(), long.members());
        for id in 0..=41 {
            assert_eq!(short.flags_of(id), long.flags_of(id), "{id}");
        }
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
