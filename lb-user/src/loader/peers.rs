//! The host sides of pods' devices that packets go past: map `peer_devices`.
//!
//! A packet that comes in can be handed to the pod's end of a pair as if it had come in there. That saves a queue and a turn of
//! the processor; but whatever is to see what leaves by the host's end sees it no more. So it is done where nothing is.

use std::{collections::BTreeSet, fmt, io, path::Path};

use aya::{
    maps::{HashMap, Map, MapData, MapError as MapErrorKind},
    programs::{SchedClassifier, TcAttachType},
};
use lb_common::abi::map;

use super::{attach, device::Device, filter, hold::Hook};
use crate::apply::{MapError, open_pinned};

/// Why packets to a pod do not go past the host side of its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// There is no other end in another network namespace.
    NoPair,
    /// A netkit: it runs programs that are not attached by TC.
    Netkit,
    /// No route leads to it, but to the bridge that it is a port of.
    Port,
    /// Packets that leave by it wait in a queue.
    Queue {
        /// The queue's kind.
        qdisc: String,
    },
    /// Somebody else's program or filter meets packets that leave by it.
    Filter {
        /// What it is.
        name: String,
    },
    /// The kernel does not say.
    Unknown {
        /// Its answer.
        error: String,
    },
}

/// See the module.
pub(super) struct Peers(HashMap<MapData, u32, u32>);

impl Peers {
    /// Of the tables in a directory.
    pub(super) fn open(pin_dir: &Path) -> Result<Self, MapError> {
        let map = Map::HashMap(open_pinned(pin_dir, map::PEER_DEVICES)?);
        HashMap::try_from(map).map(Self).map_err(kernel)
    }

    /// Lets packets go past these devices, and past no others.
    pub(super) fn follow(&mut self, wanted: &BTreeSet<u32>) -> Result<(), MapError> {
        let there: BTreeSet<u32> = self.0.keys().collect::<Result<_, _>>().map_err(kernel)?;
        for gone in there.difference(wanted) {
            match self.0.remove(gone) {
                // Somebody else took it out.
                Err(MapErrorKind::KeyNotFound) => {}
                removed => removed.map_err(kernel)?,
            }
        }
        for new in wanted.difference(&there) {
            self.0.insert(new, 1, 0).map_err(kernel)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").finish_non_exhaustive()
    }
}

/// Why packets shall not go past a device, if there is a reason; `own`: the number of our program at its egress.
pub(super) fn obstacle(device: &Device, own: Option<u32>) -> Option<Obstacle> {
    if let Some(obstacle) = &device.obstacle {
        return Some(obstacle.clone());
    }
    let name = match watcher(device, own) {
        Ok(found) => found?,
        Err(error) => return Some(Obstacle::Unknown { error }),
    };
    Some(Obstacle::Filter { name })
}

/// What of others meets packets that leave by a device.
fn watcher(device: &Device, own: Option<u32>) -> Result<Option<String>, String> {
    let filters = filter::on(device.index, TcAttachType::Egress).or_else(none_if_gone);
    let filters = filters.map_err(|error| error.to_string())?;
    let mut others = filters
        .into_iter()
        .filter(|filter| !attach::is_priority_of_ours(filter.priority));
    if let Some(filter) = others.next() {
        return Ok(Some(format!("a filter of kind {}", filter.kind)));
    }
    if Hook::of_this_kernel() == Hook::Clsact {
        return Ok(None);
    }
    let programs = SchedClassifier::query_tcx(device.name.as_str(), TcAttachType::Egress);
    let (_, programs) = programs.map_err(|error| error.to_string())?;
    let other = programs.iter().find(|program| Some(program.id()) != own);
    Ok(other.map(|program| {
        let name = program.name_as_str().unwrap_or_default();
        format!("the program {name:?}")
    }))
}

/// A device that has gone has no filters.
fn none_if_gone<T>(error: io::Error) -> io::Result<Vec<T>> {
    if error.raw_os_error() == Some(libc::ENODEV) {
        return Ok(Vec::new());
    }
    Err(error)
}

impl Obstacle {
    /// Whether it is something that is put there, and not what the device is.
    pub fn is_put(&self) -> bool {
        !matches!(self, Self::NoPair | Self::Netkit | Self::Port)
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPair => f.write_str("it has no other end in another network namespace"),
            Self::Netkit => f.write_str("a netkit may have programs of its own"),
            Self::Port => f.write_str("it is a bridge's port"),
            Self::Queue { qdisc } => write!(f, "it has a queue of kind {qdisc}"),
            Self::Filter { name } => write!(f, "{name} is at its egress"),
            Self::Unknown { error } => write!(f, "what is at its egress cannot be told: {error}"),
        }
    }
}

fn kernel(error: impl std::error::Error + Send + Sync + 'static) -> MapError {
    MapError::Kernel {
        name: map::PEER_DEVICES,
        source: io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_itself_says_is_reason_enough() {
        let device = Device {
            index: 7,
            name: "no such device".to_owned(),
            layer: crate::loader::device::Layer::Ethernet,
            pair: crate::loader::device::Pair::Elsewhere,
            aggregate: None,
            is_bridge: false,
            is_fed_here: true,
            is_host_pair: false,
            mtu: 1500,
            obstacle: Some(Obstacle::Port),
        };
        assert_eq!(obstacle(&device, None), Some(Obstacle::Port));
    }

    #[test]
    fn every_obstacle_says_what_is_in_the_way() {
        let queue = Obstacle::Queue {
            qdisc: "tbf".to_owned(),
        };
        assert_eq!(queue.to_string(), "it has a queue of kind tbf");
        let filter = Obstacle::Filter {
            name: "the program \"meter\"".to_owned(),
        };
        assert_eq!(filter.to_string(), "the program \"meter\" is at its egress");
        assert!(queue.is_put() && filter.is_put() && !Obstacle::Netkit.is_put());
    }
}
