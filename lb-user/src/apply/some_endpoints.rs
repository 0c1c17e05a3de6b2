//! Where only endpoints of some service ports are others, to look at these alone makes the same plan as to look at everything.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{
    Faults,
    safety::{SMALL, any_desired},
    watched::{Watched, check_picture, content, expected},
};
use crate::{
    desired::{Desired, PortName},
    plan::{Capacity, Ledger, plan, plan_endpoints},
};

/// The first state with the endpoints of the second, and the service ports for which that makes a difference.
fn with_endpoints_of(state: &Desired, other: &Desired) -> (Desired, BTreeSet<PortName>) {
    let mut next = state.clone();
    for (name, port) in &other.ports {
        if let Some(there) = next.ports.get_mut(name) {
            there.backends.clone_from(&port.backends);
        }
    }
    let differ = next.ports.differences(&state.ports, PartialEq::eq);
    let names = differ.cloned().collect();
    (next, names)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn some_endpoints_are_planned_as_everything_is(
        first in any_desired(),
        others in prop::collection::vec(any_desired(), 1..6),
        is_small in any::<bool>(),
    ) {
        let capacity = if is_small { SMALL } else { Capacity::default() };
        let mut ledger = Ledger::new(capacity);
        let mut watched = Watched::new(capacity, Faults::Never);
        let mut state = first;
        let mut is_all_done = watched.reconcile(&state, &mut ledger).is_all_done();
        for other in &others {
            let (next, names) = with_endpoints_of(&state, other);
            if is_all_done {
                let whole = plan(&next, &mut ledger.clone());
                prop_assert_eq!(plan_endpoints(&next, &names, &mut ledger.clone()), Some(whole));
            }
            let outcome = if is_all_done {
                watched.reconcile_endpoints(&next, &names, &mut ledger)
            } else {
                watched.reconcile(&next, &mut ledger)
            };
            prop_assert_eq!(&watched.violations, &Vec::<String>::new());
            check_picture(&watched, &ledger)?;
            is_all_done = outcome.is_all_done();
            if is_all_done {
                prop_assert_eq!(content(&watched, &ledger), expected(&next));
            }
            state = next;
        }
        watched.reconcile(&Desired::default(), &mut ledger);
        prop_assert!(ledger.is_pristine(), "ids or slots are lost: {:?}", ledger);
    }

    #[test]
    fn what_failed_is_repaired_by_a_look_at_everything(
        first in any_desired(),
        second in any_desired(),
        last in any_desired(),
        seed in any::<u64>(),
    ) {
        let capacity = Capacity::default();
        let mut ledger = Ledger::new(capacity);
        let mut watched = Watched::new(capacity, Faults::Never);
        watched.reconcile(&first, &mut ledger);
        watched.maps = watched.maps.clone().with_faults(Faults::Seed(seed));
        let (second, names) = with_endpoints_of(&first, &second);
        watched.reconcile_endpoints(&second, &names, &mut ledger);
        check_picture(&watched, &ledger)?;
        watched.maps = watched.maps.clone().with_faults(Faults::Never);
        let (last, names) = with_endpoints_of(&second, &last);
        // Whoever asks for endpoints alone while something is left over gets everything, or what was asked for and nothing wrong.
        watched.reconcile_endpoints(&last, &names, &mut ledger);
        check_picture(&watched, &ledger)?;
        let outcome = watched.reconcile(&last, &mut ledger);
        prop_assert!(outcome.is_all_done(), "{:?}", outcome);
        prop_assert_eq!(&watched.violations, &Vec::<String>::new());
        prop_assert_eq!(content(&watched, &ledger), expected(&last));
    }
}

#[test]
fn other_frontends_or_what_rests_ask_for_a_look_at_everything() {
    use super::testing::{desired, endpoint, port};
    let state = |frontends: &[&str], backends: &[(&str, &str)]| {
        let backends = backends
            .iter()
            .map(|(addr, facts)| (*addr, endpoint(facts)));
        desired([port("web", frontends, &backends.collect::<Vec<_>>())])
    };
    let both = [
        ("10.244.1.1:80", "serving,cluster"),
        ("10.244.1.2:80", "serving,cluster"),
    ];
    let first = state(&["10.96.0.1:80"], &both);
    let names: BTreeSet<_> = first.ports.keys().cloned().collect();
    let mut ledger = Ledger::new(Capacity::default());
    assert_eq!(
        plan_endpoints(&first, &names, &mut ledger),
        None,
        "it is not there yet"
    );
    let mut watched = Watched::new(Capacity::default(), Faults::Never);
    watched.reconcile(&first, &mut ledger);
    let moved = state(&["10.96.0.2:80"], &both);
    assert_eq!(plan_endpoints(&moved, &names, &mut ledger), None);
    assert_eq!(
        plan_endpoints(&Desired::default(), &names, &mut ledger),
        None
    );
    let fewer = state(&["10.96.0.1:80"], &both[..1]);
    let plan = plan_endpoints(&fewer, &names, &mut ledger).expect("nothing else differs");
    assert_eq!(plan.steps.len(), 5, "{:?}", plan.steps);
    // Before the readers have gone.
    for step in &plan.steps[..3] {
        ledger.commit(step);
    }
    assert_eq!(plan_endpoints(&first, &names, &mut ledger), None);
}
