//! Whether this machine can run fulcrum: findings and remedies, one per fact.
//!
//! Pure: from [`Facts`] to [`Item`]s. Nothing here changes the machine, not even for a moment.

pub mod facts;
pub mod legacy;
pub mod netfilter;
pub mod nftables;
pub mod node_ports;
pub mod policy;
mod programs;
pub mod sockets;

use std::{fmt, path::PathBuf};

use serde::Serialize;

use facts::{Facts, Forwarding, RpFilter, Uplink};

/// The oldest kernel that the programs were run on.
const OLDEST_KERNEL: Version = Version(6, 1);
/// The first kernel with links for TC programs.
const TCX_KERNEL: Version = Version(6, 6);

/// How a fact stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// As it should be, and worth knowing.
    Note,
    /// It works, with the limits that the finding names.
    Warn,
    /// It does not work.
    Fail,
}

/// One fact, what was found, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// How it stands.
    pub level: Level,
    /// What was looked at.
    pub item: &'static str,
    /// What was found.
    pub finding: String,
    /// What to do; absent where there is nothing to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Warn => "warn",
            Level::Fail => "fail",
        };
        write!(f, "{level:<4}  {}: {}", self.item, self.finding)?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

/// All items, in the order in which they should be mended.
pub fn items(facts: &Facts) -> Vec<Item> {
    let mut items = vec![
        kernel(facts.release.as_deref()),
        btf(facts.has_btf),
        jit(facts.jit.as_deref()),
        bpf_filesystem(facts),
        capabilities(facts.status.as_deref()),
        forwarding4(facts.forwarding4.as_deref()),
        forwarding6(facts.forwarding6.as_deref()),
        ipv6(facts),
        tcx(facts.release.as_deref()),
        control_groups(&facts.cgroups),
    ];
    items.extend(uplinks(&facts.uplinks));
    items.extend(device_forwarding(&facts.devices));
    items.extend(rp_filter(&facts.rp_filters));
    items.extend(policy::items(&facts.policy));
    items.extend(node_ports::items(&facts.node_ports));
    items
}

/// Whether anything failed.
pub fn has_failed(items: &[Item]) -> bool {
    items.iter().any(|item| item.level == Level::Fail)
}

fn ok(item: &'static str, finding: impl Into<String>) -> Item {
    Item {
        level: Level::Ok,
        item,
        finding: finding.into(),
        remedy: None,
    }
}

fn note(item: &'static str, finding: impl Into<String>, remedy: impl Into<String>) -> Item {
    Item {
        level: Level::Note,
        ..warn(item, finding, remedy)
    }
}

fn warn(item: &'static str, finding: impl Into<String>, remedy: impl Into<String>) -> Item {
    let remedy = Some(remedy.into());
    Item {
        level: Level::Warn,
        item,
        finding: finding.into(),
        remedy,
    }
}

fn fail(item: &'static str, finding: impl Into<String>, remedy: impl Into<String>) -> Item {
    Item {
        level: Level::Fail,
        ..warn(item, finding, remedy)
    }
}

/// A kernel's version, as far as anything depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

