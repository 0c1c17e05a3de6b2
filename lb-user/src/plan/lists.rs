//! The lists of one service port: which backends serve which kind of traffic.
//!
//! All lists of a port stand in neighbouring slots, so that one allocation and one write make them.

use lb_common::abi::{Service, SlotRange, backend_flags};

/// The flag of each list, in the order in which the lists stand in their slots.
pub(super) const LIST_FLAGS: [u32; 3] = [
    backend_flags::IN_CLUSTER,
    backend_flags::IN_EXTERNAL_LOCAL,
    backend_flags::IN_INTERNAL_LOCAL,
];

/// Backend ids per list, in the order of the backends' addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lists([Vec<u32>; 3]);

impl Lists {
    /// The lists out of the slots that a service's entry names.
    pub(super) fn new(lists: [Vec<u32>; 3]) -> Self {
        Self(lists)
    }

    /// Puts a backend at the end of the lists that its flags name.
    pub(super) fn push(&mut self, id: u32, flags: u32) {
        for (list, flag) in self.0.iter_mut().zip(LIST_FLAGS) {
            if flags & flag != 0 {
                list.push(id);
            }
        }
    }

    /// Number of slots.
    pub(super) fn len(&self) -> u32 {
        let len: usize = self.0.iter().map(Vec::len).sum();
        u32::try_from(len).unwrap_or(u32::MAX)
    }

    /// The content of all slots.
    pub(super) fn ids(&self) -> Vec<u32> {
        self.0.concat()
    }

    /// Each backend with the flag of the list it stands in.
    pub(super) fn members(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let lists = self.0.iter().zip(LIST_FLAGS);
        lists.flat_map(|(list, flag)| list.iter().map(move |id| (*id, flag)))
    }

    /// The flags of the lists that a backend stands in.
    pub(super) fn flags_of(&self, id: u32) -> u32 {
        let lists = self.0.iter().zip(LIST_FLAGS);
        lists
            .filter(|(list, _)| list.contains(&id))
            .fold(0, |flags, (_, flag)| flags | flag)
    }

    /// Where each list stands if the first slot is `base`; an empty list stands nowhere.
    pub(super) fn ranges(&self, base: u32) -> [SlotRange; 3] {
        let mut base = base;
        self.0.each_ref().map(|list| {
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
        let mut lists = Lists::default();
        lists.push(
            7,
            backend_flags::IN_CLUSTER | backend_flags::IN_INTERNAL_LOCAL,
        );
        lists.push(8, backend_flags::IN_CLUSTER | backend_flags::SERVING);
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
