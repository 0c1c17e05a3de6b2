//! The agent's configuration: flags, checked once, then facts.
//!
//! Whatever has a [`Config`] need not ask again whether a size is a power of two or a prefix has host
//! bits. Nothing here touches the node: what the flags leave open is found out by the agent.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use clap::Args;
use ipnet::IpNet;

use crate::{
    alloc::PortRange,
    loader::{
        pair::name::{Hairpin, PairName, PairNameError},
        pattern::{Pattern, PatternError},
        uplink::NodeAddresses,
    },
};

mod delivery;
mod ephemeral;
pub mod file;
mod flows;
mod forward;
mod healthz;
pub mod keys;
pub mod log;
mod machine;
mod masquerade;
mod mode;
pub mod reload;
mod services;
mod sockets;

pub use delivery::LocalDelivery;
pub use ephemeral::EphemeralOverlap;
pub use flows::{FlowFlags, FlowSettings, FlowTableSizes, Ping, TcpAfterRemoval};
pub use forward::Forward;
pub use healthz::{HealthzAddress, HealthzAddressError};
pub use masquerade::Masquerade;
pub use mode::{Mode, ModeRule, Modes};
pub use services::{
    NodePortAddress, NodePortAddressError, PoolFlags, ServiceFlags, ServiceSettings,
};
pub use sockets::{SocketFlags, SocketLb, Sockets};

/// Where the kernel says what the node is called.
const HOSTNAME: &str = "/proc/sys/kernel/hostname";

/// The flags of `fulcrum run` that describe the node and its cluster.
#[expect(
    clippy::doc_markdown,
    reason = "the fields' documentation is help text for a terminal"
)]
#[derive(Args, Clone, Debug)]
pub struct Flags {
    /// Manifests to serve: a file, a directory (its *.yaml, *.yml and *.json, not recursive), or - for standard input
    ///
    /// Files and directories are watched and changes applied live. Kinds: Service, Endpoints, EndpointSlice, Pod,
    /// Node, and List of these. What is wrong is logged with file, line and field, and stops nothing else.
    #[arg(
        long,
        short = 'f',
        value_name = "FILE|DIR|-",
        required_unless_present = "config"
    )]
    pub manifests: Option<PathBuf>,

    /// A YAML file with flags as keys, as in `uplink: [eth0, eth1]`; a flag that is given here as well wins over the file
    ///
    /// Read again on SIGHUP and when it changes. What changed is logged, with what takes effect at once (uplink,
    /// pod-device, pod-cidr, nodeport-addresses, algorithm, zone, service-node-port-range, strict, local-delivery,
    /// log-level) and what at the next start. A file with an error changes nothing.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// This node's name, as the pods' spec.nodeName and the endpoints' nodeName spell it [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,

    /// This node's address, source of masqueraded traffic; once per family [default: the uplink's preferred source]
    #[arg(long, value_name = "IP")]
    pub node_ip: Vec<IpAddr>,

    /// Devices that lead out of the node: names or globs, may be repeated [default: those of the default routes, and
    /// those by which routes lead to pods of other nodes]
    #[arg(long, value_name = "DEVICE|GLOB", value_delimiter = ',')]
    pub uplink: Vec<String>,

    /// Host sides of the pods' devices: names or globs, may be repeated [default: every veth and netkit whose peer is
    /// in another network namespace]
    #[arg(long, value_name = "DEVICE|GLOB", value_delimiter = ',')]
    pub pod_device: Vec<String>,

    /// Name of the agent's own two devices, by which the node's processes reach services: 0 and 1 are added to it
    #[arg(long, value_name = "NAME", default_value_t = PairName::default().to_string())]
    pub host_device: String,

    /// Source of a pod's connection to itself through a service; once per family, an address that nobody has
    /// [default: 169.254.90.1 and fd66:756c:6372:756d::1]
    ///
    /// The IPv4 address after it is given to the first of the agent's own devices.
    #[arg(long, value_name = "IP")]
    pub hairpin_ip: Vec<IpAddr>,

    /// Prefixes that ClusterIPs are taken from; may be repeated
    #[arg(
        long,
        value_name = "CIDR",
        value_delimiter = ',',
        default_value = "10.96.0.0/12,fd00:10:96::/112"
    )]
    pub service_cidr: Vec<IpNet>,

    /// Prefixes of the cluster's pods beside those of the Node objects; may be repeated
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub pod_cidr: Vec<IpNet>,

    #[command(flatten)]
    /// What services are given, and where they answer.
    pub services: ServiceFlags,

    #[command(flatten)]
    /// How connections are kept.
    pub flows: FlowFlags,

    /// Where the packets of uplinks are met: auto, xdp, xdp-generic or tc; for some of them alone as in eth0=tc or wg*=tc, may
    /// be repeated
    ///
    /// TC is always there: what XDP cannot do itself goes on to it. `fulcrum status` and the log say what each uplink has,
    /// and why. auto: in the driver (native XDP) where the driver can and frames come from a wire; those of a veth, tap or
    /// netkit may have checksums that are not made yet, which only TC sees. xdp: in the driver wherever it can.
    /// xdp-generic: before the stack by any driver, for trying: it is slower than tc. tc: at TC alone.
    #[arg(
        long,
        value_name = "[DEVICE=]MODE",
        value_delimiter = ',',
        default_value = "auto"
    )]
    pub mode: Vec<ModeRule>,

    /// Who forwards the packets of services between pods, other nodes and the outside
    ///
    /// Connections that are there keep to what they were opened with. What the stack forwards is not met in the driver
    /// (--mode xdp).
    #[arg(long, value_enum, default_value_t)]
    pub forward: Forward,

    /// How packets of services are handed to the pods of this node
    ///
    /// What goes past a device is not seen by tcpdump there, nor in its count of packets. A queue, or somebody else's filter or
    /// program at its egress, is noticed within 4 s. `fulcrum status` says how each pod gets packets, and why.
    #[arg(long, value_enum, default_value_t)]
    pub local_delivery: LocalDelivery,

    #[command(flatten)]
    /// Which sockets are met.
    pub sockets: SocketFlags,

    /// Run the readiness probes of the Pod manifests, which then decide who is ready [default: status.conditions does]
    ///
    /// Probes are httpGet, tcpSocket and grpc, of the pods of all nodes. A command (exec) is not run: of its container
    /// the status decides.
    #[arg(long)]
    pub probe: bool,

    /// Where /healthz and /livez are answered as kube-proxy answers them, or none
    ///
    /// 0.0.0.0 and [::] mean all addresses of both families. /healthz says 503 if changes of the manifests have waited
    /// for more than 2 minutes, or if this node's Node object is deleted or about to be; /livez minds the first alone.
    #[arg(long, value_name = "IP:PORT|none", default_value_t)]
    pub healthz_bind_address: HealthzAddress,
}

