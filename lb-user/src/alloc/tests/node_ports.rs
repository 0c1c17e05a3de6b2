//! Node ports as a function of manifests, the range and what was given before.

use super::*;

const CIDRS: [&str; 1] = ["10.96.0.0/16"];

/// Allocates from a range of numbers.
fn given(specs: &[(&str, &str)], range: &str, previous: &Allocations) -> Allocated {
    let cidrs = cidrs(&CIDRS);
    let pools = Pools {
        node_ports: range.parse().expect("a range"),
        ..pools(&cidrs)
    };
    super::super::allocate(&services(specs), pools, previous)
}

fn usual(specs: &[(&str, &str)], previous: &Allocations) -> Allocated {
    given(specs, "30000-32767", previous)
}

/// The node port of each port of a service, by the port's name.
fn numbers(allocated: &Allocated, name: &str) -> BTreeMap<String, u16> {
    let addresses = allocated.addresses.get(&ObjectName::new("default", name));
    addresses
        .map(|it| it.node_ports.clone())
        .unwrap_or_default()
}

/// The node port of a service's only port.
fn number(allocated: &Allocated, name: &str) -> Option<u16> {
    numbers(allocated, name).get("").copied()
}

fn health(allocated: &Allocated, name: &str) -> Option<u16> {
    let addresses = allocated.addresses.get(&ObjectName::new("default", name))?;
    addresses.health_check_node_port
}

fn said(allocated: &Allocated) -> Vec<String> {
    let said = allocated.sorted_findings().into_iter();
    said.map(|it| format!("{} {}: {}", it.severity, it.field, it.message))
        .collect()
}

const NODE_PORT: &str = "type: NodePort";
const BALANCED: &str = "type: LoadBalancer";
const LOCAL: &str = "type: LoadBalancer, externalTrafficPolicy: Local";

#[test]
fn types_that_have_node_ports_get_them_from_the_upper_band() {
    let specs = [
        ("a", ""),
        ("b", NODE_PORT),
        ("c", BALANCED),
        (
            "d",
            "type: LoadBalancer, allocateLoadBalancerNodePorts: false",
        ),
        (
            "e",
            "type: LoadBalancer, allocateLoadBalancerNodePorts: true",
        ),
        ("f", "clusterIP: None"),
        ("g", "type: ExternalName, externalName: a.b"),
    ];
    let allocated = usual(&specs, &Allocations::default());
    assert_eq!(allocated.sorted_findings(), []);
    let with: Vec<_> = specs
        .iter()
        .filter(|(name, _)| number(&allocated, name).is_some())
        .map(|(name, _)| *name)
        .collect();
    assert_eq!(with, ["b", "c", "e"]);
    for name in with {
        let number = number(&allocated, name).expect("given");
        assert!((30_086..=32_767).contains(&number), "{number}");
    }
}

#[test]
fn an_explicit_number_is_respected_where_none_is_allocated() {
    let spec = "type: LoadBalancer, allocateLoadBalancerNodePorts: false, \
                ports: [{name: a, port: 80, nodePort: 30080}, {name: b, port: 81}]";
    let allocated = usual(&[("web", spec)], &Allocations::default());
    assert_eq!(
        numbers(&allocated, "web"),
        [("a".to_owned(), 30_080)].into()
    );
}

#[test]
fn protocols_of_one_port_share_a_number() {
    let cases = [
        // Both are allocated.
        "{name: a, port: 53}, {name: b, port: 53, protocol: UDP}, {name: c, port: 53, protocol: SCTP}",
        // One is explicit, before and behind.
        "{name: a, port: 53, nodePort: 30053}, {name: b, port: 53, protocol: UDP}, {name: c, port: 53, protocol: SCTP}",
        "{name: a, port: 53}, {name: b, port: 53, protocol: UDP}, {name: c, port: 53, protocol: SCTP, nodePort: 30053}",
    ];
    for ports in cases {
        let spec = format!("type: NodePort, ports: [{ports}]");
        let allocated = usual(&[("dns", &spec)], &Allocations::default());
        let numbers: BTreeSet<_> = numbers(&allocated, "dns").into_values().collect();
        assert_eq!(numbers.len(), 1, "{ports}: {numbers:?}");
        assert!(
            !ports.contains("30053") || numbers.contains(&30_053),
            "{ports}"
        );
    }
    let apart = "type: NodePort, ports: [{name: a, port: 53, nodePort: 30001}, \
                 {name: b, port: 53, protocol: UDP, nodePort: 30002}, {name: c, port: 54}]";
    let allocated = usual(&[("dns", apart)], &Allocations::default());
    let numbers: BTreeSet<_> = numbers(&allocated, "dns").into_values().collect();
    assert_eq!(
        numbers.len(),
        3,
        "explicit numbers and other ports stay apart"
    );
}

