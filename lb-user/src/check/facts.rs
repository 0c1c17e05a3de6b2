//! What the machine says about itself, unjudged.
//!
//! Settings are those of the network namespace that this process runs in: /proc/sys follows it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use lb_common::abi::node::features;

use super::{legacy, nftables, node_ports, policy, programs};
use crate::{
    causes::with_causes,
    loader::{
        self, ability, cgroup, choice,
        device::{Device, Selection, Uplinks},
        netlink::{Netlink, NetlinkError},
        pattern::Pattern,
        pin,
        sysctl::read as setting,
        uplink::Survey,
    },
};

/// Where the kernel describes its types.
pub const BTF: &str = "/sys/kernel/btf/vmlinux";
/// The pseudo-device whose settings apply to all.
pub const ALL: &str = "all";

/// Everything that is judged.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The kernel's release.
    pub release: Option<String>,
    /// Whether the kernel describes its types.
    pub has_btf: bool,
    /// `net.core.bpf_jit_enable`.
    pub jit: Option<String>,
    /// Where the BPF filesystem should be.
    pub bpffs: PathBuf,
    /// Whether it is there.
    pub is_bpffs: Result<bool, String>,
    /// `/proc/self/status`.
    pub status: Option<String>,
    /// `net.ipv4.ip_forward`.
    pub forwarding4: Option<String>,
    /// `net.ipv6.conf.all.forwarding`.
    pub forwarding6: Option<String>,
    /// `net.ipv6.conf.all.disable_ipv6`.
    pub disable_ipv6: Option<String>,
    /// The devices that lead out of the node.
    pub uplinks: Result<Vec<Uplink>, String>,
    /// Whether uplinks and pods' devices forward, where the namespace as a whole does.
    pub devices: Vec<Forwarding>,
    /// What works on forwarded packets.
    pub policy: policy::Found,
    /// Node ports, and the sockets that have their numbers.
    pub node_ports: node_ports::Found,
    /// Reverse path filters of `all` and the uplinks.
    pub rp_filters: Vec<RpFilter>,
    /// Where the control groups are that sockets are in; none: nowhere.
    pub cgroups: Result<Option<PathBuf>, String>,
}

/// A device that leads out of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// Why it is met at TC alone unless `--mode` says otherwise; none: its driver meets it.
    pub no_xdp: Option<&'static str>,
}

/// `net.ipv4.conf.DEVICE.rp_filter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpFilter {
    /// The device.
    pub device: String,
    /// 0 off, 1 strict, 2 loose.
    pub value: u8,
}

/// `net.FAMILY.conf.DEVICE.forwarding`; none: the namespace forwards nothing of the family, or has it not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// The device.
    pub device: String,
    /// Of IPv4.
    pub v4: Option<bool>,
    /// Of IPv6.
    pub v6: Option<bool>,
}

/// What the flags say about the node's devices.
#[derive(Clone, Debug, Default)]
pub struct Named {
    /// Uplinks; none given: found out from the routes.
    pub uplinks: Option<Vec<Pattern>>,
    /// Pods' devices; none given: pairs that lead into other namespaces.
    pub pods: Option<Vec<Pattern>>,
    /// Prefixes of pods.
    pub pod_cidrs: BTreeSet<IpNet>,
}

impl Facts {
    /// Looks.
    pub async fn gather(bpffs: &Path, named: Named, agent: &node_ports::Agent) -> Self {
        let survey = survey().await;
        let (devices, programs, all) = match &survey {
            Ok(survey) => on_devices(survey, &named),
            Err(_) => Default::default(),
        };
        let uplinks = survey.map(|survey| find(&survey, &named));
        let uplinks = uplinks.map_err(|error| with_causes(&error));
        let uplink_names = uplinks
            .iter()
            .flatten()
            .map(|uplink: &Uplink| uplink.name.as_str());
        let rp_filters = std::iter::once(ALL)
            .chain(uplink_names)
            .filter_map(rp_filter)
            .collect();
        Self {
            release: setting("kernel/osrelease"),
            has_btf: Path::new(BTF).exists(),
            jit: setting("net/core/bpf_jit_enable"),
            bpffs: bpffs.to_owned(),
            is_bpffs: pin::is_bpf_filesystem(bpffs).map_err(|error| with_causes(&error)),
            status: fs::read_to_string("/proc/self/status").ok(),
            forwarding4: setting("net/ipv4/ip_forward"),
            forwarding6: setting("net/ipv6/conf/all/forwarding"),
            disable_ipv6: setting("net/ipv6/conf/all/disable_ipv6"),
            uplinks,
            devices,
            policy: policy::Found {
                nftables: nftables::read().map_err(|error| with_causes(&error)),
                legacy: legacy::read(),
                devices: all,
                programs,
                by_stack: is_by_stack(&agent.pins),
            },
            node_ports: node_ports::look(agent),
            rp_filters,
            cgroups: cgroup::root().map_err(|error| with_causes(&error)),
        }
    }
}

/// Whether the programs that serve leave it to the stack to forward; false also where none do.
fn is_by_stack(pins: &Path) -> bool {
    loader::facts::read(pins).is_ok_and(|node| node.features & features::FORWARD_STACK != 0)
}

async fn survey() -> Result<Survey, NetlinkError> {
    Netlink::open()?.survey().await
}

/// What forwards, what else is at TC, and the names of all devices.
fn on_devices(
    survey: &Survey,
    named: &Named,
) -> (Vec<Forwarding>, Vec<policy::Program>, Vec<String>) {
    let selection = selection(survey, named);
    let ours: Vec<&Device> = survey
        .devices
        .iter()
        .filter(|device| selection.role(device).is_some())
        .collect();
    let forwarding = |family: &str, device: &str| {
        let of = |name: &str| setting(&format!("net/{family}/conf/{name}/forwarding"));
        let is_on = |text: String| text.trim() != "0";
        // Said already where nothing is forwarded at all.
        of(ALL).is_some_and(is_on).then(|| of(device))?.map(is_on)
    };
    let devices = ours.iter().map(|device| Forwarding {
        device: device.name.clone(),
        v4: forwarding("ipv4", &device.name),
        v6: forwarding("ipv6", &device.name),
    });
    let all = survey.devices.iter().map(|device| device.name.clone());
    (
        devices.collect(),
        programs::find(ours.iter().copied()),
        all.collect(),
    )
}

fn selection(survey: &Survey, named: &Named) -> Selection {
    let mut selection = Selection {
        uplinks: Uplinks::Named(named.uplinks.clone().unwrap_or_default()),
        pods: named.pods.clone(),
        host: None,
    };
    if named.uplinks.is_none() {
        selection.uplinks = Uplinks::Found(survey.ways_out(&named.pod_cidrs, &selection));
    }
    selection
}

fn find(survey: &Survey, named: &Named) -> Vec<Uplink> {
    let selection = selection(survey, named);
    // Where it cannot be told, trying tells.
    let abilities = ability::abilities().unwrap_or_default();
    let found = survey.uplinks(&selection);
    found
        .map(|device| Uplink {
            name: device.name.clone(),
            no_xdp: choice::no_xdp(device, abilities.get(&device.index).copied()),
        })
        .collect()
}

fn rp_filter(device: &str) -> Option<RpFilter> {
    // A dot in a device's name is a dot in the path: no separator as in `sysctl`.
    let value = setting(&format!("net/ipv4/conf/{device}/rp_filter"))?
        .trim()
        .parse()
        .ok()?;
    Some(RpFilter {
        device: device.to_owned(),
        value,
    })
}
