//! Allocation as a function of manifests, ranges and what was given before.

use std::net::Ipv4Addr;

use super::*;
use crate::{model::object::Object, source::manifest};

mod follow;
mod node_ports;

/// Services by name, each with the fields of its spec in flow style.
fn services(specs: &[(&str, &str)]) -> Objects<Service> {
    let mut services = Objects::new();
    for (name, spec) in specs {
        let ports = if spec.contains(" ports: ") {
            ""
        } else {
            "ports: [{port: 80}],"
        };
        let text = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: '{name}'}}, spec: {{{ports} {spec}}}}}"
        );
        for object in manifest::parse("m", &text).objects {
            let Object::Service(service) = object else {
                panic!("services only")
            };
            services.insert(service.object.meta.name.clone(), service);
        }
    }
    assert_eq!(services.len(), specs.len(), "every manifest is good");
    services
}

fn cidrs(texts: &[&str]) -> Vec<IpNet> {
    texts
        .iter()
        .map(|text| text.parse().expect("a prefix"))
        .collect()
}

fn ips(allocated: &Allocated, name: &str) -> Vec<String> {
    let addresses = allocated.addresses.get(&ObjectName::new("default", name));
    addresses
        .map(|a| a.ips.iter().map(ToString::to_string).collect())
        .unwrap_or_default()
}

/// Allocates from these prefixes and the usual node ports.
fn allocate(services: &Objects<Service>, cidrs: &[IpNet], previous: &Allocations) -> Allocated {
    super::allocate(services, pools(cidrs), previous)
}

fn pools(cidrs: &[IpNet]) -> Pools<'_> {
    Pools {
        cidrs,
        node_ports: PortRange::default(),
        is_strict: false,
        gives_nothing: false,
    }
}

/// What services had, as the file has it.
fn held(json: &str) -> Allocations {
    serde_json::from_str(json).expect("the form of the file")
}

const DUAL: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];

#[test]
fn addresses_come_from_the_upper_band_and_stay() {
    let few = services(&[("a", ""), ("b", "")]);
    let first = allocate(&few, &cidrs(&DUAL), &Allocations::default());
    assert_eq!(first.sorted_findings(), []);
    for addresses in first.addresses.values() {
        let IpAddr::V4(ip) = addresses.ips[0] else {
            panic!("the first CIDR's family")
        };
        let offset = u32::from(ip) - u32::from(Ipv4Addr::new(10, 96, 0, 0));
        assert!(
            (257..65_535).contains(&offset),
            "{ip} is not in the upper band"
        );
    }
    let more = services(&[
        ("a", ""),
        ("aa", "clusterIP: 10.96.0.10"),
        ("ab", ""),
        ("b", ""),
    ]);
    let second = allocate(&more, &cidrs(&DUAL), &first.allocations);
    assert_eq!(ips(&second, "a"), ips(&first, "a"));
    assert_eq!(ips(&second, "b"), ips(&first, "b"));
    let text = serde_json::to_string(&second.allocations).expect("plain data");
    let read: Allocations = serde_json::from_str(&text).expect("what was written");
    assert_eq!(read, second.allocations);
}

#[test]
fn the_lower_band_is_the_last_to_be_used() {
    // 30 addresses, of which the first 16 are the lower band.
    let names: Vec<String> = (0..15).map(|n| format!("s{n}")).collect();
    let specs: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
    let in_lower_band = |count: usize| {
        let all = allocate(
            &services(&specs[..count]),
            &cidrs(&["10.0.0.0/27"]),
            &Allocations::default(),
        );
        let ips: Vec<_> = all
            .addresses
            .values()
            .flat_map(|addresses| addresses.ips.clone())
            .collect();
        assert_eq!(ips.len(), count);
        let sixteenth = IpAddr::from([10, 0, 0, 16]);
        ips.into_iter().filter(|ip| *ip <= sixteenth).count()
    };
    assert_eq!(in_lower_band(14), 0);
    assert_eq!(in_lower_band(15), 1);
}

#[test]
fn a_full_range_ends_in_the_lower_band_and_then_in_a_finding() {
    let names: Vec<String> = (0..31).map(|n| format!("s{n}")).collect();
    let specs: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
    let all = allocate(
        &services(&specs),
        &cidrs(&["10.0.0.0/27"]),
        &Allocations::default(),
    );
    let given: BTreeSet<_> = all.addresses.values().flat_map(|a| a.ips.clone()).collect();
    assert_eq!(given.len(), 30, "all but network and broadcast");
    assert!(!given.contains(&Ipv4Addr::new(10, 0, 0, 31).into()));
    assert_eq!(all.sorted_findings().len(), 1);
    assert!(
        all.sorted_findings()[0]
            .message
            .contains("is left in the service CIDRs (10.0.0.0/27)")
    );
}

