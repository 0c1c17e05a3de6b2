//! Control groups of version 2: where they are mounted, and what one is known by.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// What is mounted where, as this process sees it.
const MOUNTS: &str = "/proc/self/mountinfo";
/// The type of the hierarchy's filesystem.
const KIND: &str = "cgroup2";

/// A control group.
#[derive(Debug)]
pub struct ControlGroup {
    dir: PathBuf,
    file: File,
    id: u64,
}

/// Why there is no control group to use.
#[derive(Debug, thiserror::Error)]
pub enum ControlGroupError {
    /// The kernel does not say what is mounted.
    #[error("cannot read {MOUNTS}")]
    Mounts(#[source] io::Error),
    /// Nothing is.
    #[error(
        "no control groups of version 2 are mounted; mount them by `mount -t cgroup2 none DIR`, or name one by --cgroup"
    )]
    NotMounted,
    /// The directory cannot be used.
    #[error("cannot open the control group {dir}")]
    Open {
        /// The directory.
        dir: PathBuf,
        /// The answer.
        #[source]
        source: io::Error,
    },
    /// The directory is something else.
    #[error("{0} is no control group of version 2; name another by --cgroup")]
    Other(PathBuf),
}

impl ControlGroup {
    /// The one of this directory; without one that which all others are below.
    pub fn open(dir: Option<&Path>) -> Result<Self, ControlGroupError> {
        let dir = match dir {
            Some(dir) => dir.to_owned(),
            None => root()?.ok_or(ControlGroupError::NotMounted)?,
        };
        let refused = |source| ControlGroupError::Open {
            dir: dir.clone(),
            source,
        };
        let file = File::open(&dir).map_err(refused)?;
        let found = statfs(&dir).map_err(|errno| refused(errno.into()))?;
        if found.filesystem_type() != CGROUP2_SUPER_MAGIC {
            return Err(ControlGroupError::Other(dir));
        }
        let id = file.metadata().map_err(refused)?.ino();
        Ok(Self { dir, file, id })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The kernel's number, which no other has as long as this one is there.
    pub fn id(&self) -> u64 {
        self.id
    }
}

impl AsFd for ControlGroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Where the hierarchy is mounted, if it is.
pub fn root() -> Result<Option<PathBuf>, ControlGroupError> {
    let mounts = fs::read_to_string(MOUNTS).map_err(ControlGroupError::Mounts)?;
    Ok(mounted(&mounts))
}

/// The mount point of the whole hierarchy, else of the part of it that is to be seen (proc(5), `mountinfo`).
fn mounted(mounts: &str) -> Option<PathBuf> {
    let of_kind = mounts.lines().filter_map(|line| {
        let (place, filesystem) = line.split_once(" - ")?;
        let kind = filesystem.split(' ').next()?;
        let mut fields = place.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (kind == KIND).then(|| (root != "/", unescaped(point)))
    });
    let whole_first = of_kind.min_by_key(|(is_part, _)| *is_part);
    whole_first.map(|(_, point)| point.into())
}

/// A path in which blanks and backslashes are written as three octal digits.
fn unescaped(path: &str) -> String {
    let mut parts = path.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (digits, rest) = part.split_at_checked(3).unwrap_or(("", part));
        match u8::from_str_radix(digits, 8) {
            Ok(byte) => text.push(char::from(byte)),
            Err(_) => text.push_str(digits),
        }
        text.push_str(rest);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
23 1 0:21 / /sys rw shared:7 - sysfs sysfs rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
";

    #[test]
    fn the_hierarchy_is_found_among_all_that_is_mounted() {
        let unified = PathBuf::from("/sys/fs/cgroup/unified");
        assert_eq!(mounted(HYBRID), Some(unified));
        let part = "50 1 0:38 /../a /part rw - cgroup2 none rw\n";
        assert_eq!(mounted(part), Some("/part".into()));
        let both = format!("{part}{HYBRID}");
        assert_eq!(mounted(&both), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(
            mounted("32 31 0:29 / /cgroup2 rw - cgroup cgroup rw\nx\n"),
            None
        );
    }

    #[test]
    fn blanks_in_a_mount_point_are_written_as_numbers() {
        let line = r"50 1 0:38 / /a\040b\134c rw - cgroup2 none rw";
        assert_eq!(mounted(line), Some(r"/a b\c".into()));
        assert_eq!(unescaped(r"/odd\9"), "/odd9");
    }

    #[test]
    fn any_other_directory_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let error = ControlGroup::open(Some(dir.path())).expect_err("a plain directory");
        let message = format!(
            "{} is no control group of version 2; name another by --cgroup",
            dir.path().display()
        );
        assert_eq!(error.to_string(), message);
        let absent = dir.path().join("absent");
        let error = ControlGroup::open(Some(&absent)).expect_err("nothing");
        assert!(error.to_string().contains("absent"), "{error}");
    }
}
