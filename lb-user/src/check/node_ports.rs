//! Node ports and the node's own sockets: a number that both have is the service's for who comes from outside.
//!
//! Judges what [`look`] has found; changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    net::IpAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use lb_common::abi::service_flags;

use super::{
    Item, note, ok,
    sockets::{self, Process, Socket},
    warn,
};
use crate::{
    apply::{BpfMaps, LbMaps, MapError},
    causes::with_causes,
    desired::Protocol,
    loader::sysctl,
};

const NAME: &str = "node ports";
/// Protocols that a node port may have.
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
/// Ports that the kernel gives to sockets that ask for none, and those that it leaves out.
const EPHEMERAL: &str = "net/ipv4/ip_local_port_range";
const RESERVED: &str = "net/ipv4/ip_local_reserved_ports";

/// Which agent is looked at.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Where its tables are pinned.
    pub pins: PathBuf,
    /// Its process, if it answers.
    pub pid: Option<u32>,
    /// Names of the service ids in its tables, as far as it answers.
    pub names: BTreeMap<u32, String>,
}

/// A number and protocol that a service answers on at the node's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodePort {
    /// The number.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl fmt::Display for NodePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

/// Who is behind a node port, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// The service and its port, `ns/name:port`.
    pub service: String,
    /// The node's addresses that answer.
    pub addresses: BTreeSet<IpAddr>,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The node ports in the agent's tables; nothing where no agent runs.
    pub served: Result<Option<BTreeMap<NodePort, Served>>, String>,
    /// Sockets of the agent's network namespace that wait for clients on one of these numbers.
    pub sockets: Result<Vec<Socket>, String>,
    /// Who has them.
    pub owners: BTreeMap<u64, BTreeSet<Process>>,
    /// The agent, whose own sockets are no clash.
    pub agent: Option<u32>,
    /// Ports that sockets get without asking, and those that are kept out of them, as the kernel writes both.
    pub ephemeral: Option<[String; 2]>,
}

impl Default for Found {
    /// Nothing, as where no agent has ever run.
    fn default() -> Self {
        Self {
            served: Ok(None),
            sockets: Ok(Vec::new()),
            owners: BTreeMap::new(),
            agent: None,
            ephemeral: None,
        }
    }
}

/// Looks at an agent's tables, and at the sockets of the node that it serves.
pub(super) fn look(agent: &Agent) -> Found {
    // Tables outlive their agent; what nobody serves is nobody's clash.
    let served = match agent.pid {
        Some(_) => served(&agent.pins, &agent.names),
        None => Ok(None),
    };
    let numbers: BTreeSet<NodePort> = match &served {
        Ok(Some(served)) => served.keys().copied().collect(),
        _ => BTreeSet::new(),
    };
    // A number that is gone leaves the namespace that this process is in.
    let pid = agent.pid.filter(|pid| namespace(*pid).is_some());
    let sockets = sockets::read(pid).map(|mut sockets| {
        sockets.retain(|socket| numbers.contains(&number_of(socket)));
        sockets
    });
    let inodes = sockets.iter().flatten().map(|socket| socket.inode);
    let owners = sockets::owners(&inodes.collect());
    // The settings are those of this process's namespace.
    let is_here = pid.is_none_or(|pid| namespace(pid) == namespace(std::process::id()));
    let ephemeral = || Some([sysctl::read(EPHEMERAL)?, sysctl::read(RESERVED)?]);
    Found {
        served,
        sockets: sockets.map_err(|error| with_causes(&error)),
        owners,
        agent: agent.pid,
        ephemeral: is_here.then(ephemeral).flatten(),
    }
}

/// Which network namespace a process is in.
fn namespace(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/net")).ok()
}

fn number_of(socket: &Socket) -> NodePort {
    NodePort {
        port: socket.port,
        protocol: socket.protocol,
    }
}

