//! Packets as they pass the devices of a namespace: whole, from the IP header on.
//!
//! A socket of family `AF_PACKET` sees each packet once per device and direction: when a device hands it in, before any
//! program at its TC ingress, and when one is about to send it. What the kernel leaves to the device is not there yet in a
//! packet that is sent (segmentation, checksums): see [`crate::link::set_tx_offload`].

use std::{
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sys::socket::{
        AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
        sockopt,
    },
};

use crate::{netns::Namespace, poll};

/// Longest packet, also before segmentation.
const MAX_PACKET: usize = 65_575;
/// Bytes that may wait to be looked at.
const QUEUE: usize = 4 << 20;
/// Packets that a message lists when the one that is waited for does not come.
const MAX_SHOWN: usize = 8;

/// Which way a packet passed the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the device to the stack.
    In,
    /// From the stack to the device.
    Out,
}

/// A socket that sees what passes one device.
#[derive(Debug)]
pub struct Sniffer {
    socket: OwnedFd,
    ifindex: usize,
    label: String,
}

impl Sniffer {
    /// Sees all that passes `device` of this namespace from now on.
    pub fn open(namespace: &Namespace, device: &str) -> Result<Self> {
        let label = format!("{device} of {}", namespace.label());
        let open = || {
            let ifindex = if_nametoindex(device)?;
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            // A datagram socket of this family has no Ethernet header, whatever the device.
            let socket = socket(
                AddressFamily::Packet,
                SockType::Datagram,
                flags,
                SockProtocol::EthAll,
            )?;
            setsockopt(&socket, sockopt::RcvBufForce, &QUEUE)?;
            Ok::<_, Errno>((socket, ifindex))
        };
        let (socket, ifindex) = namespace
            .run(open)
            .with_context(|| format!("watch {label}"))?;
        Ok(Self {
            socket,
            ifindex: usize::try_from(ifindex)?,
            label,
        })
    }

    /// The next packet of this direction that `is_wanted` accepts; others are passed over.
    pub fn next(
        &self,
        direction: Direction,
        limit: Duration,
        what: &str,
        is_wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<u8>> {
        let mut others = Vec::new();
        let what = format!("{what} on {}", self.label);
        let result = poll::until(limit, &what, || {
            while let Some((seen, packet)) = self.receive()? {
                if seen == direction && is_wanted(&packet) {
                    return Ok(Some(packet));
                }
                others.push((seen, packet));
            }
            Ok(None)
        });
        result.map_err(|error| {
            let from = others.len().saturating_sub(MAX_SHOWN);
            let shown: Vec<String> = others[from..]
                .iter()
                .map(|(seen, packet)| format!("\n  {seen:?} {}", hex(packet)))
                .collect();
            error.context(format!(
                "{} other packets passed; the last:{}",
                others.len(),
                shown.concat()
            ))
        })
    }

    /// What has passed the device and has not been looked at yet.
    fn receive(&self) -> Result<Option<(Direction, Vec<u8>)>> {
        /// `PACKET_OUTGOING` of `linux/if_packet.h`.
        const OUTGOING: u8 = 4;
        let mut packet = vec![0; MAX_PACKET];
        loop {
            let (len, from) = match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut packet) {
                Ok(received) => received,
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => continue,
                Err(error) => bail!("watch {}: {error}", self.label),
            };
            let from = from.context("a packet socket says which device it means")?;
            if from.ifindex() != self.ifindex {
                continue;
            }
            packet.truncate(len);
            let direction = if from.pkttype() == OUTGOING {
                Direction::Out
            } else {
                Direction::In
            };
            return Ok(Some((direction, packet)));
        }
    }
}

/// The first bytes of a packet, for messages.
fn hex(packet: &[u8]) -> String {
    const SHOWN: usize = 64;
    let bytes: Vec<String> = packet
        .iter()
        .take(SHOWN)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{} bytes {}", packet.len(), bytes.concat())
}
