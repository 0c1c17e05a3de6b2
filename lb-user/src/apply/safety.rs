//! The properties of plans, checked on a model of the datapath's reader: after every write, and for
//! readers that came at any earlier write since the last grace period.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use ipnet::IpNet;
use lb_common::net::addr::Family;
use proptest::prelude::*;

use super::{
    Faults, LbMaps as _, Retry, reconcile, restore,
    testing::{cluster_ip, desired, endpoint, port},
    watched::{Target, Watched, address, check_picture, content, expected},
};
use crate::{
    desired::{Algorithm, Desired, DesiredPort, Frontend, FrontendKind, Place, PortName},
    plan::{BackendId, Capacity, Ledger, Step, Subject, family_of, plan},
};

const NAMES: [&str; 4] = ["api", "cache", "db", "web"];
const FRONTENDS4: [&str; 4] = [
    "10.96.0.1:80",
    "10.96.0.2:80",
    "10.96.0.2:81",
    "10.96.0.3:80",
];
const FRONTENDS6: [&str; 2] = ["[fd00:96::1]:80", "[fd00:96::2]:80"];
const BACKENDS4: [&str; 5] = [
    "10.244.1.1:80",
    "10.244.1.2:80",
    "10.244.1.2:81",
    "10.244.2.1:80",
    "10.244.2.2:80",
];
const BACKENDS6: [&str; 3] = ["[fd00:244::1]:80", "[fd00:244::2]:80", "[fd00:244::3]:80"];

const PREFIXES: [&str; 3] = ["10.244.0.0/16", "10.244.1.0/24", "fd00:244::/64"];

const SOURCES: [&str; 5] = [
    "192.0.2.0/24",
    "192.0.2.128/25",
    "198.51.100.0/24",
    "2001:db8::/32",
    "2001:db8:1::/48",
];

/// Any state over few names, so that two states in a row have much in common and frontends move.
pub(super) fn any_desired() -> impl Strategy<Value = Desired> {
    let v4 = any_ports(&FRONTENDS4, &BACKENDS4);
    let v6 = any_ports(&FRONTENDS6, &BACKENDS6);
    let prefix = prop::sample::select(&PREFIXES[..]);
    let place = prop::sample::select(&[Place::Pods, Place::Node][..]);
    let places = prop::collection::btree_map(prefix, place, 0..3);
    (v4, v6, places).prop_map(|(v4, v6, places)| {
        let mut state = desired(v4.into_iter().chain(v6));
        state.places = places
            .into_iter()
            .map(|(net, place)| (net.parse().expect("literal"), place))
            .collect();
        state
    })
}

fn any_ports(
    frontends: &'static [&'static str],
    backends: &'static [&'static str],
) -> impl Strategy<Value = Vec<(PortName, DesiredPort)>> {
    let owners = prop::collection::vec(prop::option::of(0..NAMES.len()), frontends.len());
    let facts = prop_oneof![
        3 => Just("serving,cluster"),
        1 => Just("serving,cluster,weight=2"),
        1 => Just("serving,cluster,internal_local,weight=6"),
        1 => Just("serving,cluster,internal_local,local"),
        1 => Just("serving,cluster,external_local,local"),
        1 => Just("serving"),
        1 => Just("local"),
    ];
    let endpoints = prop::collection::vec(prop::option::weighted(0.6, facts), backends.len());
    let affinity = prop_oneof![3 => Just(0_u32), 1 => Just(10_800)];
    let ranges = prop::sample::subsequence(&SOURCES[..], 0..=2);
    let algorithm = prop_oneof![
        3 => Just((Algorithm::Random, None)),
        1 => Just((Algorithm::Maglev, Some(7))),
        1 => Just((Algorithm::Maglev, Some(11))),
        1 => Just((Algorithm::LeastConnections, None)),
    ];
    let ports = prop::collection::vec((endpoints, affinity, ranges, algorithm), NAMES.len());
    (owners, ports).prop_map(move |(owners, ports)| {
        type Facts = (
            Vec<Option<&'static str>>,
            u32,
            Vec<&'static str>,
            (Algorithm, Option<u32>),
        );
        let port = |(idx, (endpoints, affinity, ranges, algorithm)): (usize, Facts)| {
            let owned = frontends
                .iter()
                .zip(&owners)
                .filter(|(_, owner)| **owner == Some(idx));
            let owned: Vec<_> = owned.map(|(frontend, _)| *frontend).collect();
            let endpoints = backends.iter().zip(endpoints);
            let endpoints: Vec<_> = endpoints
                .filter_map(|(addr, facts)| Some((*addr, endpoint(facts?))))
                .collect();
            let (mut name, mut port) = port(NAMES[idx], &owned, &endpoints);
            name.family = family_of(cluster_ip(frontends[0]).addr);
            port.affinity_timeout_s = affinity;
            (port.algorithm, port.maglev_size) = algorithm;
            // Every other address is a load balancer's.
            let guarded = |frontend: &Frontend| Frontend {
                kind: if frontend.addr.to_string().ends_with('2') {
                    FrontendKind::LoadBalancer
                } else {
                    frontend.kind
                },
                ..*frontend
            };
            port.frontends = port.frontends.iter().map(guarded).collect();
            let ranges = ranges.iter().map(|net| net.parse().expect("literal"));
            let is_v6 = name.family == Family::V6;
            let ranges = ranges.filter(|net: &IpNet| net.addr().is_ipv6() == is_v6);
            port.source_ranges = ranges.collect();
            (name, port)
        };
        ports.into_iter().enumerate().map(port).collect()
    })
}