/// The node ports in the tables of an agent; nothing where there are no tables.
fn served(
    pins: &Path,
    names: &BTreeMap<u32, String>,
) -> Result<Option<BTreeMap<NodePort, Served>>, String> {
    let maps = match BpfMaps::open(pins) {
        Ok(maps) => maps,
        Err(MapError::NotPinned { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(error) => return Err(with_causes(&error)),
    };
    let services = maps.services().map_err(|error| with_causes(&error))?;
    let mut found = BTreeMap::<NodePort, Served>::new();
    for (key, service) in services {
        let protocol = PROTOCOLS.into_iter().find(|it| it.number() == key.proto);
        let Some(protocol) = protocol.filter(|_| service.flags & service_flags::NODE_PORT != 0)
        else {
            continue;
        };
        let port = key.port;
        let served = found.entry(NodePort { port, protocol }).or_default();
        served.service = match names.get(&service.id) {
            // Protocol and family stand behind the name.
            Some(name) => name.split(' ').next().unwrap_or_default().to_owned(),
            None => format!("the service of id {}", service.id),
        };
        served.addresses.insert(key.addr);
    }
    Ok(Some(found))
}

/// What there is to say about it.
pub(super) fn items(found: &Found) -> Vec<Item> {
    let remedy = "run it as root in the agent's network namespace";
    let served = match &found.served {
        Ok(Some(served)) => served,
        Ok(None) => return vec![ok(NAME, "no agent runs here that would say which")],
        Err(error) => {
            let finding = format!("the agent's tables cannot be read: {error}");
            return vec![warn(NAME, finding, remedy)];
        }
    };
    let sockets = match &found.sockets {
        Ok(sockets) => sockets,
        Err(error) => {
            let finding = format!("the node's sockets cannot be listed: {error}");
            return vec![warn(NAME, finding, remedy)];
        }
    };
    let mut items: Vec<Item> = served
        .iter()
        .filter_map(|(number, served)| clash(*number, served, sockets, found))
        .collect();
    if items.is_empty() {
        items.push(ok(NAME, quiet(served.len())));
    }
    let ephemeral = found.ephemeral.iter();
    items.extend(ephemeral.filter_map(|[range, reserved]| overlap(served, range, reserved)));
    items
}

fn quiet(n_served: usize) -> String {
    match n_served {
        0 => "none is served".to_owned(),
        1 => "one is served, and no other socket waits on it".to_owned(),
        n => format!("{n} are served, and no other socket waits on one of them"),
    }
}

/// Sockets of others that wait on a node port where the service answers.
fn clash(number: NodePort, served: &Served, sockets: &[Socket], found: &Found) -> Option<Item> {
    let is_others = |socket: &&Socket| {
        let owners = found.owners.get(&socket.inode);
        let is_agents = |process: &Process| Some(process.pid) == found.agent;
        number_of(socket) == number && !owners.is_some_and(|them| them.iter().any(is_agents))
    };
    let mut who = BTreeMap::<String, BTreeSet<IpAddr>>::new();
    let mut taken = BTreeSet::new();
    for socket in sockets.iter().filter(is_others) {
        let addresses = served.addresses.iter().copied();
        let mut common = addresses
            .filter(|address| hears(socket.address, *address))
            .peekable();
        if common.peek().is_some() {
            taken.extend(common);
            let owner = owner(found.owners.get(&socket.inode));
            who.entry(owner).or_default().insert(socket.address);
        }
    }
    if who.is_empty() {
        return None;
    }
    let who: Vec<String> = who
        .iter()
        .map(|(owner, addresses)| format!("{owner} on {}", list(addresses)))
        .collect();
    let verb = match number.protocol {
        Protocol::Tcp => "listens",
        Protocol::Udp | Protocol::Sctp => "receives",
    };
    let finding = format!(
        "{number} is the node port of {}, and a socket {verb} there, too: {}; what is sent to {} goes to the \
         service and never reaches the socket",
        served.service,
        who.join(", "),
        list(&taken)
    );
    let remedy = "let the process use another port, or give the service another nodePort";
    Some(warn(NAME, finding, remedy))
}

/// Whether a socket that is bound to one address takes what is sent to another one.
fn hears(bound: IpAddr, address: IpAddr) -> bool {
    match bound {
        bound if bound == address => true,
        // One of IPv6 takes IPv4 too, unless it was told not to, which the list does not say.
        IpAddr::V6(any) => any.is_unspecified(),
        IpAddr::V4(any) => any.is_unspecified() && address.is_ipv4(),
    }
}

fn owner(processes: Option<&BTreeSet<Process>>) -> String {
    let Some(first) = processes.and_then(BTreeSet::first) else {
        return "no process that can be seen from here".to_owned();
    };
    let Process { pid, name } = first;
    match processes.map_or(0, BTreeSet::len) {
        0 | 1 => format!("{name} (process {pid})"),
        n => format!("{name} (process {pid} and {} more)", n - 1),
    }
}

fn list<T: ToString>(items: &BTreeSet<T>) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}

/// Node ports that the kernel may give to sockets that ask for none.
fn overlap(served: &BTreeMap<NodePort, Served>, range: &str, reserved: &str) -> Option<Item> {
    let mut bounds = range.split_ascii_whitespace().map(str::parse::<u16>);
    let (first, last) = (bounds.next()?.ok()?, bounds.next()?.ok()?);
    let kept_out = self::reserved(reserved);
    let is_free = |port: &u16| {
        (first..=last).contains(port) && !kept_out.iter().any(|range| range.contains(port))
    };
    let numbers: BTreeSet<u16> = served.keys().map(|number| number.port).collect();
    let numbers: BTreeSet<u16> = numbers.into_iter().filter(is_free).collect();
    if numbers.is_empty() {
        return None;
    }
    let finding = format!(
        "{} in the range {first}-{last}, out of which the kernel gives ports to sockets that ask for none; what is \
         sent to a socket that waits there goes to the service",
        match numbers.len() {
            1 => format!("{} is", list(&numbers)),
            _ => format!("{} are", list(&numbers)),
        }
    );
    let all = match reserved.trim() {
        "" => joined(&numbers),
        others => format!("{others},{}", joined(&numbers)),
    };
    Some(note(
        NAME,
        finding,
        format!("sysctl -w net.ipv4.ip_local_reserved_ports={all}"),
    ))
}

/// `1,2,10-20`, as the kernel writes it.
fn reserved(text: &str) -> Vec<RangeInclusive<u16>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text.trim().split(',').filter_map(range).collect()
}

/// Numbers as the kernel reads them: runs as ranges.
fn joined(numbers: &BTreeSet<u16>) -> String {
    let numbers: Vec<u16> = numbers.iter().copied().collect();
    let runs = numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b));
    let texts = runs.filter_map(|run| match run {
        [] => None,
        [only] => Some(only.to_string()),
        [first, .., last] => Some(format!("{first}-{last}")),
    });
    texts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;
