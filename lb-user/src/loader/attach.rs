//! Programs on devices: which program a device takes, and by which hook.
//!
//! An [`Attachment`] is the only thing that keeps a program on a device: dropped, it detaches. Other
//! programs on the device are left alone; ours is the first at ingress.

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode,
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, qdisc_add_clsact},
        xdp::XdpLink,
    },
    util::KernelVersion,
};

use super::device::{Device, Layer, Role};
use crate::{causes::with_causes, config::Mode};

/// Names of the programs in the object.
mod program {
    pub(super) const POD: &str = "pod";
    pub(super) const UPLINK: &str = "uplink";
    pub(super) const UPLINK_L3: &str = "uplink_l3";
    pub(super) const XDP_UPLINK: &str = "xdp_uplink";
}

/// Priority of our filter where links do not exist: before what others leave to the kernel's choice.
const FILTER_PRIORITY: u16 = 1;

/// The loaded programs.
#[derive(Debug)]
pub struct Programs {
    ebpf: Ebpf,
    hook: Hook,
    mode: Mode,
}

/// How TC programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// By a link (Linux 6.6): goes with the process that holds it.
    Tcx,
    /// As a filter of the clsact qdisc, which stays on the device when the filter goes.
    Clsact,
}

/// Our programs on one device, until dropped.
#[derive(Debug)]
pub struct Attachment {
    /// Held for its drop.
    _tc: SchedClassifierLink,
    xdp: Option<XdpLink>,
}

/// Why the programs cannot be used, or not on this device.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The object is not the one that this binary was made for.
    #[error("the BPF object has no program {name:?} of the right type")]
    NoProgram {
        /// The program.
        name: &'static str,
    },
    /// The verifier refused it.
    #[error("cannot load the program {name:?}")]
    Load {
        /// The program.
        name: &'static str,
        /// The verifier's reason.
        #[source]
        source: ProgramError,
    },
    /// No program knows what the packets of this device begin with.
    #[error(
        "no program for {} devices whose packets begin with {layer}; leave it out by --uplink or --pod-device",
        role.name()
    )]
    Unsupported {
        /// What the device would be.
        role: Role,
        /// What its packets begin with.
        layer: Layer,
    },
    /// The clsact qdisc could not be added.
    #[error("cannot add the clsact qdisc")]
    Qdisc(#[source] TcError),
    /// The kernel refused.
    #[error("cannot attach the program {name:?}")]
    Attach {
        /// The program.
        name: &'static str,
        /// The kernel's reason.
        #[source]
        source: ProgramError,
    },
}

impl Programs {
    /// Has the verifier load what `mode` needs.
    pub fn load(mut ebpf: Ebpf, mode: Mode) -> Result<Self, AttachError> {
        for name in [program::POD, program::UPLINK, program::UPLINK_L3] {
            classifier(&mut ebpf, name)?
                .load()
                .map_err(|source| AttachError::Load { name, source })?;
        }
        if mode == Mode::Xdp {
            let name = program::XDP_UPLINK;
            xdp(&mut ebpf)?
                .load()
                .map_err(|source| AttachError::Load { name, source })?;
        }
        Ok(Self {
            ebpf,
            hook: Hook::of_this_kernel(),
            mode,
        })
    }

    /// Attaches what `device` takes in this role.
    ///
    /// Native XDP that the device does not do is a warning: TC does the same work.
    pub fn attach(&mut self, device: &Device, role: Role) -> Result<Attachment, AttachError> {
        let name = program_for(device.layer, role)?;
        let options = self.hook.options(&device.name)?;
        let refused = |source| AttachError::Attach { name, source };
        let classifier = classifier(&mut self.ebpf, name)?;
        let link = classifier
            .attach_with_options(&device.name, TcAttachType::Ingress, options)
            .map_err(refused)?;
        let tc = classifier.take_link(link).map_err(refused)?;
        let wants_xdp =
            self.mode == Mode::Xdp && role == Role::Uplink && device.layer == Layer::Ethernet;
        let xdp = if wants_xdp {
            self.attach_xdp(device)
        } else {
            None
        };
        Ok(Attachment { _tc: tc, xdp })
    }

    fn attach_xdp(&mut self, device: &Device) -> Option<XdpLink> {
        let attached = xdp(&mut self.ebpf).and_then(|program| {
            let refused = |source| AttachError::Attach {
                name: program::XDP_UPLINK,
                source,
            };
            let link = program
                .attach_to_if_index(device.index, XdpMode::Driver)
                .map_err(refused)?;
            program.take_link(link).map_err(refused)
        });
        match attached {
            Ok(link) => Some(link),
            Err(error) => {
                let reason = with_causes(&error);
                tracing::warn!(
                    device = device.name,
                    reason,
                    "no native XDP; TC alone serves the uplink"
                );
                None
            }
        }
    }
}

impl Attachment {
    /// The hooks in use, as `fulcrum status` prints them.
    pub fn hooks(&self) -> &'static str {
        if self.xdp.is_some() { "tc+xdp" } else { "tc" }
    }
}

impl Hook {
    /// What the running kernel has.
    pub fn of_this_kernel() -> Self {
        let has_tcx =
            KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0));
        if has_tcx { Self::Tcx } else { Self::Clsact }
    }

    fn options(self, device: &str) -> Result<TcAttachOptions, AttachError> {
        match self {
            Self::Tcx => Ok(TcAttachOptions::TcxOrder(LinkOrder::first())),
            Self::Clsact => {
                match qdisc_add_clsact(device) {
                    Ok(()) => {}
                    Err(TcError::NetlinkError(error))
                        if error.raw_os_error() == Some(libc::EEXIST) => {}
                    Err(error) => return Err(AttachError::Qdisc(error)),
                }
                let options = NlOptions {
                    priority: FILTER_PRIORITY,
                    ..NlOptions::default()
                };
                Ok(TcAttachOptions::Netlink(options))
            }
        }
    }
}

fn program_for(layer: Layer, role: Role) -> Result<&'static str, AttachError> {
    match (role, layer) {
        (Role::Pod, Layer::Ethernet) => Ok(program::POD),
        (Role::Uplink, Layer::Ethernet) => Ok(program::UPLINK),
        (Role::Uplink, Layer::Ip) => Ok(program::UPLINK_L3),
        _ => Err(AttachError::Unsupported { role, layer }),
    }
}

fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, AttachError> {
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(AttachError::NoProgram { name })
}

fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp, AttachError> {
    ebpf.program_mut(program::XDP_UPLINK)
        .and_then(|program| program.try_into().ok())
        .ok_or(AttachError::NoProgram {
            name: program::XDP_UPLINK,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_takes_the_program_of_its_role_and_layer() {
        for (layer, role, expected) in [
            (Layer::Ethernet, Role::Pod, Some("pod")),
            (Layer::Ethernet, Role::Uplink, Some("uplink")),
            (Layer::Ip, Role::Uplink, Some("uplink_l3")),
            (Layer::Ip, Role::Pod, None),
            (Layer::Unknown(32), Role::Uplink, None),
        ] {
            assert_eq!(program_for(layer, role).ok(), expected, "{role:?} {layer}");
        }
    }

    #[test]
    fn a_device_without_a_program_is_told_how_to_leave_it_out() {
        let error = program_for(Layer::Unknown(32), Role::Uplink).expect_err("unsupported");
        let message = "no program for uplink devices whose packets begin with an unknown header (ARPHRD 32); \
            leave it out by --uplink or --pod-device";
        assert_eq!(error.to_string(), message);
    }
}
