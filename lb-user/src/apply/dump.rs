//! The content of the tables as text: one line per frontend, backend and prefix, in a stable order.
//!
//! ```text
//! SVC default/hostname:http 10.96.0.10:80/TCP id=1 cluster=[10.244.1.2:8080 10.244.2.2:8080]
//! BACKEND default/hostname:http 10.244.1.2:8080 id=1 generation=1 serving,cluster
//! PLACE 10.244.0.0/16 pods
//! SOURCE device=3 0/2 192.0.2.1
//! ```
//!
//! Of backends that have several slots it says how many, as in `10.244.1.2:8080*2048`.
//! Says what is there, right or wrong: a slot that names no backend of its service is shown as `!id`.

use std::{collections::BTreeMap, net::SocketAddr};

use lb_common::abi::{Service, SlotRange, Source, SourceKey, backend_flags, place, service_flags};

use super::lbmaps::{LbMaps, TableError};
use crate::plan::{BackendId, BackendRow, FrontendKey, display_key, family_of};

/// Finds the name of a service id, where it is known.
pub type Names<'a> = &'a dyn Fn(u32) -> Option<String>;

/// The whole content of the tables that plans write.
pub fn dump(maps: &impl LbMaps, names: Names<'_>) -> Result<String, TableError> {
    let backends = maps.backends()?;
    let mut lines = Vec::new();
    for (key, service) in maps.services()? {
        lines.push(service_line(maps, &backends, &key, &service, names)?);
    }
    for (id, row) in backends.iter().filter(|(_, row)| row.service != 0) {
        lines.push(backend_line(*id, row, names));
    }
    for (area, place) in maps.places()? {
        if area.space == place::NODE_SPACE {
            lines.push(format!("PLACE {} {place}", area.net));
        }
    }
    for (id, row) in maps.sources()? {
        let SourceKey { ifindex, at } = id.key;
        let Source { addr, count } = row;
        lines.push(format!("SOURCE device={ifindex} {at}/{count} {addr}"));
    }
    Ok(lines.into_iter().map(|line| line + "\n").collect())
}

/// The flags of a frontend by name, in the order of their bits.
pub(super) fn frontend_flag_names(flags: u32) -> String {
    let names = [
        (service_flags::CLUSTER_IP, "cluster-ip"),
        (service_flags::NODE_PORT, "node-port"),
        (service_flags::LOAD_BALANCER, "load-balancer"),
        (service_flags::EXTERNAL_IP, "external-ip"),
        (service_flags::ANY_PORT, "any-port"),
        (service_flags::EXTERNAL_LOCAL, "external-local"),
        (service_flags::INTERNAL_LOCAL, "internal-local"),
        (service_flags::MAGLEV, "maglev"),
        (service_flags::LEAST_CONNECTIONS, "least-connections"),
    ];
    set_names(&names, flags)
}

/// The flags of a backend by name, in the order of their bits.
pub(super) fn flag_names(flags: u32) -> String {
    let names = [
        (backend_flags::SERVING, "serving"),
        (backend_flags::IN_CLUSTER, "cluster"),
        (backend_flags::IN_EXTERNAL_LOCAL, "external_local"),
        (backend_flags::IN_INTERNAL_LOCAL, "internal_local"),
        (backend_flags::LOCAL, "local"),
        (backend_flags::COUNTED, "counted"),
    ];
    let set = set_names(&names, flags);
    match backend_flags::weight(flags) {
        1 => set,
        weight => format!("{set},weight={weight}"),
    }
}

fn set_names(names: &[(u32, &str)], flags: u32) -> String {
    let set: Vec<_> = names
        .iter()
        .filter(|(flag, _)| flags & flag != 0)
        .map(|(_, name)| *name)
        .collect();
    if set.is_empty() {
        "-".to_owned()
    } else {
        set.join(",")
    }
}

fn service_line(
    maps: &impl LbMaps,
    backends: &BTreeMap<BackendId, BackendRow>,
    key: &FrontendKey,
    service: &Service,
    names: Names<'_>,
) -> Result<String, TableError> {
    let list = |range: SlotRange| -> Result<String, TableError> {
        let family = family_of(key.addr);
        let address = |id: &u32| {
            let row = backends.get(&BackendId { family, id: *id });
            match row.filter(|row| row.service == service.id) {
                Some(row) => SocketAddr::new(row.addr, row.port).to_string(),
                None => format!("!{id}"),
            }
        };
        let addresses = maps.slots(range)?.iter().map(address).collect();
        Ok(format!("[{}]", counted(addresses).join(" ")))
    };
    let mut words = vec![
        format!(
            "SVC {} {} id={}",
            name(service.id, names),
            display_key(key),
            service.id
        ),
        format!("cluster={}", list(service.cluster)?),
    ];
    let local = [
        ("external_local", service.external_local),
        ("internal_local", service.internal_local),
    ];
    for (name, range) in local.into_iter().filter(|(_, range)| range.count > 0) {
        words.push(format!("{name}={}", list(range)?));
    }
    if service.affinity_timeout_s != 0 {
        words.push(format!("affinity={}s", service.affinity_timeout_s));
    }
    if service.guard != place::NODE_SPACE {
        let areas = maps.places()?.into_keys();
        let ranges = areas.filter(|area| area.space == service.guard);
        let ranges: Vec<_> = ranges.map(|area| area.net.to_string()).collect();
        words.push(format!("sources=[{}]", ranges.join(" ")));
    }
    if service.flags != service_flags::CLUSTER_IP {
        words.push(format!("flags={}", frontend_flag_names(service.flags)));
    }
    Ok(words.join(" "))
}

/// The addresses of a list's slots as they stand there; where some stand there more than once, each with how often.
fn counted(addresses: Vec<String>) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for address in &addresses {
        *counts.entry(address).or_default() += 1;
    }
    if counts.len() == addresses.len() {
        return addresses;
    }
    let counts = counts.into_iter();
    counts
        .map(|(address, n_slots)| format!("{address}*{n_slots}"))
        .collect()
}

fn backend_line(id: BackendId, row: &BackendRow, names: Names<'_>) -> String {
    let addr = SocketAddr::new(row.addr, row.port);
    let name = name(row.service, names);
    let flags = flag_names(row.flags);
    format!(
        "BACKEND {name} {addr} id={} generation={} {flags}",
        id.id, row.generation
    )
}

fn name(service: u32, names: Names<'_>) -> String {
    names(service).unwrap_or_else(|| "-".to_owned())
}
