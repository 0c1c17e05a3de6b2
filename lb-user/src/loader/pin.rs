//! Where the tables are pinned: one directory per run directory and layout version.
//!
//! ```text
//! <bpffs>/fulcrum/<run directory>/v<layout version>/maps/<map>
//! <bpffs>/fulcrum/<run directory>/v<layout version>/trace
//! <bpffs>/fulcrum/<run directory>/v<layout version>/node
//! <bpffs>/fulcrum/<run directory>/v<layout version>/growing/<map>
//! <bpffs>/fulcrum/<run directory>/v<layout version>/larger/<map>
//! <bpffs>/fulcrum/<run directory>/v<layout version>/former/<map>
//! <bpffs>/fulcrum/<run directory>/links/<program>-<device>-<network namespace>
//! <bpffs>/fulcrum/<run directory>/links/clsact-<device>-<network namespace>/
//! ```
//!
//! So several agents share one BPF filesystem, and a reader of another layout finds nothing rather
//! than misreading. Links, which keep programs on devices, are of no layout. They, the maps and `node` outlive their agent;
//! `growing` and `former` do if it ends while a flow table is replaced; `trace` and `larger` are of no use to the next one. Nothing outside of `<bpffs>/fulcrum/<run directory>` is ever removed.

use std::{
    fmt::Write as _,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use lb_common::abi::{LAYOUT_VERSION, former};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::{apply::FORMER, sys};

/// Our name in the BPF filesystem.
const PARENT: &str = "fulcrum";
/// The node's facts.
const FACTS: &str = "node";
/// The directory of what keeps programs on devices.
const LINKS: &str = "links";

/// The pins of the agent that runs in one run directory.
///
/// The tables stay when this is dropped, for the next agent; programs that only serve a living one go.
#[derive(Debug)]
pub struct PinDirectory {
    root: PathBuf,
    maps: PathBuf,
    /// Whether there is something that shall stay.
    is_kept: bool,
}

/// Why the tables cannot be pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The path is not what the flag says.
    #[error(
        "{0} is no BPF filesystem; mount one by `mount -t bpf bpf {0}`, or name another by --bpffs"
    )]
    NoBpfFilesystem(PathBuf),
    /// The filesystem could not be asked.
    #[error("cannot look at the BPF filesystem {path}")]
    Look {
        /// Where it should be.
        path: PathBuf,
        /// The answer.
        #[source]
        source: io::Error,
    },
    /// The directory could not be made.
    #[error("cannot make the pin directory {path}")]
    Make {
        /// The directory.
        path: PathBuf,
        /// The answer.
        #[source]
        source: io::Error,
    },
    /// What a dead agent left could not be removed.
    #[error("cannot remove the pin {path} that an earlier agent left")]
    Stale {
        /// The pin.
        path: PathBuf,
        /// The answer.
        #[source]
        source: io::Error,
    },
}

impl PinDirectory {
    /// The directory, with what an earlier agent of the same run directory left in it; made if need be.
    ///
    /// The caller holds the lock of `run_dir`: whatever is pinned there belongs to nobody who lives.
    pub fn open(bpffs: &Path, run_dir: &Path) -> Result<Self, PinError> {
        if !is_bpf_filesystem(bpffs)? {
            return Err(PinError::NoBpfFilesystem(bpffs.to_owned()));
        }
        let maps = maps(bpffs, run_dir);
        let pins = Self {
            root: root(bpffs, run_dir),
            is_kept: maps.exists(),
            maps,
        };
        fs::create_dir_all(&pins.maps).map_err(|source| PinError::Make {
            path: pins.maps.clone(),
            source,
        })?;
        for path in pins.of_the_living() {
            remove(&path).map_err(|source| PinError::Stale { path, source })?;
        }
        Ok(pins)
    }

    /// Keeps the tables from now on, and removes those of other layouts: what could be taken over has been, nobody of this
    /// layout can read the rest, and an agent that could runs no more.
    pub fn keep(&mut self) {
        self.is_kept = true;
        for path in self.other_layouts() {
            let shown = path.display();
            // First what says that they may be taken over.
            let removed = remove(&path.join(FACTS)).and_then(|()| fs::remove_dir_all(&path));
            match removed {
                Ok(()) if former::VERSION == version(&path) => {
                    tracing::debug!(path = %shown, "removed the other pins of what was taken over");
                }
                Ok(()) => tracing::warn!(
                    path = %shown,
                    "removed the tables of an earlier release; its connections are forgotten"
                ),
                Err(error) => {
                    tracing::warn!(path = %shown, %error, "cannot remove the tables of an earlier release");
                }
            }
        }
    }

    /// Where the program `trace` is pinned.
    pub fn tracer(&self) -> PathBuf {
        tracer(&self.maps)
    }

    /// The directory of what keeps programs on devices.
    pub fn links(&self) -> PathBuf {
        self.root.join(LINKS)
    }

    /// The directory that holds one file per map.
    pub fn maps(&self) -> &Path {
        &self.maps
    }