/// What to serve and how, valid throughout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the objects come from.
    pub manifests: Manifests,
    /// This node's name.
    pub node_name: String,
    /// Addresses that the node shall use; those not given are found out.
    pub node_ips: NodeAddresses,
    /// Uplinks; none given: found out from the routes.
    pub uplinks: Option<Vec<Pattern>>,
    /// Pod devices; none given: pairs that lead into other namespaces.
    pub pod_devices: Option<Vec<Pattern>>,
    /// The agent's own pair of devices.
    pub host_device: PairName,
    /// Sources of pods' connections to themselves, outside of all other prefixes.
    pub hairpin: Hairpin,
    /// Prefixes that `ClusterIPs` are taken from, without host bits, none inside another.
    pub service_cidrs: Vec<IpNet>,
    /// Prefixes of pods, without host bits, apart from the services'.
    pub pod_cidrs: Vec<IpNet>,
    /// What services are given, and where they answer.
    pub services: ServiceSettings,
    /// How connections are kept.
    pub flows: FlowSettings,
    /// How large the flow tables are.
    pub flow_table: FlowTableSizes,
    /// Where uplinks are met.
    pub modes: Modes,
    /// Who forwards.
    pub forward: Forward,
    /// How pods of this node are handed packets.
    pub local_delivery: LocalDelivery,
    /// Which sockets are met.
    pub sockets: Sockets,
    /// Whether readiness probes are run.
    pub probe: bool,
    /// Where `/healthz` and `/livez` are answered.
    pub healthz: Option<SocketAddr>,
}

/// Where the objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manifests {
    /// Standard input, once.
    Stdin,
    /// A file or a directory, watched.
    Path(PathBuf),
}

