//! What devices can do about XDP, as the kernel tells it (`linux/netdev.h`, Linux 6.3).

use std::{collections::BTreeMap, io};

use netlink_sys::protocols::NETLINK_GENERIC;

use super::{
    attribute::{Message, find, text},
    channel::Channel,
};

/// `GENL_ID_CTRL`, its command, and attributes of it.
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// The family of devices' abilities, its command, and attributes of it.
const FAMILY: &str = "netdev";
const GET_DEVICE: u8 = 1;
const DEVICE_INDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_BASIC`.
const MEETS: u64 = 1;
/// `NETDEV_XDP_ACT_NDO_XMIT`.
const SENDS: u64 = 1 << 2;

/// What a device can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ability {
    /// A program in its driver meets the frames that come in.
    pub(crate) meets: bool,
    /// It sends frames which XDP redirects to it; what is redirected elsewhere is lost.
    pub(crate) sends: bool,
}

/// The devices of this network namespace, by index; none where the kernel does not say.
pub(crate) fn abilities() -> io::Result<BTreeMap<u32, Ability>> {
    let mut channel = Channel::<Message>::open(NETLINK_GENERIC)?;
    let Some(family) = family(&mut channel)? else {
        return Ok(BTreeMap::new());
    };
    let devices = channel.list(Message::generic(family, GET_DEVICE, &[]))?;
    Ok(devices.iter().filter_map(ability).collect())
}

fn family(channel: &mut Channel<Message>) -> io::Result<Option<u16>> {
    let mut id = None;
    let question = Message::generic(CONTROL, GET_FAMILY, &[text(FAMILY_NAME, FAMILY)]);
    match channel.ask(question, |answer| id = id.or(family_id(&answer))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        asked => asked.map(|()| id),
    }
}

fn family_id(message: &Message) -> Option<u16> {
    let value = find(message.attributes(), FAMILY_ID)?.try_into().ok()?;
    Some(u16::from_ne_bytes(value))
}

/// A device's index, and what it can do.
fn ability(message: &Message) -> Option<(u32, Ability)> {
    let attributes = message.attributes();
    let features = u64::from_ne_bytes(find(attributes, XDP_FEATURES)?.try_into().ok()?);
    let index = u32::from_ne_bytes(find(attributes, DEVICE_INDEX)?.try_into().ok()?);
    let ability = Ability {
        meets: features & MEETS != 0,
        sends: features & SENDS != 0,
    };
    Some((index, ability))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::attribute::attribute;

    fn device(index: u32, features: u64) -> Message {
        let attributes = [
            attribute(DEVICE_INDEX, &index.to_ne_bytes()),
            attribute(XDP_FEATURES, &features.to_ne_bytes()),
        ];
        Message::generic(27, GET_DEVICE, &attributes)
    }

    #[test]
    fn a_device_can_do_what_its_driver_says() {
        for (features, meets, sends) in [(0x27, true, true), (0x3, true, false), (0, false, false)]
        {
            let expected = Ability { meets, sends };
            assert_eq!(ability(&device(7, features)), Some((7, expected)));
        }
        assert_eq!(ability(&Message::generic(27, GET_DEVICE, &[])), None);
    }

    #[test]
    fn the_kernel_is_asked_without_rights() {
        // Loopback neither meets nor sends.
        let loopback = abilities().expect("an answer").remove(&1);
        let can = loopback.map(|ability| (ability.meets, ability.sends));
        assert!(matches!(can, None | Some((false, false))), "{can:?}");
    }
}
