//! `fulcrum cleanup`: removes what an agent that has ended left in the kernel.
//!
//! What belongs to a run directory is known by the path of its pins and by the alias of its devices; nothing else is touched.
//! The addresses and ports that services were given (`allocations.json`) are kept: they are no trace but a promise.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::{
    Place,
    output::{self, Format},
};
use crate::{
    agent::run_dir,
    causes::with_causes,
    control,
    loader::{
        filter, hold,
        pair::{self, Leftover},
        pin,
    },
    takeover::{
        self, TakeoverError,
        handover::{self, Handover},
    },
};

/// Flags of `cleanup`.
#[derive(Args, Debug)]
pub(super) struct CleanupArgs {
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,

    /// Remove everything even if connections cannot be handed over to another proxy that is here: they end
    #[arg(long)]
    forget_connections: bool,

    /// The form of the result
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// One thing that is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Trace {
    /// `filter`, `device`, `pin`, `directory`, `socket` or `table`.
    kind: &'static str,
    /// Its name, or where it is.
    name: String,
}

/// All that is left of agents of one run directory.
#[derive(Debug)]
struct Traces {
    filters: Vec<filter::Left>,
    pairs: Vec<Leftover>,
    /// The directories that pins are in follow them.
    pins: Vec<PathBuf>,
    socket: Option<PathBuf>,
    /// Of netfilter.
    table: Option<String>,
}

pub(super) fn cleanup(args: &CleanupArgs, place: &Place) -> anyhow::Result<ExitCode> {
    let run_dir = place.run_dir();
    // Held until everything is gone.
    let _lock = run_dir::hold(&run_dir)?;
    let traces = Traces::find(&place.bpffs, &run_dir)?;
    let mut is_lossless = true;
    if !args.dry_run {
        let near = traces.pairs.first().map(|pair| pair.name.clone());
        let pins = handover::pins(&place.bpffs, &run_dir);
        let handover = match Handover::begin(&pins, &run_dir, near) {
            Err(error) if args.forget_connections => {
                warn(&error);
                is_lossless = false;
                None
            }
            begun => begun.context(
                "nothing was removed, since connections would end; --forget-connections removes everything",
            )?,
        };
        traces.remove(&place.bpffs, &run_dir)?;
        if let Some(handover) = handover {
            is_lossless &= finish(handover);
        }
        takeover::remove_table(&run_dir).context("cannot remove the table of netfilter")?;
    }
    let list = traces.list();
    match args.output.structured(&list)? {
        Some(text) => output::print(&text)?,
        None if list.is_empty() => {
            eprintln!("Nothing is left of an agent of {}.", run_dir.display());
        }
        None => output::print(&told(&list, args.dry_run))?,
    }
    Ok(if is_lossless {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The rest, which is told; false: connections have ended.
fn finish(handover: Handover) -> bool {
    let proxy = handover.proxy();
    let given = match handover.finish() {
        Ok(given) => given,
        Err(error) => {
            warn(&error);
            return false;
        }
    };
    eprintln!("Handed {} connections over to {proxy}.", given.n_given);
    if let Some(cause) = &given.cause {
        let n = given.n_refused;
        eprintln!("{n} more could not be handed over and have ended; the first: {cause}");
    }
    given.cause.is_none()
}

/// What stays would be of no use to anybody.
fn warn(error: &TakeoverError) {
    eprintln!(
        "Not all connections were handed over to another proxy: {}",
        with_causes(error)
    );
}

impl Traces {
    fn find(bpffs: &Path, run_dir: &Path) -> anyhow::Result<Self> {
        let pins = if pin::is_bpf_filesystem(bpffs)? {
            let refused = || format!("cannot list the pins in {}", bpffs.display());
            pin::all(bpffs, run_dir).with_context(refused)?
        } else {
            Vec::new()
        };
        let socket = control::socket(run_dir);
        Ok(Self {
            filters: hold::filters_left(&pin::links(bpffs, run_dir), run_dir)
                .context("cannot list the filters on the node's devices")?,
            pairs: pair::left_behind(run_dir)?,
            pins,
            socket: socket.exists().then_some(socket),
            table: takeover::table_left(run_dir).context("cannot look for a table of netfilter")?,
        })
    }

    /// What leads packets to programs first, then what holds the programs: nobody is led to where nothing is any more.
    fn remove(&self, bpffs: &Path, run_dir: &Path) -> anyhow::Result<()> {
        for filter in &self.filters {
            let refused = || format!("cannot remove the filter {filter}");
            filter.remove().with_context(refused)?;
        }
        for pair in &self.pairs {
            pair.remove()?;
        }
        if !self.pins.is_empty() {
            let refused = || format!("cannot remove the pins in {}", bpffs.display());
            pin::remove_everything(bpffs, run_dir).with_context(refused)?;
        }
        if let Some(socket) = &self.socket {
            match fs::remove_file(socket) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).context(format!("cannot remove {}", socket.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn list(&self) -> Vec<Trace> {
        let filter = |filter: &filter::Left| Trace {
            kind: "filter",
            name: filter.to_string(),
        };
        let device = |pair: &Leftover| Trace {
            kind: "device",
            name: pair.name.clone(),
        };
        // What is gone by now was a pin if nothing was in it.
        let is_parent = |path: &PathBuf| self.pins.iter().any(|pin| pin.parent() == Some(path));
        let pin = |path: &PathBuf| Trace {
            kind: if is_parent(path) { "directory" } else { "pin" },
            name: path.display().to_string(),
        };
        let socket = |path: &PathBuf| Trace {
            kind: "socket",
            name: path.display().to_string(),
        };
        let filters = self.filters.iter().map(filter);
        let devices = filters.chain(self.pairs.iter().map(device));
        let pins = devices.chain(self.pins.iter().map(pin));
        let table = |name: &String| Trace {
            kind: "table",
            name: name.clone(),
        };
        let sockets = pins.chain(self.socket.iter().map(socket));
        sockets.chain(self.table.iter().map(table)).collect()
    }
}

/// One line per thing.
fn told(traces: &[Trace], is_dry_run: bool) -> String {
    let verb = if is_dry_run {
        "would remove"
    } else {
        "removed"
    };
    let line = |Trace { kind, name }: &Trace| [verb, " ", kind, " ", name, "\n"].concat();
    traces.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_named_with_its_kind_and_directories_after_what_is_in_them() {
        let traces = Traces {
            filters: Vec::new(),
            pairs: Vec::new(),
            pins: [
                "/b/f/r/v4/maps/slots",
                "/b/f/r/v4/maps",
                "/b/f/r/v4",
                "/b/f/r",
            ]
            .map(PathBuf::from)
            .into(),
            socket: Some("/run/f/fulcrum.sock".into()),
            table: Some("fulcrum-run-f".to_owned()),
        };
        assert_eq!(
            told(&traces.list(), true),
            "would remove pin /b/f/r/v4/maps/slots\n\
             would remove directory /b/f/r/v4/maps\n\
             would remove directory /b/f/r/v4\n\
             would remove directory /b/f/r\n\
             would remove socket /run/f/fulcrum.sock\n\
             would remove table fulcrum-run-f\n"
        );
        assert!(told(&traces.list(), false).starts_with("removed pin "));
    }

    #[test]
    fn where_no_bpf_filesystem_is_nothing_is_pinned() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let inside = dir.path().join("fulcrum/tmp/v4/maps");
        fs::create_dir_all(&inside).expect("writable");
        let traces = Traces::find(dir.path(), Path::new("/tmp")).expect("readable");
        assert!(traces.pins.is_empty() && traces.socket.is_none());
    }
}
