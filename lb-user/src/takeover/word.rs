//! The word that says which proxy has what, in its pinned table: [`lb_common::abi::takeover`].

use std::{fmt, io, path::Path};

use aya::maps::{Array, Map, MapData};
use lb_common::abi::map;

use crate::apply::{MapError, open_pinned};

/// See the module.
pub(crate) struct Word(Array<MapData, u32>);

impl Word {
    /// That of the tables in a directory.
    pub(crate) fn open(pin_dir: &Path) -> Result<Self, MapError> {
        let map = Map::Array(open_pinned(pin_dir, map::TAKEOVER)?);
        Array::try_from(map).map(Self).map_err(kernel)
    }

    pub(crate) fn get(&self) -> Result<u32, MapError> {
        self.0.get(&0, 0).map_err(kernel)
    }

    /// Programs that have read the old one may still run when this returns.
    pub(crate) fn set(&mut self, word: u32) -> Result<(), MapError> {
        self.0.set(0, word, 0).map_err(kernel)
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Word").field(&self.get()).finish()
    }
}

fn kernel(error: aya::maps::MapError) -> MapError {
    MapError::Kernel {
        name: map::TAKEOVER,
        source: io::Error::other(error),
    }
}
