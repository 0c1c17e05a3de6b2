//! What the machine says about itself, unjudged.
//!
//! Settings are those of the network namespace that this process runs in: /proc/sys follows it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    causes::with_causes,
    loader::{
        device::{Device, Pair, Selection, Uplinks},
        netlink::{Netlink, NetlinkError},
        pattern::Pattern,
        pin,
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
    /// The devices that lead out of the node.
    pub uplinks: Result<Vec<Uplink>, String>,
    /// Reverse path filters of `all` and the uplinks.
    pub rp_filters: Vec<RpFilter>,
}

/// A device that leads out of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// Whether it is a veth or netkit.
    pub is_pair: bool,
}

/// `net.ipv4.conf.DEVICE.rp_filter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpFilter {
    /// The device.
    pub device: String,
    /// 0 off, 1 strict, 2 loose.
    pub value: u8,
}

impl Facts {
    /// Looks. `uplinks` are those that the flags name.
    pub async fn gather(bpffs: &Path, uplinks: Option<Vec<Pattern>>) -> Self {
        let uplinks = find(uplinks).await.map_err(|error| with_causes(&error));
        let names = uplinks
            .iter()
            .flatten()
            .map(|uplink: &Uplink| uplink.name.as_str());
        let rp_filters = std::iter::once(ALL)
            .chain(names)
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
            uplinks,
            rp_filters,
        }
    }
}

async fn find(named: Option<Vec<Pattern>>) -> Result<Vec<Uplink>, NetlinkError> {
    let survey = Netlink::open()?.survey().await?;
    let mut selection = Selection {
        uplinks: Uplinks::Named(named.clone().unwrap_or_default()),
        pods: Some(Vec::new()),
        host: None,
    };
    if named.is_none() {
        selection.uplinks = Uplinks::Found(survey.ways_out(&BTreeSet::new(), &selection));
    }
    let is_uplink = |device: &&Device| selection.role(device).is_some();
    let found = survey.devices.iter().filter(is_uplink);
    Ok(found
        .map(|device| Uplink {
            name: device.name.clone(),
            is_pair: device.pair != Pair::None,
        })
        .collect())
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

fn setting(path: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc/sys").join(path)).ok()
}
