//! The same programs over larger tables of services, loaded beside those that run.
//!
//! The larger tables are pinned in a directory of their own until all devices have the programs; then they take the place of
//! the others, one rename after the other. Nobody writes any of them meanwhile, so whatever mixture an agent leaves that ends
//! in between says the same, and the next one takes it over as it is.

use std::{fs, path::PathBuf};

use lb_common::abi::map;

use super::{
    LoaderError,
    growth::{GrowthError, Origin, Stage, loaded, rename},
    object::Terms,
    pin,
};
use crate::{
    apply::{BpfMaps, MapError, read_rows, write_rows},
    plan::Capacity,
};

/// Tables of one row per backend that packets write and nobody else.
const COUNTS: [&str; 2] = [map::CONNECTIONS4, map::CONNECTIONS6];

impl Origin {
    /// Makes larger tables, empty ones, and loads the programs for them.
    pub fn load_larger(&self, tables: Capacity) -> Result<Stage, LoaderError> {
        let dir = self.larger();
        pin::abandon(&dir);
        fs::create_dir_all(&dir).map_err(|source| GrowthError::Pins {
            path: dir.clone(),
            source,
        })?;
        let pins = map::ALL.map(|name| match tables.entries(name) {
            Some(_) => (name, dir.join(name)),
            None => (name, self.pin(name)),
        });
        let terms = Terms {
            tables,
            ..self.terms
        };
        self.stage(loaded(self.node, &terms, &pins)?, self.node, &dir)
    }

    /// The larger tables, to be filled, beside those that keep their size.
    pub fn larger_tables(&self) -> Result<BpfMaps, MapError> {
        BpfMaps::open_beside(&self.maps, &self.larger())
    }

    /// Copies how many connections each backend has. What packets count meanwhile the next walk through the flow tables puts
    /// right.
    pub fn copy_counts(&self) -> Result<(), MapError> {
        for name in COUNTS {
            let counts = read_rows::<u32>(&self.maps, name)?;
            let counts: Vec<(u32, u32)> = (0..).zip(counts).filter(|(_, n)| *n != 0).collect();
            write_rows(&self.larger(), name, &counts)?;
        }
        Ok(())
    }

    /// Gives the larger tables' pins the usual names, in place of those that no program uses any more.
    pub fn settle(&mut self, tables: Capacity) -> Result<(), GrowthError> {
        let dir = self.larger();
        let names = map::ALL.into_iter();
        for name in names.filter(|name| tables.entries(name).is_some()) {
            let pin = dir.join(name);
            // Done already, if one that comes after it was refused.
            if pin.exists() {
                rename(&pin, &self.maps.join(name))?;
            }
        }
        self.terms.tables = tables;
        pin::abandon(&dir);
        Ok(())
    }

    /// Removes larger tables that nobody will use.
    pub fn abandon_larger(&self) {
        pin::abandon(&self.larger());
    }

    fn larger(&self) -> PathBuf {
        pin::larger(&self.maps)
    }
}
