//! What would become of one packet, and why: the program `trace` decides, the compiler has the reasons.
//!
//! Pure but for [`Tables`], which are read: nothing is written, and nothing that comes of a question alters what a
//! packet meets later.

mod frame;
mod text;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    abi::{
        Reason, SlotRange, TraceRecord,
        place::NODE_SPACE,
        service_flags,
        trace::{decision, flow},
    },
    datapath::List as Lists,
    net::addr::Family,
};
use serde::{Deserialize, Serialize};

pub use self::{frame::frame, text::text};
use crate::{
    alloc::Addresses,
    apply::{LbMaps, TableError},
    compile::{
        NodeFacts,
        explain::{self, List},
    },
    desired::{PortName, Protocol},
    model::object::ObjectName,
    plan::{BackendId, BackendRow, FrontendKey, display_key},
    shared_map::SharedMap,
    store::Snapshot,
};

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Entry {
    /// A pod of this node
    Pod,
    /// Another machine, or a pod of another node
    Uplink,
    /// A process of this node
    Host,
}

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// What the asker calls it.
    pub name: Option<String>,
    /// Where it comes from.
    #[serde(rename = "in")]
    pub entry: Entry,
    /// Its source.
    pub from: SocketAddr,
    /// Its destination.
    pub to: SocketAddr,
    /// Its protocol.
    pub protocol: Protocol,
}

/// The answer; all keys are always there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Traced {
    /// The question's.
    pub name: Option<String>,
    /// `forward`, `reject`, `drop`, `local` or `pass`.
    pub verdict: String,
    /// The counter's name.
    pub reason: String,
    /// `NAMESPACE/NAME:PORT`.
    pub service: Option<String>,
    /// `cluster-ip`, `node-port`, `load-balancer` or `external-ip`.
    pub frontend: Option<String>,
    /// `cluster`, `external-local` or `internal-local`.
    pub list: Option<String>,
    /// The endpoints that the client may use, sorted.
    pub candidates: Option<Vec<String>>,
    /// The one that it gets.
    pub backend: Option<String>,
    /// Whether its source gives way to one of this node's.
    pub masquerade: Option<bool>,
    /// Source after the rewrite.
    pub source: Option<String>,
    /// Destination after the rewrite.
    pub destination: Option<String>,
    /// The known flow that it belongs to.
    pub existing_flow: Option<KnownFlow>,
    /// Where it is sent.
    pub next_hop: Option<Hop>,
    /// How it came to that, in words.
    pub steps: Vec<String>,
}

/// A known flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownFlow {
    /// `original` (client to backend) or `reply`.
    pub direction: String,
}

/// A next hop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// The device's index.
    pub ifindex: u32,
    /// The neighbour's MAC; none where it is not resolved.
    pub mac: Option<String>,
    /// Largest packet, L3 bytes.
    pub mtu: u32,
}

/// What the node's tables are read from, and what they follow from.
#[derive(Debug)]
pub struct Known<'a, M> {
    /// The tables.
    pub maps: &'a M,
    /// All backends of the tables.
    pub backends: &'a BTreeMap<BackendId, BackendRow>,
    /// Service ids of the tables.
    pub ports: &'a BTreeMap<u32, PortName>,
    /// The objects.
    pub snapshot: &'a Snapshot,
    /// What each service has.
    pub addresses: &'a SharedMap<ObjectName, Addresses>,
    /// The node.
    pub facts: &'a NodeFacts,
}

