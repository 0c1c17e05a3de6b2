//! How many connections each backend has, put right: packets raise and lower the counts, and see nothing of connections
//! that just go silent or give their place away, or that were there before anybody counted.
//!
//! Counts that packets change at this moment are let alone: what was read before and after the walk says what may be, and
//! only a count outside of it is moved, by what it is off. One packet may be missed between a count's reading and its writing;
//! the next walk finds it.

use std::{collections::BTreeMap, path::Path};

use lb_common::{
    abi::{Backend, FlowSlot, Plain, backend_flags, map},
    flow::{Direction, clock::Tick, slot::State},
    net::addr::{Addr, Addr4, Addr6, Family},
};

use super::{FlowTables, Table, Visitor};
use crate::apply::{MapError, read_rows, write_rows};

/// Connections by their backend's id and generation.
type Walked = BTreeMap<(u32, u16), u32>;

/// Puts the counts of the tables in a directory right, if there are any. Costs a walk through the flow tables then, and
/// else a look at the counts.
pub fn put_right(pin_dir: &Path, tables: &FlowTables, now: Tick) -> Result<(), MapError> {
    let names = [map::CONNECTIONS4, map::CONNECTIONS6];
    let before = [
        read_rows::<u32>(pin_dir, names[0])?,
        read_rows::<u32>(pin_dir, names[1])?,
    ];
    // While flows are carried over, some stand in both tables.
    if tables.are_growing() || before.iter().flatten().all(|count| *count == 0) {
        return Ok(());
    }
    let rows = [
        generations::<Addr4>(pin_dir, map::BACKENDS4)?,
        generations::<Addr6>(pin_dir, map::BACKENDS6)?,
    ];
    let mut walked = [Walked::new(), Walked::new()];
    for (family, counts) in tables.each(now, &mut Counter) {
        walked[usize::from(family == Family::V6)].extend(counts);
    }
    for (at, name) in names.into_iter().enumerate() {
        let after = read_rows::<u32>(pin_dir, name)?;
        let corrections = corrections(&before[at], &after, &rows[at], &walked[at]);
        write_rows(pin_dir, name, &corrections)?;
    }
    Ok(())
}

/// By id, the generations of the backends whose connections are counted.
fn generations<A: Addr>(pin_dir: &Path, name: &'static str) -> Result<BTreeMap<u32, u16>, MapError>
where
    Backend<A>: Plain,
{
    let rows = (0..).zip(read_rows::<Backend<A>>(pin_dir, name)?);
    let counted = rows.filter(|(_, row)| row.flags & backend_flags::COUNTED != 0);
    Ok(counted.map(|(id, row)| (id, row.generation)).collect())
}

/// The counts that are to be written, by id.
fn corrections(
    before: &[u32],
    after: &[u32],
    counted: &BTreeMap<u32, u16>,
    walked: &Walked,
) -> Vec<(u32, u32)> {
    let pairs = (0..).zip(before.iter().zip(after));
    let correction = |(id, (before, after)): (u32, (&u32, &u32))| {
        let generation = counted.get(&id);
        let right = generation.and_then(|generation| walked.get(&(id, *generation)));
        let right = i64::from(right.copied().unwrap_or(0));
        let (before, after) = (signed(*before), signed(*after));
        let nearest = right.clamp(before.min(after), before.max(after));
        let count = i32::try_from(after + right - nearest).ok()?;
        (right != nearest).then(|| (id, count.max(0).cast_unsigned()))
    };
    pairs.filter_map(correction).collect()
}

/// A count may be below 0 for a while.
fn signed(count: u32) -> i64 {
    i64::from(count.cast_signed())
}

struct Counter;

impl Visitor for Counter {
    type Output = (Family, Walked);

    fn visit<A: Addr>(&mut self, table: &Table<'_, A>) -> Self::Output
    where
        FlowSlot<A>: Plain,
    {
        let mut walked = Walked::new();
        for found in (0..=table.last()).filter_map(|position| table.at(position)) {
            let flags = found.slot.flags();
            // A flow that leaves goes on from one that came in.
            let is_other = flags.orphan() || flags.foreign() || flags.leaving();
            if flags.direction() == Direction::Original
                && !is_other
                && found.word.state() != State::Closed
                && table.lives(&found)
            {
                let backend = found.slot.backend();
                *walked.entry((backend.id, backend.generation)).or_default() += 1;
            }
        }
        (A::FAMILY, walked)
    }
}

#[cfg(test)]
mod tests {
    use lb_common::flow::table::Existing;

    use super::*;
    use crate::flows::testing::{NOW, OTHER, WEB, WEB6, tables, with4, with6};

    #[test]
    fn connections_are_counted_by_backend_and_generation() {
        let tables = tables();
        for spec in [WEB, OTHER] {
            with4(&tables, NOW, |table| spec.open(table, Existing::Keep));
        }
        with6(&tables, NOW, |table| WEB6.open(table, Existing::Keep));
        let walked = tables.each(NOW, &mut Counter);
        let counts = |family| -> Vec<u32> {
            let of_family = walked.iter().filter(|(of, _)| *of == family);
            of_family
                .flat_map(|(_, counts)| counts.values().copied())
                .collect()
        };
        assert_eq!(counts(Family::V4), [2]);
        assert_eq!(counts(Family::V6), [1]);
        let later = tables.each(NOW + (1 << 24), &mut Counter);
        assert!(
            later.iter().all(|(_, counts)| counts.is_empty()),
            "{later:?}"
        );
    }

    #[test]
    fn a_count_is_moved_by_what_it_is_off_and_let_alone_where_it_may_be_right() {
        let of = |before: i32, after: i32, right: Option<u32>| {
            let counted = BTreeMap::from([(0, 3)]);
            let walked = right.map(|right| ((0, 3), right)).into_iter().collect();
            let counts = |count: i32| [count.cast_unsigned()];
            corrections(&counts(before), &counts(after), &counted, &walked)
        };
        assert_eq!(of(5, 5, Some(5)), []);
        assert_eq!(of(5, 9, Some(7)), [], "packets were faster");
        assert_eq!(of(9, 9, Some(4)), [(0, 4)]);
        assert_eq!(
            of(2, 4, Some(9)),
            [(0, 9)],
            "as far off as it was, and two more"
        );
        assert_eq!(of(9, 7, None), [(0, 0)]);
        assert_eq!(of(-3, -3, Some(1)), [(0, 1)]);
        assert_eq!(of(-3, -3, None), [(0, 0)]);
    }

    #[test]
    fn what_nobody_counts_any_more_and_what_was_anothers_is_none() {
        let walked = Walked::from([((0, 1), 8), ((1, 1), 8)]);
        let counted = BTreeMap::from([(0, 2)]);
        let corrections = corrections(&[6, 6, 0], &[6, 6, 0], &counted, &walked);
        assert_eq!(corrections, [(0, 0), (1, 0)]);
    }
}
