//! The datapath in the kernel: loads the object, pins its maps, puts its programs on devices.
//!
//! Knows nothing of services; what the maps contain is [`crate::apply`]'s. Tables and programs stay where they are when the
//! agent ends, pinned for the next one ([`inherit`], [`hold`]).

pub(crate) mod ability;
pub mod attach;
pub(crate) mod attribute;
#[cfg(feature = "bpf-log")]
mod bpf_log;
pub mod cgroup;
pub(crate) mod channel;
pub(crate) mod choice;
pub mod device;
pub mod facts;
pub(crate) mod filter;
mod form;
mod former;
pub mod growth;
pub mod hold;
pub mod inherit;
mod larger;
pub mod netlink;
pub mod object;
pub mod pair;
pub mod pattern;
pub mod peers;
pub mod pin;
mod qdisc;
mod redirects;
pub mod route;
pub mod sockets;
pub mod sysctl;
pub mod tracer;
pub mod uplink;
mod verifier;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use lb_common::abi::NodeConfig;

use crate::{apply::MapError, config::Modes};
use attach::{AttachError, Attachment, Needs, Programs};
use cgroup::ControlGroup;
use device::{Device, Role};
use former::FormerError;
use growth::{Begun, Carrier, Origin};
use hold::Holds;
use inherit::{InheritError, Inheritance};
use object::{Facts, ObjectError};
use peers::{Obstacle, Peers};
use pin::{PinDirectory, PinError};
use redirects::Redirects;
use sockets::SocketPrograms;
use tracer::{TraceError, Tracer};

/// Programs and maps, ready for devices.
#[derive(Debug)]
pub struct Datapath {
    programs: Programs,
    pins: PinDirectory,
    holds: Holds,
    origin: Origin,
    unfinished: Option<Unfinished>,
    redirects: Redirects,
    peers: Peers,
    /// Until somebody takes it.
    tracer: Option<Tracer>,
}

/// A growth that an earlier agent began; its programs are loaded.
#[derive(Debug)]
pub struct Unfinished {
    /// How far it was.
    pub begun: Begun,
    /// What carries flows over, in the phase that has it.
    pub carrier: Option<Carrier>,
    /// What the programs of its phase were loaded with.
    pub node: NodeConfig,
}

