//! An Ethernet device whose far side is this process, with offloads: what the kernel has yet to sum up or to cut shows.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
};

use anyhow::{Context, Result, ensure};
use bytemuck::{Pod, Zeroable};
use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::{ioctl, netns::Namespace, packet::Frame};

/// `struct virtio_net_hdr` of `linux/virtio_net.h`, native byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Offload {
    /// 1: the checksum is partial.
    pub flags: u8,
    /// 1: TCP over IPv4, 4: TCP over IPv6, to be cut; 0: whole.
    pub gso_type: u8,
    /// Bytes of all headers.
    pub header_len: u16,
    /// Bytes of payload of each segment.
    pub gso_size: u16,
    /// Where the sum begins, bytes of the frame.
    pub sum_start: u16,
    /// Where it is to be written, bytes from there.
    pub sum_offset: u16,
}

/// Bytes of the header.
const HEADER: usize = size_of::<Offload>();
/// Longest frame with its header.
const MAX_FRAME: usize = 65_536 + HEADER;
/// A frame that has not come within this time does not come, milliseconds.
const PATIENCE: u16 = 10_000;

/// The far side; the device goes when it is dropped.
#[derive(Debug)]
pub struct Tap {
    file: File,
}

impl Tap {
    /// Makes the device, down and without addresses.
    pub fn new(namespace: &Namespace, device: &str) -> Result<Self> {
        let attached = namespace.run(|| {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(OFlag::O_NONBLOCK.bits())
                .open("/dev/net/tun")?;
            ioctl::tap_attach(&file, device).map(|()| file)
        });
        let file = attached.with_context(|| format!("make the TAP device {device}"))?;
        Ok(Self { file })
    }

    /// Sends a frame into the device.
    pub fn send(&self, offload: Offload, frame: &Frame) -> Result<()> {
        let bytes = [bytemuck::bytes_of(&offload), frame.bytes()].concat();
        let sent = (&self.file)
            .write(&bytes)
            .context("send into a TAP device")?;
        ensure!(
            sent == bytes.len(),
            "{sent} of {} bytes were sent",
            bytes.len()
        );
        Ok(())
    }

    /// The next frame that the device sends.
    pub fn receive(&self) -> Result<(Offload, Frame)> {
        let mut readable = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut readable, PollTimeout::from(PATIENCE))?;
        ensure!(ready == 1, "no frame came out of the TAP device");
        let mut bytes = vec![0; MAX_FRAME];
        let len = (&self.file).read(&mut bytes)?;
        bytes.truncate(len);
        ensure!(len >= HEADER, "a frame of {len} bytes");
        let frame = bytes.split_off(HEADER);
        Ok((bytemuck::pod_read_unaligned(&bytes), Frame(frame)))
    }
}
