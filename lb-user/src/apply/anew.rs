//! Other tables that shall say the same: all that the ledger knows, written into tables that nobody reads yet.
//!
//! Ids, generations, slots and versions are those of the tables in use, so a program may go over from these to those between
//! any two packets. What rests is not written: its readers have programs that were loaded on the tables in use.

use std::collections::BTreeMap;

use super::{
    freed,
    lbmaps::{LbMaps, TableError},
};
use crate::plan::{BackendId, BackendRow, Ledger};

/// Writes everything into these tables, which are empty and hold at least as much.
///
/// # Errors
/// The kernel refused a write; the tables are of no use then.
pub fn write_anew(ledger: &Ledger, maps: &mut impl LbMaps) -> Result<(), TableError> {
    let rows: Vec<(BackendId, BackendRow)> = rows(ledger).into_iter().collect();
    let are_neighbours = |(one, _): &(BackendId, _), (next, _): &(BackendId, _)| {
        one.family == next.family && one.id + 1 == next.id
    };
    for run in rows.chunk_by(are_neighbours) {
        put_run(run, maps)?;
    }
    for (range, ids) in ledger.slots() {
        maps.write_slots(range.base, &ids)?;
    }
    for (key, service) in ledger.services() {
        maps.put_service(key, service)?;
    }
    for (area, place) in ledger.places() {
        maps.put_place(*area, *place)?;
    }
    for (id, row) in ledger.sources() {
        maps.put_source(*id, row)?;
    }
    Ok(())
}

/// Rows of backends that are or were in use: of those that are free the generation says which flows are another's.
fn rows(ledger: &Ledger) -> BTreeMap<BackendId, BackendRow> {
    let free = ledger.generations();
    let free = free.map(|(id, generation)| (id, freed(id, generation)));
    let in_use = ledger.backends().iter().map(|(id, row)| (*id, *row));
    free.chain(in_use).collect()
}

fn put_run(run: &[(BackendId, BackendRow)], maps: &mut impl LbMaps) -> Result<(), TableError> {
    let Some((first, _)) = run.first() else {
        return Ok(());
    };
    let rows: Vec<BackendRow> = run.iter().map(|(_, row)| *row).collect();
    let n_written = maps.put_backends(*first, &rows);
    for (id, row) in run.iter().skip(n_written) {
        maps.put_backend(*id, row)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        apply::{
            FakeMaps, Faults,
            safety::{SMALL, any_desired},
            watched::{Watched, check_picture, content, expected},
        },
        desired::Desired,
        plan::{Ledger, RefusalReason},
    };

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn tables_become_larger_under_readers_and_then_hold_what_was_refused(
            states in prop::collection::vec(any_desired(), 1..6),
        ) {
            let mut ledger = Ledger::new(SMALL);
            let mut watched = Watched::new(SMALL, Faults::Never);
            for state in &states {
                let outcome = watched.reconcile(state, &mut ledger);
                let Some(wanted) = ledger.wanted(state, &outcome.refused) else {
                    let is_full = |reason: &RefusalReason| {
                        matches!(reason, RefusalReason::Full { .. } | RefusalReason::NoTable { .. })
                    };
                    prop_assert!(!outcome.refused.iter().any(|refusal| is_full(&refusal.reason)));
                    continue;
                };
                let before = content(&watched, &ledger);
                let mut larger = FakeMaps::new(ledger.capacity().joined(wanted));
                write_anew(&ledger, &mut larger).expect("tables of memory");
                prop_assert!(larger.capacity() != SMALL);
                ledger.grow(larger.capacity());
                watched.go_over_to(larger);
                prop_assert_eq!(content(&watched, &ledger), before);
                check_picture(&watched, &ledger)?;
                watched.reconcile(state, &mut ledger);
                prop_assert_eq!(&watched.violations, &Vec::<String>::new());
                prop_assert_eq!(content(&watched, &ledger), expected(state));
            }
            watched.reconcile(&Desired::default(), &mut ledger);
            prop_assert!(ledger.is_pristine(), "ids or slots are lost: {:?}", ledger);
        }
    }

    #[test]
    fn who_had_a_row_before_is_known_in_larger_tables() {
        use crate::apply::testing::{desired, endpoint, port};
        let web = |backends: &[&str]| {
            let backends: Vec<_> = backends
                .iter()
                .map(|addr| (*addr, endpoint("serving,cluster")))
                .collect();
            desired([port("web", &["10.96.0.1:80"], &backends)])
        };
        let mut ledger = Ledger::new(SMALL);
        let mut watched = Watched::new(SMALL, Faults::Never);
        watched.reconcile(&web(&["10.244.1.1:80", "10.244.1.2:80"]), &mut ledger);
        watched.reconcile(&web(&["10.244.1.2:80"]), &mut ledger);
        let mut larger = FakeMaps::new(SMALL);
        write_anew(&ledger, &mut larger).expect("tables of memory");
        let rows = larger.backends().expect("tables of memory");
        assert_eq!(rows, watched.backends().expect("tables of memory"));
        assert_eq!(rows.len(), 2);
        assert!(
            rows.values()
                .any(|row| row.service == 0 && row.generation == 1)
        );
    }
}
