//! What keeps one program on one device, also when no agent runs: a pinned link or, where the kernel has no links for TC, the
//! filter itself.
//!
//! Putting a program on a device is one operation, whatever was there: a link that an earlier agent left gets the new
//! program in place of the old one, with no packet in between that meets neither; one that was detached by force, or
//! whose pin is gone, is made again.

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    mem::ManuallyDrop,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use aya::{
    pin::PinError,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode,
        links::{FdLink, LinkError, PinnedLink},
        tc::{
            NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
        },
        xdp::XdpLink,
    },
    util::KernelVersion,
};

use super::{device::Device, filter, pin, qdisc};
use crate::{
    causes::with_causes,
    mended::{self, Thing},
};

/// The network namespace of this thread.
const NAMESPACE: &str = "/proc/thread-self/ns/net";
/// Priorities of our filters where links do not exist: before and behind what others leave to the kernel's
/// choice.
pub(super) const FIRST_PRIORITY: u16 = 1;
pub(super) const LAST_PRIORITY: u16 = u16::MAX;

/// How TC programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// By a link (Linux 6.6), which stays as long as it is pinned.
    Tcx,
    /// As a filter of the clsact qdisc, which stays on the device when the filter goes.
    Clsact,
}

impl Hook {
    /// What the running kernel has.
    pub fn of_this_kernel() -> Self {
        let has_tcx =
            KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0));
        if has_tcx { Self::Tcx } else { Self::Clsact }
    }
}

