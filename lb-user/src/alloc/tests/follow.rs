//! Who goes on from what was given comes to the same as who gives everything anew.

use proptest::prelude::*;

use super::*;

/// Services that ask for addresses and numbers in every way, of which there are so few that they clash.
fn spec() -> impl Strategy<Value = String> {
    let kinds = [
        "type: ClusterIP",
        "type: ClusterIP",
        "type: NodePort",
        "type: LoadBalancer",
        "type: LoadBalancer, externalTrafficPolicy: Local",
        "clusterIP: None",
        "ipFamilies: [IPv6]",
        "ipFamilyPolicy: PreferDualStack",
        "type: ExternalName, externalName: a.example",
    ];
    let asked = |range: std::ops::Range<u16>| prop::option::weighted(0.3, range);
    let kind = prop::sample::select(kinds.to_vec());
    (kind, asked(1..40), asked(95..125)).prop_map(|(kind, ip, number)| {
        let ip = ip.filter(|_| kind.starts_with("type: ") && !kind.contains("Name"));
        let ip = ip.map_or_else(String::new, |ip| format!(", clusterIP: 10.96.0.{ip}"));
        let number = number.filter(|_| kind.contains("NodePort") || kind.contains("Load"));
        let number = number.map_or_else(String::new, |number| format!(", nodePort: {number}"));
        format!("{kind}{ip}, ports: [{{name: a, port: 53{number}}}, {{name: b, port: 54}}]")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whoever_goes_on_comes_to_what_is_given_anew(
        is_strict: bool,
        looks in prop::collection::vec(
            prop::collection::btree_map("[a-f][a-c]?", prop::option::weighted(0.7, spec()), 1..4),
            1..16,
        ),
    ) {
        let cidrs = cidrs(&["10.96.0.0/27", "fd00:10:96::/112"]);
        let pools = Pools {
            node_ports: "100-119".parse().expect("a range"),
            is_strict,
            ..pools(&cidrs)
        };
        let mut there = BTreeMap::new();
        let mut allocated = super::super::allocate(&services(&[]), pools, &Allocations::default());
        for look in looks {
            let names = look.keys().map(|name| ObjectName::new("default", name));
            let changed: BTreeSet<_> = names.collect();
            for (name, spec) in look {
                match spec {
                    Some(spec) => there.insert(name, spec),
                    None => there.remove(&name),
                };
            }
            let specs: Vec<_> = there.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
            let services = services(&specs);
            let was = allocated.clone();
            let moved = allocated.follow(&services, pools, &changed);
            let anew = super::super::allocate(&services, pools, &was.allocations);
            prop_assert_eq!(&allocated.addresses, &anew.addresses);
            prop_assert_eq!(&allocated.allocations, &anew.allocations);
            prop_assert_eq!(allocated.sorted_findings(), anew.sorted_findings());
            if let (Some(followed), Some(anew)) = (&allocated.holders, &anew.holders) {
                prop_assert_eq!(followed, anew);
            }
            let differ = was.addresses.differences(&allocated.addresses, PartialEq::eq);
            prop_assert_eq!(moved, differ.cloned().collect());
        }
    }
}

#[test]
fn only_who_changed_is_asked_where_nobody_wants_what_another_one_has() {
    let cidrs = cidrs(&DUAL);
    let few = services(&[("a", "type: NodePort"), ("b", "clusterIP: 10.96.0.5")]);
    let mut allocated = allocate(&few, &cidrs, &Allocations::default());
    let more = services(&[
        ("a", "type: NodePort"),
        ("b", "clusterIP: 10.96.0.5"),
        ("c", "type: NodePort"),
    ]);
    let c = BTreeSet::from([ObjectName::new("default", "c")]);
    let previous = allocated.allocations.clone();
    assert!(allocated.follow_changed(&more, pools(&cidrs), &c, &previous));
    assert_eq!(allocated, allocate(&more, &cidrs, &previous));
    // Who wants what another one has makes everybody be asked, until there is no such service any more.
    let taken = services(&[
        ("a", "type: NodePort"),
        ("b", "clusterIP: 10.96.0.5"),
        ("c", "clusterIP: 10.96.0.5"),
    ]);
    let previous = allocated.allocations.clone();
    assert!(
        !allocated
            .clone()
            .follow_changed(&taken, pools(&cidrs), &c, &previous)
    );
    allocated.follow(&taken, pools(&cidrs), &c);
    assert_eq!(allocated.holders, None);
    assert_eq!(allocated.follow(&few, pools(&cidrs), &c), BTreeSet::new());
    assert!(allocated.holders.is_some());
}
