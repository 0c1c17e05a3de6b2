//! Control groups of tests: programs meet the sockets of tests there, and nobody else's.
//!
//! A process has one of its own. It is made below the mounted hierarchy when the first holder asks for it, with the whole process
//! in it, and goes with the last one, when the process is back where it was. Children that are started meanwhile are in it too. The hierarchy's root, and
//! groups of others, get no program from any test.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};
use lb_user::loader::cgroup;

use crate::residue;

/// The file of a group that lists its processes, and takes others in.
const PROCESSES: &str = "cgroup.procs";

/// How many hold the process's own group, which it leaves before that goes.
static HOLDERS: Mutex<(usize, Option<(Stay, Group)>)> = Mutex::new((0, None));

/// Keeps this process in its own group while it lives.
#[derive(Debug)]
pub struct ControlGroup {
    dir: PathBuf,
}

/// A group that nobody is in yet; goes when this is dropped.
#[derive(Debug)]
pub struct Group {
    dir: PathBuf,
}

/// Keeps this process, with all its threads, in a group while it lives.
#[derive(Debug)]
pub struct Stay {
    home: PathBuf,
}

impl ControlGroup {
    /// Enters the group of this process.
    pub fn enter() -> Result<Self> {
        let mut holders = holders();
        if holders.1.is_none() {
            let group = Group::new("own")?;
            holders.1 = Some((group.stay()?, group));
        }
        holders.0 += 1;
        let dir = holders.1.as_ref().map(|(_, group)| group.dir.clone());
        Ok(Self {
            dir: dir.context("just entered")?,
        })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The flags that have an agent meet the sockets in it.
    pub fn flags(&self) -> [String; 2] {
        flags(&self.dir)
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let mut holders = holders();
        holders.0 -= 1;
        if holders.0 == 0 {
            holders.1 = None;
        }
    }
}

impl Group {
    /// Makes one below the hierarchy's root.
    pub fn new(label: &str) -> Result<Self> {
        residue::reap();
        let dir = root()?.join(residue::prefix() + label);
        fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(Self { dir })
    }

    /// The flags that have an agent meet the sockets in it.
    pub fn flags(&self) -> [String; 2] {
        flags(&self.dir)
    }

    /// Takes this process in. Its sockets stay in the group that they were made in.
    pub fn stay(&self) -> Result<Stay> {
        let home = root()?.join(home()?.trim_start_matches('/'));
        take_in(&self.dir)?;
        Ok(Stay { home })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A test may be unwinding, and what cannot be removed now is removed by a later run.
        let _ = fs::remove_dir(&self.dir);
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let _ = take_in(&self.home);
    }
}

fn flags(dir: &Path) -> [String; 2] {
    let cgroup = format!("--cgroup={}", dir.display());
    ["--socket-lb=host".to_owned(), cgroup]
}

/// Puts this process, with all its threads, in a group.
fn take_in(dir: &Path) -> Result<()> {
    let file = dir.join(PROCESSES);
    fs::write(&file, "0").with_context(|| format!("write {}", file.display()))
}

/// Where the groups are.
fn root() -> Result<PathBuf> {
    dir().context("no control groups of version 2 are mounted: mount -t cgroup2 none DIR")
}

/// The same, where what dead processes left may be.
pub(crate) fn dir() -> Option<PathBuf> {
    cgroup::root().ok().flatten()
}

/// The group that this process is in, as the hierarchy has it.
fn home() -> Result<String> {
    let groups = fs::read_to_string("/proc/self/cgroup").context("ask for the process's groups")?;
    let of_version_2 = groups.lines().find_map(|line| line.strip_prefix("0::"));
    Ok(of_version_2
        .context("the process is in no group")?
        .to_owned())
}

fn holders() -> MutexGuard<'static, (usize, Option<(Stay, Group)>)> {
    HOLDERS.lock().unwrap_or_else(PoisonError::into_inner)
}
