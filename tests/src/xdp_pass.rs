//! An XDP program that passes everything, on one device.
//!
//! Its use: what native XDP sends back by a veth (`XDP_TX`) is taken by the peer at once only if an XDP program is there,
//! too; else it waits in the peer's ring for the next ordinary packet. A network card has no such need.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;

use crate::{
    asm,
    netns::Namespace,
    rawbpf::{self, Hook, Kind},
};

/// `XDP_PASS` of `linux/bpf.h`.
const XDP_PASS: i32 = 2;

/// The program's link to the device; dropped, it leaves the device.
#[derive(Debug)]
pub struct XdpPass {
    _link: OwnedFd,
}

impl XdpPass {
    /// Puts the program on a device.
    pub fn attach(namespace: &Namespace, device: &str) -> Result<Self> {
        let program = rawbpf::load(Kind::XDP, &asm::trivial(XDP_PASS))?;
        let attach = || rawbpf::link(&program, if_nametoindex(device)?, Hook::Xdp);
        let link = namespace
            .run(attach)
            .with_context(|| format!("put an XDP program on {device} in {}", namespace.label()))?;
        Ok(Self { _link: link })
    }
}