/// Why a program is not on a device.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// The clsact qdisc could not be added.
    #[error("cannot add the clsact qdisc")]
    Qdisc(#[source] TcError),
    /// The kernel refused.
    #[error(transparent)]
    Refused(#[from] ProgramError),
    /// The kernel made no link that could be kept.
    #[error("the kernel made no link")]
    NoLink(#[from] LinkError),
    /// The link cannot be kept.
    #[error("cannot pin the link")]
    Pin(#[from] PinError),
    /// The kernel refused what concerns a control group.
    #[error("the kernel refused")]
    Group(#[source] io::Error),
}

/// Where the links of one run directory are pinned: one file per program and device of this network namespace.
///
/// The numbers of devices are those of a namespace, and an agent may be started in another one than its predecessor; so both
/// are in a pin's name.
#[derive(Clone, Debug)]
pub struct Holds {
    dir: PathBuf,
    namespace: u64,
    hook: Hook,
    /// Tells the filters of agents of several run directories apart.
    handle: TcHandle,
    /// Whether links cannot be pinned for now, which was said.
    is_closed: Arc<AtomicBool>,
}

/// A program on a device. Dropped, it stays there.
#[derive(Debug)]
pub(super) struct Hold {
    /// The program.
    pub(super) program: &'static str,
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
    Link { link: FdLink, pin: PathBuf },
    Filter(ManuallyDrop<SchedClassifierLink>),
}

impl Holds {
    /// Of the links in a directory, which is made if need be; `owner` tells run directories apart.
    pub fn open(dir: &Path, owner: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            namespace: fs::metadata(NAMESPACE)?.ino(),
            hook: Hook::of_this_kernel(),
            handle: handle(owner),
            is_closed: Arc::default(),
        })
    }

    /// `place`: the device's number, or what stands for a control group.
    pub(super) fn pin(&self, program: &str, place: impl fmt::Display) -> PathBuf {
        let name = format!("{program}-{place}-{}", self.namespace);
        self.dir.join(name)
    }

    /// Puts a program for TC on a device, or in the place of `earlier`, or of what an earlier agent has left there.
    pub(super) fn put_tc(
        &self,
        classifier: &mut SchedClassifier,
        device: &Device,
        (program, direction): (&'static str, TcAttachType),
        earlier: Option<Hold>,
    ) -> Result<Hold, HoldError> {
        if self.hook == Hook::Clsact {
            return self.put_filter(classifier, device, (program, direction), earlier.is_some());
        }
        let pin = self.pin(program, device.index);
        let mut severed = None;
        if let Some(link) = take(earlier, &pin) {
            match SchedClassifierLink::try_from(link)
                .map_err(HoldError::from)
                .and_then(|link| Ok(classifier.attach_to_link(link)?))
            {
                Ok(id) => return self.keep(program, classifier.take_link(id)?.try_into()?, pin),
                Err(error) => severed = Some(error),
            }
        }
        clear(&pin);
        let order = match direction {
            TcAttachType::Ingress => LinkOrder::first(),
            _ => LinkOrder::last(),
        };
        let options = TcAttachOptions::TcxOrder(order);
        let id = classifier.attach_with_options(&device.name, direction, options)?;
        if let Some(error) = severed {
            put_back(device, program, &with_causes(&error));
        }
        self.keep(program, classifier.take_link(id)?.try_into()?, pin)
    }

    fn put_filter(
        &self,
        classifier: &mut SchedClassifier,
        device: &Device,
        (program, direction): (&'static str, TcAttachType),
        was_there: bool,
    ) -> Result<Hold, HoldError> {
        let held = |link| Hold {
            program,
            kept: Kept::Filter(ManuallyDrop::new(link)),
        };
        let left = self.filter(&device.name, direction);
        // Else it is the first one, or somebody took away what was there.
        if let Ok(left) = left
            && let Ok(id) = classifier.attach_to_link(left)
        {
            return Ok(held(classifier.take_link(id)?));
        }
        match qdisc_add_clsact(&device.name) {
            Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) => return Err(HoldError::Qdisc(error)),
            Ok(()) => qdisc::made(&self.dir, device.index, self.namespace),
        }
        let options = NlOptions {
            priority: priority(direction),
            handle: self.handle,
            ..NlOptions::default()
        };
        let options = TcAttachOptions::Netlink(options);
        let id = classifier.attach_with_options(&device.name, direction, options)?;
        if was_there {
            put_back(device, program, "its filter was gone");
        }
        Ok(held(classifier.take_link(id)?))
    }

    /// Our filter on a device, whether or not there is one.
    fn filter(&self, device: &str, direction: TcAttachType) -> io::Result<SchedClassifierLink> {
        SchedClassifierLink::attached(device, direction, priority(direction), self.handle, None)
    }

    /// Puts a program for XDP on a device, or in the place of an earlier one.
    pub(super) fn put_xdp(
        &self,
        xdp: &mut Xdp,
        device: &Device,
        (program, kind): (&'static str, XdpMode),
        earlier: Option<Hold>,
    ) -> Result<Hold, HoldError> {
        let pin = self.pin(program, device.index);
        let mut severed = None;
        if let Some(link) = take(earlier, &pin) {
            match XdpLink::try_from(link)
                .map_err(HoldError::from)
                .and_then(|link| Ok(xdp.attach_to_link(link)?))
            {
                Ok(id) => return self.keep(program, xdp.take_link(id)?.try_into()?, pin),
                Err(error) => severed = Some(error),
            }
        }
        clear(&pin);
        let id = xdp.attach_to_if_index(device.index, kind)?;
        if let Some(error) = severed {
            put_back(device, program, &with_causes(&error));
        }
        // A link that the kernel does not know as one, but as a property of the device, goes here.
        self.keep(program, xdp.take_link(id)?.try_into()?, pin)
    }

    /// Keeps a link over the agent's end. Where it cannot be pinned it serves until then, and is pinned later.
    fn keep(&self, program: &'static str, link: FdLink, pin: PathBuf) -> Result<Hold, HoldError> {
        let link = if pin.exists() || !self.is_open() {
            link
        } else {
            link.pin(&pin)?.into()
        };
        Ok(Hold {
            program,
            kept: Kept::Link { link, pin },
        })
    }

    /// Whether links can be pinned, with a line in the log when that changes. Asked first, since a link that cannot be pinned is
    /// lost in the attempt.
    pub(super) fn is_open(&self) -> bool {
        let probe = self.dir.join("probe");
        let made = match fs::create_dir(&probe) {
            // An agent that was killed left it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        };
        let result = made.and_then(|()| fs::remove_dir(&probe));
        let was_closed = self.is_closed.swap(result.is_err(), Ordering::Relaxed);
        let dir = self.dir.display();
        match &result {
            Err(error) if !was_closed => tracing::warn!(
                %dir, %error,
                "cannot pin programs; those put on devices meanwhile go with the agent, until that is mended"
            ),
            Ok(()) if was_closed => tracing::info!(%dir, "programs can be pinned again"),
            _ => {}
        }
        result.is_ok()
    }

    /// Takes programs off: all whose pins are not in `kept`, and our filters on `devices`; returns how many pins there were.
    pub(super) fn sweep(&self, kept: &BTreeSet<PathBuf>, devices: &[&str]) -> io::Result<usize> {
        let mut n_swept = 0;
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.is_dir() {
                // An agent that was killed while it asked whether links can be pinned, or a device that has gone.
                if !qdisc::is_needed(&path, self.namespace) {
                    fs::remove_dir(&path)?;
                }
            } else if !kept.contains(&path) {
                pin::remove_link(&path)?;
                n_swept += 1;
            }
        }
        if self.hook == Hook::Clsact {
            for device in devices {
                for direction in filter::DIRECTIONS {
                    clear_filter(device, direction, self.handle);
                }
            }
        }
        Ok(n_swept)
    }
}

impl Hold {
    /// Its pin, if it has one.
    pub(super) fn pin(&self) -> Option<&Path> {
        match &self.kept {
            Kept::Link { pin, .. } => Some(pin),
            Kept::Filter(_) => None,
        }
    }

    /// Takes the program off the device, which may be gone.
    pub(super) fn release(self) {
        match self.kept {
            Kept::Link { pin, .. } => clear(&pin),
            Kept::Filter(link) => drop(ManuallyDrop::into_inner(link)),
        }
    }
}

/// The link that is held, else the one that is pinned.
fn take(earlier: Option<Hold>, pin: &Path) -> Option<FdLink> {
    match earlier.map(|hold| hold.kept) {
        Some(Kept::Link { link, .. }) => Some(link),
        _ => PinnedLink::from_pin(pin).ok().map(FdLink::from),
    }
}

/// Says that a program is put on a device anew.
fn put_back(device: &Device, program: &str, error: &str) {
    mended::count(Thing::Program);
    let device = &device.name;
    tracing::warn!(
        device,
        program,
        error,
        "the program was taken off the device; put back"
    );
}

/// Removes a pin, and takes off what it keeps.
pub(super) fn clear(pin: &Path) {
    if let Err(error) = pin::remove_link(pin) {
        let pin = pin.display();
        tracing::warn!(%pin, %error, "cannot remove a pin; `fulcrum cleanup` does");
    }
}

pub(super) fn priority(direction: TcAttachType) -> u16 {
    match direction {
        TcAttachType::Ingress => FIRST_PRIORITY,
        _ => LAST_PRIORITY,
    }
}

/// One of 65,535 numbers by the run directory: the FNV-1a hash of its path, folded.
fn handle(owner: &Path) -> TcHandle {
    let bytes = owner.as_os_str().as_encoded_bytes().iter();
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    let folded = (hash >> 16) ^ (hash & 0xffff);
    TcHandle::from(folded.max(1))
}

/// The filters that agents of `owner`, whose links are pinned in `links`, left on devices of this network namespace; none where
/// the kernel has links.
pub(crate) fn filters_left(links: &Path, owner: &Path) -> io::Result<Vec<filter::Left>> {
    match Hook::of_this_kernel() {
        Hook::Tcx => Ok(Vec::new()),
        Hook::Clsact => {
            let namespace = fs::metadata(NAMESPACE)?.ino();
            let note = |device| qdisc::note(links, device, namespace);
            filter::Left::find(handle(owner).into(), note)
        }
    }
}

/// Dropped, a filter is detached; where there is none the kernel says so, and nobody needs to know.
pub(super) fn clear_filter(device: &str, direction: TcAttachType, handle: TcHandle) {
    drop(SchedClassifierLink::attached(
        device,
        direction,
        priority(direction),
        handle,
        None,
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_named_by_program_device_and_namespace() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let holds = Holds::open(&dir.path().join("links"), Path::new("/run/x")).expect("writable");
        let pin = holds.pin("uplink", 7);
        let namespace = fs::metadata(NAMESPACE).expect("there is one").ino();
        assert_eq!(pin, dir.path().join(format!("links/uplink-7-{namespace}")));
    }

    #[test]
    fn run_directories_have_filters_of_their_own() {
        let handles =
            ["/run/fulcrum", "/run/fulcrum-a", "/run/b"].map(|path| handle(Path::new(path)));
        assert_ne!(handles[0], handles[1]);
        assert_ne!(handles[1], handles[2]);
        assert!(
            handles
                .iter()
                .all(|handle| (1..=0xffff).contains(&u32::from(*handle)))
        );
    }

    #[test]
    fn what_is_not_kept_is_swept() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let holds = Holds::open(dir.path(), Path::new("/run/x")).expect("writable");
        let [kept, left] = ["pod", "uplink"].map(|program| holds.pin(program, 3));
        for pin in [&kept, &left, &dir.path().join("pod-3-1")] {
            fs::write(pin, "").expect("writable");
        }
        let n_swept = holds.sweep(&BTreeSet::from([kept.clone()]), &[]);
        assert_eq!(n_swept.expect("writable"), 2);
        assert!(kept.exists() && !left.exists());
    }
}