fn any_faults() -> impl Strategy<Value = Faults> {
    prop_oneof![
        (1..8_u64).prop_map(Faults::EveryNth),
        any::<u64>().prop_map(Faults::Seed),
        Just(Faults::Always),
    ]
}

pub(super) const SMALL: Capacity = Capacity {
    services: 3,
    slots: 9,
    backends: 7,
    places: 3,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_prefix_is_safe_and_the_end_is_what_was_desired(
        states in prop::collection::vec(any_desired(), 1..8),
    ) {
        let capacity = Capacity::default();
        let mut ledger = Ledger::new(capacity);
        let mut watched = Watched::new(capacity, Faults::Never);
        for state in &states {
            let outcome = watched.reconcile(state, &mut ledger);
            prop_assert!(outcome.is_complete() && outcome.refused.is_empty(), "{:?}", outcome);
            prop_assert_eq!(&watched.violations, &Vec::<String>::new());
            prop_assert_eq!(content(&watched, &ledger), expected(state));
            check_picture(&watched, &ledger)?;
            let again = plan(state, &mut ledger);
            prop_assert_eq!(again, crate::plan::Plan::default());
        }
        watched.reconcile(&Desired::default(), &mut ledger);
        prop_assert!(ledger.is_pristine(), "ids or slots are lost: {:?}", ledger);
    }

    #[test]
    fn failures_leave_every_prefix_safe_the_picture_true_and_are_repaired(
        states in prop::collection::vec((any_desired(), any_faults()), 1..6),
        last in any_desired(),
    ) {
        let capacity = Capacity::default();
        let mut ledger = Ledger::new(capacity);
        let mut watched = Watched::new(capacity, Faults::Never);
        for (state, faults) in &states {
            watched.maps = watched.maps.clone().with_faults(*faults);
            watched.reconcile(state, &mut ledger);
            prop_assert_eq!(&watched.violations, &Vec::<String>::new());
            check_picture(&watched, &ledger)?;
        }
        watched.maps = watched.maps.clone().with_faults(Faults::Never);
        for state in [&last, &Desired::default()] {
            let outcome = watched.reconcile(state, &mut ledger);
            prop_assert!(outcome.is_complete() && outcome.refused.is_empty(), "{:?}", outcome);
            prop_assert_eq!(&watched.violations, &Vec::<String>::new());
            prop_assert_eq!(content(&watched, &ledger), expected(state));
            check_picture(&watched, &ledger)?;
        }
        prop_assert!(ledger.is_pristine(), "ids or slots are lost: {:?}", ledger);
    }

    #[test]
    fn a_restarted_agent_keeps_ids_and_repairs_what_was_left(
        states in prop::collection::vec((any_desired(), any_faults()), 1..5),
        last in any_desired(),
    ) {
        let capacity = Capacity::default();
        let mut ledger = Ledger::new(capacity);
        let mut watched = Watched::new(capacity, Faults::Never);
        for (state, faults) in &states {
            watched.maps = watched.maps.clone().with_faults(*faults);
            watched.reconcile(state, &mut ledger);
            watched.maps = watched.maps.clone().with_faults(Faults::Never);
            ledger = restore(&mut watched, &last, capacity).expect("tables that plans have left");
            check_picture(&watched, &ledger)?;
        }
        let outcome = watched.reconcile(&last, &mut ledger);
        prop_assert!(outcome.is_complete() && outcome.refused.is_empty(), "{:?}", outcome);
        prop_assert_eq!(content(&watched, &ledger), expected(&last));
        ledger = restore(&mut watched, &last, capacity).expect("tables that plans have left");
        let nothing_to_do = plan(&last, &mut ledger);
        prop_assert_eq!(nothing_to_do, crate::plan::Plan::default());
        watched.reconcile(&Desired::default(), &mut ledger);
        prop_assert_eq!(&watched.violations, &Vec::<String>::new());
        prop_assert!(ledger.is_pristine(), "ids or slots are lost: {:?}", ledger);
    }

    #[test]
    fn whoever_follows_an_agent_that_was_killed_keeps_what_serves(
        first in any_desired(),
        second in any_desired(),
        last in any_desired(),
        n_writes in 0..60_u64,
    ) {
        let capacity = Capacity::default();
        let mut ledger = Ledger::new(capacity);
        let mut watched = Watched::new(capacity, Faults::Never);
        watched.reconcile(&first, &mut ledger);
        watched.maps = watched.maps.clone().with_faults(Faults::After(n_writes));
        watched.reconcile(&second, &mut ledger);
        watched.maps = watched.maps.clone().with_faults(Faults::Never);
        let before = serving(&watched);
        let mut ledger = restore(&mut watched, &last, capacity).expect("tables that plans have left");
        let outcome = watched.reconcile(&last, &mut ledger);
        prop_assert!(outcome.is_complete() && outcome.refused.is_empty(), "{:?}", outcome);
        prop_assert_eq!(&watched.violations, &Vec::<String>::new());
        prop_assert_eq!(content(&watched, &ledger), expected(&last));
        // Flows know their backend by id and generation: an endpoint that its service still has keeps both.
        for (endpoint, row) in serving(&watched) {
            if let Some(known) = before.get(&endpoint) {
                prop_assert_eq!(*known, row, "{:?}", endpoint);
            }
        }
        watched.reconcile(&Desired::default(), &mut ledger);
        prop_assert!(ledger.is_pristine(), "ids or slots are lost: {:?}", ledger);
    }

    #[test]
    fn full_tables_refuse_whole_service_ports_by_name(
        states in prop::collection::vec((any_desired(), any_faults(), any::<bool>()), 1..8),
    ) {
        let mut ledger = Ledger::new(SMALL);
        let mut watched = Watched::new(SMALL, Faults::Never);
        for (state, faults, works) in &states {
            let faults = if *works { Faults::Never } else { *faults };
            watched.maps = watched.maps.clone().with_faults(faults);
            let outcome = watched.reconcile(state, &mut ledger);
            prop_assert_eq!(&watched.violations, &Vec::<String>::new());
            check_picture(&watched, &ledger)?;
            if *works {
                prop_assert!(outcome.is_complete(), "{:?}", outcome);
                let is_refused = |name: &PortName| outcome.refused.iter().any(|refusal| {
                    refusal.subject == Subject::Port(name.clone())
                });
                for (key, (name, to, _)) in expected(state).frontends {
                    if !name.as_ref().is_some_and(is_refused) {
                        let leads_to = watched.frontends().remove(&key);
                        prop_assert_eq!(leads_to, Some(to));
                    }
                }
            }
        }
        watched.maps = watched.maps.clone().with_faults(Faults::Never);
        watched.reconcile(&Desired::default(), &mut ledger);
        prop_assert!(ledger.is_pristine(), "ids or slots are lost: {:?}", ledger);
    }
}

