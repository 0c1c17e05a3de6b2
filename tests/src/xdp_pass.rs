//! An XDP program that passes everything, on one device.
//!
//! Its use: what native XDP sends back by a veth (`XDP_TX`) is taken by the peer at once only if an XDP program is there,
//! too; else it waits in the peer's ring for the next ordinary packet. A network card has no such need.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;

use crate::{
    asm,
    netns::Namespace,
    rawbpf::{self, Kind},
};

/// `XDP_PASS` of `linux/bpf.h`.
const XDP_PASS: i32 = 2;
/// `BPF_LINK_CREATE` of `linux/bpf.h`.
const LINK_CREATE: libc::c_long = 28;
/// `BPF_XDP` of `linux/bpf.h`.
const ATTACH_XDP: u32 = 37;
/// `XDP_FLAGS_DRV_MODE` of `linux/if_link.h`.
const NATIVE: u32 = 1 << 2;

/// The program's link to the device; dropped, it leaves the device.
#[derive(Debug)]
pub struct XdpPass {
    _link: OwnedFd,
}

impl XdpPass {
    /// Puts the program on a device.
    pub fn attach(namespace: &Namespace, device: &str) -> Result<Self> {
        let program = rawbpf::load(Kind::XDP, &asm::trivial(XDP_PASS))?;
        let attach = || link(&program, if_nametoindex(device)?);
        let link = namespace
            .run(attach)
            .with_context(|| format!("put an XDP program on {device} in {}", namespace.label()))?;
        Ok(Self { _link: link })
    }
}

/// The part of `union bpf_attr` that links a program to a device.
#[repr(C)]
struct LinkCreate {
    prog_fd: i32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

fn link(program: &OwnedFd, ifindex: u32) -> io::Result<OwnedFd> {
    let attr = LinkCreate {
        prog_fd: program.as_raw_fd(),
        target_ifindex: ifindex,
        attach_type: ATTACH_XDP,
        flags: NATIVE,
    };
    // SAFETY: the kernel reads as many bytes of `attr` as it is told, which are all, and they hold no addresses.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            LINK_CREATE,
            &raw const attr,
            size_of_val(&attr),
        )
    };
    let fd = i32::try_from(result).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the command returned a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