    /// Pins that are of no use without a living agent.
    fn of_the_living(&self) -> [PathBuf; 3] {
        let growing = growing(&self.maps);
        [self.tracer(), growing.join("trace"), growing.join("carry")]
    }

    fn other_layouts(&self) -> Vec<PathBuf> {
        let own = self.maps.parent();
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        paths
            .filter(|path| Some(path.as_path()) != own && version(path).is_some())
            .collect()
    }
}

impl Drop for PinDirectory {
    fn drop(&mut self) {
        if !self.is_kept {
            let own = self.maps.parent().unwrap_or(&self.maps);
            if let Err(error) = gone(fs::remove_dir_all(own)) {
                let path = own.display();
                tracing::warn!(%path, %error, "cannot remove the pins; `fulcrum cleanup` does");
            }
            // Refused while another release's tables or links are there, which is as it should be.
            let _ = fs::remove_dir(self.links());
            let _ = fs::remove_dir(&self.root);
            return;
        }
        for path in self.of_the_living() {
            if let Err(error) = remove(&path) {
                let path = path.display();
                tracing::warn!(%path, %error, "cannot remove a pin; `fulcrum cleanup` does");
            }
        }
        // Refused while tables are in it, which is as it should be.
        let _ = fs::remove_dir(growing(&self.maps));
    }
}

/// The layout version that this is the directory of, if it is one.
fn version(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_str()?;
    name.strip_prefix('v')?.parse().ok()
}

/// Everything that is pinned for the agent of `run_dir`, of all layouts, in the order in which it can be removed; the last
/// is the directory that holds it all.
pub fn all(bpffs: &Path, run_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let root = root(bpffs, run_dir);
    if !root.is_dir() {
        return Ok(Vec::new());
    }
    let mut pins = Vec::new();
    below(&root, &mut pins)?;
    pins.push(root);
    Ok(pins)
}

fn below(dir: &Path, pins: &mut Vec<PathBuf>) -> io::Result<()> {
    let entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
    let mut entries: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            below(&path, pins)?;
        }
        pins.push(path);
    }
    Ok(())
}

/// Removes everything that is pinned for the agent of `run_dir`, which the caller has the lock of.
pub fn remove_everything(bpffs: &Path, run_dir: &Path) -> io::Result<()> {
    remove_all(&root(bpffs, run_dir))
}

fn remove_all(root: &Path) -> io::Result<()> {
    match fs::read_dir(root.join(LINKS)) {
        Ok(links) => {
            for link in links {
                remove_link(&link?.path())?;
            }
        }
        Err(error) => gone(Err(error))?,
    }
    gone(fs::remove_dir_all(root))?;
    if let Some(parent) = root.parent() {
        // Refused while another agent has pins there, which is as it should be.
        let _ = fs::remove_dir(parent);
    }
    Ok(())
}

/// Removes the pin of what keeps a program on a device, and takes the program off before.
pub(super) fn remove_link(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        // A note of ours, and no link.
        return gone(fs::remove_dir(path));
    }
    if let Err(error) = sys::detach(path) {
        // It goes with the pin then, if its device is not gone already.
        tracing::debug!(path = %path.display(), %error, "the link is not detached");
    }
    remove(path)
}

fn remove(path: &Path) -> io::Result<()> {
    gone(fs::remove_file(path))
}

/// What is not there any more is gone.
pub(super) fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Where the agent of `run_dir` pins what keeps programs on devices.
pub fn links(bpffs: &Path, run_dir: &Path) -> PathBuf {
    root(bpffs, run_dir).join(LINKS)
}

/// Where the agent of `run_dir` pins its maps.
pub fn maps(bpffs: &Path, run_dir: &Path) -> PathBuf {
    root(bpffs, run_dir)
        .join(format!("v{LAYOUT_VERSION}"))
        .join("maps")
}

/// Where an agent of the same run directory pins its maps whose layout is of that version.
pub(super) fn maps_of_layout(maps: &Path, version: u32) -> PathBuf {
    let own = maps.parent().unwrap_or(maps);
    own.with_file_name(format!("v{version}")).join("maps")
}

/// Where flow tables of the former layout are pinned as long as they are in use: [`super::former`].
pub(super) fn former(maps: &Path) -> PathBuf {
    maps.with_file_name(FORMER)
}

/// Removes a directory of what is left of a growth that came to an end, this or that way.
pub(super) fn abandon(dir: &Path) {
    if let Err(error) = gone(fs::remove_dir_all(dir)) {
        let path = dir.display();
        tracing::warn!(%path, %error, "cannot remove pins that nobody needs");
    }
}

/// Where the program `trace` is pinned.
pub(super) fn tracer(maps: &Path) -> PathBuf {
    maps.with_file_name("trace")
}

/// Where the larger flow tables are pinned that are to take the place of those in `maps`.
pub(super) fn growing(maps: &Path) -> PathBuf {
    maps.with_file_name("growing")
}