/// Backends that frontends lead to, by service and address: their ids and generations.
fn serving(watched: &Watched) -> BTreeMap<(u32, SocketAddr), (BackendId, u16)> {
    let rows = watched.backends().expect("reads do not fail");
    let services = watched.services().expect("reads do not fail");
    let listed = services.iter().flat_map(|(key, service)| {
        let lists = [
            service.cluster,
            service.external_local,
            service.internal_local,
        ];
        let slots = lists.map(|range| watched.slots(range).expect("reads do not fail"));
        let family = family_of(key.addr);
        slots
            .into_iter()
            .flatten()
            .map(move |id| BackendId { family, id })
    });
    let known = listed.filter_map(|id| {
        let row = rows.get(&id)?;
        Some(((row.service, address(row)), (id, row.generation)))
    });
    known.collect()
}

fn web(backends: &[(&str, &str)]) -> Desired {
    let backends: Vec<_> = backends
        .iter()
        .map(|(addr, facts)| (*addr, endpoint(facts)))
        .collect();
    desired([port("web", &["10.96.0.1:80"], &backends)])
}

fn many(n_services: u32) -> Desired {
    let ports = (0..n_services).map(|idx| {
        let [_, _, high, low] = idx.to_be_bytes();
        let backend = format!("10.244.{high}.{low}:80");
        let frontend = format!("10.96.{high}.{low}:80");
        let backends = [(backend.as_str(), endpoint("serving,cluster"))];
        port(&format!("s{idx}"), &[&frontend], &backends)
    });
    desired(ports)
}

