//! The node's addresses that stand in for clients'.
//!
//! A reader looks up a device's first entry, which says how many there are, then one of these; what is not there counts
//! as taken. So the order is: entries behind the last one, backwards; then those that are there already, with the new
//! number; then those that are too many go. At no moment does an entry name a number of which none is there.

use std::collections::BTreeMap;

use lb_common::abi::{Source, SourceKey};

use super::{
    delta::Delta,
    ledger::Ledger,
    step::{SourceId, SourceRow, Step, family_of},
};
use crate::desired::Desired;

/// The writes that make the tables say which addresses there are.
pub(super) fn steps(desired: &Desired, ledger: &Ledger) -> Vec<Step> {
    let there = ledger.sources.iter().map(|(id, row)| (*id, *row));
    let delta = Delta::between(rows(desired), there, PartialEq::eq);
    let created = delta.create.into_iter().rev();
    let updated = delta.update.into_iter().map(|(id, row, _)| (id, row));
    let put = created
        .chain(updated)
        .map(|(id, row)| Step::PutSource(id, row));
    let deleted = delta.delete.into_iter().rev();
    put.chain(deleted.map(|(id, _)| Step::DeleteSource(id)))
        .collect()
}

/// What the tables shall say.
fn rows(desired: &Desired) -> BTreeMap<SourceId, SourceRow> {
    let mut counts = BTreeMap::new();
    let mut ids = Vec::new();
    for (&ifindex, addrs) in &desired.sources {
        for &addr in addrs {
            let family = family_of(addr);
            let count: &mut u32 = counts.entry((family, ifindex)).or_default();
            let key = SourceKey {
                ifindex,
                at: *count,
            };
            ids.push((SourceId { family, key }, addr));
            *count += 1;
        }
    }
    let row = |(id, addr): (SourceId, _)| {
        let count = counts.get(&(id.family, id.key.ifindex)).copied();
        let count = count.unwrap_or_default();
        (id, Source { addr, count })
    };
    ids.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Capacity, plan};

    fn desired(devices: &[(u32, &[&str])]) -> Desired {
        let addrs = |addrs: &[&str]| {
            addrs
                .iter()
                .map(|addr| addr.parse().expect("literal"))
                .collect()
        };
        Desired {
            sources: devices
                .iter()
                .map(|(device, texts)| (*device, addrs(texts)))
                .collect(),
            ..Desired::default()
        }
    }

    /// The steps of the next plan, carried out one after the other under a reader's eyes.
    fn told(ledger: &mut Ledger, devices: &[(u32, &[&str])]) -> Vec<String> {
        let steps = plan(&desired(devices), ledger).steps;
        let mut texts = Vec::new();
        for step in steps {
            texts.push(step.to_string());
            ledger.commit(&step);
            for (id, row) in ledger.sources() {
                let first = SourceKey { at: 0, ..id.key };
                let first = ledger.sources().get(&SourceId { key: first, ..*id });
                let n_there = ledger
                    .sources()
                    .keys()
                    .filter(|other| {
                        other.family == id.family && other.key.ifindex == id.key.ifindex
                    })
                    .count();
                let count = first.map_or(0, |first| first.count);
                assert!(count as usize <= n_there, "{row:?} after {texts:?}");
            }
        }
        texts
    }

    #[test]
    fn addresses_come_and_go_in_an_order_that_readers_can_follow() {
        let mut ledger = Ledger::new(Capacity::default());
        assert_eq!(
            told(&mut ledger, &[(3, &["192.0.2.1", "fd00::1"])]),
            [
                "put IPv6 source 0 of device 3: fd00::1 of 1",
                "put IPv4 source 0 of device 3: 192.0.2.1 of 1",
            ]
        );
        assert_eq!(
            told(
                &mut ledger,
                &[(3, &["192.0.2.1", "192.0.2.2", "192.0.2.3", "fd00::1"])]
            ),
            [
                "put IPv4 source 2 of device 3: 192.0.2.3 of 3",
                "put IPv4 source 1 of device 3: 192.0.2.2 of 3",
                "put IPv4 source 0 of device 3: 192.0.2.1 of 3",
            ]
        );
        assert_eq!(
            told(
                &mut ledger,
                &[(3, &["192.0.2.3", "fd00::1"]), (4, &["192.0.2.9"])]
            ),
            [
                "put IPv4 source 0 of device 4: 192.0.2.9 of 1",
                "put IPv4 source 0 of device 3: 192.0.2.3 of 1",
                "delete IPv4 source 2 of device 3",
                "delete IPv4 source 1 of device 3",
            ]
        );
        assert_eq!(
            told(&mut ledger, &[(4, &["192.0.2.9"])]).len(),
            2,
            "the device went"
        );
        assert_eq!(told(&mut ledger, &[(4, &["192.0.2.9"])]), [""; 0]);
    }
}
