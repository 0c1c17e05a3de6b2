//! What something else changes in the tables is put back.

use std::net::Ipv4Addr;

use lb_common::{
    abi::{Service, SlotRange, SourceKey},
    net::addr::Family,
};

use super::*;
use crate::plan::{Area, BackendId, BackendRow, FrontendKey, SourceId, SourceRow};

/// An external address, so that there are sources, and one that only some may dial, so that there are guards.
const OTHER: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: other}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.20
  externalIPs: [192.0.2.7]
  ports: [{port: 80, nodePort: 30080}]
  loadBalancerSourceRanges: [203.0.113.0/24]
status: {loadBalancer: {ingress: [{ip: 192.0.2.8}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: other-1, labels: {kubernetes.io/service-name: other}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.1.3]}, {addresses: [10.244.1.4]}]
";

/// Everything in the tables that a reader may meet.
type Tables = (
    BTreeMap<FrontendKey, Service>,
    Vec<u32>,
    BTreeMap<BackendId, BackendRow>,
    BTreeMap<Area, Place>,
    BTreeMap<SourceId, SourceRow>,
);

fn everything(maps: &impl LbMaps) -> Tables {
    let slots = SlotRange { base: 0, count: 64 };
    let mut backends = maps.backends().expect("readable");
    backends.retain(|_, row| row.service != 0);
    (
        maps.services().expect("readable"),
        maps.slots(slots).expect("readable"),
        backends,
        maps.places().expect("readable"),
        maps.sources().expect("readable"),
    )
}

fn served() -> (Controller<FakeMaps>, tempfile::TempDir) {
    let (mut controller, dir) = controller(FakeMaps::default());
    controller.absorb(look(&format!("{WEB}{OTHER}")));
    controller.relocate(["192.0.2.1".parse().expect("literal")].into());
    let stand_ins = ["192.0.2.1", "192.0.2.2"].map(|addr| addr.parse().expect("literal"));
    controller.stand_in([(2, stand_ins.into())].into());
    controller.reconcile(SystemTime::now());
    (controller, dir)
}

fn audit_all<M: LbMaps>(controller: &mut Controller<M>) {
    for _ in 0..5 {
        controller.audit();
    }
}

fn mends(thing: &str) -> u64 {
    mended::counts().get(thing).copied().unwrap_or(0)
}

fn an_address() -> IpAddr {
    Ipv4Addr::new(198, 51, 100, 9).into()
}

/// What somebody does to the tables.
type Change = fn(&mut FakeMaps);

/// Kinds of things and changes of them.
const CHANGES: [(&str, Change); 11] = [
    ("service", |maps| {
        let key = first(maps.services());
        maps.delete_service(&key).expect("writable");
    }),
    ("service", |maps| {
        let services = maps.services().expect("readable");
        let (key, service) = services.iter().next_back().expect("one");
        let changed = Service {
            flags: service.flags ^ 1,
            ..*service
        };
        maps.put_service(key, &changed).expect("writable");
    }),
    ("service", |maps| {
        let services = maps.services().expect("readable");
        let (key, service) = services.iter().next().expect("one");
        let strange = FrontendKey { port: 4711, ..*key };
        maps.put_service(&strange, service).expect("writable");
    }),
    ("slots", |maps| {
        let services = maps.services().expect("readable");
        let mut lists = services.values().map(|service| service.cluster);
        let list = lists.find(|list| list.count == 2).expect("one with two");
        maps.write_slots(list.base + 1, &[4711]).expect("writable");
    }),
    ("backend", |maps| {
        let backends = maps.backends().expect("readable");
        let (id, row) = backends.iter().next().expect("one");
        let changed = BackendRow {
            addr: an_address(),
            ..*row
        };
        maps.put_backend(*id, &changed).expect("writable");
    }),
    ("backend", |maps| {
        let backends = maps.backends().expect("readable");
        let (id, row) = backends.iter().next().expect("one");
        let strange = BackendId { id: 99, ..*id };
        maps.put_backend(strange, row).expect("writable");
    }),
    ("place", |maps| {
        let area = first(maps.places());
        maps.delete_place(area).expect("writable");
    }),
    ("place", |maps| {
        let area = first(maps.places());
        maps.put_place(area, Place::Unknown).expect("writable");
    }),
    ("place", |maps| {
        let area = Area::of_node(an_address().into());
        maps.put_place(area, Place::Node).expect("writable");
    }),
    ("source", |maps| {
        let id = first(maps.sources());
        maps.delete_source(id).expect("writable");
    }),
    ("source", |maps| {
        let strange = SourceId {
            family: Family::V4,
            key: SourceKey { ifindex: 9, at: 0 },
        };
        let row = SourceRow {
            addr: an_address(),
            count: 1,
        };
        maps.put_source(strange, &row).expect("writable");
    }),
];