#[test]
fn an_update_costs_what_changed() {
    let mut ledger = Ledger::new(Capacity::default());
    let mut watched = Watched::new(Capacity::default(), Faults::Never);
    let mut state = many(300);
    watched.reconcile(&state, &mut ledger);
    let changed = state.ports.values_mut().next().expect("there are some");
    changed
        .backends
        .values_mut()
        .for_each(|facts| facts.local = true);
    let flags_only = plan(&state, &mut ledger).steps;
    assert!(
        matches!(flags_only[..], [Step::WriteBackend { .. }]),
        "{flags_only:?}"
    );

    watched.reconcile(&state, &mut ledger);
    let changed = state.ports.values_mut().next().expect("there are some");
    let new: SocketAddr = "10.245.0.1:80".parse().expect("literal");
    changed.backends.insert(new, endpoint("serving,cluster"));
    let one_more = plan(&state, &mut ledger).steps;
    assert!(
        matches!(
            one_more[..],
            [
                Step::WriteBackend { .. },
                Step::WriteSlots { .. },
                Step::PutService { .. },
                Step::Grace
            ]
        ),
        "{one_more:?}"
    );
}

#[test]
fn a_backend_that_leaves_loses_its_flags_before_the_grace_period_and_its_address_after_it() {
    let mut ledger = Ledger::new(Capacity::default());
    let mut watched = Watched::new(Capacity::default(), Faults::Never);
    let both = [
        ("10.244.1.1:80", "serving,cluster"),
        ("10.244.1.2:80", "serving,cluster"),
    ];
    watched.reconcile(&web(&both), &mut ledger);
    let steps = plan(&web(&both[..1]), &mut ledger).steps;
    let [
        Step::WriteSlots { ids, .. },
        Step::PutService { .. },
        Step::RetireBackend { id, row },
        Step::Grace,
        Step::FreeBackend {
            id: freed,
            generation: 1,
        },
    ] = &steps[..]
    else {
        panic!("{steps:#?}")
    };
    assert_eq!((ids.len(), id, row.flags), (1, freed, 0));
    assert_eq!(address(row).to_string(), "10.244.1.2:80");
}

#[test]
fn an_id_comes_back_with_the_next_generation() {
    let capacity = Capacity {
        backends: 2,
        ..Capacity::default()
    };
    let mut ledger = Ledger::new(capacity);
    let mut watched = Watched::new(capacity, Faults::Never);
    for (turn, addr) in (1..).zip(["10.244.1.1:80", "10.244.1.2:80", "10.244.1.3:80"]) {
        let outcome = watched.reconcile(&web(&[(addr, "serving,cluster")]), &mut ledger);
        if turn > 1 {
            // Both endpoints do not fit at once: the one that is there stays until it is unwanted.
            assert_eq!(outcome.refused.len(), 1, "{outcome:?}");
            watched.reconcile(&Desired::default(), &mut ledger);
            watched.reconcile(&web(&[(addr, "serving,cluster")]), &mut ledger);
        }
        let (id, row) = ledger.backends().iter().next().expect("one backend");
        assert_eq!(
            (id.id, row.generation, address(row).to_string().as_str()),
            (1, turn, addr)
        );
    }
}

#[test]
fn another_algorithm_is_a_fresh_range_and_the_entry() {
    let mut ledger = Ledger::new(Capacity::default());
    let mut watched = Watched::new(Capacity::default(), Faults::Never);
    let both = [
        ("10.244.1.1:80", "serving,cluster"),
        ("10.244.1.2:80", "serving,cluster"),
    ];
    let mut state = web(&both);
    watched.reconcile(&state, &mut ledger);
    for (algorithm, size) in [
        (Algorithm::Maglev, Some(64)),
        (Algorithm::Maglev, None),
        (Algorithm::Random, None),
    ] {
        for port in state.ports.values_mut() {
            (port.algorithm, port.maglev_size) = (algorithm, size);
        }
        let steps = plan(&state, &mut ledger).steps;
        assert!(
            matches!(
                steps.as_slice(),
                [
                    Step::WriteSlots { .. },
                    Step::PutService { .. },
                    Step::Grace
                ]
            ),
            "{steps:#?}"
        );
        watched.reconcile(&state, &mut ledger);
        assert_eq!(watched.violations, Vec::<String>::new());
    }
}

