//! Where the tables are pinned: one directory per run directory and layout version.
//!
//! ```text
//! <bpffs>/fulcrum/<run directory>/v<layout version>/maps/<map>
//! <bpffs>/fulcrum/<run directory>/v<layout version>/trace
//! <bpffs>/fulcrum/<run directory>/v<layout version>/node
//! <bpffs>/fulcrum/<run directory>/v<layout version>/growing/<map>
//! ```
//!
//! So several agents share one BPF filesystem, and a reader of another layout finds nothing rather
//! than misreading. Nothing outside of `<bpffs>/fulcrum/<run directory>` is ever removed.

use std::{
    fmt::Write as _,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use lb_common::abi::LAYOUT_VERSION;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// Our name in the BPF filesystem.
const PARENT: &str = "fulcrum";

/// The pins of the agent that runs in one run directory; removed when this is dropped.
///
/// A datapath that outlives its agent would keep them instead: this is the place to decide it.
#[derive(Debug)]
pub struct PinDirectory {
    root: PathBuf,
    maps: PathBuf,
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
    #[error("cannot remove the pins {path} that an earlier agent left")]
    Stale {
        /// The directory.
        path: PathBuf,
        /// The answer.
        #[source]
        source: io::Error,
    },
}

impl PinDirectory {
    /// Makes the directory, after removing what an agent that died in the same run directory left.
    ///
    /// The caller holds the lock of `run_dir`: whatever is pinned there belongs to nobody who lives.
    pub fn create(bpffs: &Path, run_dir: &Path) -> Result<Self, PinError> {
        if !is_bpf_filesystem(bpffs)? {
            return Err(PinError::NoBpfFilesystem(bpffs.to_owned()));
        }
        let root = root(bpffs, run_dir);
        match fs::remove_dir_all(&root) {
            Ok(()) => {
                tracing::info!(path = %root.display(), "removed the pins of an earlier agent");
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(PinError::Stale { path: root, source }),
        }
        let maps = maps(bpffs, run_dir);
        let pins = Self { root, maps };
        fs::create_dir_all(&pins.maps).map_err(|source| PinError::Make {
            path: pins.maps.clone(),
            source,
        })?;
        Ok(pins)
    }

    /// Where the program `trace` is pinned.
    pub fn tracer(&self) -> PathBuf {
        self.maps.with_file_name("trace")
    }

    /// The directory that holds one file per map.
    pub fn maps(&self) -> &Path {
        &self.maps
    }
}

impl Drop for PinDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.root) {
            let path = self.root.display();
            tracing::warn!(%path, %error, "cannot remove the pins; remove them by hand");
        }
        if let Some(parent) = self.root.parent() {
            // Refused while another agent has pins there, which is as it should be.
            let _ = fs::remove_dir(parent);
        }
    }
}

/// Where the agent of `run_dir` pins its maps.
pub fn maps(bpffs: &Path, run_dir: &Path) -> PathBuf {
    root(bpffs, run_dir)
        .join(format!("v{LAYOUT_VERSION}"))
        .join("maps")
}

/// Where the larger flow tables are pinned that are to take the place of those in `maps`.
pub(super) fn growing(maps: &Path) -> PathBuf {
    maps.with_file_name("growing")
}

/// Where the facts are pinned that the programs of the tables in a directory were loaded with.
pub fn facts(maps: &Path) -> PathBuf {
    maps.with_file_name("node")
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
fn escape(path: &Path) -> String {
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
            let error = PinDirectory::create(&path, Path::new("/run/x")).expect_err("no bpffs");
            let command = format!("mount -t bpf bpf {}", path.display());
            assert!(error.to_string().contains(&command), "{error}");
        }
    }
}
