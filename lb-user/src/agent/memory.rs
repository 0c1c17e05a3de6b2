//! How much memory the agent takes, and how much of that for each endpoint.

use std::fs;

use serde::Serialize;

/// What is told of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Memory {
    /// What is resident of the agent's own, bytes: neither its tables, which are the kernel's, nor its program.
    bytes: u64,
    /// The same for each endpoint of a service port, bytes; none without endpoints.
    per_endpoint: Option<u64>,
}

impl Memory {
    /// That of this process, which serves so many endpoints; none if the kernel does not say.
    pub(super) fn now(n_endpoints: usize) -> Option<Self> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        Some(Self::of(anonymous(&status)?, n_endpoints))
    }

    fn of(bytes: u64, n_endpoints: usize) -> Self {
        Self {
            bytes,
            per_endpoint: bytes.checked_div(n_endpoints as u64),
        }
    }
}

/// `RssAnon` of `/proc/PID/status`, bytes.
fn anonymous(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_shared_out_among_endpoints() {
        let status = "VmHWM:\t  900 kB\nRssAnon:\t    600 kB\nRssFile:\t 300 kB\n";
        assert_eq!(anonymous(status), Some(614_400));
        assert_eq!(anonymous("VmHWM: 900 kB\n"), None);
        assert_eq!(Memory::of(1_000, 3).per_endpoint, Some(333));
        assert_eq!(Memory::of(1_000, 0).per_endpoint, None);
        let now = Memory::now(1).expect("the kernel says it");
        assert!(now.bytes > 100_000, "{now:?}");
        assert_eq!(now.per_endpoint, Some(now.bytes));
    }
}