/// Where larger tables of services are pinned until they take the place of those in `maps`.
pub(super) fn larger(maps: &Path) -> PathBuf {
    maps.with_file_name("larger")
}

/// Where the facts are pinned that the programs of the tables in a directory were loaded with.
pub fn facts(maps: &Path) -> PathBuf {
    maps.with_file_name(FACTS)
}

/// Whether `path` is a mounted BPF filesystem.
pub fn is_bpf_filesystem(path: &Path) -> Result<bool, PinError> {
    match statfs(path) {
        Ok(found) => Ok(found.filesystem_type() == BPF_FS_MAGIC),
        Err(nix::errno::Errno::ENOENT) => Ok(false),
        Err(errno) => Err(PinError::Look {
            path: path.to_owned(),
            source: errno.into(),
        }),
    }
}

fn root(bpffs: &Path, run_dir: &Path) -> PathBuf {
    bpffs.join(PARENT).join(escape(run_dir))
}

/// A path as one file name: `/` becomes `-`, and whatever is neither a letter, a digit nor `_` becomes
/// `=` and two hexadecimal digits, so that no two paths share a name. The BPF filesystem allows no dots.
pub(crate) fn escape(path: &Path) -> String {
    let mut name = String::new();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' if name.is_empty() => {}
            b'/' => name.push('-'),
            b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => name.push(char::from(byte)),
            other => {
                // Writing to a string does not fail.
                let _ = write!(name, "={other:02x}");
            }
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_directories_become_file_names_and_never_the_same_one() {
        for (path, name) in [
            ("/run/fulcrum", "run-fulcrum"),
            ("/run/fulcrum-a", "run-fulcrum=2da"),
            ("/run/fulcrum/a", "run-fulcrum-a"),
            ("/tmp/.x", "tmp-=2ex"),
        ] {
            assert_eq!(escape(Path::new(path)), name);
        }
    }

    #[test]
    fn the_pins_stand_below_the_layout_version() {
        let path = maps(Path::new("/sys/fs/bpf"), Path::new("/run/fulcrum"));
        let version = format!("/sys/fs/bpf/fulcrum/run-fulcrum/v{LAYOUT_VERSION}/maps");
        assert_eq!(path, Path::new(&version));
    }

    #[test]
    fn another_filesystem_is_refused_with_the_command_that_helps() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for path in [dir.path().to_owned(), dir.path().join("absent")] {
            let error = PinDirectory::open(&path, Path::new("/run/x")).expect_err("no bpffs");
            let command = format!("mount -t bpf bpf {}", path.display());
            assert!(error.to_string().contains(&command), "{error}");
        }
    }

    /// Pins of one run directory, all of them plain files.
    fn left() -> (tempfile::TempDir, PinDirectory) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let maps = maps(dir.path(), Path::new("/run/x"));
        let growing = growing(&maps);
        let root = root(dir.path(), Path::new("/run/x"));
        let own = maps.parent().expect("the layout's").to_owned();
        for dir in [&maps, &growing, &root.join("v1/maps"), &root.join("notes")] {
            fs::create_dir_all(dir).expect("writable");
        }
        for file in [
            maps.join("slots"),
            own.join("node"),
            own.join("trace"),
            growing.join("flows4"),
            growing.join("carry"),
        ] {
            fs::write(file, "").expect("writable");
        }
        let pins = PinDirectory {
            root,
            maps,
            is_kept: false,
        };
        (dir, pins)
    }

    /// What is there, below the directory of the run directory.
    fn names(dir: &tempfile::TempDir) -> Vec<String> {
        let root = root(dir.path(), Path::new("/run/x"));
        let paths = all(dir.path(), Path::new("/run/x")).expect("readable");
        let own = format!("v{LAYOUT_VERSION}");
        let name = |path: &PathBuf| {
            let name = path.strip_prefix(&root).expect("below").display();
            name.to_string().replace(&own, "OWN")
        };
        paths.iter().map(name).collect()
    }

    #[test]
    fn tables_outlive_their_agent_and_what_serves_the_living_does_not() {
        let (dir, mut pins) = left();
        pins.keep();
        drop(pins);
        let left = [
            "notes",
            "OWN/growing/flows4",
            "OWN/growing",
            "OWN/maps/slots",
            "OWN/maps",
            "OWN/node",
            "OWN",
            "",
        ];
        assert_eq!(names(&dir), left, "and other layouts are gone");
        let (bpffs, run_dir) = (dir.path(), Path::new("/run/x"));
        remove_everything(bpffs, run_dir).expect("writable");
        assert_eq!(names(&dir), [""; 0]);
        assert!(!bpffs.join(PARENT).exists());
        remove_everything(bpffs, run_dir).expect("gone is gone");
    }

    #[test]
    fn an_agent_that_never_came_up_leaves_what_others_left_and_nothing_of_its_own() {
        let (dir, pins) = left();
        drop(pins);
        assert_eq!(names(&dir), ["notes", "v1/maps", "v1", ""]);
    }
}