fn first<K: Clone, V, E: std::fmt::Debug>(table: Result<BTreeMap<K, V>, E>) -> K {
    let table = table.expect("readable");
    table.keys().next().expect("one entry").clone()
}

#[test]
fn what_something_else_changes_in_the_tables_is_put_back_and_counted() {
    let (mut controller, _dir) = served();
    let whole = everything(&controller.maps);
    let n_writes = controller.maps.n_writes();
    audit_all(&mut controller);
    assert_eq!(controller.maps.n_writes(), n_writes, "nothing to mend");
    for (number, (thing, change)) in CHANGES.iter().enumerate() {
        let before = mends(thing);
        change(&mut controller.maps);
        assert_ne!(everything(&controller.maps), whole, "{thing}, {number}");
        audit_all(&mut controller);
        assert_eq!(everything(&controller.maps), whole, "{thing}, {number}");
        assert!(mends(thing) > before, "{thing}, {number}");
    }
}

#[test]
fn what_is_on_its_way_out_of_the_tables_is_no_stranger() {
    let (mut controller, _dir) = served();
    controller.absorb(without("other"));
    controller.reconcile(SystemTime::now());
    let n_writes = controller.maps.n_writes();
    audit_all(&mut controller);
    assert_eq!(controller.maps.n_writes(), n_writes);
}

#[test]
fn tables_are_not_compared_before_they_are_taken_over() {
    let (mut earlier, _dir) = served();
    let left = std::mem::take(&mut earlier.maps);
    let whole = everything(&left);
    let (mut later, _dir) = controller(left);
    audit_all(&mut later);
    assert_eq!(everything(&later.maps), whole);
    later.absorb(look(&format!("{WEB}{OTHER}")));
    later.relocate(["192.0.2.1".parse().expect("literal")].into());
    later.reconcile(SystemTime::now());
    let n_writes = later.maps.n_writes();
    audit_all(&mut later);
    assert_eq!(later.maps.n_writes(), n_writes, "the ledger is theirs");
}

#[test]
fn what_cannot_be_put_back_is_tried_again() {
    let (mut earlier, _dir) = served();
    let whole = everything(&earlier.maps);
    let maps = FaultyMaps::new(
        std::mem::take(&mut earlier.maps),
        Faults::Never,
        libc::EPERM,
    );
    let (mut controller, _dir) = controller(maps);
    controller.absorb(look(&format!("{WEB}{OTHER}")));
    controller.relocate(["192.0.2.1".parse().expect("literal")].into());
    let stand_ins = ["192.0.2.1", "192.0.2.2"].map(|addr| addr.parse().expect("literal"));
    controller.stand_in([(2, stand_ins.into())].into());
    controller.reconcile(SystemTime::now());
    let key = first(controller.maps.services());
    controller.maps.delete_service(&key).expect("writable");
    controller.maps = controller.maps.with_faults(Faults::Always);
    audit_all(&mut controller);
    assert_eq!(controller.audit_troubles.len(), 1);
    assert_ne!(everything(&controller.maps), whole);
    controller.maps = controller.maps.with_faults(Faults::Never);
    audit_all(&mut controller);
    assert_eq!(controller.audit_troubles.len(), 0);
    assert_eq!(everything(&controller.maps).0.len(), whole.0.len());
}
