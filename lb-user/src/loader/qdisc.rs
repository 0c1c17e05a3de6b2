//! Which clsact qdiscs agents of a run directory made: those of others stay when our filters go.
//!
//! While one is added or removed, Linux drops what the device is sending (`qdisc_graft` of `net/sched/sch_api.c`), so who can spare
//! no packet has it there before the first agent starts. That it is ours is noted by a directory beside the pinned links: it lives
//! in the BPF filesystem as long as the qdisc does in the kernel, and filters can keep no note.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::net::if_::if_indextoname;

/// What the notes' names begin with; then come the numbers of device and network namespace.
const PREFIX: &str = "clsact-";

/// Where it is noted that a device's qdisc is ours.
pub(super) fn note(links: &Path, device: u32, namespace: u64) -> PathBuf {
    links.join(format!("{PREFIX}{device}-{namespace}"))
}

/// Notes that a device's qdisc is ours.
pub(super) fn made(links: &Path, device: u32, namespace: u64) {
    let path = note(links, device, namespace);
    if let Err(error) = fs::create_dir(&path)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        let path = path.display();
        tracing::warn!(%path, %error, "cannot note that a clsact qdisc is ours; `fulcrum cleanup` will leave it");
    }
}

/// Whether this is such a note, of a device that is still there as far as this namespace can tell.
pub(super) fn is_needed(path: &Path, namespace: u64) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let Some((device, other)) = name
        .and_then(|name| name.strip_prefix(PREFIX))
        .and_then(|rest| rest.split_once('-'))
    else {
        return false;
    };
    let is_here = other.parse() == Ok(namespace);
    !is_here || device.parse().is_ok_and(is_there)
}

fn is_there(device: u32) -> bool {
    // A number that no device has is given an empty name.
    if_indextoname(device).is_ok_and(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_needed_as_long_as_its_device_is_there() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let links = dir.path();
        made(links, 1, 7);
        made(links, 1, 7);
        assert!(note(links, 1, 7).is_dir());
        // The loopback device is there, and nobody has so many.
        for (name, expected) in [
            ("clsact-1-7", true),
            ("clsact-2000000000-7", false),
            ("clsact-2000000000-8", true),
            ("clsact-x-7", false),
            ("clsact", false),
            ("probe", false),
        ] {
            assert_eq!(is_needed(&links.join(name), 7), expected, "{name}");
        }
    }
}
