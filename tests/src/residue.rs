//! What runs that were killed left behind, and its removal.
//!
//! Everything that can outlive a process has the process id in its name (`fc-<id>-...`) or, for routes, in its metric.
//! What belongs to a living process is never touched, and neither is anything that does not carry our mark.

use std::{fs, path::Path, sync::Once};

use nix::mount::{MntFlags, umount2};

use crate::{
    blackhole, cgroup,
    netns::{self, NETNS_DIR},
};

/// Beginning of all names.
const MARK: &str = "fc-";
/// Where a private BPF filesystem is mounted inside a scratch directory.
pub(crate) const BPFFS: &str = "bpf";

/// The beginning of the names that this process gives.
pub fn prefix() -> String {
    format!("{MARK}{}-", std::process::id())
}

/// Removes what dead processes left; looks once per process.
///
/// Never fails: what cannot be removed now does not keep a test from running, as nothing of it is ever reused.
pub fn reap() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for path in of_dead_processes(Path::new(NETNS_DIR)) {
            netns::unbind(&path);
        }
        for path in of_dead_processes(&std::env::temp_dir()) {
            let _ = umount2(&path.join(BPFFS), MntFlags::MNT_DETACH);
            let _ = fs::remove_dir_all(path);
        }
        let groups = cgroup::dir().map(|dir| of_dead_processes(&dir));
        for path in groups.into_iter().flatten() {
            let _ = fs::remove_dir(path);
        }
        let _ = blackhole::reap(is_alive);
    });
}

fn of_dead_processes(dir: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| owner(&entry.file_name().to_string_lossy()).is_some_and(|id| !is_alive(id)))
        .map(|entry| entry.path())
        .collect()
}

/// The process that gave this name.
fn owner(name: &str) -> Option<u32> {
    let (id, _) = name.strip_prefix(MARK)?.split_once('-')?;
    id.parse().ok()
}

/// A process that has ended, and that nobody has waited for yet, holds nothing any more.
fn is_alive(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The state follows the name, which is in parentheses and may contain any character.
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

#[cfg(test)]
mod tests {
    use std::{process::Command, time::Duration};

    use super::*;

    #[test]
    fn only_names_with_our_mark_have_an_owner() {
        assert_eq!(owner("fc-17-0-node-1"), Some(17));
        for name in ["fc-node-1", "fc-17", "xfc-17-0", "17-0", "fc--0"] {
            assert_eq!(owner(name), None, "{name}");
        }
    }

    #[test]
    fn what_this_process_makes_is_its_own_and_alive() {
        let owner = owner(&(prefix() + "x")).unwrap();
        assert_eq!(owner, std::process::id());
        assert!(is_alive(owner));
    }

    #[test]
    fn a_process_that_nobody_has_waited_for_is_dead() {
        let mut child = Command::new("true").spawn().unwrap();
        let id = child.id();
        let what = format!("process {id} to be dead");
        let is_dead = || Ok((!is_alive(id)).then_some(()));
        crate::poll::until(Duration::from_secs(10), &what, is_dead).unwrap();
        assert!(
            Path::new(&format!("/proc/{id}")).exists(),
            "it is there until we wait"
        );
        child.wait().unwrap();
    }
}
