//! The clock that programs count by, as a process sees it.
//!
//! Programs read the machine's monotonic clock (`bpf_ktime_get_coarse_ns`), which nobody sets. A process in a time
//! namespace of its own reads another: that is the machine's and an offset (`time_namespaces(7)`), and flows would look
//! hours old, or not yet begun.

use std::{fs, io, time::Duration};

use lb_common::flow::clock::{Tick, tick};
use nix::time::{ClockId, clock_gettime};

/// What this process's clocks are ahead of the machine's. (Of a process that has made a time namespace and is not in it
/// itself, those of its children; it cannot have threads, so it is none of ours.)
const OFFSETS: &str = "/proc/self/timens_offsets";

/// The tick of this moment, by the clock that programs count by.
///
/// # Errors
/// The clock cannot be read, or the offsets are not what the kernel writes.
pub fn now() -> io::Result<Tick> {
    let here: Duration = clock_gettime(ClockId::CLOCK_MONOTONIC)?.into();
    let offset = read_offset()?;
    let here = i128::try_from(here.as_nanos()).unwrap_or(i128::MAX);
    let machine = here.saturating_sub(offset).max(0);
    Ok(tick(u64::try_from(machine).unwrap_or(u64::MAX)))
}

fn read_offset() -> io::Result<i128> {
    match fs::read_to_string(OFFSETS) {
        Ok(text) => monotonic_offset(&text).ok_or_else(|| {
            let message = format!("{OFFSETS} holds {text:?}");
            io::Error::new(io::ErrorKind::InvalidData, message)
        }),
        // The kernel has no time namespaces.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Nanoseconds; in the file stand whole seconds, which may be negative, and nanoseconds above those.
fn monotonic_offset(offsets: &str) -> Option<i128> {
    let line = offsets
        .lines()
        .find_map(|line| line.strip_prefix("monotonic"))?;
    let mut numbers = line.split_ascii_whitespace().map(str::parse::<i128>);
    let seconds = numbers.next()?.ok()?;
    let nanoseconds = numbers.next()?.ok()?;
    Some(seconds * 1_000_000_000 + nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_as_the_kernel_writes_them() {
        for (text, offset) in [
            (
                "monotonic           0         0\nboottime            0         0\n",
                Some(0),
            ),
            (
                "monotonic      172800         5\nboottime      604800         0\n",
                Some(172_800_000_000_005),
            ),
            (
                "monotonic          -2 500000000\nboottime           0         0\n",
                Some(-1_500_000_000),
            ),
            ("boottime           0         0\n", None),
            ("monotonic          1\n", None),
            ("", None),
        ] {
            assert_eq!(monotonic_offset(text), offset, "{text:?}");
        }
    }

    #[test]
    fn time_goes_on() {
        let first = now().expect("a clock");
        let second = now().expect("a clock");
        assert!(second.wrapping_sub(first) < 1000, "{first} {second}");
    }
}
