//! Device ioctls that iproute2 has no command for.
//!
//! Both act on the calling thread's network namespace: run them inside [`crate::netns::Namespace::run`]. They change
//! the named device and nothing else.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Makes `file`, an open `/dev/net/tun`, the far side of a new TUN device; the device lives as long as the file.
///
/// Packets begin with the IP header: no Ethernet header and no packet information before it.
pub(crate) fn tun_attach(file: &File, device: &str) -> io::Result<()> {
    let mut request = request_for(device)?;
    request.ifr_ifru.ifru_flags = TUN_WITHOUT_PACKET_INFO;
    // SAFETY: the kernel reads and writes one `ifreq` for TUNSETIFF, which is what the pointer points to.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    checked(result)
}

/// Makes `file`, an open `/dev/net/tun`, the far side of a new TAP device; the device lives as long as the file.
///
/// Frames come and go with a `virtio_net_hdr` before them and as the kernel keeps them: not cut into segments, their
/// checksums still partial.
pub(crate) fn tap_attach(file: &File, device: &str) -> io::Result<()> {
    let mut request = request_for(device)?;
    request.ifr_ifru.ifru_flags = TAP_WITH_OFFLOADS;
    // SAFETY: the kernel reads and writes one `ifreq` for TUNSETIFF, which is what the pointer points to.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    checked(result)?;
    // SAFETY: TUNSETOFFLOAD takes a number.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, TUN_OFFLOADS) })
}

/// Switches the transmit checksum offload of `device`, and with it segmentation, which depends on it.
///
/// With offload on, a veth sends packets whose checksum is still partial; XDP on the peer cannot recognise those.
pub(crate) fn set_tx_checksum(device: &str, on: bool) -> io::Result<()> {
    set(device, ETHTOOL_STXCSUM, on)
}

/// Switches the merging of received packets of `device`. A veth polls its ring where that is on, and takes frames of XDP
/// only then.
pub(crate) fn set_gro(device: &str, on: bool) -> io::Result<()> {
    set(device, ETHTOOL_SGRO, on)
}

fn set(device: &str, command: u32, on: bool) -> io::Result<()> {
    let mut value = EthtoolValue {
        command,
        value: u32::from(on),
    };
    let mut request = request_for(device)?;
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    let any_socket = control_socket()?;
    let fd = any_socket.as_raw_fd();
    // SAFETY: SIOCETHTOOL reads one `ifreq`, and through its data pointer the eight bytes of `value`; both live until
    // the call returns.
    let result = unsafe { libc::ioctl(fd, libc::SIOCETHTOOL, &raw mut request) };
    checked(result)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "IFF_TUN and IFF_NO_PI are 16-bit flags, declared wider by libc"
)]
const TUN_WITHOUT_PACKET_INFO: libc::c_short = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;

#[expect(
    clippy::cast_possible_truncation,
    reason = "IFF_TAP, IFF_NO_PI and IFF_VNET_HDR are 16-bit flags, declared wider by libc"
)]
const TAP_WITH_OFFLOADS: libc::c_short =
    (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;

/// `TUN_F_CSUM`, `TUN_F_TSO4`, `TUN_F_TSO6` of `linux/if_tun.h`.
const TUN_OFFLOADS: libc::c_ulong = 7;

/// `ETHTOOL_STXCSUM` of `linux/ethtool.h`.
const ETHTOOL_STXCSUM: u32 = 0x17;
/// `ETHTOOL_SGRO` of `linux/ethtool.h`.
const ETHTOOL_SGRO: u32 = 0x2c;

/// `struct ethtool_value` of `linux/ethtool.h`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    value: u32,
}

fn request_for(device: &str) -> io::Result<libc::ifreq> {
    // SAFETY: `ifreq` consists of byte arrays, integers and a pointer, for all of which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero: the kernel expects a terminated name.
    if device.is_empty() || device.len() >= request.ifr_name.len() {
        let message = format!("device name {device:?}: must have 1 to 15 bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}

/// A socket of the namespace whose device is meant; its kind does not matter.
fn control_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    Ok(socket(
        AddressFamily::Inet,
        SockType::Datagram,
        flags,
        None,
    )?)
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_device_can_have_are_refused() {
        for name in ["", "sixteen-letters!"] {
            let error = set_tx_checksum(name, false).expect_err(name);
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        let error = set_tx_checksum("fc-no-such-dev", false).expect_err("no such device");
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }
}
