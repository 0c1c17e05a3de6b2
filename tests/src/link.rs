//! Devices: veth pairs between namespaces, bridges, and what is set on them, as `ip` commands and direct calls.
//!
//! The functions that return text only describe; [`Namespace::ip`] carries out many of them at once, which is what makes
//! a topology come up in a fraction of a second.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};

use crate::{addressing::Dual, ioctl, netns::Namespace, poll};

/// How long a carrier may take.
const CARRIER_LIMIT: Duration = Duration::from_secs(10);

/// A veth pair, both ends down: `device`, with this MAC, in the namespace that runs the command, `peer` in another one.
pub fn veth(device: &str, mac: &str, peer: &str, peer_namespace: &Namespace, mtu: u32) -> String {
    let path = peer_namespace.path();
    format!(
        "link add {device} address {mac} mtu {mtu} type veth peer name {peer} mtu {mtu} netns {}",
        path.display()
    )
}

/// As [`veth`], a netkit pair; of layer 2, so that pods find their node as they do behind veth.
pub fn netkit(device: &str, mac: &str, peer: &str, peer_namespace: &Namespace, mtu: u32) -> String {
    let path = peer_namespace.path();
    format!(
        "link add {device} address {mac} mtu {mtu} type netkit mode l2 peer name {peer} mtu {mtu} netns {}",
        path.display()
    )
}

/// A device, down, for what passes `trunk` with the tag of one VLAN, the same wherever this is called.
pub fn vlan(trunk: &str, device: &str) -> String {
    /// Any VLAN.
    const ID: u16 = 42;
    format!("link add link {trunk} name {device} type vlan id {ID}")
}

/// Brings a device up without an automatic link-local address.
pub fn up(device: &str) -> Vec<String> {
    vec![
        format!("link set dev {device} addrgenmode none"),
        format!("link set dev {device} up"),
    ]
}

/// An address of each family, usable at once (`nodad`).
pub fn addresses(device: &str, addresses: Dual, len_v4: u8, len_v6: u8) -> Vec<String> {
    let Dual { v4, v6 } = addresses;
    vec![
        format!("addr add {v4}/{len_v4} dev {device}"),
        format!("addr add {v6}/{len_v6} dev {device} nodad"),
    ]
}

/// The link-local address `fe80::<host>`: neighbour discovery for forwarded packets needs one as its source.
pub fn link_local(device: &str, host: u16) -> Vec<String> {
    vec![format!("addr add fe80::{host:x}/64 dev {device} nodad")]
}

/// Waits until every device that is up has a carrier; a packet sent earlier would be lost.
pub fn wait_for_carriers(namespace: &Namespace) -> Result<()> {
    let label = namespace.label();
    let what = format!("the carriers of all devices in {label}");
    let is_waiting = |flags: InterfaceFlags| {
        flags.contains(InterfaceFlags::IFF_UP) && !flags.contains(InterfaceFlags::IFF_RUNNING)
    };
    namespace.run(|| {
        poll::until(CARRIER_LIMIT, &what, || {
            let mut devices =
                getifaddrs().with_context(|| format!("list the devices in {label}"))?;
            Ok((!devices.any(|device| is_waiting(device.flags))).then_some(()))
        })
    })
}

/// Switches the transmit offloads of a device off or on: native XDP on a veth peer sees whole checksums only when the
/// sender's are off.
pub fn set_tx_offload(namespace: &Namespace, device: &str, on: bool) -> Result<()> {
    namespace
        .run(|| ioctl::set_tx_checksum(device, on))
        .with_context(|| format!("set the tx offload of {device} in {}", namespace.label()))
}

/// Switches the merging of received packets of a device off or on, in the calling thread's namespace: a veth takes frames
/// that XDP sends it only where that is on, or where it has a program of XDP itself.
pub fn set_gro(device: &str, on: bool) -> Result<()> {
    ioctl::set_gro(device, on).with_context(|| format!("set the merging of packets of {device}"))
}

/// Sets the largest packet of a device, L3 bytes.
pub fn set_mtu(namespace: &Namespace, device: &str, mtu: u32) -> Result<()> {
    namespace.ip(&[format!("link set dev {device} mtu {mtu}")])
}