/// Which flag cannot be used, and why.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Nothing to serve.
    #[error("--manifests: neither the command line nor the configuration file says what to serve")]
    NoManifests,
    /// A device flag is no pattern.
    #[error("--{flag} {value:?}: {reason}")]
    Pattern {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: PatternError,
    },
    /// An address that a node cannot have.
    #[error("--node-ip {0}: not an address that a node can have; name one of a device")]
    NodeIp(IpAddr),
    /// Two addresses of a family.
    #[error("--node-ip {second}: there is {first} already; give at most one address per family")]
    TwoNodeIps {
        /// The one that was given first.
        first: IpAddr,
        /// The one too many.
        second: IpAddr,
    },
    /// A name that no pair of devices can have.
    #[error("--host-device {value:?}: {reason}")]
    HostDevice {
        /// The flag's value.
        value: String,
        /// What is wrong with it.
        reason: PairNameError,
    },
    /// An address that cannot stand for a pod's own node.
    #[error("--hairpin-ip {addr}: {reason}")]
    HairpinIp {
        /// The address, which may be the default one.
        addr: IpAddr,
        /// What is wrong with it.
        reason: String,
    },
    /// A prefix with host bits.
    #[error("--{flag} {value}: has host bits; did you mean {}?", value.trunc())]
    HostBits {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: IpNet,
    },
    /// Two prefixes share addresses.
    #[error("--{flag} {value} overlaps {other_flag} {other}; give prefixes that lie apart")]
    Overlap {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: IpNet,
        /// The flag of the other prefix.
        other_flag: &'static str,
        /// The other prefix.
        other: IpNet,
    },
    /// Node ports on one address and on prefixes.
    #[error("--nodeport-addresses: {prefix} stands beside `primary`; give either")]
    NodePortAddresses {
        /// A prefix that is given.
        prefix: IpNet,
    },
    /// The flow table cannot have this size.
    #[error("--{flag} {size}: must be a power of two from {least} to {most}")]
    FlowTableSize {
        /// The flag.
        flag: &'static str,
        /// Its value.
        size: u32,
        /// The least that it may be.
        least: u32,
        /// The most that it may be.
        most: u32,
    },
    /// The flow table cannot shrink.
    #[error("--flow-table-max {max}: is less than --flow-table-size {size}; give at least as much")]
    FlowTableMax {
        /// Its size.
        size: u32,
        /// The flag's value.
        max: u32,
    },
    /// No client can be remembered.
    #[error("--affinity-size 0: give room for one client at least")]
    AffinitySize,
    /// Source ports among those of servers.
    #[error("--snat-ports {snat_ports}: ports below 1024 are those of servers; give others")]
    SnatServers {
        /// The flag's value.
        snat_ports: PortRange,
    },
    /// Source ports that services may be given.
    #[error(
        "--snat-ports {snat_ports} overlaps --service-node-port-range {node_ports}; give ranges that lie apart"
    )]
    SnatNodePorts {
        /// The flag's value.
        snat_ports: PortRange,
        /// The other's.
        node_ports: PortRange,
    },
    /// The node's name cannot be found out.
    #[error("cannot read the host name from {HOSTNAME}; name this node by --node-name")]
    HostName(#[source] io::Error),
    /// No node can have this name.
    #[error("the node name {0:?} is no name that Kubernetes allows; name this node by --node-name")]
    NodeName(String),
}

impl Flags {
    /// The configuration, or the first flag that is wrong.
    pub fn check(self) -> Result<Config, ConfigError> {
        let service_cidrs = prefixes("service-cidr", &self.service_cidr, &[])?;
        let pod_cidrs = prefixes("pod-cidr", &self.pod_cidr, &service_cidrs)?;
        let node_ips = node_ips(&self.node_ip)?;
        let hairpin = hairpin(&self.hairpin_ip)?;
        apart(hairpin, &[&service_cidrs, &pod_cidrs], node_ips)?;
        let flows = self
            .flows
            .check(self.services.pools.service_node_port_range)?;
        let flow_table = self.flows.sizes(machine::memory())?;
        Ok(Config {
            manifests: match self.manifests {
                None => return Err(ConfigError::NoManifests),
                Some(path) if path == Path::new("-") => Manifests::Stdin,
                Some(path) => Manifests::Path(path),
            },
            node_name: node_name(self.node_name)?,
            node_ips,
            uplinks: patterns("uplink", &self.uplink)?,
            pod_devices: patterns("pod-device", &self.pod_device)?,
            host_device: self.host_device.parse().map_err(|reason| {
                let value = self.host_device.clone();
                ConfigError::HostDevice { value, reason }
            })?,
            hairpin,
            service_cidrs,
            pod_cidrs,
            services: self.services.check()?,
            flows,
            flow_table,
            modes: Modes::new(&self.mode),
            forward: self.forward,
            local_delivery: self.local_delivery,
            sockets: self.sockets.into(),
            probe: self.probe,
            healthz: self.healthz_bind_address.0,
        })
    }
}