#[test]
fn a_service_keeps_its_numbers_by_the_names_of_its_ports() {
    let two = "type: NodePort, ports: [{name: a, port: 80}, {name: b, port: 81}]";
    let first = usual(&[("web", two)], &Allocations::default());
    let changed = "type: NodePort, ports: [{name: b, port: 8081, protocol: UDP}, {name: a, port: 80}, {name: c, port: 82}]";
    let second = usual(&[("aaa", NODE_PORT), ("web", changed)], &first.allocations);
    let (before, after) = (numbers(&first, "web"), numbers(&second, "web"));
    assert_eq!((before["a"], before["b"]), (after["a"], after["b"]));
    let all: BTreeSet<_> = after
        .values()
        .chain(numbers(&second, "aaa").values())
        .copied()
        .collect();
    assert_eq!(all.len(), 4);
}

#[test]
fn a_number_that_was_asked_for_stays_when_it_is_left_out() {
    let explicit = "type: NodePort, ports: [{port: 80, nodePort: 30080}]";
    let first = usual(&[("web", explicit)], &Allocations::default());
    let second = usual(&[("web", NODE_PORT)], &first.allocations);
    assert_eq!(number(&second, "web"), Some(30_080));
    let moved = usual(
        &[(
            "web",
            "type: NodePort, ports: [{port: 80, nodePort: 30081}]",
        )],
        &second.allocations,
    );
    assert_eq!(number(&moved, "web"), Some(30_081));
    assert_eq!(moved.sorted_findings(), []);
    let other = usual(&[("new", explicit), ("web", "")], &moved.allocations);
    assert_eq!(number(&other, "new"), Some(30_080), "what is left is free");
}

#[test]
fn ports_of_one_protocol_never_share_a_number_that_both_had() {
    let shared = "type: NodePort, ports: [{name: a, port: 53}, {name: b, port: 53, protocol: UDP}]";
    let first = usual(&[("dns", shared)], &Allocations::default());
    let apart = "type: NodePort, ports: [{name: a, port: 53}, {name: b, port: 54}]";
    let second = usual(&[("dns", apart)], &first.allocations);
    let (before, after) = (numbers(&first, "dns"), numbers(&second, "dns"));
    assert_eq!(after["a"], before["a"]);
    assert_ne!(after["a"], after["b"]);
}

#[test]
fn nobody_gets_what_another_service_keeps() {
    let first = usual(&[("web", NODE_PORT)], &Allocations::default());
    let kept = number(&first, "web").expect("given");
    let thief = format!("type: NodePort, ports: [{{port: 80, nodePort: {kept}}}]");
    let second = usual(&[("aaa", &thief), ("web", NODE_PORT)], &first.allocations);
    assert_eq!(number(&second, "web"), Some(kept));
    assert_eq!(number(&second, "aaa"), None);
    assert_eq!(
        said(&second),
        [format!(
            "error spec.ports[0].nodePort: node port {kept} belongs to Service default/web (m:1) already; choose \
             another"
        )]
    );
    // Without a past, what is written down comes first.
    let fresh = usual(
        &[("aaa", &thief), ("web", NODE_PORT)],
        &Allocations::default(),
    );
    assert_eq!(number(&fresh, "aaa"), Some(kept));
    assert_eq!(fresh.sorted_findings(), []);
}

#[test]
fn the_lower_band_is_the_last_to_be_used_and_then_nothing_is_left() {
    let names: Vec<String> = (0..33).map(|n| format!("s{n}")).collect();
    let specs: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), NODE_PORT))
        .collect();
    let lower = |count: usize| {
        let all = given(&specs[..count], "100-131", &Allocations::default());
        let numbers = names.iter().filter_map(|name| number(&all, name));
        numbers.filter(|number| *number < 116).count()
    };
    assert_eq!((lower(16), lower(17), lower(32)), (0, 1, 16));
    let all = given(&specs, "100-131", &Allocations::default());
    assert_eq!(
        said(&all),
        [
            "error spec.ports[0].nodePort: no node port is left in 100-131; widen the range, or give one here"
        ]
    );
    assert_eq!(
        all.addresses.len(),
        33,
        "its ClusterIP is served all the same"
    );
}

