//! The tables of the release before, brought over into this one's directory.
//!
//! All but flow tables are the same in both layouts and are pinned a second time. Flow tables of the former layout are
//! pinned in a directory of their own, `former`, beside the one where tables of this release's are: they are used as
//! they are until, family by family, one of this layout has taken their place as a larger one would ([`super::growth`]).
//!
//! What the former release has pinned stays until this one's programs are loaded. So whoever fails or is killed in
//! between leaves all that another try, or the former release, goes on with.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::maps::MapData;
use lb_common::{
    abi::{former, map},
    net::addr::{Addr4, Addr6, Family},
};

use super::{
    facts::{self, PinFactsError},
    growth::{self, Phase},
    pin::{self, gone},
};
use crate::{apply::MapError, flows::carry::carry};
/// Why the tables of the release before are not taken over.
#[derive(Debug, thiserror::Error)]
pub enum FormerError {
    /// A table.
    #[error(
        "cannot take over {path} of the release before; to begin without its connections, run `fulcrum cleanup` first"
    )]
    Table {
        /// Its pin.
        path: PathBuf,
        /// The answer.
        #[source]
        source: io::Error,
    },
    /// What it had not finished.
    #[error("cannot finish the growth of a flow table that the release before has begun")]
    Growth(#[from] MapError),
    /// The facts that flows lie by.
    #[error("cannot pin the facts of the release before")]
    Facts(#[from] PinFactsError),
}

/// Takes over what the release before has pinned, if its layout is known and nobody of a later one has used it. `maps`:
/// where this release's are.
pub(super) fn adopt(maps: &Path) -> Result<(), FormerError> {
    let Some(version) = former::VERSION else {
        return Ok(());
    };
    let earlier = pin::maps_of_layout(maps, version);
    // Whoever keeps later tables removes these first.
    let Ok(node) = facts::read(&earlier) else {
        return Ok(());
    };
    tracing::info!(
        layout = version,
        "taking over the tables of the release before"
    );
    for dir in [maps.to_owned(), pin::former(maps), pin::growing(maps)] {
        // Left by somebody who was killed at this point.
        gone(fs::remove_dir_all(&dir)).map_err(at(&dir))?;
    }
    for dir in [maps.to_owned(), pin::former(maps)] {
        fs::create_dir_all(&dir).map_err(at(&dir))?;
    }
    let grown = finish_growth(&earlier)?;
    for name in map::ALL {
        let from = if grown == Some(name) {
            pin::growing(&earlier).join(name)
        } else {
            earlier.join(name)
        };
        if !from.exists() {
            continue;
        }
        let to = match name {
            map::FLOWS4 | map::FLOWS6 => pin::former(maps).join(name),
            _ => maps.join(name),
        };
        pin_again(&from, &to).map_err(at(&from))?;
    }
    facts::replace(&node, &pin::facts(maps))?;
    Ok(())
}

/// The flow table, by its name, whose larger one has all flows: what the former release had not finished is finished here.
fn finish_growth(earlier: &Path) -> Result<Option<&'static str>, FormerError> {
    let Some((begun, node)) = growth::begun_in_former_layout(earlier) else {
        return Ok(None);
    };
    let name = growth::flow_table(begun.family);
    let (from, into) = (earlier.join(name), pin::growing(earlier).join(name));
    let lost = match (begun.phase, begun.family) {
        // All programs insert into the smaller one.
        (Phase::Announced, _) => return Ok(None),
        (Phase::Grown, _) => 0,
        (Phase::Diverted, Family::V4) => carry::<Addr4>((name, &from, &into), &node)?,
        (Phase::Diverted, Family::V6) => carry::<Addr6>((name, &from, &into), &node)?,
    };
    tracing::info!(family = %begun.family, size = begun.size, lost, "the flow table of the release before has grown");
    Ok(Some(name))
}

fn pin_again(from: &Path, to: &Path) -> io::Result<()> {
    let map = MapData::from_pin(from).map_err(io::Error::other)?;
    map.pin(to).map_err(io::Error::other)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> FormerError {
    move |source| FormerError::Table {
        path: path.to_owned(),
        source,
    }
}
