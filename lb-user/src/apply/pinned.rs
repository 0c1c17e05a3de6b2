//! The kernel's maps behind the same plans as the tables in memory: both must end up with one content.
//!
//! Needs root; skips with a printed reason otherwise. Everything is pinned in a BPF filesystem of a mount
//! namespace that ends with its thread, so nothing is left, whatever happens.

use std::{
    path::{Path, PathBuf},
    thread,
};

use aya::maps::{Array, HashMap, IterableMap as _, LpmTrie, MapData, PerCpuArray};
use aya_obj::generated::bpf_map_type;
use lb_common::{
    abi::{
        Affinity, AffinityKey, Backend, FlowSlot, Fragment, HeldPiece, LAYOUT_VERSION, NextHop,
        PlaceKey, Plain, Reason, Service, ServiceKey, Source, SourceKey, map,
    },
    flow::slot::State,
    net::addr::{Addr, Addr4, Addr6},
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};
use serde_json::json;

use super::{
    BpfMaps, FakeMaps, LbMaps, MapError, Raw, Scenario, dump_rows, maps_table, open_pinned,
    scenario::short_name,
    testing::{desired, endpoint, port},
};
use crate::{
    desired::{Desired, Place},
    plan::{Capacity, Ledger},
    sys::Rows,
};

const CAPACITY: Capacity = Capacity {
    services: 64,
    slots: 9_000,
    backends: 64,
    places: 8,
};
const BPF_F_NO_PREALLOC: u32 = 1;
const N_FLOWS: u32 = 16;

/// Runs a test beside a BPF filesystem of its own.
fn with_bpf_fs(test: impl FnOnce(&Path) + Send) {
    if !geteuid().is_root() {
        println!("skipped: BPF maps need root");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory for the mount");
    let path: PathBuf = dir.path().to_owned();
    let outcome = thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace for the thread");
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            let none = None::<&str>;
            mount(none, "/", none, private, none).expect("mounts that stay in the namespace");
            mount(Some("bpf"), &path, Some("bpf"), MsFlags::empty(), none)
                .expect("a BPF filesystem");
            test(&path);
        });
        thread.join()
    });
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn pin_all(dir: &Path) {
    let names = [
        map::SERVICES4,
        map::BACKENDS4,
        map::PLACES4,
        map::AFFINITY4,
        map::SOURCES4,
    ];
    pin_family::<Addr4>(dir, names);
    let names = [
        map::SERVICES6,
        map::BACKENDS6,
        map::PLACES6,
        map::AFFINITY6,
        map::SOURCES6,
    ];
    pin_family::<Addr6>(dir, names);
    pin_array::<u32>(dir, map::SLOTS, CAPACITY.slots);
    pin_array::<FlowSlot<Addr4>>(dir, map::FLOWS4, N_FLOWS);
    pin_array::<FlowSlot<Addr6>>(dir, map::FLOWS6, N_FLOWS);
    pin_array::<NextHop>(dir, map::NEXT_HOPS, N_FLOWS);
    pin_array::<Fragment<Addr4>>(dir, map::FRAGMENTS4, N_FLOWS);
    pin_array::<Fragment<Addr6>>(dir, map::FRAGMENTS6, N_FLOWS);
    pin_array::<HeldPiece>(dir, map::PIECES, N_FLOWS);
    pin_array::<u32>(dir, map::TAKEOVER, 1);
    let kind = bpf_map_type::BPF_MAP_TYPE_DEVMAP_HASH as u32;
    let devices = aya_obj::Map::new_from_params(kind, 4, 8, 1, 0);
    let devices = MapData::create(devices, "devices", None).expect("devices");
    pin(dir, map::XDP_DEVICES, &devices);
    let devices = HashMap::<MapData, u32, u32>::create(1, 0).expect("devices");
    pin(dir, map::PEER_DEVICES, devices.map());
    pin_array::<u32>(dir, map::CONNECTIONS4, CAPACITY.backends);
    pin_array::<u32>(dir, map::CONNECTIONS6, CAPACITY.backends);
    for (name, key, value) in [(map::DIALLED4, 16, 12), (map::DIALLED6, 28, 24)] {
        let kind = bpf_map_type::BPF_MAP_TYPE_LRU_HASH as u32;
        let dialled = aya_obj::Map::new_from_params(kind, key, value, 16, 0);
        let dialled = MapData::create(dialled, "dialled", None).expect("dialled");
        pin(dir, name, &dialled);
    }
    let counters = PerCpuArray::<MapData, u64>::create(Reason::COUNT, 0).expect("counters");
    pin(dir, map::COUNTERS, counters.map());
}

