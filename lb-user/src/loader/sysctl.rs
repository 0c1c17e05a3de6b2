//! Settings below `/proc/sys` of the network namespace that this process runs in.

use std::{fmt, fs, io, path::PathBuf};

/// Where the kernel shows its settings.
const ROOT: &str = "/proc/sys";

/// A setting and the value that it shall have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The path below `/proc/sys`. A dot in a device's name is a dot here, not a separator.
    pub path: String,
    /// The value.
    pub value: u32,
}

/// A setting that cannot be made.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot set {ROOT}/{} to {}; the agent needs root in the network namespace, and a /proc/sys that is \
     mounted writable",
    setting.path,
    setting.value
)]
pub struct SysctlError {
    /// What was tried.
    pub setting: Setting,
    /// The system's answer.
    #[source]
    pub source: io::Error,
}

impl Setting {
    /// Of one device and family, `ipv4` or `ipv6`.
    pub fn of_device(family: &str, device: &str, name: &str, value: u32) -> Self {
        Self {
            path: format!("net/{family}/conf/{device}/{name}"),
            value,
        }
    }

    /// Writes the value, unless the setting has it; returns whether it had another.
    pub fn make(&self) -> Result<bool, SysctlError> {
        let result = match read(&self.path) {
            Some(found) if found.trim() == self.value.to_string() => Ok(false),
            _ => fs::write(file(&self.path), self.value.to_string()).map(|()| true),
        };
        result.map_err(|source| SysctlError {
            setting: self.clone(),
            source,
        })
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.path, self.value)
    }
}

/// What the kernel says at this path below `/proc/sys`; nothing if there is no such setting.
pub fn read(path: &str) -> Option<String> {
    fs::read_to_string(file(path)).ok()
}

/// A setting that is a small number.
pub fn number(path: &str) -> Option<u32> {
    read(path)?.trim().parse().ok()
}

/// Whether this kernel has IPv6 here at all: not with `ipv6.disable=1`.
pub fn has_ipv6() -> bool {
    file("net/ipv6/conf/all").is_dir()
}

fn file(path: &str) -> PathBuf {
    [ROOT, path].iter().collect()
}
