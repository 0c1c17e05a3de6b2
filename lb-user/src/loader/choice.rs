//! Whether an uplink's packets are met before the stack, as far as that can be told without trying.

use aya::programs::XdpMode;

use super::{
    ability::Ability,
    device::{Device, Layer, Role},
};
use crate::config::Mode;

/// What is to be done about XDP on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// A program is put there.
    Put(XdpMode),
    /// None is, for a reason that is worth telling if there is one.
    Leave(Option<&'static str>),
}

/// Where frames come out of programs or namespaces of the machine itself, their checksums may be left for the device to
/// make, which XDP cannot see: an update of a sum that is not made yet spoils it.
const UNMADE_SUMS: &str =
    "its frames come from this machine, with checksums that may not be made yet";

/// Why an uplink is met at TC alone if nothing is said about its mode; none: its driver meets it, as far as the kernel tells.
pub(crate) fn no_xdp(device: &Device, ability: Option<Ability>) -> Option<&'static str> {
    match choose(Mode::Auto, device, Role::Uplink) {
        Choice::Leave(reason) => reason.or(Some("its packets have no Ethernet header")),
        Choice::Put(_) => ability
            .filter(|ability| !ability.meets)
            .map(|_| "its driver has no native XDP"),
    }
}

/// `mode` is that of the device.
pub(super) fn choose(mode: Mode, device: &Device, role: Role) -> Choice {
    if role != Role::Uplink || device.layer != Layer::Ethernet {
        return Choice::Leave(None);
    }
    match mode {
        Mode::Tc => Choice::Leave(None),
        Mode::XdpGeneric => Choice::Put(XdpMode::Skb),
        Mode::Auto if device.is_fed_here => Choice::Leave(Some(UNMADE_SUMS)),
        Mode::Auto | Mode::Xdp => Choice::Put(XdpMode::Driver),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::device::Pair;

    fn device(is_fed_here: bool, layer: Layer) -> Device {
        Device {
            index: 7,
            name: "eth0".to_owned(),
            layer,
            pair: Pair::None,
            aggregate: None,
            is_bridge: false,
            is_host_pair: false,
            is_fed_here,
            mtu: 1500,
            obstacle: None,
        }
    }

    #[test]
    fn by_itself_a_device_is_met_by_its_driver_unless_its_sums_may_not_be_made() {
        let [nic, veth] = [false, true].map(|fed| device(fed, Layer::Ethernet));
        let native = Choice::Put(XdpMode::Driver);
        assert_eq!(choose(Mode::Auto, &nic, Role::Uplink), native);
        let left = Choice::Leave(Some(UNMADE_SUMS));
        assert_eq!(choose(Mode::Auto, &veth, Role::Uplink), left);
    }

    #[test]
    fn who_asks_why_is_told_what_is_known() {
        let can = |meets| Some(Ability { meets, sends: true });
        let nic = device(false, Layer::Ethernet);
        assert_eq!(no_xdp(&nic, can(true)), None);
        assert_eq!(no_xdp(&nic, None), None);
        let reason = no_xdp(&nic, can(false));
        assert_eq!(reason, Some("its driver has no native XDP"));
        let veth = device(true, Layer::Ethernet);
        assert_eq!(no_xdp(&veth, can(true)), Some(UNMADE_SUMS));
        let tunnel = device(false, Layer::Ip);
        let reason = no_xdp(&tunnel, can(false));
        assert_eq!(reason, Some("its packets have no Ethernet header"));
    }

    #[test]
    fn who_asks_gets_it_on_any_ethernet_uplink_and_nowhere_else() {
        for (mode, kind) in [
            (Mode::Xdp, XdpMode::Driver),
            (Mode::XdpGeneric, XdpMode::Skb),
        ] {
            for fed in [false, true] {
                let ethernet = device(fed, Layer::Ethernet);
                assert_eq!(choose(mode, &ethernet, Role::Uplink), Choice::Put(kind));
                assert_eq!(choose(mode, &ethernet, Role::Pod), Choice::Leave(None));
            }
            let tunnel = device(false, Layer::Ip);
            assert_eq!(choose(mode, &tunnel, Role::Uplink), Choice::Leave(None));
        }
        let nic = device(false, Layer::Ethernet);
        assert_eq!(choose(Mode::Tc, &nic, Role::Uplink), Choice::Leave(None));
    }
}
