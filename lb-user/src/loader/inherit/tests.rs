//! What is taken over of what is found, and what is said about the rest.

use super::*;

/// Everything as it should be, left by an agent whose flow tables were of these sizes.
fn estate(flow_tables: [u32; 2]) -> Estate {
    let mut wanted = form::wanted().expect("our own object");
    let of_wanted = |(name, form): (&&'static str, &Form)| (*name, Found::Map(*form));
    let mut found: BTreeMap<_, _> = wanted.iter().map(of_wanted).collect();
    for (name, size) in [map::FLOWS4, map::FLOWS6].into_iter().zip(flow_tables) {
        let form = Form {
            max_entries: size,
            ..wanted[name]
        };
        found.insert(name, Found::Map(form));
    }
    for form in wanted.values_mut() {
        // Nothing depends on what the object says here.
        if form.max_entries == 0 {
            form.max_entries = 1;
        }
    }
    let node = Some(NodeConfig {
        hash_key: [7; 12],
        ..NodeConfig::DEFAULT
    });
    Estate {
        found,
        former: BTreeSet::new(),
        wanted,
        node,
    }
}

fn faults(inheritance: &Inheritance) -> Vec<&'static str> {
    inheritance.faults.keys().copied().collect()
}

#[test]
fn what_fits_is_taken_over_whole_and_flow_tables_keep_their_sizes() {
    let inheritance = estate([64, 1 << 20]).judge();
    assert_eq!(faults(&inheritance), [""; 0]);
    assert_eq!(inheritance.hash_key(), Some([7; 12]));
    assert_eq!(inheritance.flow_table_size(Family::V4), Some(64));
    assert_eq!(inheritance.flow_table_size(Family::V6), Some(1 << 20));
    assert_eq!(inheritance.flow_table_sizes(128), [64, 1 << 20]);
}

#[test]
fn where_nothing_is_everything_is_made_and_nothing_is_said_of_it() {
    let mut estate = estate([64; 2]);
    estate.found = map::ALL.map(|name| (name, Found::Nothing)).into();
    estate.node = None;
    let inheritance = estate.judge();
    assert_eq!(inheritance.faults.len(), map::ALL.len());
    assert!(!inheritance.is_any);
    assert_eq!(inheritance.hash_key(), None);
    assert_eq!(inheritance.flow_table_sizes(128), [128; 2]);
}

#[test]
fn every_difference_counts() {
    let changes: [fn(&mut Form); 5] = [
        |form| form.kind += 1,
        |form| form.key_size += 1,
        |form| form.value_size += 1,
        |form| form.max_entries += 1,
        |form| form.flags ^= 1 << 10,
    ];
    for name in map::ALL {
        for change in changes {
            let mut estate = estate([64; 2]);
            let Some(Found::Map(form)) = estate.found.get_mut(name) else {
                panic!("{name} is there");
            };
            change(form);
            let inheritance = estate.judge();
            let fault = &inheritance.faults[name];
            assert!(matches!(fault, Fault::Other { .. }), "{name}: {fault}");
        }
    }
}

#[test]
fn what_relies_on_a_map_goes_with_it_and_nothing_else_does() {
    let with = |more: &[&'static str]| {
        let mut names = [&SERVICES[..], more].concat();
        names.sort_unstable();
        names
    };
    let users = [
        map::FLOWS4,
        map::FLOWS6,
        map::AFFINITY4,
        map::AFFINITY6,
        map::CONNECTIONS4,
        map::CONNECTIONS6,
        map::DIALLED4,
        map::DIALLED6,
    ];
    let mut fragments = FRAGMENTS;
    fragments.sort_unstable();
    for (name, expected) in [
        (map::BACKENDS4, with(&users)),
        (map::SERVICES6, with(&users)),
        (map::SLOTS, with(&users)),
        (
            map::NEXT_HOPS,
            vec![map::FLOWS4, map::FLOWS6, map::NEXT_HOPS],
        ),
        (map::FLOWS4, vec![map::FLOWS4]),
        (map::AFFINITY6, vec![map::AFFINITY6]),
        (map::COUNTERS, vec![map::COUNTERS]),
        (map::PIECES, fragments.to_vec()),
    ] {
        for found in [Found::Nothing, Found::Stranger] {
            let mut estate = estate([64; 2]);
            estate.found.insert(name, found);
            assert_eq!(faults(&estate.judge()), expected, "{name}");
        }
    }
}

#[test]
fn without_the_hash_key_flows_cannot_be_found_and_go() {
    let mut estate = estate([64; 2]);
    estate.node = None;
    let inheritance = estate.judge();
    assert_eq!(faults(&inheritance), [map::FLOWS4, map::FLOWS6]);
    assert_eq!(inheritance.hash_key(), None);
    assert!(inheritance.is_any);
}