/// Why there is no datapath.
#[derive(Debug, thiserror::Error)]
pub enum LoaderError {
    /// No place to pin the maps.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// What an earlier agent left is in the way.
    #[error(transparent)]
    Inherit(#[from] InheritError),
    /// Programs could not be kept on devices.
    #[error("cannot use the directory of pinned links {path}")]
    Links {
        /// The directory.
        path: PathBuf,
        /// The answer.
        #[source]
        source: std::io::Error,
    },
    /// What the release before left cannot be taken over.
    #[error(transparent)]
    Former(#[from] FormerError),
    /// The object does not load.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A program does not load.
    #[error(transparent)]
    Program(#[from] AttachError),
    /// Nobody could be told what becomes of packets.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// Readers of the tables could not be told what they mean.
    #[error("cannot pin the node's facts")]
    Facts(#[from] facts::PinFactsError),
    /// The object is not the one that this binary was made for.
    #[error("the BPF object has no program {0:?}")]
    NoProgram(&'static str),
    /// The tables of devices that XDP may send by, and that packets may go past.
    #[error(transparent)]
    Devices(#[from] MapError),
    /// The flow table could not grow.
    #[error(transparent)]
    Growth(#[from] growth::GrowthError),
}

impl Datapath {
    /// Loads the object with `facts` on the maps that an earlier agent of `run_dir` left pinned, as far as they fit; attaches
    /// nothing yet.
    pub fn load(
        bpffs: &Path,
        run_dir: &Path,
        facts: Facts,
        modes: Modes,
    ) -> Result<Self, LoaderError> {
        let mut pins = PinDirectory::open(bpffs, run_dir)?;
        let holds = Holds::open(&pins.links(), run_dir).map_err(|source| LoaderError::Links {
            path: pins.links(),
            source,
        })?;
        former::adopt(pins.maps())?;
        pin::abandon(&pin::larger(pins.maps()));
        let inherited = Inheritance::enter(pins.maps(), &object::Terms::of(&facts))?;
        let begun = growth::begun(pins.maps(), &inherited);
        let sizes = inherited.flow_table_sizes(facts.flow_table.size);
        let mut node = object::node_config(facts, sizes, inherited.hash_key())?;
        // Connections go on as they were opened, and lie as they were laid.
        node.features |= inherited.features();
        let origin = Origin {
            node,
            maps: pins.maps().to_owned(),
            tracer: pins.tracer(),
            modes,
            needs: Needs::default(),
            ifindex: facts.host.near,
            terms: object::Terms::of(&facts),
        };
        let stage = match begun {
            None => origin.load_plain()?,
            Some(begun) => {
                let Begun {
                    phase,
                    family,
                    size,
                } = begun;
                tracing::info!(%family, ?phase, size, "an earlier agent let the flow table grow; going on");
                origin.load(phase, family, size)?
            }
        };
        facts::replace(&origin.node, &pin::facts(pins.maps()))?;
        let redirects = Redirects::open(pins.maps())?;
        let peers = Peers::open(pins.maps())?;
        pins.keep();
        Ok(Self {
            redirects,
            peers,
            programs: stage.programs,
            pins,
            holds,
            origin,
            tracer: Some(stage.tracer),
            unfinished: begun.map(|begun| Unfinished {
                begun,
                carrier: stage.carrier,
                node: stage.node,
            }),
        })
    }

    /// A growth that is to be finished, with what that takes; once, and before any other.
    pub fn take_unfinished(&mut self) -> Option<Unfinished> {
        self.unfinished.take()
    }

    /// What tells what would become of a packet; once.
    pub fn take_tracer(&mut self) -> Option<Tracer> {
        self.tracer.take()
    }

    /// The directory where the maps are pinned.
    pub fn maps(&self) -> &Path {
        self.pins.maps()
    }

    /// What programs must be loaded from to take the place of these.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Uses other programs from now on, for what is attached already too as soon as it is attached again.
    pub fn switch(&mut self, programs: Programs) {
        self.programs = programs;
    }

    /// Puts the programs for this role on a device: see [`Programs::attach`].
    pub fn attach(
        &mut self,
        device: &Device,
        role: Role,
        earlier: Option<Attachment>,
    ) -> Result<Attachment, AttachError> {
        self.programs.attach(&self.holds, device, role, earlier)
    }

    /// Puts the programs for sockets in a control group: see [`Programs::meet_sockets`].
    pub fn meet_sockets(
        &mut self,
        group: &ControlGroup,
        earlier: Option<SocketPrograms>,
    ) -> Result<SocketPrograms, AttachError> {
        self.programs.meet_sockets(&self.holds, group, earlier)
    }

    /// Lets XDP send by those of these uplinks whose drivers can.
    pub fn redirect_between(&mut self, uplinks: &BTreeSet<u32>) -> Result<(), MapError> {
        self.redirects.follow(uplinks)
    }

    /// Why packets to the pod behind a device, which has our programs, shall not go past it.
    pub fn obstacle(&self, device: &Device) -> Option<Obstacle> {
        peers::obstacle(device, self.programs.at_egress())
    }

    /// Lets packets to pods go past these devices and no others.
    pub fn go_past(&mut self, devices: &BTreeSet<u32>) -> Result<(), MapError> {
        self.peers.follow(devices)
    }

    /// Takes programs of earlier agents off all devices that they are not wanted on any more: `kept` are the attachments that
    /// are, `others` the names of devices that have none; and off control groups but for `sockets`.
    pub fn sweep<'a>(
        &self,
        kept: impl Iterator<Item = &'a Attachment>,
        sockets: Option<&SocketPrograms>,
        others: &[&str],
    ) {
        let mut pins = BTreeSet::new();
        kept.for_each(|attachment| attachment.note_pins(&mut pins));
        if let Some(sockets) = sockets {
            sockets.note_pins(&mut pins);
        }
        match self.holds.sweep(&pins, others) {
            Ok(0) => {}
            Ok(programs) => {
                tracing::info!(programs, "took programs of an earlier agent off devices");
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take programs of an earlier agent off devices");
            }
        }
    }
}
