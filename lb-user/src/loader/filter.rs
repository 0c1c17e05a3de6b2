//! Filters of the clsact qdisc: those on a device, and those that are left of the agents of one run directory.
//!
//! A filter is told by its priority and its handle, which are a run directory's own; the kernel keeps nothing else.

use std::{fmt, fs, io, path::PathBuf};

use aya::programs::TcAttachType;
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcMessage},
};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::net::if_::if_nametoindex;

use super::{channel::Channel, hold::priority};

/// `TC_H_CLSACT` of `linux/pkt_sched.h`, and the two ends of the qdisc.
const CLSACT: u16 = 0xffff;
const ROOT: u16 = 0xfff1;
const INGRESS: u16 = 0xfff2;
const EGRESS: u16 = 0xfff3;

/// The devices of this thread's network namespace.
const DEVICES: &str = "/proc/thread-self/net/dev";

/// The two ends of a device.
pub(crate) const DIRECTIONS: [TcAttachType; 2] = [TcAttachType::Ingress, TcAttachType::Egress];

/// A filter on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Its priority; the least one meets packets first.
    pub(crate) priority: u16,
    /// Its number among those of one priority.
    pub(crate) handle: u32,
    /// What it is: `bpf`, `flower`, ...
    pub(crate) kind: String,
}

/// Filters at one end of a device; none, if it has no such qdisc.
pub(crate) fn on(device: u32, direction: TcAttachType) -> io::Result<Vec<Filter>> {
    let end = match direction {
        TcAttachType::Ingress => INGRESS,
        _ => EGRESS,
    };
    let question = RouteNetlinkMessage::GetTrafficFilter(message(device, end)?);
    let answers = Channel::open(NETLINK_ROUTE)?.list(question)?;
    Ok(answers.iter().filter_map(filter).collect())
}

fn filter(answer: &RouteNetlinkMessage) -> Option<Filter> {
    let RouteNetlinkMessage::NewTrafficFilter(filter) = answer else {
        return None;
    };
    let handle =
        u32::from(filter.header.handle.major) << 16 | u32::from(filter.header.handle.minor);
    let mut attributes = filter.attributes.iter();
    // Without a handle it is no filter, but the priority that holds some.
    attributes
        .find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) if handle != 0 => Some(kind.clone()),
            _ => None,
        })
        .map(|kind| Filter {
            // In the upper half; the lower one is the protocol.
            priority: (filter.header.info >> 16) as u16,
            handle,
            kind,
        })
}

fn message(device: u32, minor: u16) -> io::Result<TcMessage> {
    let mut message = TcMessage::default();
    message.header.index = i32::try_from(device).map_err(io::Error::other)?;
    message.header.parent = TcHandle {
        major: CLSACT,
        minor,
    };
    Ok(message)
}

/// A filter that agents which have ended left on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    device: String,
    direction: TcAttachType,
    handle: u32,
    /// Where it is noted that the qdisc is ours, if it is.
    qdisc: PathBuf,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            TcAttachType::Ingress => "ingress",
            _ => "egress",
        };
        write!(f, "{} {direction}", self.device)
    }
}

impl Left {
    /// Those with this handle on all devices of this network namespace. `note`: where it is noted that a device's qdisc is ours.
    pub(super) fn find(handle: u32, note: impl Fn(u32) -> PathBuf) -> io::Result<Vec<Self>> {
        let table = fs::read_to_string(DEVICES)?;
        let mut found = Vec::new();
        for device in names(&table) {
            for direction in DIRECTIONS {
                // A device that has gone has no filters.
                let Ok(index) = if_nametoindex(device) else {
                    continue;
                };
                if on(index, direction)?.iter().any(|filter| {
                    filter.handle == handle
                        && filter.priority == priority(direction)
                        && filter.kind == "bpf"
                }) {
                    found.push(Self {
                        device: device.to_owned(),
                        direction,
                        handle,
                        qdisc: note(index),
                    });
                }
            }
        }
        Ok(found)
    }

    /// Takes it off its device, and our own qdisc too if it was the last filter of either direction.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let Ok(index) = if_nametoindex(self.device.as_str()) else {
            return Ok(());
        };
        super::hold::clear_filter(&self.device, self.direction, self.handle.into());
        if !self.qdisc.is_dir() {
            return Ok(());
        }
        for direction in DIRECTIONS {
            if !on(index, direction)?.is_empty() {
                return Ok(());
            }
        }
        let mut qdisc = message(index, ROOT)?;
        qdisc.header.handle = TcHandle {
            major: CLSACT,
            minor: 0,
        };
        let mut channel = Channel::open(NETLINK_ROUTE)?;
        channel.change(RouteNetlinkMessage::DelQueueDiscipline(qdisc), 0)?;
        fs::remove_dir(&self.qdisc)
    }
}

/// The names in the kernel's table of devices: two lines of headings; then a name, a colon and counts.
fn names(table: &str) -> impl Iterator<Item = &str> {
    table
        .lines()
        .skip(2)
        .filter_map(|line| Some(line.split_once(':')?.0.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_from_the_kernels_table() {
        let table = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets
    lo:       0       0    0    0    0     0          0         0        0       0
  eth0: 1290       5    0    0    0     0          0         0        0       0
";
        assert_eq!(names(table).collect::<Vec<_>>(), ["lo", "eth0"]);
    }

    #[test]
    fn a_filter_is_told_by_priority_handle_and_kind() {
        let mut message = TcMessage::default();
        message.header.info = 0x0001_0300;
        message.attributes = vec![TcAttribute::Kind("bpf".to_owned())];
        let of =
            |message: &TcMessage| filter(&RouteNetlinkMessage::NewTrafficFilter(message.clone()));
        assert_eq!(of(&message), None, "a priority is no filter");
        message.header.handle = TcHandle::from(0x0001_1234);
        let expected = Filter {
            priority: 1,
            handle: 0x0001_1234,
            kind: "bpf".to_owned(),
        };
        assert_eq!(of(&message), Some(expected));
    }

    #[test]
    fn what_is_left_is_named_by_device_and_direction() {
        let left = Left {
            device: "eth0".to_owned(),
            direction: TcAttachType::Egress,
            handle: 7,
            qdisc: PathBuf::new(),
        };
        assert_eq!(left.to_string(), "eth0 egress");
    }
}