/// The patterns of one flag; none if it was not given.
pub fn patterns(
    flag: &'static str,
    values: &[String],
) -> Result<Option<Vec<Pattern>>, ConfigError> {
    let parse = |value: &String| {
        value.parse().map_err(|reason| ConfigError::Pattern {
            flag,
            value: value.clone(),
            reason,
        })
    };
    let patterns: Vec<Pattern> = values.iter().map(parse).collect::<Result<_, _>>()?;
    Ok((!patterns.is_empty()).then_some(patterns))
}

fn node_name(flag: Option<String>) -> Result<String, ConfigError> {
    let name = match flag {
        Some(name) => name,
        None => std::fs::read_to_string(HOSTNAME)
            .map_err(ConfigError::HostName)?
            .trim()
            // The kubelet does the same to the host name.
            .to_lowercase(),
    };
    let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_valid = (1..=253).contains(&name.len())
        && name
            .chars()
            .all(|c| is_alphanumeric(c) || c == '-' || c == '.')
        && name.starts_with(is_alphanumeric)
        && name.ends_with(is_alphanumeric);
    if is_valid {
        Ok(name)
    } else {
        Err(ConfigError::NodeName(name))
    }
}

fn node_ips(flags: &[IpAddr]) -> Result<NodeAddresses, ConfigError> {
    let mut found = NodeAddresses::default();
    for &addr in flags {
        if addr.is_unspecified() || addr.is_loopback() || addr.is_multicast() {
            return Err(ConfigError::NodeIp(addr));
        }
        let first = match addr {
            IpAddr::V4(addr) => found.v4.replace(addr).map(IpAddr::V4),
            IpAddr::V6(addr) => found.v6.replace(addr).map(IpAddr::V6),
        };
        if let Some(first) = first {
            return Err(ConfigError::TwoNodeIps {
                first,
                second: addr,
            });
        }
    }
    Ok(found)
}

fn hairpin(flags: &[IpAddr]) -> Result<Hairpin, ConfigError> {
    let mut given = NodeAddresses::default();
    for &addr in flags {
        let refused = |reason: String| ConfigError::HairpinIp { addr, reason };
        if addr.is_unspecified() || addr.is_loopback() || addr.is_multicast() {
            return Err(refused("not an address that a source can have".to_owned()));
        }
        let first = match addr {
            IpAddr::V4(addr) => given.v4.replace(addr).map(IpAddr::V4),
            IpAddr::V6(it) if it.is_unicast_link_local() => {
                let reason =
                    "pods ask their own link for a link-local address; give one of fd00::/8";
                return Err(refused(reason.to_owned()));
            }
            IpAddr::V6(addr) => given.v6.replace(addr).map(IpAddr::V6),
        };
        if let Some(first) = first {
            let reason = format!("there is {first} already; give at most one address per family");
            return Err(refused(reason));
        }
    }
    let default = Hairpin::default();
    Ok(Hairpin {
        v4: given.v4.unwrap_or(default.v4),
        v6: given.v6.unwrap_or(default.v6),
    })
}

/// Nobody has the hairpin addresses: neither services nor pods nor the node.
fn apart(
    hairpin: Hairpin,
    prefixes: &[&[IpNet]],
    node_ips: NodeAddresses,
) -> Result<(), ConfigError> {
    for addr in [
        hairpin.v4.into(),
        hairpin.near_address().into(),
        hairpin.v6.into(),
    ] {
        let refused = |other: String| ConfigError::HairpinIp {
            addr,
            reason: format!("belongs to {other}; give an address that nobody has"),
        };
        if let Some(net) = prefixes
            .iter()
            .copied()
            .flatten()
            .find(|net| net.contains(&addr))
        {
            return Err(refused(net.to_string()));
        }
        if node_ips.like(addr) == Some(addr) {
            return Err(refused("this node (--node-ip)".to_owned()));
        }
    }
    Ok(())
}

/// The values of a prefix flag, each without host bits, and apart from each other and the `services`.
fn prefixes(
    flag: &'static str,
    values: &[IpNet],
    services: &[IpNet],
) -> Result<Vec<IpNet>, ConfigError> {
    let mut found: Vec<IpNet> = Vec::new();
    for &value in values {
        if value != value.trunc() {
            return Err(ConfigError::HostBits { flag, value });
        }
        let overlaps = |other: &&IpNet| other.contains(&value) || value.contains(*other);
        let others = [(flag, found.as_slice()), ("service-cidr", services)];
        for (other_flag, others) in others {
            if let Some(&other) = others.iter().find(overlaps) {
                return Err(ConfigError::Overlap {
                    flag,
                    value,
                    other_flag,
                    other,
                });
            }
        }
        found.push(value);
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
