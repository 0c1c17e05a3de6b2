//! Programs on devices: which program a device takes, and by which hook.
//!
//! Programs stay on a device until an [`Attachment`] is released, also when the agent ends; the next one puts its own in their
//! place. Other programs on the device are left alone; ours is the first at ingress and the last at egress.

use std::{
    collections::BTreeSet,
    error::Error,
    io, iter,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use aya::{
    Ebpf,
    programs::{
        CgroupSockAddr, Program, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode,
    },
};

use super::{
    choice::{Choice, choose},
    device::{Device, Layer, Role},
    hold::{FIRST_PRIORITY, Hold, HoldError, Holds, Hook, LAST_PRIORITY},
};
use crate::{
    causes::with_causes,
    config::{Mode, Modes},
};

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
    /// The same program as a pin's name has it where it is put before the stack by generic XDP: a link of one kind is never
    /// updated to the other.
    pub(super) const XDP_UPLINK_GENERIC: &str = "xdp_generic";

    /// For TC on devices that every node has.
    pub(super) const USUAL: [&str; 5] = [POD, UPLINK, EGRESS, HOST, LO];
    /// For TC on uplinks without L2 header.
    pub(super) const L3: [&str; 2] = [UPLINK_L3, EGRESS_L3];
}

/// Whether one of our programs for TC has this name.
pub fn is_ours(name: &str) -> bool {
    program::USUAL.contains(&name) || program::L3.contains(&name)
}

/// Whether our filters have this priority: never where links exist.
pub fn is_priority_of_ours(priority: u16) -> bool {
    Hook::of_this_kernel() == Hook::Clsact && [FIRST_PRIORITY, LAST_PRIORITY].contains(&priority)
}

/// The loaded programs.
#[derive(Debug)]
pub struct Programs {
    ebpf: Ebpf,
    modes: Modes,
    needs: Needs,
}

/// Which programs a device has needed that few nodes have, known to all programs of one datapath. The verifier takes its
/// time for each.
#[derive(Clone, Debug, Default)]
pub struct Needs(Arc<Needed>);

#[derive(Debug, Default)]
struct Needed {
    /// Those for packets without L2 header.
    l3: AtomicBool,
    /// That for XDP.
    xdp: AtomicBool,
}

/// Our programs on one device. Dropped, they stay there.
#[derive(Debug, Default)]
pub struct Attachment {
    tc: Vec<Hold>,
    xdp: Option<Hold>,
    no_xdp: Option<NoXdp>,
}

/// Why a device that should have a program for XDP has none.
#[derive(Clone, Debug, PartialEq, Eq)]
struct NoXdp {
    reason: String,
    /// Whether somebody else's program is there, which may go; what the device itself refuses stays refused.
    is_taken: bool,
    /// Whether it was asked for by name.
    is_asked: bool,
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
    /// The kernel refused.
    #[error("cannot attach the program {name:?}")]
    Attach {
        /// The program.
        name: &'static str,
        /// The kernel's reason.
        #[source]
        source: HoldError,
    },
}

impl Programs {
    /// Those of an object; the verifier is asked for the rest when a device needs it.
    pub fn of(ebpf: Ebpf, modes: Modes, needs: Needs) -> Self {
        Self { ebpf, modes, needs }
    }

    /// What the verifier is to see before any device is touched: what every node needs, what `modes` ask for by name, and what
    /// some device has needed.
    pub fn usual(modes: &Modes, needs: &Needs) -> Vec<&'static str> {
        let mut names = program::USUAL.to_vec();
        if needs.0.l3.load(Relaxed) {
            names.extend(program::L3);
        }
        if modes.ask_for_xdp() || needs.0.xdp.load(Relaxed) {
            names.push(program::XDP_UPLINK);
        }
        names
    }

    /// Puts what `device` takes in this role on it; in the place of the programs of the same names in `earlier`, or of those
    /// that an earlier agent has left there: at no moment has the device none.
    ///
    /// Native XDP that the device does not do is a warning: TC does the same work.
    ///
    /// # Errors
    /// The kernel refused: then none of them is left on the device.
    pub fn attach(
        &mut self,
        holds: &Holds,
        device: &Device,
        role: Role,
        earlier: Option<Attachment>,
    ) -> Result<Attachment, AttachError> {
        let is_first = earlier.is_none();
        let mut earlier = earlier.unwrap_or_default();
        let earlier_xdp = earlier.xdp.take();
        let refused = earlier.no_xdp.take();
        let mut put = Attachment::default();
        if let Err(error) = self.attach_tc(holds, device, role, (&mut earlier, &mut put)) {
            put.release();
            earlier.xdp = earlier_xdp;
            earlier.release();
            return Err(error);
        }
        let mode = self.modes.of(&device.name);
        let (kind, reason) = match choose(mode, device, role) {
            Choice::Put(kind) => (Some(kind), None),
            Choice::Leave(reason) => (None, reason),
        };
        let earlier_xdp = earlier_xdp.and_then(|hold| {
            if kind.map(pin_name) == Some(hold.program) {
                return Some(hold);
            }
            hold.release();
            None
        });
        // What a device has refused is not asked of it again and again.
        let may_be_free = refused.as_ref().is_some_and(|refused| refused.is_taken);
        if let Some(kind) = kind
            && (is_first || earlier_xdp.is_some() || may_be_free)
        {
            match self.attach_xdp(holds, device, kind, earlier_xdp) {
                Ok(hold) => put.xdp = Some(hold),
                Err(error) => put.no_xdp = Some(NoXdp::because(&error, mode != Mode::Auto)),
            }
        } else if kind.is_some() {
            put.no_xdp.clone_from(&refused);
        } else {
            put.no_xdp = reason.map(NoXdp::chosen);
        }
        told(device, refused.as_ref(), put.no_xdp.as_ref());
        Ok(put)
    }

    /// The kernel's number of the program at the egress of pods' devices.
    pub(super) fn at_egress(&self) -> Option<u32> {
        let program: &SchedClassifier = self.ebpf.program(program::EGRESS)?.try_into().ok()?;
        program.info().ok().map(|info| info.id())
    }

    /// A program for a control group's sockets, which the verifier has seen.
    pub(super) fn for_sockets(
        &mut self,
        name: &'static str,
    ) -> Result<&mut CgroupSockAddr, AttachError> {
        let is_loaded = |program: &CgroupSockAddr| program.fd().is_ok();
        loaded(&mut self.ebpf, name, is_loaded, CgroupSockAddr::load)
    }

    fn attach_tc(
        &mut self,
        holds: &Holds,
        device: &Device,
        role: Role,
        (earlier, put): (&mut Attachment, &mut Attachment),
    ) -> Result<(), AttachError> {
        if device.layer == Layer::Ip {
            self.needs.0.l3.store(true, Relaxed);
        }
        // What goes out first: a reply that the host sends belongs to a connection that came in.
        for place in programs_for(device.layer, role)? {
            let (name, _) = *place;
            let at = earlier.tc.iter().position(|hold| hold.program == name);
            let earlier = at.map(|at| earlier.tc.swap_remove(at));
            let classifier = classifier(&mut self.ebpf, name)?;
            let hold = holds
                .put_tc(classifier, device, *place, earlier)
                .map_err(|source| AttachError::Attach { name, source })?;
            put.tc.push(hold);
        }
        Ok(())
    }

    fn attach_xdp(
        &mut self,
        holds: &Holds,
        device: &Device,
        kind: XdpMode,
        earlier: Option<Hold>,
    ) -> Result<Hold, AttachError> {
        self.needs.0.xdp.store(true, Relaxed);
        let program = xdp(&mut self.ebpf)?;
        let name = program::XDP_UPLINK;
        holds
            .put_xdp(program, device, (pin_name(kind), kind), earlier)
            .map_err(|source| AttachError::Attach { name, source })
    }
}

