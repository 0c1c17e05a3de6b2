//! A controller that goes on from look to look writes what one writes that begins anew with each.

use proptest::{prelude::*, sample::Index};

use super::*;

/// Versions of a few objects: services that meet, and endpoints of theirs.
const VERSIONS: [&str; 9] = [
    "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}}",
    "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {type: NodePort, clusterIP: 10.96.0.11, \
     selector: {app: web}, ports: [{port: 80, nodePort: 30080}]}}",
    "{apiVersion: v1, kind: Service, metadata: {name: api}, spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}}",
    "{apiVersion: v1, kind: Service, metadata: {name: api}, spec: {externalIPs: [192.0.2.1], ports: [{port: 80}]}}",
    "{apiVersion: v1, kind: Pod, metadata: {name: p, labels: {app: web}}, status: {podIP: 10.244.0.1}}",
    "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s, \
     labels: {kubernetes.io/service-name: web}}, addressType: IPv4, ports: [{port: 8080}], \
     endpoints: [{addresses: [10.244.1.1]}, {addresses: [10.244.1.2]}]}",
    "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s, \
     labels: {kubernetes.io/service-name: web}}, addressType: IPv4, ports: [{port: 8080}], \
     endpoints: [{addresses: [10.244.1.1], conditions: {ready: false}}, {addresses: [10.244.1.3]}]}",
    "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s, \
     labels: {kubernetes.io/service-name: api}}, addressType: IPv4, ports: [{port: 8080}], \
     endpoints: [{addresses: [10.244.1.1]}]}",
    "{apiVersion: v1, kind: Endpoints, metadata: {name: api}, \
     subsets: [{addresses: [{ip: 10.244.2.1}], ports: [{port: 8080}]}]}",
];

/// What is told of one version: it is there, or its object is gone.
fn told(text: &str, is_here: bool) -> ScanResult {
    let mut look = look(text);
    look.changes
        .retain(|change| matches!(change, Change::Upsert(_)));
    if !is_here {
        look.changes = look.changes.iter().filter_map(gone).collect();
    }
    look
}

fn gone(change: &Change) -> Option<Change> {
    match change {
        Change::Upsert(object) => Some(Change::Delete(object.reference())),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn whoever_goes_on_writes_what_whoever_begins_anew_writes(
        looks in prop::collection::vec((any::<Index>(), prop::bool::weighted(0.8), any::<bool>()), 1..16),
    ) {
        let (mut one, _dir) = controller(FakeMaps::default());
        let (mut other, _other_dir) = controller(FakeMaps::default());
        for controller in [&mut one, &mut other] {
            controller.absorb(look(VERSIONS[0]));
            controller.reconcile(SystemTime::now());
        }
        for (index, is_here, is_looked_at) in looks {
            let text = index.get(&VERSIONS);
            for controller in [&mut one, &mut other] {
                controller.absorb(told(text, is_here));
            }
            if !is_looked_at {
                continue;
            }
            other.compiler = None;
            other.is_all_done = false;
            let [outcome, expected] = [&mut one, &mut other].map(|it| it.reconcile(SystemTime::UNIX_EPOCH));
            prop_assert_eq!(tables(&one), tables(&other));
            prop_assert_eq!(outcome.demand, expected.demand);
            prop_assert_eq!(outcome.health, expected.health);
            prop_assert_eq!(outcome.view.ports, expected.view.ports);
            prop_assert_eq!(outcome.view.served, expected.view.served);
            prop_assert_eq!(outcome.view.addresses, expected.view.addresses);
        }
    }
}