impl<M: LbMaps> Known<'_, M> {
    /// Whether a packet for this address is for the node itself.
    pub fn is_own(&self, addr: IpAddr) -> bool {
        addr.is_loopback() || self.facts.addresses.contains(&addr)
    }

    /// The answer to a question, out of what the program says.
    pub fn explain(&self, question: &Question, record: &TraceRecord) -> Result<Traced, TableError> {
        let reason = reason(record.reason);
        let port = self.ports.get(&record.service.id);
        let mut traced = Traced {
            name: question.name.clone(),
            verdict: self.verdict(question, record).to_owned(),
            reason: reason.map_or("unknown", Reason::name).to_owned(),
            existing_flow: known_flow(record.flow),
            ..Traced::default()
        };
        if record.service.id != NODE_SPACE {
            traced.service = port.map(service_name);
            traced.frontend = frontend(record.service.flags).map(str::to_owned);
            traced.list = list(record.list).map(|list| list.to_string());
            traced.candidates = Some(self.candidates(question, record)?);
        }
        if record.decision == decision::SEND {
            let (source, destination) = rewritten(question, record);
            let backend = match record.flow {
                flow::REPLY => question.from,
                _ => destination,
            };
            let is_masqueraded = match record.flow {
                flow::NONE => record.is_masqueraded != 0,
                flow::REPLY => destination.ip() != question.to.ip(),
                _ => source.ip() != question.from.ip(),
            };
            traced.backend = Some(backend.to_string());
            traced.masquerade = Some(is_masqueraded);
            traced.source = Some(source.to_string());
            traced.destination = Some(destination.to_string());
            traced.next_hop = hop(record);
        }
        let endpoints = port.map(|port| self.endpoints(port));
        traced.steps = text::steps(question, record, &traced, &endpoints.unwrap_or_default());
        Ok(traced)
    }

    fn verdict(&self, question: &Question, record: &TraceRecord) -> &'static str {
        match record.decision {
            decision::SEND => "forward",
            decision::REJECT => "reject",
            decision::DROP => "drop",
            _ if self.is_own(question.to.ip()) => "local",
            _ => "pass",
        }
    }

    /// The endpoints that the client may use.
    fn candidates(
        &self,
        question: &Question,
        record: &TraceRecord,
    ) -> Result<Vec<String>, TableError> {
        // Whom the source ranges keep out may use none.
        let range = if record.service_reason == Reason::DropSourceRange as u32 {
            SlotRange::default()
        } else {
            record.range
        };
        let family = family(question.to);
        let ids = self.maps.slots(range)?.into_iter();
        let rows = ids.filter_map(|id| self.backends.get(&BackendId { family, id }));
        let rows = rows.filter(|row| row.service == record.service.id);
        let mut candidates: Vec<String> = rows
            .map(|row| SocketAddr::new(row.addr, row.port).to_string())
            .collect();
        // Some have several slots.
        candidates.sort();
        candidates.dedup();
        Ok(candidates)
    }

    /// What the compiler says of the port's endpoints.
    fn endpoints(&self, port: &PortName) -> Vec<explain::EndpointChoice> {
        let name = ObjectName::new(&port.namespace, &port.service);
        let Some(addresses) = self.addresses.get(&name) else {
            return Vec::new();
        };
        let choices = explain::explain(self.snapshot, self.facts, &name, addresses);
        let mut choices = choices.into_iter().filter(|choice| {
            *choice.name == *port.port
                && choice.protocol == port.protocol
                && choice.family == port.family
        });
        choices
            .next()
            .map(|choice| choice.endpoints)
            .unwrap_or_default()
    }
}

/// What the packet becomes.
fn rewritten(question: &Question, record: &TraceRecord) -> (SocketAddr, SocketAddr) {
    let addr = |words: [u32; 4]| match family(question.to) {
        Family::V4 => IpAddr::from(words[0].to_ne_bytes()),
        Family::V6 => {
            let mut octets = [0; 16];
            for (place, word) in octets.chunks_exact_mut(4).zip(words) {
                place.copy_from_slice(&word.to_ne_bytes());
            }
            IpAddr::from(octets)
        }
    };
    let port = |port: u32| u16::try_from(port).unwrap_or(0);
    (
        SocketAddr::new(addr(record.new_src), port(record.new_sport)),
        SocketAddr::new(addr(record.new_dst), port(record.new_dport)),
    )
}

fn family(of: SocketAddr) -> Family {
    if of.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// `NAMESPACE/NAME:PORT`, as kube-proxy names ports of services.
fn service_name(port: &PortName) -> String {
    let PortName {
        namespace,
        service,
        port,
        ..
    } = port;
    match &**port {
        "" => format!("{namespace}/{service}"),
        port => format!("{namespace}/{service}:{port}"),
    }
}

fn known_flow(of: u32) -> Option<KnownFlow> {
    let direction = match of {
        flow::ORIGINAL => "original",
        flow::REPLY => "reply",
        _ => return None,
    };
    Some(KnownFlow {
        direction: direction.to_owned(),
    })
}

/// The kind of address that was dialled; one of several kinds goes by the one whose rules are the strictest.
fn frontend(flags: u32) -> Option<&'static str> {
    let kinds = [
        (service_flags::CLUSTER_IP, "cluster-ip"),
        (service_flags::LOAD_BALANCER, "load-balancer"),
        (service_flags::EXTERNAL_IP, "external-ip"),
        (service_flags::NODE_PORT, "node-port"),
    ];
    let mut set = kinds.into_iter().filter(|(flag, _)| flags & flag != 0);
    set.next().map(|(_, kind)| kind)
}

fn list(code: u32) -> Option<List> {
    let lists = [
        (Lists::Cluster, List::Cluster),
        (Lists::ExternalLocal, List::ExternalLocal),
        (Lists::InternalLocal, List::InternalLocal),
    ];
    let mut named = lists.into_iter().filter(|(list, _)| *list as u32 == code);
    named.next().map(|(_, list)| list)
}

fn reason(code: u32) -> Option<Reason> {
    Reason::ALL.get(usize::try_from(code).ok()?).copied()
}

fn hop(record: &TraceRecord) -> Option<Hop> {
    let (mac, _) = record.hop.split_macs();
    let mac = (mac != [0; 6]).then(|| mac.map(|byte| format!("{byte:02x}")).join(":"));
    (record.hop.ifindex != 0).then_some(Hop {
        ifindex: record.hop.ifindex,
        mac,
        mtu: record.hop.mtu,
    })
}

/// What was dialled, as people write it.
fn dialled(question: &Question) -> String {
    display_key(&FrontendKey {
        addr: question.to.ip(),
        port: question.to.port(),
        proto: question.protocol.number(),
        pad: 0,
    })
}