#[test]
fn a_table_that_does_not_fit_is_named_and_its_service_served_at_random() {
    let small = Capacity {
        slots: 100,
        ..Capacity::default()
    };
    let mut ledger = Ledger::new(small);
    let mut watched = Watched::new(small, Faults::Never);
    let both = [
        ("10.244.1.1:80", "serving,cluster"),
        ("10.244.1.2:80", "serving,cluster"),
    ];
    let mut state = web(&both);
    for (size, n_slots) in [(None, 2), (Some(64), 64), (Some(64), 64), (Some(128), 2)] {
        for port in state.ports.values_mut() {
            (port.algorithm, port.maglev_size) = (Algorithm::Maglev, size);
        }
        let outcome = watched.reconcile(&state, &mut ledger);
        let refused: Vec<_> = outcome.refused.iter().map(ToString::to_string).collect();
        let places = size.unwrap_or(4_096);
        let expected = format!(
            "default/web:http TCP IPv4: {places} places of a Maglev table do not fit into table slots, which holds 100 and \
             grows as far as there is memory, so backends are chosen at random for now; if that lasts, ask for smaller \
             tables by fulcrum.dev/maglev-size"
        );
        let expected = if n_slots == 2 {
            vec![expected]
        } else {
            Vec::new()
        };
        assert_eq!(refused, expected);
        let entry = ledger.services().values().next().expect("it is served");
        assert_eq!(entry.cluster.count, n_slots);
    }
}

#[test]
fn a_frontend_that_moves_is_replaced_by_one_write() {
    let mut ledger = Ledger::new(Capacity::default());
    let mut watched = Watched::new(Capacity::default(), Faults::Never);
    let backends = [("10.244.1.1:80", endpoint("serving,cluster"))];
    let of = |service| desired([port(service, &["10.96.0.1:80"], &backends)]);
    watched.reconcile(&of("web"), &mut ledger);
    let steps = plan(&of("api"), &mut ledger).steps;
    let n_puts = steps
        .iter()
        .filter(|step| matches!(step, Step::PutService { .. }))
        .count();
    let deletes = steps
        .iter()
        .any(|step| matches!(step, Step::DeleteService { .. }));
    assert!(n_puts == 1 && !deletes, "{steps:#?}");
    let position = |wanted: fn(&Step) -> bool| steps.iter().position(wanted);
    let put = position(|step| matches!(step, Step::PutService { .. }));
    let retire = position(|step| matches!(step, Step::RetireBackend { .. }));
    assert!(put < retire, "{steps:#?}");
}

#[test]
fn a_frontend_that_two_want_goes_to_the_first_and_the_other_is_named() {
    let mut ledger = Ledger::new(Capacity::default());
    let backends = [("10.244.1.1:80", endpoint("serving,cluster"))];
    let state = desired(["web", "api"].map(|name| port(name, &["10.96.0.1:80"], &backends)));
    let refused: Vec<_> = plan(&state, &mut ledger)
        .refused
        .iter()
        .map(ToString::to_string)
        .collect();
    let expected = "default/web:http TCP IPv4: frontend 10.96.0.1:80/TCP belongs to default/api:http TCP IPv4; \
                    give one of them another address or port";
    assert_eq!(refused, [expected]);
}

#[test]
fn an_address_of_the_other_family_is_refused_by_name() {
    let mut ledger = Ledger::new(Capacity::default());
    let state = desired([port(
        "web",
        &["10.96.0.1:80"],
        &[("[::1]:80", endpoint("serving"))],
    )]);
    let plan = plan(&state, &mut ledger);
    assert_eq!(
        plan.refused[0].to_string(),
        "default/web:http TCP IPv4: address ::1 is not IPv4"
    );
    assert!(plan.steps.is_empty());
}

#[test]
fn a_run_of_failures_ends() {
    let mut ledger = Ledger::new(Capacity::default());
    let mut watched = Watched::new(Capacity::default(), Faults::Always);
    watched.after = expected(&many(50))
        .frontends
        .into_keys()
        .map(|key| (key, Target::default()))
        .collect();
    let retry = Retry {
        attempts: 3,
        backoff: Duration::ZERO,
        budget: 10,
    };
    let outcome = reconcile(&many(50), &mut ledger, &mut watched, &retry);
    assert_eq!(outcome.reports[0].failed.len(), 50);
    assert_eq!(watched.maps.n_faults(), 60);
    let failure = outcome.reports[0].failed[0].to_string();
    assert!(
        failure.starts_with("default/s0:http TCP IPv4: write backends4[1]: 10.244.0.0:80"),
        "{failure}"
    );
}
