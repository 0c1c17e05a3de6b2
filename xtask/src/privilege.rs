//! The privileges of this process.

use anyhow::{Result, bail};

/// Whether programs can be loaded, namespaces made and packages installed.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Fails unless this process is root; `purpose` completes "root is needed to".
pub(crate) fn require_root(purpose: &str) -> Result<()> {
    if !is_root() {
        bail!("root is needed to {purpose}; run the same command as root");
    }
    Ok(())
}