fn pin_family<A: Addr>(dir: &Path, [services, backends, places, affinity, sources]: [&str; 5])
where
    ServiceKey<A>: Plain,
    Backend<A>: Plain,
    PlaceKey<A>: Plain,
    AffinityKey<A>: Plain,
{
    type Nets<A> = LpmTrie<MapData, Raw<PlaceKey<A>>, u32>;
    type Clients<A> = HashMap<MapData, Raw<AffinityKey<A>>, Raw<Affinity>>;
    type Services<A> = HashMap<MapData, Raw<ServiceKey<A>>, Raw<Service>>;
    type Own<A> = HashMap<MapData, Raw<SourceKey>, Raw<Source<A>>>;
    let entries = Services::<A>::create(CAPACITY.services, 0).expect("services");
    pin(dir, services, entries.map());
    pin_array::<Backend<A>>(dir, backends, CAPACITY.backends);
    let nets = Nets::<A>::create(CAPACITY.places, BPF_F_NO_PREALLOC);
    pin(dir, places, nets.expect("prefixes").map());
    let clients = Clients::<A>::create(CAPACITY.services, 0).expect("clients");
    pin(dir, affinity, clients.map());
    let own = Own::<A>::create(CAPACITY.services, 0).expect("sources");
    pin(dir, sources, own.map());
}

fn pin_array<V: Plain>(dir: &Path, name: &str, max_entries: u32) {
    let array = Array::<MapData, Raw<V>>::create(max_entries, 0).expect(name);
    pin(dir, name, array.map());
}

fn pin(dir: &Path, name: &str, map: &MapData) {
    map.pin(dir.join(name)).expect(name);
}

fn states() -> Vec<Desired> {
    let both = [
        (
            "10.244.1.2:8080",
            endpoint("serving,cluster,local,internal_local"),
        ),
        ("10.244.2.2:8080", endpoint("serving,cluster")),
    ];
    let six = [("[fd00:244:1::2]:8080", endpoint("serving,cluster"))];
    let mut full = desired([
        port("hostname", &["10.96.0.10:80", "10.96.0.11:80"], &both),
        port("empty", &["10.96.0.12:80"], &[]),
        port("six", &["[fd00:96::10]:80"], &six),
    ]);
    full.places = [
        ("10.244.0.0/16", Place::Pods),
        ("10.244.0.1/32", Place::Node),
        ("fd00:244::/32", Place::Pods),
    ]
    .map(|(net, place)| (net.parse().expect("literal"), place))
    .into();
    let addr = |text: &str| text.parse().expect("literal");
    full.sources = [(3, ["192.0.2.1", "192.0.2.2", "fd00::1"].map(addr).to_vec())].into();
    let fewer = desired([port("hostname", &["10.96.0.11:80"], &both[1..])]);
    vec![full.clone(), fewer.clone(), full, fewer, Desired::default()]
}

#[test]
fn the_kernels_maps_and_those_in_memory_get_the_same_content() {
    with_bpf_fs(|dir| {
        pin_all(dir);
        let maps = BpfMaps::open(dir).expect("maps that were just pinned");
        assert_eq!(maps.capacity(), CAPACITY);
        let mut real = Scenario::on(maps, Ledger::new(CAPACITY));
        let mut fake = Scenario::on(FakeMaps::new(CAPACITY), Ledger::new(CAPACITY));
        for state in states() {
            let outcome = real.reconcile(&state);
            assert!(outcome.is_complete(), "{outcome:?}");
            assert!(fake.reconcile(&state).is_complete());
            assert_eq!(
                real.dump().expect("readable"),
                fake.dump().expect("readable")
            );
            assert_eq!(
                real.maps().backends().expect("readable"),
                fake.maps().backends().expect("readable")
            );
        }
    });
}

#[test]
fn maps_are_listed_and_dumped_from_their_pins() {
    with_bpf_fs(|dir| {
        pin_all(dir);
        let maps = BpfMaps::open(dir).expect("maps that were just pinned");
        let mut scenario = Scenario::on(maps, Ledger::new(CAPACITY));
        assert!(scenario.reconcile(&states()[0]).is_complete());
        put_flow(dir);

        are_listed(dir);
        let name = |service| scenario.ledger().name(service).map(short_name);
        let backends = dump_rows(dir, map::BACKENDS6, &name)
            .expect("readable")
            .to_json();
        let expected = json!([{
            "id": 1, "address": "[fd00:244:1::2]:8080", "service": "default/six:http",
            "service_id": 3, "generation": 1, "flags": "serving,cluster",
        }]);
        assert_eq!(backends, expected);
        let services = dump_rows(dir, map::SERVICES4, &name).expect("readable");
        let cells: Vec<_> = services.cells().map(|row| row[..2].join(" ")).collect();
        assert_eq!(
            cells,
            [
                "10.96.0.10:80/TCP default/hostname:http",
                "10.96.0.11:80/TCP default/hostname:http",
                "10.96.0.12:80/TCP default/empty:http",
            ]
        );
        are_told(dir, &name);
    });
}

