//! What this process may use of the machine.

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Lets this process have so many files open at once; many shells allow a thousand unless asked.
pub fn allow_files(number: u64) -> Result<()> {
    let (now, most) =
        getrlimit(Resource::RLIMIT_NOFILE).context("ask for the limit of open files")?;
    if now >= number {
        return Ok(());
    }
    ensure!(
        most >= number,
        "this process may have {most} files open, and needs {number}; raise the hard limit (ulimit -Hn)"
    );
    setrlimit(Resource::RLIMIT_NOFILE, number, most).context("raise the limit of open files")
}
