//! The devices that XDP may send by though a packet came by another one: map `xdp_devices`.

use std::{collections::BTreeSet, fmt, io, path::Path};

use aya::maps::{DevMapHash, Map, MapData, MapError as MapErrorKind};
use lb_common::abi::map;

use super::ability;
use crate::apply::{MapError, open_pinned};

/// See the module.
pub(super) struct Redirects(DevMapHash<MapData>);

impl Redirects {
    /// Of the tables in a directory.
    pub(super) fn open(pin_dir: &Path) -> Result<Self, MapError> {
        let map = Map::DevMapHash(open_pinned(pin_dir, map::XDP_DEVICES)?);
        DevMapHash::try_from(map).map(Self).map_err(kernel)
    }

    /// Lets XDP send by those of `uplinks` whose drivers can, and by no others. A device that goes is taken out by the kernel.
    pub(super) fn follow(&mut self, uplinks: &BTreeSet<u32>) -> Result<(), MapError> {
        let there: BTreeSet<u32> = self.0.keys().collect::<Result<_, _>>().map_err(kernel)?;
        let wanted = if uplinks.len() < 2 {
            // There is no other one to send by.
            BTreeSet::new()
        } else {
            let abilities = ability::abilities().map_err(kernel)?;
            let sends = |index: &&u32| abilities.get(index).is_some_and(|ability| ability.sends);
            uplinks.iter().filter(sends).copied().collect()
        };
        for gone in there.difference(&wanted) {
            match self.0.remove(*gone) {
                // The device has gone meanwhile.
                Err(MapErrorKind::KeyNotFound) => {}
                removed => removed.map_err(kernel)?,
            }
        }
        for new in wanted.difference(&there) {
            self.0.insert(*new, *new, None, 0).map_err(kernel)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Redirects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redirects").finish_non_exhaustive()
    }
}

fn kernel(error: impl std::error::Error + Send + Sync + 'static) -> MapError {
    MapError::Kernel {
        name: map::XDP_DEVICES,
        source: io::Error::other(error),
    }
}
