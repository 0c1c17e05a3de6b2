//! The run directory: who runs here, and what must outlive the agent.
//!
//! One agent per directory, by a lock that the kernel releases with the process, however it ends.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, BufWriter, Read, Seek, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use crate::alloc::Allocations;

/// The file of a run directory that is locked and holds the agent's process id.
pub const LOCK: &str = "lock";
/// The addresses that services were given.
const ALLOCATIONS: &str = "allocations.json";

/// A run directory that is ours as long as this lives.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// Held for its lock.
    _lock: File,
}

/// Why the run directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// It could not be made.
    #[error("cannot make the run directory {path}")]
    Make {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Its lock could not be tried.
    #[error("cannot lock {path}")]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Somebody else has it.
    #[error(
        "an agent with process id {pid} runs in {path} already; \
         stop it, or give this one a directory of its own by --run-dir"
    )]
    Taken {
        /// The directory.
        path: PathBuf,
        /// The other agent's process id, or `unknown`.
        pid: String,
    },
    /// What only a dead agent leaves is still in use.
    #[error("an agent with process id {pid} runs in {path}; stop it first")]
    Runs {
        /// The directory.
        path: PathBuf,
        /// Its process id, or `unknown`.
        pid: String,
    },
    /// The allocations cannot be read.
    #[error(
        "cannot read the addresses that services were given from {path}; \
         repair or remove it, and services without an explicit address may get another one"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
    /// The allocations cannot be kept.
    #[error("cannot keep the addresses that services were given in {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
}

impl RunDir {
    /// Makes the directory with mode 0700 if need be, and takes its lock.
    pub fn open(path: &Path) -> Result<Self, RunDirError> {
        let path = make(path).map_err(|source| RunDirError::Make {
            path: path.to_owned(),
            source,
        })?;
        let lock_path = path.join(LOCK);
        let lock = match take(&lock_path) {
            Ok(Some(lock)) => lock,
            Ok(None) => {
                return Err(RunDirError::Taken {
                    pid: holder(&lock_path),
                    path,
                });
            }
            Err(source) => {
                return Err(RunDirError::Lock {
                    path: lock_path,
                    source,
                });
            }
        };
        Ok(Self { path, _lock: lock })
    }

    /// The directory, absolute and without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What [`RunDir::keep`] kept last; nothing if it never did.
    pub fn allocations(&self) -> Result<Allocations, RunDirError> {
        let path = self.path.join(ALLOCATIONS);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| RunDirError::Read {
                path,
                source: error.into(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Allocations::default()),
            Err(source) => Err(RunDirError::Read { path, source }),
        }
    }

    /// Keeps allocations over restarts of the agent, and of the machine if the directory is on a disk (`/run` is not): all or
    /// nothing of the new file is there.
    pub fn keep(&self, allocations: &Allocations) -> Result<(), RunDirError> {
        let path = self.path.join(ALLOCATIONS);
        let write = || -> io::Result<()> {
            let mut file = BufWriter::new(NamedTempFile::new_in(&self.path)?);
            serde_json::to_writer_pretty(&mut file, allocations)?;
            let file = file.into_inner()?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|source| RunDirError::Write {
            path: path.clone(),
            source,
        })
    }
}

/// The lock of a run directory, if there is one; without any, nobody runs there. Nothing is made or changed.
pub fn hold(path: &Path) -> Result<Option<File>, RunDirError> {
    let lock_path = path.join(LOCK);
    let refused = |source| RunDirError::Lock {
        path: lock_path.clone(),
        source,
    };
    let lock = match File::open(&lock_path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(error)),
    };
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Err(RunDirError::Runs {
            path: path.to_owned(),
            pid: holder(&lock_path),
        }),
        Err(TryLockError::Error(error)) => Err(refused(error)),
    }
}

/// The run directory as the agent spells it, whether or not one runs there.
pub fn resolve(path: &Path) -> PathBuf {
    path.canonicalize()
        .or_else(|_| std::path::absolute(path))
        .unwrap_or_else(|_| path.to_owned())
}

fn make(path: &Path) -> io::Result<PathBuf> {
    if !path.is_dir() {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        DirBuilder::new().mode(0o700).create(path)?;
    }
    path.canonicalize()
}

/// The lock with our process id in it; nothing if somebody else has it.
fn take(path: &Path) -> io::Result<Option<File>> {
    // Not truncated: until the lock is ours, the process id in it is another agent's.
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    Ok(Some(file))
}

fn holder(path: &Path) -> String {
    let mut pid = String::new();
    let read = File::open(path).and_then(|file| file.take(32).read_to_string(&mut pid));
    match read {
        Ok(_) if !pid.trim().is_empty() => pid.trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_second_agent_is_refused_with_the_process_id_of_the_first() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a/run");
        let first = RunDir::open(&path).expect("free");
        let error = RunDir::open(&path).expect_err("taken").to_string();
        assert!(
            error.contains(&format!("process id {} ", std::process::id())),
            "{error}"
        );
        assert!(error.contains("--run-dir"), "{error}");
        drop(first);
        RunDir::open(&path).expect("free again");
    }

    #[test]
    fn a_directory_is_held_while_no_agent_runs_there_and_nothing_is_made() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("run");
        assert!(hold(&path).expect("nobody runs there").is_none());
        assert!(!path.exists());
        let agent = RunDir::open(&path).expect("free");
        let error = hold(agent.path()).expect_err("taken").to_string();
        let expected = format!("process id {} runs in ", std::process::id());
        assert!(error.contains(&expected), "{error}");
        let path = agent.path().to_owned();
        drop(agent);
        let held = hold(&path).expect("nobody runs there any more");
        assert!(held.is_some());
        RunDir::open(&path).expect_err("held");
    }

    #[test]
    fn it_is_made_for_its_owner_alone() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let run_dir = RunDir::open(&dir.path().join("run")).expect("free");
        let mode = fs::metadata(run_dir.path())
            .expect("it exists")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn allocations_outlive_the_agent() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let kept: Allocations =
            serde_json::from_str(r#"{"default/web":["10.96.1.2","fd00::2"]}"#).expect("valid");
        let run_dir = RunDir::open(dir.path()).expect("free");
        assert_eq!(
            run_dir.allocations().expect("none yet"),
            Allocations::default()
        );
        run_dir.keep(&kept).expect("writable");
        drop(run_dir);
        let run_dir = RunDir::open(dir.path()).expect("free again");
        assert_eq!(run_dir.allocations().expect("readable"), kept);
        let names: Vec<_> = fs::read_dir(dir.path())
            .expect("readable")
            .map(|entry| entry.expect("readable").file_name())
            .collect();
        assert_eq!(names.len(), 2, "no temporary file stays: {names:?}");
    }

    #[test]
    fn allocations_that_do_not_parse_are_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join(ALLOCATIONS), "[").expect("writable");
        let run_dir = RunDir::open(dir.path()).expect("free");
        let error = run_dir.allocations().expect_err("broken").to_string();
        assert!(error.contains(ALLOCATIONS), "{error}");
    }

    #[test]
    fn a_symbolic_link_leads_to_the_same_directory() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).expect("writable");
        let real = dir.path().canonicalize().expect("it exists");
        assert_eq!(RunDir::open(&link).expect("free").path(), real);
        assert_eq!(resolve(&link), real);
    }
}