/// All of them, with how many entries they have.
fn are_listed(dir: &Path) {
    let list = maps_table(dir).expect("all maps are pinned");
    let entries: Vec<_> = list.iter().map(|map| map.entries).collect();
    assert_eq!(
        list.iter().map(|map| map.name).collect::<Vec<_>>(),
        map::ALL
    );
    assert_eq!(
        entries,
        [
            3,
            1,
            4,
            2,
            1,
            1,
            0,
            0,
            Reason::ALL.len(),
            2,
            1,
            0,
            0,
            2,
            1,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        ]
    );
    assert!(
        list.iter()
            .all(|map| map.memory.is_some_and(|bytes| bytes > 0)),
        "{list:?}"
    );
}

/// Rows of tables that need no names of services.
fn are_told(dir: &Path, name: &dyn Fn(u32) -> Option<String>) {
    let flows = dump_rows(dir, map::FLOWS4, name)
        .expect("readable")
        .to_json();
    assert_eq!(flows[0]["state"], "HalfOpen");
    assert_eq!(flows[0]["source"], "10.244.1.9:40000");
    let prefixes = dump_rows(dir, map::PLACES6, name)
        .expect("readable")
        .to_json();
    assert_eq!(
        prefixes,
        json!([{ "prefix": "fd00:244::/32", "place": "pods", "guard": null }])
    );
    let sources = dump_rows(dir, map::SOURCES4, &name).expect("readable");
    let second = json!({"ifindex": 3, "at": 1, "address": "192.0.2.2", "count": 2});
    assert_eq!(sources.to_json()[1], second);
    let counters = dump_rows(dir, map::COUNTERS, name)
        .expect("readable")
        .to_json();
    assert_eq!(counters[6]["reason"], Reason::ALL[6].name());
    assert_eq!(counters[6]["count"], 0);
}

/// One flow that translates and one that is only claimed.
fn put_flow(dir: &Path) {
    let flows = open_pinned(dir, map::FLOWS4).expect("pinned");
    let rows = Rows::<FlowSlot<Addr4>>::of(&flows).expect("an array of flows");
    let src = Addr4::from_ip("10.244.1.9".parse().expect("literal")).expect("IPv4");
    let published = FlowSlot {
        state: State::HalfOpen as u32,
        src,
        sport: 40_000,
        ..FlowSlot::default()
    };
    let claimed = FlowSlot {
        state: State::Claimed as u32,
        ..published
    };
    rows.write(2, &[published, claimed]).expect("writable");
}

#[test]
fn a_pin_of_another_layout_is_refused_by_name() {
    with_bpf_fs(|dir| {
        pin_all(dir);
        std::fs::remove_file(dir.join(map::SERVICES4)).expect("pinned");
        let other = HashMap::<MapData, u64, u64>::create(8, 0).expect("a map");
        pin(dir, map::SERVICES4, other.map());
        let error = BpfMaps::open(dir).expect_err("values of another size");
        assert_eq!(
            error.to_string(),
            format!(
                "map services4 is hash with keys of 8 and values of 8 bytes, but hash with keys of 8 and values of 44 \
                 bytes in layout version {LAYOUT_VERSION}; it was made by another release: use that one, start the \
                 agent of this one, or remove it by `fulcrum cleanup`"
            )
        );
    });
}

#[test]
fn a_directory_without_pins_is_answered_with_the_path() {
    with_bpf_fs(|dir| {
        let error = BpfMaps::open(dir).expect_err("nothing is pinned");
        assert!(
            matches!(
                &error,
                MapError::NotPinned {
                    name: map::SERVICES4,
                    ..
                }
            ),
            "{error}"
        );
        assert!(
            error
                .to_string()
                .contains(&dir.join(map::SERVICES4).display().to_string())
        );
    });
}

#[test]
fn rows_are_read_and_written_many_at_a_time() {
    with_bpf_fs(|dir| {
        pin_array::<u32>(dir, map::SLOTS, CAPACITY.slots);
        let slots = open_pinned(dir, map::SLOTS).expect("pinned");
        let rows = Rows::<u32>::of(&slots).expect("an array of words");
        let values: Vec<u32> = (1..=8_500).collect();
        rows.write(100, &values).expect("inside the map");
        assert_eq!(rows.read(100, 8_500).expect("inside the map"), values);
        let all = rows.read(0, rows.len()).expect("inside the map");
        assert_eq!((all.len(), all[99], all[100], all[8_600]), (9_000, 0, 1, 0));
        assert_eq!(rows.read(8_999, 10).expect("as far as it goes"), [0]);
        assert!(rows.write(8_999, &[1, 2]).is_err());
        assert!(Rows::<u64>::of(&slots).is_err(), "values are four bytes");
    });
}
