//! Who goes on from snapshot to snapshot comes to the same as who begins anew with each.

use proptest::{prelude::*, sample::Index};

use super::*;
use crate::{
    compile::compiler::{Compiler, Followed},
    model::object::Object,
};

/// Versions of objects that meet: services by selector, by slices and by Endpoints, and what is for none of them.
fn versions() -> Vec<Object> {
    let texts = [services(), endpoints()].concat();
    let parsed = manifest::parse("m.yaml", &texts.concat());
    let is_read = parsed.rejected.is_empty() && !parsed.unknown;
    assert!(is_read, "{:?}", parsed.findings);
    assert_eq!(parsed.objects.len(), texts.len());
    parsed.objects
}

fn services() -> Vec<String> {
    let local =
        "type: LoadBalancer, externalTrafficPolicy: Local, selector: {app: web, tier: front}";
    let claim = "clusterIP: 10.96.0.9, externalIPs: [192.0.2.1], selector: {tier: front}";
    let specs = [
        ("web", "clusterIP: 10.96.0.7, selector: {app: web}"),
        ("web", "clusterIP: 10.96.0.7"),
        ("web", local),
        ("db", "clusterIP: None, selector: {app: db}"),
        ("db", "clusterIP: 10.96.0.8, externalIPs: [192.0.2.1]"),
        ("api", claim),
        ("api", "clusterIP: 10.96.0.7"),
        ("api", "selector: {tier: back}"),
        ("api", "selector: {tier: back, app: web}"),
        ("db", "type: ExternalName, externalName: db.example.com"),
        ("db", "type: NodePort, externalIPs: [192.0.2.9]"),
    ];
    let http = "{name: http, port: 80, targetPort: http}";
    let service = |labels: &str, name: &str, spec: &str, ports: &str| {
        format!(
            "\n---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, labels: {{{labels}}}}}, \
             spec: {{{spec}, ports: [{ports}]}}}}\n"
        )
    };
    let of_another_proxy = "service.kubernetes.io/service-proxy-name: other";
    let more = format!("{http}, {{name: dns, port: 53, protocol: UDP}}");
    let others = [
        service(of_another_proxy, "db", "clusterIP: 10.96.0.8", http),
        service(
            "",
            "web",
            "clusterIP: 10.96.0.7, selector: {app: web}",
            &more,
        ),
    ];
    let mut services = specs
        .map(|(name, spec)| service("", name, spec, http))
        .to_vec();
    services.extend(others);
    services
}

fn endpoints() -> Vec<String> {
    let pod = |name: &str, labels: &str, ip: &str, ready: &str| {
        let conditions = format!(", conditions: [{{type: Ready, status: '{ready}'}}]");
        pod(name, ip, &conditions).replace("{app: web}", &format!("{{{labels}}}"))
    };
    let slice = |name: &str, service: &str, endpoints: &str| {
        let label = format!("service-name: {service}");
        slice(name, endpoints).replace("service-name: web", &label)
    };
    let endpoints = |name: &str, ip: &str| {
        format!(
            "\n---\n{{apiVersion: v1, kind: Endpoints, metadata: {{name: {name}}}, \
             subsets: [{{addresses: [{{ip: {ip}}}], ports: [{{name: http, port: 80}}]}}]}}\n"
        )
    };
    let node = "\n---\n{apiVersion: v1, kind: Node, metadata: {name: n1, \
         labels: {topology.kubernetes.io/zone: z1}}}\n";
    let unready = "{addresses: [10.244.1.1], conditions: {ready: false}}";
    vec![
        pod("p1", "app: web", "10.244.0.1", "True"),
        pod("p1", "app: web", "10.244.0.1", "False"),
        pod("p1", "app: db, tier: front", "10.244.0.2", "True"),
        pod("p2", "app: web, tier: front", "10.244.0.3", "True"),
        pod("p2", "app: web, tier: back", "10.244.0.3", "True"),
        pod("p2", "tier: front", "null", "True"),
        slice(
            "s1",
            "web",
            "{addresses: [10.244.1.1]}, {addresses: [10.244.1.2]}",
        ),
        slice("s1", "web", unready),
        slice("s1", "db", "{addresses: [10.244.1.1]}"),
        slice("s2", "web", "{addresses: [10.244.1.2], nodeName: n1}"),
        slice("s2", "nobody", "{addresses: [10.244.1.2]}"),
        endpoints("web", "10.244.2.1"),
        endpoints("web", "10.244.2.2"),
        endpoints("db", "10.244.2.3"),
        node.to_owned(),
    ]
}

/// Ports of which something differs.
fn differ(was: &Compiled, is: &Compiled) -> BTreeSet<PortName> {
    let ports = was
        .desired
        .ports
        .differences(&is.desired.ports, PartialEq::eq);
    ports.cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn whoever_goes_on_comes_to_the_same_as_who_begins_anew(
        looks in prop::collection::vec(
            prop::collection::vec((any::<Index>(), prop::bool::weighted(0.8)), 1..4),
            1..12,
        ),
    ) {
        let versions = versions();
        let mut store = Store::new([]);
        for object in &versions {
            store.apply(Change::Upsert(object.clone()));
        }
        // What services had when addresses were last given.
        let mut previous = Allocations::default();
        let mut compiler = Compiler::new(&store.snapshot(), &facts(), &previous);
        for look in looks {
            for (index, is_here) in look {
                let object = index.get(&versions).clone();
                let change = if is_here {
                    Change::Upsert(object)
                } else {
                    Change::Delete(object.reference())
                };
                store.apply(change);
            }
            let was = compiler.compiled().clone();
            let followed = compiler.follow(&store.snapshot(), &facts());
            if !matches!(followed, Followed::Endpoints(_)) {
                previous.clone_from(&was.allocations);
            }
            let expected = compile(&store.snapshot(), &facts(), &previous);
            prop_assert_eq!(compiler.compiled(), &expected);
            let (Followed::Ports(names) | Followed::Endpoints(names)) = &followed else {
                continue;
            };
            prop_assert_eq!(names, &differ(&was, &expected));
            prop_assert_eq!(&was.desired.places, &expected.desired.places);
            prop_assert_eq!(&was.desired.sources, &expected.desired.sources);
            if let Followed::Endpoints(names) = followed {
                for name in names {
                    let entry = DesiredPort {
                        backends: expected.desired.ports[&name].backends.clone(),
                        ..was.desired.ports[&name].clone()
                    };
                    prop_assert_eq!(&entry, &expected.desired.ports[&name]);
                }
            }
        }
    }
}

#[test]
fn a_change_of_endpoints_concerns_their_service_alone() {
    let other = SERVICE
        .replace("name: web", "name: other")
        .replace("10.96.0.10", "10.96.0.11");
    let text = |ready: bool| {
        let endpoint = format!("{{addresses: [10.244.1.1], conditions: {{ready: {ready}}}}}");
        [SERVICE, "---", &other, &slice("s", &endpoint)].concat()
    };
    let mut compiler = Compiler::new(&snapshot(&text(true)), &facts(), &Allocations::default());
    let followed = compiler.follow(&snapshot(&text(false)), &facts());
    let Followed::Endpoints(names) = followed else {
        panic!("only endpoints are others")
    };
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["default/web:http TCP IPv4"]);
    // What else is known of the node concerns everything.
    let another = NodeFacts {
        name: "n2".to_owned(),
        ..facts()
    };
    let followed = compiler.follow(&snapshot(&text(false)), &another);
    assert_eq!(followed, Followed::Everything);
}