impl Version {
    /// Out of a release as `uname -r` prints it.
    fn parse(release: &str) -> Option<Self> {
        let mut parts = release.trim().split(|c: char| !c.is_ascii_digit());
        Some(Self(
            parts.next()?.parse().ok()?,
            parts.next()?.parse().ok()?,
        ))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

fn kernel(release: Option<&str>) -> Item {
    let name = "kernel";
    let Some(release) = release.map(str::trim) else {
        return warn(name, "its release cannot be read", "mount /proc");
    };
    match Version::parse(release) {
        Some(version) if version >= OLDEST_KERNEL => ok(name, release),
        Some(_) => fail(name, release, format!("use Linux {OLDEST_KERNEL} or newer")),
        None => warn(
            name,
            format!("{release} is no version that is known"),
            format!("use Linux {OLDEST_KERNEL} or newer"),
        ),
    }
}

fn btf(has_btf: bool) -> Item {
    if has_btf {
        ok("kernel types", facts::BTF)
    } else {
        let remedy = "use a kernel with CONFIG_DEBUG_INFO_BTF, or mount /sys";
        fail("kernel types", format!("no {}", facts::BTF), remedy)
    }
}

fn jit(setting: Option<&str>) -> Item {
    let name = "BPF JIT";
    match setting.map(str::trim) {
        Some("0") => warn(
            name,
            "off, programs are interpreted",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Some(_) => ok(name, "on"),
        // The setting belongs to the machine and is shown only there.
        None => ok(name, "not visible in this network namespace"),
    }
}

fn bpf_filesystem(facts: &Facts) -> Item {
    let name = "BPF filesystem";
    let path = facts.bpffs.display();
    match facts.is_bpffs {
        Ok(true) => ok(name, format!("mounted on {path}")),
        Ok(false) => fail(
            name,
            format!("not mounted on {path}"),
            format!("mount -t bpf bpf {path}, or name another by --bpffs"),
        ),
        Err(ref error) => fail(
            name,
            format!("cannot look at {path}: {error}"),
            "name another by --bpffs",
        ),
    }
}

/// Bits of `linux/capability.h`.
mod capability {
    pub(super) const NET_ADMIN: u32 = 12;
    pub(super) const SYS_ADMIN: u32 = 21;
    pub(super) const PERFMON: u32 = 38;
    pub(super) const BPF: u32 = 39;
}

fn capabilities(status: Option<&str>) -> Item {
    let name = "capabilities";
    let effective = status
        .and_then(|status| status.lines().find_map(|line| line.strip_prefix("CapEff:")))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    let Some(effective) = effective else {
        return warn(name, "cannot be read from /proc/self/status", "mount /proc");
    };
    let has = |bit: u32| effective >> bit & 1 == 1;
    let is_admin = has(capability::SYS_ADMIN);
    let missing: Vec<&str> = [
        ("CAP_NET_ADMIN", has(capability::NET_ADMIN)),
        ("CAP_BPF", has(capability::BPF) || is_admin),
        ("CAP_PERFMON", has(capability::PERFMON) || is_admin),
    ]
    .into_iter()
    .filter(|(_, is_there)| !is_there)
    .map(|(name, _)| name)
    .collect();
    if missing.is_empty() {
        ok(name, "enough to load and attach programs")
    } else {
        fail(
            name,
            format!("no {}", missing.join(", ")),
            "run as root or grant them",
        )
    }
}

/// What `--socket-lb host` needs, and nothing else does.
fn control_groups(found: &Result<Option<PathBuf>, String>) -> Item {
    let name = "control groups";
    let remedy = "mount -t cgroup2 none DIR, or name one by --cgroup";
    match found {
        Ok(Some(dir)) => ok(name, format!("mounted on {}", dir.display())),
        Ok(None) => note(
            name,
            "none of version 2 are mounted, so --socket-lb host would do nothing",
            remedy,
        ),
        Err(error) => note(name, error, "mount /proc"),
    }
}

fn forwarding4(setting: Option<&str>) -> Item {
    let name = "IPv4 forwarding";
    match setting.map(str::trim) {
        Some("0") => fail(
            name,
            "off, so the kernel names no next hop for packets of others",
            "sysctl -w net.ipv4.ip_forward=1",
        ),
        Some(_) => ok(name, "on"),
        None => warn(name, "net.ipv4.ip_forward cannot be read", "mount /proc"),
    }
}

fn forwarding6(setting: Option<&str>) -> Item {
    let name = "IPv6 forwarding";
    match setting.map(str::trim) {
        Some("0") => warn(
            name,
            "off, so IPv6 services do not reach other devices",
            "sysctl -w net.ipv6.conf.all.forwarding=1",
        ),
        Some(_) => ok(name, "on"),
        None => ok(name, "this kernel has no IPv6"),
    }
}

/// Without IPv6 there is nothing to warn of: a node is what it is.
fn ipv6(facts: &Facts) -> Item {
    let name = "IPv6";
    match facts.disable_ipv6.as_deref().map(str::trim) {
        None => ok(
            name,
            "this kernel has none, and IPv6 services are not served",
        ),
        Some("0") => ok(name, "on"),
        Some(_) => ok(
            name,
            "switched off (net.ipv6.conf.all.disable_ipv6), on all devices but fulcrum's own",
        ),
    }
}

/// Devices whose packets the FIB answers no program for, although the namespace forwards.
fn device_forwarding(devices: &[Forwarding]) -> Vec<Item> {
    let name = "device forwarding";
    let mut items = Vec::new();
    for Forwarding { device, v4, v6 } in devices {
        for (family, is_on, setting) in [("IPv4", v4, "ipv4"), ("IPv6", v6, "ipv6")] {
            if *is_on == Some(false) {
                items.push(warn(
                    name,
                    format!("{family} is not forwarded from {device}, so its packets reach no backend elsewhere"),
                    format!("sysctl -w net.{setting}.conf.{}.forwarding=1", device.replace('.', "/")),
                ));
            }
        }
    }
    if items.is_empty() {
        items.push(ok(name, "on for all uplinks and pods"));
    }
    items
}

fn tcx(release: Option<&str>) -> Item {
    let name = "TC links";
    match release.and_then(Version::parse) {
        Some(version) if version >= TCX_KERNEL => ok(name, "tcx"),
        _ => warn(
            name,
            "none, programs become filters of a clsact qdisc, which stay when the agent is killed",
            format!("use Linux {TCX_KERNEL} or newer"),
        ),
    }
}

fn uplinks(found: &Result<Vec<Uplink>, String>) -> Vec<Item> {
    let name = "uplinks";
    let remedy = "name the devices that lead out of the node by --uplink";
    match found {
        Err(error) => vec![fail(name, format!("cannot be listed: {error}"), remedy)],
        Ok(uplinks) if uplinks.is_empty() => {
            let finding =
                "no route leads out of the node; only its own pods and processes reach services";
            vec![warn(name, finding, remedy)]
        }
        Ok(uplinks) => {
            let names: Vec<&str> = uplinks.iter().map(|uplink| uplink.name.as_str()).collect();
            let mut items = vec![ok(name, names.join(", "))];
            items.extend(uplinks.iter().map(met));
            items
        }
    }
}

/// Where an uplink's packets are met.
fn met(uplink: &Uplink) -> Item {
    let name = &uplink.name;
    let finding = match uplink.no_xdp {
        None => format!("{name} is met in its driver, and at TC"),
        Some(reason) => format!("{name} is met at TC alone: {reason}"),
    };
    ok("native XDP", finding)
}

/// Strict reverse path filtering, where it is in force.
fn rp_filter(filters: &[RpFilter]) -> Vec<Item> {
    let name = "reverse path filter";
    let all = filters
        .iter()
        .find(|filter| filter.device == facts::ALL)
        .map_or(0, |all| all.value);
    let strict: Vec<Item> = filters
        .iter()
        // The kernel takes the larger one of the device's value and that of `all`.
        .filter(|filter| filter.value.max(all) == 1)
        .map(|RpFilter { device, .. }| {
            warn(
                name,
                format!("strict on {device}, drops packets that come by another way than they would leave"),
                format!("sysctl -w net.ipv4.conf.{device}.rp_filter=2"),
            )
        })
        .collect();
    if strict.is_empty() {
        vec![ok(name, "not strict")]
    } else {
        strict
    }
}

#[cfg(test)]
mod tests;