#[test]
fn what_lies_outside_of_the_range_is_warned_of_or_refused() {
    let spec = "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 81, clusterIP: 192.0.2.1, \
                ports: [{port: 80, nodePort: 80}]";
    let warned = usual(&[("web", spec)], &Allocations::default());
    let expected = [
        "spec.clusterIPs: 192.0.2.1 is in no service CIDR (10.96.0.0/16)",
        "spec.healthCheckNodePort: 81 is outside of the range of node ports (30000-32767)",
        "spec.ports[0].nodePort: 80 is outside of the range of node ports (30000-32767)",
    ];
    assert_eq!(
        said(&warned),
        expected.map(|it| format!("warning {it}; it is used"))
    );
    assert_eq!(
        (number(&warned, "web"), health(&warned, "web")),
        (Some(80), Some(81))
    );
    let again = usual(&[("web", spec)], &warned.allocations);
    assert_eq!(again, warned, "it is kept as long as it is asked for");
    let cidrs = cidrs(&CIDRS);
    let strict = Pools {
        is_strict: true,
        ..pools(&cidrs)
    };
    let refused =
        super::super::allocate(&services(&[("web", spec)]), strict, &Allocations::default());
    let forbidden =
        expected.map(|it| format!("error {it}, which --strict forbids; choose another"));
    assert_eq!(said(&refused), forbidden);
    assert_eq!(refused.addresses.len(), 0);
}

#[test]
fn health_check_ports_are_those_of_balanced_services_with_the_policy_local() {
    let specs = [
        ("a", NODE_PORT),
        ("b", BALANCED),
        ("c", LOCAL),
        ("d", "type: NodePort, externalTrafficPolicy: Local"),
        (
            "e",
            "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30000",
        ),
        (
            "f",
            "type: LoadBalancer, externalTrafficPolicy: Local, allocateLoadBalancerNodePorts: false",
        ),
    ];
    let allocated = usual(&specs, &Allocations::default());
    let with: Vec<_> = specs
        .iter()
        .filter(|(name, _)| health(&allocated, name).is_some())
        .map(|(name, _)| *name)
        .collect();
    assert_eq!(with, ["c", "e", "f"]);
    assert_eq!(health(&allocated, "e"), Some(30_000));
    assert_ne!(health(&allocated, "c"), number(&allocated, "c"));
}

#[test]
fn a_health_check_port_comes_back_with_the_policy() {
    let local = usual(&[("web", LOCAL)], &Allocations::default());
    let number = health(&local, "web");
    let cluster = usual(&[("web", BALANCED)], &local.allocations);
    assert_eq!(health(&cluster, "web"), None);
    // Others get other numbers meanwhile, while there are any.
    let range = format!("{0}-{0}", number.expect("given"));
    let back = usual(&[("aaa", LOCAL), ("web", LOCAL)], &cluster.allocations);
    assert_eq!(health(&back, "web"), number);
    let only =
        "type: LoadBalancer, externalTrafficPolicy: Local, allocateLoadBalancerNodePorts: false";
    let none_else = given(&[("aaa", only), ("web", "")], &range, &cluster.allocations);
    assert_eq!(
        health(&none_else, "aaa"),
        number,
        "the only one that there is"
    );
    let late = given(
        &[("aaa", only), ("web", only)],
        &range,
        &none_else.allocations,
    );
    assert_eq!((health(&late, "aaa"), health(&late, "web")), (number, None));
}

#[test]
fn a_health_check_port_is_nobodys_node_port() {
    let spec = "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30080, \
                ports: [{port: 80, nodePort: 30080}]";
    let allocated = usual(&[("web", spec)], &Allocations::default());
    assert_eq!(
        said(&allocated),
        [
            "error spec.healthCheckNodePort: 30080 is the number of `spec.ports[0].nodePort` already; choose another"
        ]
    );
    let health_of_a =
        "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30080";
    let of_b = "type: NodePort, ports: [{port: 80, nodePort: 30080}]";
    let both = usual(&[("a", health_of_a), ("b", of_b)], &Allocations::default());
    assert_eq!(
        said(&both),
        [
            "error spec.ports[0].nodePort: node port 30080 belongs to Service default/a (m:1) already; choose another"
        ]
    );
}