#[test]
fn the_same_explicit_address_is_given_once_and_the_finding_names_both() {
    let both = services(&[("a", "clusterIP: 10.96.0.5"), ("b", "clusterIP: 10.96.0.5")]);
    let first = allocate(&both, &cidrs(&DUAL), &Allocations::default());
    assert_eq!((ips(&first, "a").len(), ips(&first, "b").len()), (1, 0));
    assert_eq!(first.sorted_findings().len(), 1);
    let text = first.sorted_findings()[0].to_string();
    assert!(
        text.contains("Service default/b") && text.contains("Service default/a"),
        "{text}"
    );
    let held = held(r#"{"default/b": ["10.96.0.5"]}"#);
    let second = allocate(&both, &cidrs(&DUAL), &held);
    assert_eq!(
        (ips(&second, "a").len(), ips(&second, "b").len()),
        (0, 1),
        "who has it keeps it"
    );
}

#[test]
fn an_explicit_address_wins_over_an_allocated_one() {
    let first = allocate(
        &services(&[("z", "")]),
        &cidrs(&DUAL),
        &Allocations::default(),
    );
    let wanted = ips(&first, "z").remove(0);
    let spec = format!("clusterIP: {wanted}");
    let both = services(&[("z", ""), ("zz", &spec)]);
    let second = allocate(&both, &cidrs(&DUAL), &first.allocations);
    assert_eq!(ips(&second, "zz").first(), Some(&wanted));
    assert_ne!(ips(&second, "z").first(), Some(&wanted));
    assert_eq!(second.sorted_findings().len(), 1);
    assert_eq!(second.sorted_findings()[0].severity, Severity::Warning);
}

#[test]
fn an_address_outside_the_ranges_is_used_with_a_warning() {
    let some = services(&[("a", "clusterIP: 192.0.2.1")]);
    let allocated = allocate(&some, &cidrs(&DUAL), &Allocations::default());
    assert_eq!(ips(&allocated, "a"), ["192.0.2.1"]);
    assert_eq!(allocated.sorted_findings()[0].severity, Severity::Warning);
}

#[test]
fn services_that_ask_for_the_same_are_named_with_their_places() {
    let text = "
{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.96.0.5, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: b}, spec: {clusterIP: 10.96.0.5, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: c}, spec: {type: NodePort, ports: [{port: 80, nodePort: 30080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: d}, spec: {type: NodePort, ports: [{port: 80, nodePort: 30080, protocol: UDP}]}}
";
    let services: Objects<_> = manifest::parse("m.yaml", text)
        .objects
        .into_iter()
        .filter_map(|object| match object {
            Object::Service(service) => Some((service.object.meta.name.clone(), service)),
            _ => None,
        })
        .collect();
    let allocated = allocate(&services, &cidrs(&DUAL), &Allocations::default());
    let said: Vec<_> = allocated
        .sorted_findings()
        .iter()
        .map(Finding::to_string)
        .collect();
    assert_eq!(
        said,
        [
            "m.yaml:4: error: Service default/b: spec.clusterIPs: 10.96.0.5 belongs to Service default/a \
             (m.yaml:2) already; choose another",
            "m.yaml:8: error: Service default/d: spec.ports[0].nodePort: node port 30080 belongs to Service \
             default/c (m.yaml:6) already; choose another",
        ]
    );
    // Who was there before keeps its node port, whatever its name.
    let held = held(r#"{"default/d": ["10.96.9.9"]}"#);
    let allocated = allocate(&services, &cidrs(&DUAL), &held);
    assert_eq!(
        (ips(&allocated, "c").len(), ips(&allocated, "d").len()),
        (0, 1)
    );
}

#[test]
fn who_is_refused_holds_nothing_that_a_third_asks_for() {
    let both = "ipFamilyPolicy: RequireDualStack, clusterIP: 10.96.0.5, clusterIPs: [10.96.0.5, 'fd00:10:96::5']";
    let all = services(&[
        ("a", "clusterIP: 10.96.0.5"),
        ("b", both),
        ("c", "clusterIP: 'fd00:10:96::5'"),
    ]);
    let allocated = allocate(&all, &cidrs(&DUAL), &Allocations::default());
    assert_eq!(ips(&allocated, "b"), Vec::<String>::new());
    assert_eq!(ips(&allocated, "c"), ["fd00:10:96::5"]);
    assert_eq!(allocated.sorted_findings().len(), 1);
}

#[test]
fn one_range_after_the_other_is_used_up() {
    let names: Vec<String> = (0..20).map(|n| format!("s{n}")).collect();
    let specs: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
    let ranges = cidrs(&["10.0.0.0/28", "10.1.0.0/28"]);
    let all = allocate(&services(&specs), &ranges, &Allocations::default());
    assert_eq!(all.sorted_findings(), []);
    let given: BTreeSet<_> = all.addresses.values().flat_map(|a| a.ips.clone()).collect();
    assert_eq!(given.len(), 20);
    let in_first = given.iter().filter(|ip| ranges[0].contains(*ip)).count();
    assert_eq!(in_first, 14, "all of the first range");
}

/// What becomes of one service: families and the families of its addresses, or the refusal.
fn outcome(spec: &str, ranges: &[&str]) -> Result<(Vec<Family>, Vec<Family>), String> {
    let all = services(&[("web", spec)]);
    let allocated = allocate(&all, &cidrs(ranges), &Allocations::default());
    if let Some(addresses) = allocated.addresses.values().next() {
        let of_ips = addresses.ips.iter().copied().map(family_of).collect();
        return Ok((addresses.families.to_vec(), of_ips));
    }
    let finding = &allocated.sorted_findings()[0];
    Err(format!("{}: {}", finding.field, finding.message))
}

#[test]
fn families_follow_policy_order_and_ranges() {
    const V4: Family = Family::V4;
    const V6: Family = Family::V6;
    let cases: [(&str, &[Family]); 10] = [
        ("", &[V4]),
        ("ipFamilyPolicy: SingleStack", &[V4]),
        ("ipFamilyPolicy: PreferDualStack", &[V4, V6]),
        ("ipFamilyPolicy: RequireDualStack", &[V4, V6]),
        ("ipFamilies: [IPv6]", &[V6]),
        (
            "ipFamilies: [IPv6], ipFamilyPolicy: PreferDualStack",
            &[V6, V4],
        ),
        (
            "ipFamilies: [IPv6, IPv4], ipFamilyPolicy: RequireDualStack",
            &[V6, V4],
        ),
        ("clusterIP: 'fd00:10:96::5'", &[V6]),
        (
            "clusterIP: 'fd00:10:96::5', ipFamilyPolicy: RequireDualStack",
            &[V6, V4],
        ),
        (
            "clusterIP: 'fd00:10:96::5', ipFamilies: [IPv6, IPv4], ipFamilyPolicy: PreferDualStack",
            &[V6, V4],
        ),
    ];
    for (spec, expected) in cases {
        assert_eq!(
            outcome(spec, &DUAL),
            Ok((expected.to_vec(), expected.to_vec())),
            "{spec}"
        );
    }
    let reversed = [DUAL[1], DUAL[0]];
    assert_eq!(
        outcome("", &reversed),
        Ok((vec![V6], vec![V6])),
        "the first CIDR's family"
    );
}

#[test]
fn headless_services_and_aliases_have_no_address() {
    let (v4, v6) = (Family::V4, Family::V6);
    let single = &DUAL[..1];
    let cases: [(&str, &[&str], Vec<Family>); 7] = [
        ("clusterIP: None", single, vec![v4, v6]),
        (
            "clusterIP: None, ipFamilyPolicy: SingleStack",
            single,
            vec![v4],
        ),
        ("clusterIP: None, ipFamilies: [IPv6]", single, vec![v6, v4]),
        ("clusterIP: None, selector: {a: b}", single, vec![v4]),
        (
            "clusterIP: None, selector: {a: b}, ipFamilyPolicy: PreferDualStack",
            single,
            vec![v4],
        ),
        (
            "clusterIP: None, selector: {a: b}, ipFamilyPolicy: PreferDualStack",
            &DUAL,
            vec![v4, v6],
        ),
        ("type: ExternalName, externalName: a.b", single, vec![]),
    ];
    for (spec, ranges, families) in cases {
        assert_eq!(outcome(spec, ranges), Ok((families, vec![])), "{spec}");
    }
    assert_eq!(
        outcome("clusterIP: None, selector: {a: b}, ipFamilies: [IPv6]", single),
        Err("spec.ipFamilies[0]: no IPv6 address can be given, since no service CIDR is IPv6; add one with \
             --service-cidr"
            .to_owned())
    );
}

#[test]
fn a_cluster_of_one_family_refuses_the_other() {
    let single = &DUAL[..1];
    let (v4, err) = (vec![Family::V4], |text: &str| Err(text.to_owned()));
    assert_eq!(
        outcome("ipFamilyPolicy: PreferDualStack", single),
        Ok((v4.clone(), v4))
    );
    assert_eq!(
        outcome("ipFamilyPolicy: RequireDualStack", single),
        err(
            "spec.ipFamilyPolicy: RequireDualStack needs service CIDRs of both families, and there are IPv4 \
             ones only; add one with --service-cidr or write PreferDualStack"
        )
    );
    assert_eq!(
        outcome(
            "ipFamilies: [IPv4, IPv6], ipFamilyPolicy: PreferDualStack",
            single
        ),
        err(
            "spec.ipFamilies[1]: no IPv6 address can be given, since no service CIDR is IPv6; add one with \
             --service-cidr"
        )
    );
    assert_eq!(
        outcome("clusterIP: 'fd00:10:96::5'", single),
        err(
            "spec.clusterIPs[0]: fd00:10:96::5 cannot be used, since no service CIDR is IPv6; add one with \
             --service-cidr or leave the address out"
        )
    );
}

#[test]
fn the_networks_own_addresses_are_outside_of_the_range() {
    for outside in ["10.96.0.0", "10.96.255.255"] {
        let some = services(&[("a", &format!("clusterIP: {outside}"))]);
        let allocated = allocate(&some, &cidrs(&DUAL), &Allocations::default());
        assert_eq!(ips(&allocated, "a"), [outside]);
        assert_eq!(
            allocated.sorted_findings()[0].severity,
            Severity::Warning,
            "{outside}"
        );
    }
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    /// Specs that ask for addresses in every way, from few addresses, so that they clash.
    fn spec() -> impl Strategy<Value = String> {
        let policy =
            prop::sample::select(vec!["SingleStack", "PreferDualStack", "RequireDualStack"]);
        let ip = prop_oneof![
            Just(String::new()),
            (0_u8..32).prop_map(|last| format!(", clusterIP: 10.0.0.{last}")),
            (0_u8..32).prop_map(|last| format!(", clusterIP: 'fd00::{last:x}'")),
            Just(", clusterIP: None".to_owned()),
        ];
        (policy, ip).prop_map(|(policy, ip)| format!("ipFamilyPolicy: {policy}{ip}"))
    }

    fn some() -> impl Strategy<Value = BTreeMap<String, String>> {
        prop::collection::btree_map("[a-z][a-z0-9]{0,3}", spec(), 0..24)
    }

    fn ranges() -> impl Strategy<Value = Vec<IpNet>> {
        let lists: [&[&str]; 4] = [
            &["10.0.0.0/27", "fd00::/123"],
            &["10.0.0.0/28", "fd00::/124", "10.0.0.16/28"],
            &["fd00::/112", "10.0.0.0/27"],
            &["10.0.0.0/24"],
        ];
        prop::sample::select(lists.map(cidrs).to_vec())
    }

    fn parsed(specs: &BTreeMap<String, String>) -> Objects<Service> {
        let specs: Vec<_> = specs
            .iter()
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect();
        services(&specs)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_service_has_what_it_asks_for_alone_or_a_finding(specs in some(), cidrs in ranges()) {
            let all = parsed(&specs);
            let allocated = allocate(&all, &cidrs, &Allocations::default());
            let mut seen = BTreeSet::new();
            for (name, service) in &all {
                let Some(addresses) = allocated.addresses.get(name) else {
                    let is_told = |f: &Finding| f.severity == Severity::Error && f.object.ends_with(&*name.to_string());
                    prop_assert!(allocated.sorted_findings().iter().any(is_told), "{name} is refused in silence");
                    continue;
                };
                let explicit = explicit_ips(&service.object);
                prop_assert!(explicit.iter().all(|ip| addresses.ips.contains(ip)));
                if service.object.is_headless() {
                    prop_assert!(addresses.ips.is_empty());
                    continue;
                }
                let families: Vec<_> = addresses.ips.iter().copied().map(family_of).collect();
                prop_assert_eq!(&*families, &*addresses.families);
                for ip in &addresses.ips {
                    prop_assert!(seen.insert(*ip), "{} is given twice", ip);
                    let gives = cidrs.iter().any(|cidr| Range::new(*cidr).gives(*ip));
                    prop_assert!(gives || explicit.contains(ip), "{} is in no range", ip);
                }
            }
        }

        #[test]
        fn a_restart_changes_nothing(specs in some(), cidrs in ranges()) {
            let all = parsed(&specs);
            let first = allocate(&all, &cidrs, &Allocations::default());
            let text = serde_json::to_string(&first.allocations).expect("plain data");
            let read: Allocations = serde_json::from_str(&text).expect("what was written");
            prop_assert_eq!(allocate(&all, &cidrs, &read), first);
        }

        #[test]
        fn a_newcomer_takes_nothing_from_who_was_there(specs in some(), cidrs in ranges(), newcomer in spec()) {
            let mut specs = specs;
            specs.remove("aa");
            let before = allocate(&parsed(&specs), &cidrs, &Allocations::default());
            // An address that is asked for wins over one that was given.
            let newcomer = newcomer.split(", clusterIP: 1").next().unwrap_or_default().to_owned();
            let newcomer = newcomer.split(", clusterIP: 'f").next().unwrap_or_default().to_owned();
            specs.insert("aa".to_owned(), newcomer);
            let after = allocate(&parsed(&specs), &cidrs, &before.allocations);
            for (name, addresses) in &before.addresses {
                prop_assert_eq!(after.addresses.get(name), Some(addresses), "{}", name);
            }
        }
    }
}