/// What a program for XDP is called in its pin's name.
fn pin_name(kind: XdpMode) -> &'static str {
    match kind {
        XdpMode::Skb => program::XDP_UPLINK_GENERIC,
        _ => program::XDP_UPLINK,
    }
}

impl NoXdp {
    /// By what is known of the device.
    fn chosen(reason: &str) -> Self {
        Self {
            reason: reason.to_owned(),
            is_taken: false,
            is_asked: false,
        }
    }

    fn because(error: &AttachError, is_asked: bool) -> Self {
        let reason = with_causes(error);
        let first: Option<&dyn Error> = Some(error);
        let causes = iter::successors(first, |error| Error::source(*error));
        let mut errnos =
            causes.filter_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error());
        let is_taken = errnos.any(|errno| matches!(errno, libc::EBUSY | libc::EEXIST));
        let reason = if is_taken {
            format!("another program has the device's XDP slot ({reason})")
        } else {
            reason
        };
        Self {
            reason,
            is_taken,
            is_asked,
        }
    }
}

/// Says what has become of native XDP on a device, if it is news.
fn told(device: &Device, before: Option<&NoXdp>, now: Option<&NoXdp>) {
    let device = &device.name;
    match (before, now) {
        (Some(_), None) => tracing::info!(device, "XDP serves the uplink as well now"),
        (
            before,
            Some(NoXdp {
                reason, is_asked, ..
            }),
        ) if before != now => {
            if *is_asked {
                tracing::warn!(device, reason, "no native XDP; TC alone serves the uplink");
            } else {
                tracing::info!(device, reason, "no native XDP; TC alone serves the uplink");
            }
        }
        _ => {}
    }
}

impl Attachment {
    /// The hooks in use, as `fulcrum status` prints them.
    pub fn hooks(&self) -> &'static str {
        match &self.xdp {
            Some(hold) if hold.program == program::XDP_UPLINK => "tc+xdp",
            Some(_) => "tc+xdp-generic",
            None => "tc",
        }
    }

    /// Why there is no native XDP though it was asked for.
    pub fn no_xdp(&self) -> Option<&str> {
        self.no_xdp.as_ref().map(|refused| refused.reason.as_str())
    }

    /// Takes the programs off the device, which may be gone.
    pub fn release(self) {
        self.tc.into_iter().chain(self.xdp).for_each(Hold::release);
    }

    /// Notes the pins that keep the programs where they are.
    pub fn note_pins(&self, pins: &mut BTreeSet<PathBuf>) {
        let holds = self.tc.iter().chain(&self.xdp);
        pins.extend(holds.filter_map(Hold::pin).map(PathBuf::from));
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

/// A program for TC, which the verifier has seen.
fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, AttachError> {
    let is_loaded = |program: &SchedClassifier| program.fd().is_ok();
    loaded(ebpf, name, is_loaded, SchedClassifier::load)
}

/// The program for XDP, likewise.
fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp, AttachError> {
    let is_loaded = |program: &Xdp| program.fd().is_ok();
    loaded(ebpf, program::XDP_UPLINK, is_loaded, Xdp::load)
}

/// A program of the object, given to the verifier if it was not yet.
fn loaded<'a, P>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
    is_loaded: fn(&P) -> bool,
    load: fn(&mut P) -> Result<(), ProgramError>,
) -> Result<&'a mut P, AttachError>
where
    &'a mut P: TryFrom<&'a mut Program>,
{
    let program: &mut P = ebpf
        .program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(AttachError::NoProgram { name })?;
    if !is_loaded(program) {
        load(program).map_err(|source| AttachError::Load { name, source })?;
    }
    Ok(program)
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
