//! Programs on devices: which program a device takes, and by which hook.
//!
//! An [`Attachment`] is the only thing that keeps programs on a device: dropped, it detaches. Other
//! programs on the device are left alone; ours is the first at ingress and the last at egress.

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
    pub(super) const EGRESS: &str = "egress";
    pub(super) const UPLINK_L3: &str = "uplink_l3";
    pub(super) const EGRESS_L3: &str = "egress_l3";
    pub(super) const HOST: &str = "host";
    pub(super) const LO: &str = "lo";
    pub(super) const XDP_UPLINK: &str = "xdp_uplink";

    /// All for TC.
    pub(super) const CLASSIFIERS: [&str; 7] = [POD, UPLINK, UPLINK_L3, EGRESS, EGRESS_L3, HOST, LO];
}

/// Priorities of our filters where links do not exist: before and behind what others leave to the kernel's
/// choice.
const FIRST_PRIORITY: u16 = 1;
const LAST_PRIORITY: u16 = u16::MAX;

/// Whether one of our programs for TC has this name.
pub fn is_ours(name: &str) -> bool {
    program::CLASSIFIERS.contains(&name)
}

/// Whether our filters have this priority: never where links exist.
pub fn is_priority_of_ours(priority: u32) -> bool {
    let ours = [FIRST_PRIORITY, LAST_PRIORITY].map(u32::from);
    Hook::of_this_kernel() == Hook::Clsact && ours.contains(&priority)
}

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
    /// By the program's name.
    tc: Vec<(&'static str, SchedClassifierLink)>,
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
        for name in program::CLASSIFIERS {
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
        let mut tc = Vec::new();
        // What goes out first: a reply that the host sends belongs to a connection that came in.
        for (name, direction) in programs_for(device.layer, role)? {
            tc.push((*name, self.attach_tc(device, name, *direction)?));
        }
        let wants_xdp =
            self.mode == Mode::Xdp && role == Role::Uplink && device.layer == Layer::Ethernet;
        let xdp = if wants_xdp {
            self.attach_xdp(device)
        } else {
            None
        };
        Ok(Attachment { tc, xdp })
    }

    /// Takes the place of the programs of the same names that others have put on a device; at no moment has the
    /// device none.
    ///
    /// # Errors
    /// The kernel refused: then none of them is left on the device.
    pub fn take_over(&mut self, attachment: Attachment) -> Result<Attachment, AttachError> {
        let mut tc = Vec::new();
        for (name, link) in attachment.tc {
            let refused = |source| AttachError::Attach { name, source };
            let classifier = classifier(&mut self.ebpf, name)?;
            let link = classifier.attach_to_link(link).map_err(refused)?;
            tc.push((name, classifier.take_link(link).map_err(refused)?));
        }
        let xdp = match attachment.xdp {
            None => None,
            Some(link) => {
                let name = program::XDP_UPLINK;
                let refused = |source| AttachError::Attach { name, source };
                let program = xdp(&mut self.ebpf)?;
                let link = program.attach_to_link(link).map_err(refused)?;
                Some(program.take_link(link).map_err(refused)?)
            }
        };
        Ok(Attachment { tc, xdp })
    }

    fn attach_tc(
        &mut self,
        device: &Device,
        name: &'static str,
        direction: TcAttachType,
    ) -> Result<SchedClassifierLink, AttachError> {
        let options = self.hook.options(&device.name, direction)?;
        let refused = |source| AttachError::Attach { name, source };
        let classifier = classifier(&mut self.ebpf, name)?;
        let link = classifier
            .attach_with_options(&device.name, direction, options)
            .map_err(refused)?;
        classifier.take_link(link).map_err(refused)
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

    fn options(
        self,
        device: &str,
        direction: TcAttachType,
    ) -> Result<TcAttachOptions, AttachError> {
        let is_first = direction == TcAttachType::Ingress;
        match self {
            Self::Tcx if is_first => Ok(TcAttachOptions::TcxOrder(LinkOrder::first())),
            Self::Tcx => Ok(TcAttachOptions::TcxOrder(LinkOrder::last())),
            Self::Clsact => {
                match qdisc_add_clsact(device) {
                    Ok(()) => {}
                    Err(TcError::NetlinkError(error))
                        if error.raw_os_error() == Some(libc::EEXIST) => {}
                    Err(error) => return Err(AttachError::Qdisc(error)),
                }
                let options = NlOptions {
                    priority: if is_first {
                        FIRST_PRIORITY
                    } else {
                        LAST_PRIORITY
                    },
                    ..NlOptions::default()
                };
                Ok(TcAttachOptions::Netlink(options))
            }
        }
    }
}

/// A program and the direction of the packets that it meets.
type Place = (&'static str, TcAttachType);

fn programs_for(layer: Layer, role: Role) -> Result<&'static [Place], AttachError> {
    use TcAttachType::{Egress, Ingress};
    match (role, layer) {
        (Role::Pod, Layer::Ethernet) => Ok(&[(program::EGRESS, Egress), (program::POD, Ingress)]),
        (Role::Uplink, Layer::Ethernet) => {
            Ok(&[(program::EGRESS, Egress), (program::UPLINK, Ingress)])
        }
        (Role::Uplink, Layer::Ip) => {
            Ok(&[(program::EGRESS_L3, Egress), (program::UPLINK_L3, Ingress)])
        }
        (Role::Host, Layer::Ethernet) => Ok(&[(program::HOST, Ingress)]),
        (Role::Lo, Layer::Loopback) => Ok(&[(program::LO, Egress)]),
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
    fn each_device_takes_the_programs_of_its_role_and_layer() {
        for (layer, role, out, in_) in [
            (Layer::Ethernet, Role::Pod, "egress", "pod"),
            (Layer::Ethernet, Role::Uplink, "egress", "uplink"),
            (Layer::Ip, Role::Uplink, "egress_l3", "uplink_l3"),
            (Layer::Ethernet, Role::Host, "", "host"),
            (Layer::Loopback, Role::Lo, "lo", ""),
            (Layer::Ip, Role::Pod, "", ""),
            (Layer::Unknown(32), Role::Uplink, "", ""),
        ] {
            let places = programs_for(layer, role).unwrap_or_default();
            let at = |direction| {
                let mut found = places.iter().filter(|place| place.1 == direction);
                found.next().map_or("", |place| place.0)
            };
            let found = (at(TcAttachType::Egress), at(TcAttachType::Ingress));
            assert_eq!(found, (out, in_), "{role:?} {layer}");
        }
    }

    #[test]
    fn a_device_without_a_program_is_told_how_to_leave_it_out() {
        let error = programs_for(Layer::Unknown(32), Role::Uplink).expect_err("unsupported");
        let message = "no program for uplink devices whose packets begin with an unknown header (ARPHRD 32); \
            leave it out by --uplink or --pod-device";
        assert_eq!(error.to_string(), message);
    }
}
