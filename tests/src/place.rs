//! Where an agent keeps what is its own: a run directory, and a BPF filesystem that is not the machine's.
//!
//! Everything goes when the last value that refers to it is dropped; the BPF filesystem takes with it whatever is pinned
//! there. Places may share a BPF filesystem, as agents on one machine do.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

use crate::{balancer, netns::Namespace, residue};

/// The directories of one agent.
#[derive(Clone, Debug)]
pub struct Place {
    scratch: Arc<Scratch>,
    run_dir: String,
    /// Another binary than the one to test.
    binary: Option<PathBuf>,
}

impl Place {
    /// A new BPF filesystem, and a run directory that does not exist yet.
    pub fn new() -> Result<Self> {
        Ok(Self {
            scratch: Arc::new(Scratch::new()?),
            run_dir: "run".to_owned(),
            binary: None,
        })
    }

    /// Another run directory before the same BPF filesystem.
    #[must_use]
    pub fn sibling(&self, run_dir: &str) -> Self {
        Self {
            run_dir: run_dir.to_owned(),
            ..self.clone()
        }
    }

    /// The same place in the hands of another build of `fulcrum`.
    #[must_use]
    pub fn of_build(&self, binary: PathBuf) -> Self {
        Self {
            binary: Some(binary),
            ..self.clone()
        }
    }

    /// The binary that is used here.
    pub fn binary(&self) -> Result<PathBuf> {
        self.binary.clone().map_or_else(balancer::binary, Ok)
    }

    /// The run directory, whether or not it exists.
    pub fn run_dir(&self) -> PathBuf {
        self.scratch.dir.path().join(&self.run_dir)
    }

    /// The BPF filesystem.
    pub fn bpffs(&self) -> PathBuf {
        self.scratch.bpffs()
    }

    /// The flags that make every verb of `fulcrum` speak of this place.
    pub fn flags(&self) -> [String; 4] {
        let run_dir = self.run_dir().display().to_string();
        let bpffs = self.bpffs().display().to_string();
        ["--run-dir".to_owned(), run_dir, "--bpffs".to_owned(), bpffs]
    }

    /// Runs `fulcrum` with these arguments about this place, whether or not an agent runs there.
    pub fn fulcrum(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(self.binary()?);
        command
            .args(self.flags())
            .args(arguments)
            .stdin(Stdio::null());
        command.output().with_context(|| format!("run {command:?}"))
    }

    /// `fulcrum cleanup` in the network namespace of a node.
    pub fn cleanup(&self, node: &Namespace, arguments: &[&str]) -> Result<Output> {
        let mut command = node.command(self.binary()?);
        command.args(self.flags()).arg("cleanup").args(arguments);
        command.output().context("run `fulcrum cleanup`")
    }
}

/// A directory with a BPF filesystem in it.
#[derive(Debug)]
struct Scratch {
    dir: TempDir,
}

impl Scratch {
    fn new() -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix(&residue::prefix())
            .tempdir()
            .context("make a directory for an agent")?;
        let scratch = Self { dir };
        let bpffs = scratch.bpffs();
        fs::create_dir(&bpffs).with_context(|| format!("make {}", bpffs.display()))?;
        let kind = Some("bpf");
        mount(kind, &bpffs, kind, MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mount a BPF filesystem at {}", bpffs.display()))?;
        Ok(scratch)
    }

    fn bpffs(&self) -> PathBuf {
        self.dir.path().join(residue::BPFFS)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Pins go with the mount, and with them whatever an agent left attached.
        let _ = umount2(&self.bpffs(), MntFlags::MNT_DETACH);
    }
}
