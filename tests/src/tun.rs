//! A point-to-point link between two namespaces without Ethernet header: two TUN devices and a thread that carries
//! packets between them.
//!
//! Stands for the tunnels of overlay networks that begin with the IP header. The thread ends with the value; nothing is
//! reordered, and a packet that the receiving device does not take is lost, as on any link.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, PipeWriter, Read, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::{ioctl, netns::Namespace};

/// Longest packet that a device can hand over.
const MAX_PACKET: usize = 65_536;

/// One end of a [`Tun`].
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// The namespace.
    pub namespace: &'a Namespace,
    /// The name of the device that is made in it.
    pub device: &'a str,
}

/// A link of two TUN devices; they go when it is dropped.
#[derive(Debug)]
pub struct Tun {
    pump: Option<JoinHandle<()>>,
    /// The pump ends when this is closed.
    stop: Option<PipeWriter>,
}

impl Tun {
    /// Makes both devices, down and without addresses, and starts to carry packets.
    pub fn new(a: End<'_>, b: End<'_>) -> Result<Self> {
        let (mut files, (stopped, stop)) = (
            [open(a)?, open(b)?],
            std::io::pipe().context("make a pipe")?,
        );
        let pump = thread::Builder::new()
            .name("tun".to_owned())
            .spawn(move || carry(&mut files, stopped.as_fd()))
            .context("start a thread for a TUN link")?;
        Ok(Self {
            pump: Some(pump),
            stop: Some(stop),
        })
    }
}

impl Drop for Tun {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(pump) = self.pump.take() {
            // It has nothing to tell: a link that broke shows in the test that used it.
            let _ = pump.join();
        }
    }
}

fn open(end: End<'_>) -> Result<File> {
    let attach = || {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open("/dev/net/tun")?;
        ioctl::tun_attach(&file, end.device)?;
        Ok::<_, std::io::Error>(file)
    };
    let label = end.namespace.label();
    end.namespace.run(attach).with_context(|| {
        format!(
            "make the TUN device {} in {label} from /dev/net/tun",
            end.device
        )
    })
}

/// Carries packets both ways until `stop` is readable, which it is when its writer is closed.
fn carry(files: &mut [File; 2], stop: std::os::fd::BorrowedFd<'_>) {
    let mut packet = vec![0; MAX_PACKET];
    loop {
        let [a, b] = &mut *files;
        let mut ready = [stop, a.as_fd(), b.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return,
        }
        let [is_stopped, from_a, from_b] = ready.map(|fd| fd.any().unwrap_or(false));
        if is_stopped {
            return;
        }
        if from_a {
            drain(a, b, &mut packet);
        }
        if from_b {
            drain(b, a, &mut packet);
        }
    }
}

/// Carries what there is; bounded, so that the other direction has its turn.
fn drain(from: &mut File, to: &mut File, packet: &mut [u8]) {
    const AT_ONCE: usize = 64;
    for _ in 0..AT_ONCE {
        match from.read(packet) {
            // A device that is down refuses the packet: it is lost, as on any link.
            Ok(len) => drop(to.write(&packet[..len])),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Nothing left, or the device is down.
            Err(_) => return,
        }
    }
}
