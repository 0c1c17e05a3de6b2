//! Allocation as a function of manifests, ranges and what was given before.

use super::*;
use crate::{model::object::Object, source::manifest};

/// Services by name, each with the fields of its spec in flow style.
fn services(specs: &[(&str, &str)]) -> BTreeMap<ObjectName, Arc<Located<Service>>> {
    let mut services = BTreeMap::new();
    for (name, spec) in specs {
        let text = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, \
             spec: {{ports: [{{port: 80}}], {spec}}}}}"
        );
        for Located {
            object,
            origin,
            written,
        } in manifest::parse("m", &text).objects
        {
            let Object::Service(object) = object else {
                panic!("services only")
            };
            let name = object.meta.name.clone();
            services.insert(
                name,
                Arc::new(Located {
                    object,
                    origin,
                    written,
                }),
            );
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

const DUAL: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];

#[test]
fn addresses_come_from_the_upper_band_and_stay() {
    let few = services(&[("a", ""), ("b", "")]);
    let first = allocate(&few, &cidrs(&DUAL), &Allocations::default());
    assert_eq!(first.findings, []);
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
            .into_values()
            .flat_map(|addresses| addresses.ips)
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
    assert_eq!(all.findings.len(), 1);
    assert!(
        all.findings[0]
            .message
            .contains("is left in the service CIDRs (10.0.0.0/27)")
    );
}

#[test]
fn the_same_explicit_address_is_given_once_and_the_finding_names_both() {
    let both = services(&[("a", "clusterIP: 10.96.0.5"), ("b", "clusterIP: 10.96.0.5")]);
    let first = allocate(&both, &cidrs(&DUAL), &Allocations::default());
    assert_eq!((ips(&first, "a").len(), ips(&first, "b").len()), (1, 0));
    assert_eq!(first.findings.len(), 1);
    let text = first.findings[0].to_string();
    assert!(
        text.contains("Service default/b") && text.contains("Service default/a"),
        "{text}"
    );
    let held = Allocations(
        [(
            "default/b".to_owned(),
            vec![Ipv4Addr::new(10, 96, 0, 5).into()],
        )]
        .into(),
    );
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
    assert_eq!(second.findings.len(), 1);
    assert_eq!(second.findings[0].severity, Severity::Warning);
}

#[test]
fn an_address_outside_the_ranges_is_used_with_a_warning() {
    let some = services(&[("a", "clusterIP: 192.0.2.1")]);
    let allocated = allocate(&some, &cidrs(&DUAL), &Allocations::default());
    assert_eq!(ips(&allocated, "a"), ["192.0.2.1"]);
    assert_eq!(allocated.findings[0].severity, Severity::Warning);
}

#[test]
fn families_follow_policy_order_and_ranges() {
    let all = services(&[
        ("default", ""),
        ("dual", "ipFamilyPolicy: RequireDualStack"),
        (
            "half",
            "ipFamilyPolicy: RequireDualStack, clusterIP: 'fd00:10:96::5'",
        ),
        (
            "headless",
            "clusterIP: None, ipFamilyPolicy: PreferDualStack",
        ),
        ("order", "ipFamilies: [IPv6, IPv4]"),
        ("prefer", "ipFamilyPolicy: PreferDualStack"),
        ("six", "ipFamilies: [IPv6]"),
    ]);
    let families = |allocated: &Allocated, name: &str| {
        let addresses = allocated.addresses.get(&ObjectName::new("default", name));
        let of = |ip: &IpAddr| family_of(*ip);
        addresses.map(|a| (a.families.clone(), a.ips.iter().map(of).collect::<Vec<_>>()))
    };
    let (v4, v6) = (Family::V4, Family::V6);
    let dual = allocate(&all, &cidrs(&DUAL), &Allocations::default());
    assert_eq!(dual.findings, []);
    let cases = [
        ("default", vec![v4]),
        ("dual", vec![v4, v6]),
        ("half", vec![v6, v4]),
        ("order", vec![v6, v4]),
        ("prefer", vec![v4, v6]),
        ("six", vec![v6]),
    ];
    for (name, expected) in cases {
        assert_eq!(
            families(&dual, name),
            Some((expected.clone(), expected)),
            "{name}"
        );
    }
    assert_eq!(families(&dual, "headless"), Some((vec![v4, v6], vec![])));
    let single = allocate(&all, &cidrs(&DUAL[..1]), &Allocations::default());
    assert_eq!(families(&single, "prefer"), Some((vec![v4], vec![v4])));
    assert_eq!(
        families(&single, "half"),
        Some((vec![v6, v4], vec![v6, v4]))
    );
    for refused in ["dual", "order", "six"] {
        assert_eq!(families(&single, refused), None, "{refused}");
    }
    assert_eq!(
        single
            .findings
            .iter()
            .filter(|f| f.severity == Severity::Error)
            .count(),
        3
    );
}
