//! The datapath in the kernel: loads the object, pins its maps, puts its programs on devices.
//!
//! Knows nothing of services; what the maps contain is [`crate::apply`]'s. The tables stay pinned for the next agent
//! ([`inherit`]); everything else that it made goes when the [`Datapath`] and its [`attach::Attachment`]s are dropped.

pub mod attach;
#[cfg(feature = "bpf-log")]
mod bpf_log;
pub(crate) mod channel;
pub mod device;
pub mod facts;
mod form;
pub mod growth;
pub mod inherit;
pub mod netlink;
pub mod object;
pub mod pair;
pub mod pattern;
pub mod pin;
mod resize;
pub mod route;
pub mod sysctl;
pub mod tracer;
pub mod uplink;

use std::path::Path;

use crate::config::Mode;
use attach::{AttachError, Attachment, Programs};
use device::{Device, Role};
use growth::Origin;
use inherit::{InheritError, Inheritance};
use object::{Facts, ObjectError};
use pin::{PinDirectory, PinError};
use tracer::{TraceError, Tracer};

/// Programs and maps, ready for devices.
#[derive(Debug)]
pub struct Datapath {
    programs: Programs,
    pins: PinDirectory,
    origin: Origin,
    /// Until somebody takes it.
    tracer: Option<Tracer>,
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
        mode: Mode,
    ) -> Result<Self, LoaderError> {
        let mut pins = PinDirectory::open(bpffs, run_dir)?;
        let mut inherited = Inheritance::enter(pins.maps(), &facts.flows)?;
        resize::settle(&mut inherited, facts, pins.maps());
        let ground = inherit::ground(&inherited, facts.flow_table.size, pins.maps());
        let node = object::node_config(facts, ground.flow_tables, inherited.hash_key())?;
        let mut ebpf = object::load_on(node, facts.flows.affinity_size, &ground)?;
        #[cfg(feature = "bpf-log")]
        bpf_log::forward(&mut ebpf);
        facts::replace(&node, &pin::facts(pins.maps()))?;
        let tracer = Tracer::pinned(&mut ebpf, &pins.tracer(), facts.host.near)?;
        let origin = Origin {
            node,
            maps: pins.maps().to_owned(),
            tracer: pins.tracer(),
            mode,
            ifindex: facts.host.near,
        };
        let programs = Programs::load(ebpf, mode)?;
        pins.keep();
        Ok(Self {
            programs,
            pins,
            origin,
            tracer: Some(tracer),
        })
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

    /// Uses other programs from now on, for what is attached already too: see [`Datapath::take_over`].
    pub fn switch(&mut self, programs: Programs) {
        self.programs = programs;
    }

    /// Puts the programs at hand in the place of the earlier ones on a device.
    pub fn take_over(&mut self, attachment: Attachment) -> Result<Attachment, AttachError> {
        self.programs.take_over(attachment)
    }

    /// Puts the programs for this role on a device.
    pub fn attach(&mut self, device: &Device, role: Role) -> Result<Attachment, AttachError> {
        self.programs.attach(device, role)
    }
}
