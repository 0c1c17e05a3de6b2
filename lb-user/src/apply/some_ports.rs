//! Where only some service ports are others, to look at these alone makes the same plan as to look at everything.

use std::collections::BTreeSet;

use proptest::{prelude::*, sample::Index};

use super::{
    Faults,
    safety::{SMALL, any_desired},
    watched::{Watched, check_picture, content, expected},
};
use crate::{
    desired::{Desired, PortName},
    plan::{Capacity, Ledger, frontend_key, plan, plan_ports},
};

/// The first state with the endpoints of the second, and the service ports for which that makes a difference.
fn with_endpoints_of(state: &Desired, other: &Desired) -> (Desired, BTreeSet<PortName>) {
    let mut next = state.clone();
    for (name, port) in &other.ports {
        if let Some(there) = next.ports.get_mut(name) {
            there.backends.clone_from(&port.backends);
        }
    }
    let names = differ(state, &next);
    (next, names)
}

/// The first state with every service port that the second has or lacks, but for some that stay, and those that are others.
fn with_ports_of(
    state: &Desired,
    other: &Desired,
    stay: &[Index],
) -> (Desired, BTreeSet<PortName>) {
    let mut next = state.clone();
    let names: BTreeSet<_> = state.ports.keys().chain(other.ports.keys()).collect();
    let names: Vec<_> = names.into_iter().collect();
    let stay = stay.iter().filter(|_| !names.is_empty());
    let stay: BTreeSet<_> = stay.map(|index| *index.get(&names)).collect();
    for name in names.into_iter().filter(|name| !stay.contains(name)) {
        match other.ports.get(name) {
            Some(port) => drop(next.ports.insert(name.clone(), port.clone())),
            None => drop(next.ports.remove(name)),
        }
    }
    if has_clash(&next) {
        next.ports.clone_from(&other.ports);
    }
    let names = differ(state, &next);
    (next, names)
}

/// Whether two ports want one frontend, which those of one state never do.
fn has_clash(state: &Desired) -> bool {
    let mut seen = BTreeSet::new();
    let ports = state.ports.iter();
    let mut keys = ports.flat_map(|(name, port)| {
        let keys = port.frontends.iter();
        let keys: BTreeSet<_> = keys.map(|it| frontend_key(it, name.protocol)).collect();
        keys
    });
    !keys.all(|key| seen.insert(key))
}

fn differ(state: &Desired, next: &Desired) -> BTreeSet<PortName> {
    let differ = next.ports.differences(&state.ports, PartialEq::eq);
    differ.cloned().collect()
}

/// Whether ports that are others must be planned without a look at everything.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Alone {
    Always,
    Mostly,
}

/// From state to state, some ports at a time: each plan is that of everything, and readers see nothing in between.
fn goes_on<T>(
    first: Desired,
    others: &[T],
    is_small: bool,
    alone: Alone,
    next: impl Fn(&Desired, &T) -> (Desired, BTreeSet<PortName>),
) -> Result<(), TestCaseError> {
    let capacity = if is_small { SMALL } else { Capacity::default() };
    let mut ledger = Ledger::new(capacity);
    let mut watched = Watched::new(capacity, Faults::Never);
    let mut state = first;
    let mut is_all_done = watched.reconcile(&state, &mut ledger).is_all_done();
    for other in others {
        let (next, names) = next(&state, other);
        let outcome = if is_all_done {
            let some = plan_ports(&next, &names, &mut ledger.clone());
            if some.is_some() || alone == Alone::Always {
                prop_assert_eq!(some, Some(plan(&next, &mut ledger.clone())));
            }
            watched.reconcile_ports(&next, &names, &mut ledger)
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
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn some_endpoints_are_planned_as_everything_is(
        first in any_desired(),
        others in prop::collection::vec(any_desired(), 1..6),
        is_small in any::<bool>(),
    ) {
        let next = |state: &Desired, other: &Desired| with_endpoints_of(state, other);
        // Endpoints alone can always be planned alone.
        goes_on(first, &others, is_small, Alone::Always, next)?;
    }

    #[test]
    fn some_ports_are_planned_as_everything_is(
        first in any_desired(),
        others in prop::collection::vec((any_desired(), prop::collection::vec(any::<Index>(), 0..4)), 1..6),
        is_small in any::<bool>(),
    ) {
        let next = |state: &Desired, (other, stay): &(Desired, Vec<Index>)| with_ports_of(state, other, stay);
        goes_on(first, &others, is_small, Alone::Mostly, next)?;
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
        watched.reconcile_ports(&second, &names, &mut ledger);
        check_picture(&watched, &ledger)?;
        watched.maps = watched.maps.clone().with_faults(Faults::Never);
        let (last, names) = with_endpoints_of(&second, &last);
        // Whoever asks for endpoints alone while something is left over gets everything, or what was asked for and nothing wrong.
        watched.reconcile_ports(&last, &names, &mut ledger);
        check_picture(&watched, &ledger)?;
        let outcome = watched.reconcile(&last, &mut ledger);
        prop_assert!(outcome.is_all_done(), "{:?}", outcome);
        prop_assert_eq!(&watched.violations, &Vec::<String>::new());
        prop_assert_eq!(content(&watched, &ledger), expected(&last));
    }
}

#[test]
fn ports_that_come_go_and_move_are_planned_alone_and_what_rests_or_clashes_is_not() {
    use super::testing::{desired, endpoint, port};
    let both = [
        ("10.244.1.1:80", "serving,cluster"),
        ("10.244.1.2:80", "serving,cluster"),
    ];
    let web = |frontends: &[&str], backends: &[(&str, &str)]| {
        let backends = backends
            .iter()
            .map(|(addr, facts)| (*addr, endpoint(facts)));
        port("web", frontends, &backends.collect::<Vec<_>>())
    };
    let mut ledger = Ledger::new(Capacity::default());
    let mut watched = Watched::new(Capacity::default(), Faults::Never);
    let mut state = Desired::default();
    // Each is one look at one port alone, which comes to what a look at everything comes to.
    for next in [
        desired([web(&["10.96.0.1:80"], &both)]),
        desired([web(&["10.96.0.2:80", "10.96.0.3:80"], &both)]),
        desired([web(&["10.96.0.3:80"], &both[..1])]),
        desired([port("api", &["10.96.0.3:80"], &[])]),
        desired([]),
        desired([web(&["10.96.0.1:80"], &both)]),
    ] {
        let names = differ(&state, &next);
        let whole = plan(&next, &mut ledger.clone());
        assert_eq!(plan_ports(&next, &names, &mut ledger.clone()), Some(whole));
        assert!(
            watched
                .reconcile_ports(&next, &names, &mut ledger)
                .is_all_done()
        );
        assert_eq!(content(&watched, &ledger), expected(&next));
        state = next;
    }
    // One that asks for what another has.
    let clash = desired([
        web(&["10.96.0.1:80"], &both),
        port("api", &["10.96.0.1:80"], &[]),
    ]);
    let names = differ(&state, &clash);
    assert_eq!(plan_ports(&clash, &names, &mut ledger), None);

    let fewer = desired([web(&["10.96.0.1:80"], &both[..1])]);
    let names = differ(&state, &fewer);
    let plan = plan_ports(&fewer, &names, &mut ledger).expect("nothing else differs");
    assert_eq!(plan.steps.len(), 5, "{:?}", plan.steps);
    // Before the readers have gone.
    for step in &plan.steps[..3] {
        ledger.commit(step);
    }
    assert_eq!(plan_ports(&state, &names, &mut ledger), None);
    assert_eq!(watched.violations, Vec::<String>::new());
}
