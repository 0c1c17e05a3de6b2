//! How much memory this process may count on, and what follows from it.

use std::{fs, path::Path};

use lb_common::{
    abi::FlowSlot,
    net::addr::{Addr4, Addr6},
};

/// Both flow tables together take one part of so many of the memory.
const SHARE: u64 = 64;
/// Bytes of a position in both tables.
const POSITION: u64 = (size_of::<FlowSlot<Addr4>>() + size_of::<FlowSlot<Addr6>>()) as u64;
/// As few as no node has too many connections for, and as many as one node hardly has.
const SIZES: std::ops::RangeInclusive<u64> = 1 << 16..=1 << 22;

/// Positions per family for so many bytes of memory; where that is not known, the fewest.
pub(super) fn flow_table_size(memory: Option<u64>) -> u32 {
    let fitting = memory.unwrap_or_default() / SHARE / POSITION;
    // The power of two below; there is none below one.
    let power = fitting.checked_ilog2().map_or(0, |log| 1 << log);
    let size: u64 = power;
    u32::try_from(size.clamp(*SIZES.start(), *SIZES.end())).unwrap_or(u32::MAX)
}

/// The machine's memory, or the least limit of the control groups that this process is in, bytes.
pub(super) fn memory() -> Option<u64> {
    let whole = fs::read_to_string("/proc/meminfo").ok();
    let whole = whole.as_deref().and_then(total);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let read = |path: &str| fs::read_to_string(Path::new("/sys/fs/cgroup").join(path)).ok();
    whole.into_iter().chain(limit(&groups, &read)).min()
}

/// `MemTotal` of `/proc/meminfo`.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1_024)
}

/// The least limit of the groups that `/proc/self/cgroup` names, and of those around them; `read` reads a file of the
/// hierarchy. Without limit the second version says `max`, the first a number beyond every memory.
fn limit(groups: &str, read: &dyn Fn(&str) -> Option<String>) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (root, file) = match controllers {
            "" => ("", "memory.max"),
            _ if controllers.split(',').any(|it| it == "memory") => {
                ("memory/", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let path = path.trim_start_matches('/');
        // A container may see its own group as the root, whatever its path is.
        let around = Path::new(path).ancestors();
        let limits = around.filter_map(|group| {
            let path = Path::new(root).join(group).join(file);
            read(path.to_str()?)?.trim().parse().ok()
        });
        limits.min()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn both_tables_take_a_64th_of_the_memory_at_most() {
        for (memory, size) in [
            (None, 65_536),
            (Some(0), 65_536),
            (Some(GIB), 65_536),
            (Some(2 * GIB), 131_072),
            (Some(24 * GIB), 2_097_152),
            (Some(64 * GIB), 4_194_304),
            (Some(u64::MAX), 4_194_304),
        ] {
            assert_eq!(flow_table_size(memory), size, "{memory:?}");
            let bytes = u64::from(size) * POSITION;
            let is_least = size == 65_536;
            assert!(is_least || memory.is_some_and(|memory| bytes <= memory / SHARE));
        }
    }

    #[test]
    fn the_machine_says_how_much_it_has() {
        let text = "MemTotal:       24684408 kB\nMemFree:  1 kB\n";
        assert_eq!(total(text), Some(24_684_408 * 1_024));
        assert_eq!(total("MemFree: 1 kB\n"), None);
        assert!(memory().is_some_and(|bytes| bytes > 1 << 26));
    }

    #[test]
    fn the_least_limit_around_counts() {
        let files = |path: &str| {
            let text = match path {
                "pods/a/memory.max" => "max\n",
                "pods/memory.max" => "4096\n",
                "memory.max" => "8192\n",
                "memory/old/memory.limit_in_bytes" => "2048\n",
                "memory/memory.limit_in_bytes" => "9223372036854771712\n",
                _ => return None,
            };
            Some(text.to_owned())
        };
        assert_eq!(limit("0::/pods/a\n", &files), Some(4_096));
        assert_eq!(limit("0::/\n", &files), Some(8_192));
        assert_eq!(limit("0::/gone\n", &files), Some(8_192));
        let old = "12:cpu,cpuacct:/old\n5:memory:/old\n0::/pods/a\n";
        assert_eq!(limit(old, &files), Some(2_048));
        assert_eq!(
            limit("5:memory:/other\n", &files),
            Some(9_223_372_036_854_771_712)
        );
        assert_eq!(limit("", &files), None);
    }
}
