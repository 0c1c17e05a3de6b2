//! Programs of a control group: they meet its sockets when these dial, and when they ask whom they have reached.
//!
//! As on devices ([`super::hold`]) they stay when the agent ends, pinned; the next one puts its own in their place by a link
//! update. Programs that others have for the same group are left alone: the kernel runs all of them.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
};

use aya_obj::generated::bpf_attach_type::{
    self, BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET4_GETPEERNAME, BPF_CGROUP_INET6_CONNECT,
    BPF_CGROUP_INET6_GETPEERNAME, BPF_CGROUP_UDP4_RECVMSG, BPF_CGROUP_UDP4_SENDMSG,
    BPF_CGROUP_UDP6_RECVMSG, BPF_CGROUP_UDP6_SENDMSG,
};

use super::{
    attach::{AttachError, Programs},
    cgroup::ControlGroup,
    hold::{self, HoldError, Holds},
};
use crate::{
    causes::with_causes,
    mended::{self, Thing},
    sys::{self, GroupLink},
};

/// Programs of the object, and where in the kernel each belongs. Those that tell sockets whom they have reached come first: at
/// no moment has a socket a backend that it is told of by its own address.
pub(super) const PROGRAMS: [(&str, bpf_attach_type); 8] = [
    ("getpeername4", BPF_CGROUP_INET4_GETPEERNAME),
    ("getpeername6", BPF_CGROUP_INET6_GETPEERNAME),
    ("recvmsg4", BPF_CGROUP_UDP4_RECVMSG),
    ("recvmsg6", BPF_CGROUP_UDP6_RECVMSG),
    ("sendmsg4", BPF_CGROUP_UDP4_SENDMSG),
    ("sendmsg6", BPF_CGROUP_UDP6_SENDMSG),
    ("connect4", BPF_CGROUP_INET4_CONNECT),
    ("connect6", BPF_CGROUP_INET6_CONNECT),
];

/// All of them in one control group. Dropped, they stay there.
#[derive(Debug)]
pub struct SocketPrograms {
    held: Vec<Held>,
}

#[derive(Debug)]
struct Held {
    link: OwnedFd,
    pin: PathBuf,
}

impl SocketPrograms {
    /// Takes the programs off the control group, which may be gone; those that give backends first.
    pub fn release(self) {
        for held in self.held.into_iter().rev() {
            hold::clear(&held.pin);
        }
    }

    /// Notes the pins that keep the programs where they are.
    pub fn note_pins(&self, pins: &mut BTreeSet<PathBuf>) {
        pins.extend(self.held.iter().map(|held| held.pin.clone()));
    }
}

impl Programs {
    /// Puts all of them in a control group; in the place of those of `earlier`, or of those that an earlier agent has left. What
    /// is in its place is left alone.
    ///
    /// # Errors
    /// The kernel refused: then none of them is left.
    pub fn meet_sockets(
        &mut self,
        holds: &Holds,
        group: &ControlGroup,
        earlier: Option<SocketPrograms>,
    ) -> Result<SocketPrograms, AttachError> {
        let mut earlier = earlier.map(|earlier| earlier.held).unwrap_or_default();
        earlier.reverse();
        let mut put = SocketPrograms { held: Vec::new() };
        for (name, hook) in PROGRAMS {
            let result = self.put(holds, group, (name, hook), earlier.pop());
            match result {
                Ok(held) => put.held.push(held),
                Err(error) => {
                    put.release();
                    earlier.reverse();
                    SocketPrograms { held: earlier }.release();
                    return Err(error);
                }
            }
        }
        Ok(put)
    }

    fn put(
        &mut self,
        holds: &Holds,
        group: &ControlGroup,
        (name, hook): (&'static str, bpf_attach_type),
        earlier: Option<Held>,
    ) -> Result<Held, AttachError> {
        let program = self.for_sockets(name)?;
        let refused = |source: io::Error| AttachError::Attach {
            name,
            source: HoldError::Group(source),
        };
        let id = program
            .info()
            .map_err(|source| AttachError::Load { name, source })?
            .id();
        let program = program
            .fd()
            .map_err(|source| AttachError::Load { name, source })?;
        let pin = holds.pin(name, format_args!("cgroup{}", group.id()));
        let wanted = GroupLink {
            program: id,
            group: group.id(),
        };
        let link = match earlier {
            Some(held) if held.pin == pin => Some(held.link),
            other => {
                // Another group's, which is gone or not asked for any more.
                if let Some(held) = other {
                    hold::clear(&held.pin);
                }
                sys::open_link(&pin).ok()
            }
        };
        let mut severed = None;
        if let Some(link) = link {
            let updated = match sys::group_link(link.as_fd()) {
                Ok(found) if found == wanted => Ok(()),
                _ => sys::update_link(link.as_fd(), program.as_fd()),
            };
            match updated {
                Ok(()) => return holds.keep_group(link, pin).map_err(refused).map(Held::from),
                Err(error) => severed = Some(error),
            }
        }
        hold::clear(&pin);
        let link =
            sys::link_to_group(program.as_fd(), group.as_fd(), hook as u32).map_err(refused)?;
        if let Some(error) = severed {
            mended::count(Thing::Program);
            let (group, error) = (group.dir().display(), with_causes(&error));
            tracing::warn!(%group, program = name, error, "the program was taken off the control group; put back");
        }
        holds.keep_group(link, pin).map_err(refused).map(Held::from)
    }
}

impl From<(OwnedFd, PathBuf)> for Held {
    fn from((link, pin): (OwnedFd, PathBuf)) -> Self {
        Self { link, pin }
    }
}

impl Holds {
    /// Keeps a control group's link over the agent's end; as [`Holds::keep`].
    fn keep_group(&self, link: OwnedFd, pin: PathBuf) -> io::Result<(OwnedFd, PathBuf)> {
        if !pin.exists() && self.is_open() {
            sys::pin(link.as_fd(), &pin)?;
        }
        Ok((link, pin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_tells_is_there_before_whoever_gives() {
        let gives = |name: &str| name.starts_with("connect") || name.starts_with("sendmsg");
        assert!(PROGRAMS.is_sorted_by_key(|(name, _)| gives(name)));
    }
}