#[test]
fn who_is_refused_keeps_no_number_from_others() {
    let clashing = "type: NodePort, clusterIP: 10.96.0.5, ports: [{port: 80, nodePort: 30080}]";
    let specs = [
        ("a", "clusterIP: 10.96.0.5"),
        ("b", clashing),
        ("c", "type: NodePort, ports: [{port: 80, nodePort: 30080}]"),
    ];
    let allocated = usual(&specs, &Allocations::default());
    assert_eq!(
        (number(&allocated, "b"), number(&allocated, "c")),
        (None, Some(30_080))
    );
    assert_eq!(allocated.sorted_findings().len(), 1);
}

#[test]
fn what_was_given_by_an_older_agent_is_kept() {
    let old = held(r#"{"default/web": ["10.96.7.7"]}"#);
    let allocated = usual(&[("web", NODE_PORT)], &old);
    assert_eq!(ips(&allocated, "web"), ["10.96.7.7"]);
    assert!(number(&allocated, "web").is_some());
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    /// Services that ask for numbers in every way, from few numbers, so that they clash.
    fn spec() -> impl Strategy<Value = String> {
        let kinds = vec![
            "ClusterIP",
            "NodePort",
            "LoadBalancer",
            "LoadBalancer, externalTrafficPolicy: Local",
        ];
        let kind = prop::sample::select(kinds);
        let number = || prop::option::weighted(0.3, 95_u16..140);
        (kind, number(), number(), any::<bool>()).prop_map(|(kind, first, second, is_shared)| {
            let with = |number: Option<u16>| match number {
                Some(number) if kind != "ClusterIP" => format!(", nodePort: {number}"),
                _ => String::new(),
            };
            let (first, second) = (with(first), with(second));
            let other = if is_shared { "53, protocol: UDP" } else { "54" };
            let second = if first == second { String::new() } else { second };
            format!("type: {kind}, ports: [{{name: a, port: 53{first}}}, {{name: b, port: {other}{second}}}]")
        })
    }

    fn some() -> impl Strategy<Value = BTreeMap<String, String>> {
        prop::collection::btree_map("[a-z][a-z0-9]{0,3}", spec(), 0..20)
    }

    fn all(specs: &BTreeMap<String, String>, previous: &Allocations) -> Allocated {
        let specs: Vec<_> = specs
            .iter()
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect();
        given(&specs, "100-139", previous)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_number_belongs_to_one_service_and_to_one_port_per_protocol(specs in some()) {
            let allocated = all(&specs, &Allocations::default());
            let mut owners: BTreeMap<u16, &ObjectName> = BTreeMap::new();
            for (name, addresses) in &allocated.addresses {
                let spec = &specs[&*name.name];
                let (a, b) = (addresses.node_ports.get("a"), addresses.node_ports.get("b"));
                prop_assert!(a.is_none() || a != b || spec.contains("UDP"), "{name}: {spec}");
                let health = addresses.health_check_node_port;
                prop_assert!(addresses.node_ports.values().all(|it| Some(*it) != health));
                for number in addresses.node_ports.values().copied().chain(health) {
                    let owner = owners.entry(number).or_insert(name);
                    prop_assert_eq!(*owner, name, "{} is given twice", number);
                    prop_assert!(
                        (100..140).contains(&number) || spec.contains(&format!("nodePort: {number}")),
                        "{} is outside of the range", number
                    );
                }
            }
        }

        #[test]
        fn a_restart_changes_nothing(specs in some()) {
            let first = all(&specs, &Allocations::default());
            let text = serde_json::to_string(&first.allocations).expect("plain data");
            let read: Allocations = serde_json::from_str(&text).expect("what was written");
            let again = all(&specs, &read);
            // What a refused service asks for may have been given away since, and is told as well.
            prop_assert_eq!(again.addresses, first.addresses);
            prop_assert_eq!(again.allocations, first.allocations);
        }

        #[test]
        fn no_newcomer_takes_a_number_from_who_was_there(specs in some(), newcomer in spec()) {
            let mut specs = specs;
            specs.remove("aa");
            let before = all(&specs, &Allocations::default());
            specs.insert("aa".to_owned(), newcomer);
            let after = all(&specs, &before.allocations);
            for (name, addresses) in &before.addresses {
                let now = after.addresses.get(name);
                prop_assert_eq!(now.map(|it| &it.node_ports), Some(&addresses.node_ports), "{}", name);
                prop_assert_eq!(
                    now.and_then(|it| it.health_check_node_port),
                    addresses.health_check_node_port,
                    "{}", name
                );
            }
        }
    }
}
