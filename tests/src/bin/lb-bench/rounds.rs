//! Interleaving: every round measures everything once, in another order, so that whatever the machine does meanwhile hits
//! all alike, and ratios can be taken of what was measured in the same minute.

use anyhow::Result;

use crate::stats::Random;

/// Goes through all `items` in each of `n` rounds.
pub(crate) fn interleave<T>(
    n: u32,
    items: &mut [T],
    mut measure: impl FnMut(&mut T, u32) -> Result<()>,
) -> Result<()> {
    let mut random = Random::default();
    let mut order: Vec<usize> = (0..items.len()).collect();
    for round in 0..n {
        shuffle(&mut order, &mut random);
        for at in &order {
            if let Some(item) = items.get_mut(*at) {
                measure(item, round)?;
            }
        }
    }
    Ok(())
}

/// Fisher and Yates.
fn shuffle(order: &mut [usize], random: &mut Random) {
    for last in (1..order.len()).rev() {
        order.swap(last, random.below(last + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_has_every_item_once_and_orders_differ() {
        let mut seen = vec![Vec::new(); 4];
        let mut items = [0, 1, 2, 3, 4];
        interleave(4, &mut items, |item, round| {
            seen[round as usize].push(*item);
            Ok(())
        })
        .unwrap();
        for round in &seen {
            let mut sorted = round.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4]);
        }
        assert!(seen.windows(2).any(|pair| pair[0] != pair[1]), "{seen:?}");
    }
}