#[test]
fn one_familys_flows_may_go_without_the_others() {
    let mut estate = estate([64; 2]);
    estate.found.insert(map::FLOWS6, Found::Nothing);
    let inheritance = estate.judge();
    assert_eq!(inheritance.hash_key(), Some([7; 12]));
    assert_eq!(inheritance.flow_table_size(Family::V4), Some(64));
    assert_eq!(inheritance.flow_table_size(Family::V6), None);
}

#[test]
fn a_flow_table_that_no_agent_makes_is_none_of_ours() {
    for size in [32, 100, 1 << 25] {
        let inheritance = estate([size, 64]).judge();
        assert_eq!(faults(&inheritance), [map::FLOWS4], "{size}");
    }
}

#[test]
fn damage_takes_all_tables_of_services_and_what_relies_on_them() {
    let inheritance = estate([64; 2]).without_services("two and two is five");
    let stay: Vec<_> = map::ALL
        .into_iter()
        .filter(|name| !inheritance.faults.contains_key(name))
        .collect();
    let expected = [
        map::NEXT_HOPS,
        map::COUNTERS,
        map::FRAGMENTS4,
        map::FRAGMENTS6,
        map::PIECES,
        map::TAKEOVER,
        map::XDP_DEVICES,
        map::PEER_DEVICES,
    ];
    assert_eq!(stay, expected);
    let text = inheritance.faults[map::SLOTS].to_string();
    assert_eq!(text, "the tables are damaged: two and two is five");
}

/// As an agent of before there was such a map leaves it.
#[test]
fn a_map_that_nothing_relies_on_is_added_and_all_else_is_kept() {
    let mut estate = estate([64; 2]);
    estate.found.insert(map::PEER_DEVICES, Found::Nothing);
    let inheritance = estate.judge();
    assert_eq!(faults(&inheritance), [map::PEER_DEVICES]);
    assert_eq!(inheritance.flow_table_size(Family::V4), Some(64));
    assert_eq!(inheritance.flow_table_size(Family::V6), Some(64));
}

#[test]
fn what_relies_on_others_is_removed_first() {
    let order: Vec<_> = dependents_first().collect();
    assert_eq!(order.len(), map::ALL.len());
    let at = |name: &str| order.iter().position(|other| *other == name);
    for name in map::ALL {
        for ground in grounds(name).filter(|ground| !grounds(ground).any(|other| other == name)) {
            assert!(ground == NODE || at(name) < at(ground), "{name} {ground}");
        }
    }
}

#[test]
fn every_fault_says_what_was_found_and_what_was_wanted() {
    let wanted = Form {
        kind: 2,
        key_size: 4,
        value_size: 8,
        max_entries: 16,
        flags: 0,
    };
    let found = Form {
        kind: 1,
        flags: 1,
        ..wanted
    };
    for (fault, text) in [
        (Fault::Absent, "it is not pinned"),
        (Fault::NoMap, "its pin is no map of a known type"),
        (
            Fault::Other { found, wanted },
            "it is hash of 16 entries with keys of 4 and values of 8 bytes, flags 0x1, and should be array of 16 \
             entries with keys of 4 and values of 8 bytes, flags 0x0",
        ),
        (
            Fault::Groundless(map::SLOTS),
            "it relies on slots, which is made anew",
        ),
        (
            Fault::Groundless(NODE),
            "the facts beside it, by which its entries are found, cannot be read",
        ),
    ] {
        assert_eq!(fault.to_string(), text);
    }
}

#[test]
fn a_flow_table_of_the_former_layout_is_taken_over_and_said_to_be_one() {
    let mut estate = estate([64; 2]);
    estate.former.insert(map::FLOWS6);
    let own = estate.wanted[map::FLOWS6].value_size;
    let Some(Found::Map(form)) = estate.found.get_mut(map::FLOWS6) else {
        panic!("it is there");
    };
    form.value_size = former_value_size(map::FLOWS6);
    let inheritance = estate.judge();
    assert_eq!(faults(&inheritance), [""; 0]);
    assert_eq!(inheritance.features(), features::FORMER6);
    assert!(inheritance.is_former(map::FLOWS6) && !inheritance.is_former(map::FLOWS4));
    let Some(Found::Map(form)) = estate.found.get_mut(map::FLOWS6) else {
        panic!("it is there");
    };
    form.value_size = own + 4;
    let inheritance = estate.judge();
    assert_eq!(faults(&inheritance), [map::FLOWS6]);
    assert_eq!(inheritance.features(), 0, "it is not taken over");
}
