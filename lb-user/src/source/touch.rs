//! When to look at a file or directory again.
//!
//! The directory is watched, not the file: editors and `ConfigMap` volumes replace files.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::{sync::mpsc, time};

/// Quiet time after which a change is taken as complete.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Longest wait for quiet.
const DEBOUNCE_MAX: Duration = Duration::from_secs(2);
/// Time between looks without an event: for file systems that report none, and for a directory that
/// was replaced.
const RESCAN: Duration = Duration::from_secs(30);
/// Time between two looks whether the directory is still the one that is watched.
const GLANCE: Duration = Duration::from_secs(1);

/// Why a directory cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch {}: {source}", path.display())]
pub struct WatchError {
    path: PathBuf,
    source: notify::Error,
}

/// Sees what happens to a file, or in a directory.
#[derive(Debug)]
pub(crate) struct Touch {
    dir: PathBuf,
    /// What `dir` was when it was last looked at.
    seen: Identity,
    watcher: RecommendedWatcher,
    touched: mpsc::Receiver<()>,
}

/// Which directory a path leads to: device and inode; nothing while it leads nowhere.
type Identity = Option<(u64, u64)>;

impl Touch {
    /// Sees everything from now on.
    pub(crate) fn new(path: &Path) -> Result<Self, WatchError> {
        let (touch, touched) = mpsc::channel(1);
        let dir = watched_dir(path);
        let fail = |source| WatchError {
            path: dir.clone(),
            source,
        };
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                if event.map_or(true, |event| is_change(event.kind)) {
                    // A full channel is as good: the look is still to come.
                    let _ = touch.try_send(());
                }
            })
            .map_err(fail)?;
        let seen = identity(&dir);
        watcher
            .watch(&dir, RecursiveMode::NonRecursive)
            .map_err(fail)?;
        Ok(Self {
            dir,
            seen,
            watcher,
            touched,
        })
    }

    /// Waits until something has happened and it is quiet again, or until it is time to look all the same.
    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.touched.recv() => self.settle().await,
            () = time::sleep(RESCAN) => {}
            seen = replaced(&self.dir, self.seen) => self.follow(seen),
        }
    }

    /// Watches what the path leads to now. To the kernel a directory that was replaced, or comes back, is another one.
    fn follow(&mut self, seen: Identity) {
        self.seen = seen;
        // Where it is missing there is nothing to be watched, and the look says so.
        let _ = self.watcher.unwatch(&self.dir);
        let _ = self.watcher.watch(&self.dir, RecursiveMode::NonRecursive);
    }

    /// Waits until nothing has happened for a while, but not for ever.
    async fn settle(&mut self) {
        let touched = &mut self.touched;
        let quiet =
            async { while let Ok(Some(())) = time::timeout(DEBOUNCE, touched.recv()).await {} };
        let _ = time::timeout(DEBOUNCE_MAX, quiet).await;
    }
}

/// Waits until a path leads to something else than what was seen there.
async fn replaced(dir: &Path, seen: Identity) -> Identity {
    loop {
        time::sleep(GLANCE).await;
        let found = identity(dir);
        if found != seen {
            return found;
        }
    }
}

fn identity(dir: &Path) -> Identity {
    let meta = fs::metadata(dir).ok()?;
    Some((meta.dev(), meta.ino()))
}

/// Whether an event may mean other content. Reading is none: our own would wake us for ever.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

fn watched_dir(path: &Path) -> PathBuf {
    if path.is_dir() {
        return path.to_owned();
    }
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
