//! A directory of manifests, or one manifest file, as a source.
//!
//! Like `kubectl -f DIR`: the files `*.yaml`, `*.yml` and `*.json` of the directory itself, sorted by
//! name. [`Directory`] reads them when asked; [`watch`] asks whenever something happened.
//!
//! A directory (or a named file) that cannot be read is a fault, not a deletion: everything stays.
//! A file that is gone from the directory takes its objects with it.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File, Metadata},
    hash::{BuildHasher, RandomState},
    io::{self, Read},
    mem,
    num::NonZero,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::mpsc;

pub use super::touch::WatchError;
use super::{
    Change, ScanResult,
    files::Files,
    manifest::{self, Parsed},
    touch::Touch,
};
use crate::model::finding::{Finding, Severity};

/// Largest file that is read.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// A directory of manifests, or one manifest file, and what was last read from it.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    files: Files,
    /// What was read of each file, so that it is not read again, or not parsed.
    read: HashMap<PathBuf, Known>,
    hasher: RandomState,
    is_synced: bool,
}

impl Directory {
    /// Nothing is read yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            files: Files::default(),
            read: HashMap::new(),
            hasher: RandomState::new(),
            is_synced: false,
        }
    }

    /// The source's name in [`Change::Synced`].
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Looks, and says what changed since it last looked. The first complete look ends with
    /// [`Change::Synced`].
    pub fn scan(&mut self) -> ScanResult {
        let paths = match manifests(&self.path) {
            Ok(paths) => paths,
            Err(error) => return self.unreadable(&error),
        };
        let names: BTreeSet<String> = paths.iter().map(|path| name_of(path)).collect();
        self.files.retain(|name| names.contains(name));
        let mut before = mem::take(&mut self.read);
        let known: Vec<_> = paths.iter().map(|path| before.remove(path)).collect();
        for (path, look) in paths.iter().zip(self.look_at(&paths, &known)) {
            let name = name_of(path);
            match look {
                Ok((known, parsed)) => {
                    self.read.insert(path.clone(), known);
                    if let Some(parsed) = parsed {
                        self.files.insert(&name, parsed);
                    }
                }
                Err(error) => {
                    self.files.fail(&name, &format!("cannot be read: {error}"));
                }
            }
        }
        let mut result = self.files.merge();
        if names.is_empty() {
            let message = "no manifest here; files are read that end in .yaml, .yml or .json";
            result.findings.push(Finding::about_file(
                Severity::Warning,
                &self.name(),
                message,
            ));
        }
        if !self.is_synced {
            self.is_synced = true;
            result.changes.push(Change::Synced(self.name()));
        }
        result
    }

    /// Looks at all files, some at a time: to parse them is most of a start.
    fn look_at(&self, paths: &[PathBuf], known: &[Option<Known>]) -> Vec<Look> {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut looks = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(path) = paths.get(at) else {
                    return looks;
                };
                looks.push((
                    at,
                    look(path, known.get(at).copied().flatten(), &self.hasher),
                ));
            }
        };
        let n_threads = thread::available_parallelism().map_or(1, NonZero::get);
        let n_more = n_threads.min(paths.len()).saturating_sub(1);
        let mut looks = thread::scope(|scope| {
            let others: Vec<_> = (0..n_more).map(|_| scope.spawn(work)).collect();
            let mut looks = work();
            for other in others {
                match other.join() {
                    Ok(more) => looks.extend(more),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            looks
        });
        looks.sort_unstable_by_key(|(at, _)| *at);
        looks.into_iter().map(|(_, look)| look).collect()
    }

    fn unreadable(&self, error: &io::Error) -> ScanResult {
        let mut findings = self.files.findings();
        let message = format!("cannot be read: {error}; what was read before stays in use");
        findings.push(Finding::about_file(Severity::Error, &self.name(), message));
        findings.sort();
        ScanResult {
            changes: Vec::new(),
            findings,
        }
    }
}

/// A file's name in findings.
fn name_of(path: &Path) -> String {
    path.display().to_string()
}

/// What is known of a file that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    hash: u64,
    /// What the file system said, if whoever writes the file after that must make it say something else.
    stamp: Option<Stamp>,
}

/// What the file system says of a file's content: device, inode, size, and when it was last changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp([u64; 3], [i64; 4]);

/// Times of file systems may be as coarse as this.
const COARSE: Duration = Duration::from_secs(2);

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        let times = [
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        ];
        Self([meta.dev(), meta.ino(), meta.size()], times)
    }

    /// Whether the last change is so long ago that another one would have another time.
    fn is_settled(self) -> bool {
        let Self(_, [.., changed_s, _]) = self;
        let changed = u64::try_from(changed_s).map(Duration::from_secs);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        matches!((changed, now), (Ok(changed), Ok(now)) if changed + COARSE < now)
    }
}

/// What came of a look at a file: nothing is parsed if it is what it was.
type Look = io::Result<(Known, Option<Parsed>)>;

fn look(path: &Path, known: Option<Known>, hasher: &RandomState) -> Look {
    let file = File::open(path)?;
    let stamp = Stamp::of(&file.metadata()?);
    if let Some(known) = known.filter(|known| known.stamp == Some(stamp)) {
        return Ok((known, None));
    }
    let is_settled = stamp.is_settled();
    let bytes = read_all(&file)?;
    let is_same = is_settled && Stamp::of(&file.metadata()?) == stamp;
    let now = Known {
        hash: hasher.hash_one(&bytes),
        stamp: is_same.then_some(stamp),
    };
    if known.is_some_and(|known| known.hash == now.hash) {
        return Ok((now, None));
    }
    let parsed = manifest::parse_bytes(&name_of(path), bytes);
    Ok((now, Some(parsed)))
}

/// Sends a [`ScanResult`] at once, and again whenever something changed; returns when nobody
/// listens any more.
pub async fn watch(path: PathBuf, tx: mpsc::Sender<ScanResult>) -> Result<(), WatchError> {
    let mut touch = Touch::new(&path)?;
    let mut directory = Directory::new(path);
    let mut told = None;
    loop {
        let look = tokio::task::spawn_blocking(move || {
            let start = Instant::now();
            let result = directory.scan();
            let (changes, took_us) = (result.changes.len(), start.elapsed().as_micros());
            tracing::debug!(changes, took_us, "manifests read");
            (directory, result)
        });
        let Ok((looked, result)) = look.await else {
            // The runtime is shutting down.
            return Ok(());
        };
        directory = looked;
        if !result.changes.is_empty() || told.as_ref() != Some(&result.findings) {
            told = Some(result.findings.clone());
            if tx.send(result).await.is_err() {
                return Ok(());
            }
        }
        tokio::select! {
            () = tx.closed() => return Ok(()),
            () = touch.wait() => {}
        }
    }
}

/// The manifests of a directory, sorted; a file is its own only one.
pub fn manifests(path: &Path) -> io::Result<Vec<PathBuf>> {
    let meta = fs::metadata(path)?;
    if meta.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    if !meta.is_dir() {
        let message = "neither a file nor a directory; pipe manifests to standard input";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let is_manifest = matches!(extension, Some("yaml" | "yml" | "json"));
        // A dangling link is kept: that it cannot be read is worth a finding.
        if is_manifest && fs::metadata(&path).map_or(true, |meta| meta.is_file()) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The bytes of a file that is not too large.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_all(File::open(path)?)
}

/// Everything that a reader has, if it is not too much.
pub fn read_all(input: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let message = format!(
            "it has more than {} MiB; write its objects into several files",
            MAX_FILE_BYTES >> 20
        );
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, time::Duration};

    use tokio::time;

    use super::*;
    use crate::model::object::Object;

    fn node(name: &str) -> String {
        format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n")
    }

    /// Names of upserted objects, then the count of deletions.
    fn told(result: &ScanResult) -> (Vec<String>, usize) {
        let mut names = Vec::new();
        let mut deleted = 0;
        for change in &result.changes {
            match change {
                Change::Upsert(object) => {
                    let Object::Node(node) = object else {
                        panic!("only nodes here")
                    };
                    names.push(node.object.meta.name.to_string());
                }
                Change::Delete(_) => deleted += 1,
                Change::Synced(_) => {}
            }
        }
        (names, deleted)
    }

    #[test]
    fn files_are_read_sorted_and_by_extension() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("b.yml"), node("b")).expect("written");
        fs::write(
            dir.path().join("a.json"),
            r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"a"}}"#,
        )
        .expect("written");
        fs::write(dir.path().join("c.txt"), node("c")).expect("written");
        fs::create_dir(dir.path().join("d.yaml")).expect("made");
        let mut directory = Directory::new(dir.path());
        let result = directory.scan();
        assert_eq!(told(&result), (vec!["a".into(), "b".into()], 0));
        assert_eq!(
            result.changes.last(),
            Some(&Change::Synced(directory.name()))
        );
        assert_eq!(result.findings, []);
        assert_eq!(directory.scan().changes, [], "synced is told once");
        fs::remove_file(dir.path().join("b.yml")).expect("removed");
        assert_eq!(told(&directory.scan()), (vec![], 1));
    }

    #[test]
    fn a_swapped_link_is_a_change_and_a_dangling_one_is_not_a_deletion() {
        let dir = tempfile::tempdir().expect("a directory");
        for (version, name) in [("v1", "a"), ("v2", "b")] {
            fs::create_dir(dir.path().join(version)).expect("made");
            fs::write(dir.path().join(version).join("m.yaml"), node(name)).expect("written");
        }
        let data = dir.path().join("..data");
        symlink("v1", &data).expect("linked");
        symlink("..data/m.yaml", dir.path().join("m.yaml")).expect("linked");
        let mut directory = Directory::new(dir.path());
        assert_eq!(told(&directory.scan()), (vec!["a".into()], 0));
        fs::remove_file(&data).expect("removed");
        let dangling = directory.scan();
        assert_eq!(told(&dangling), (vec![], 0));
        assert_eq!(dangling.findings.len(), 2);
        symlink("v2", &data).expect("linked");
        assert_eq!(told(&directory.scan()), (vec!["b".into()], 1));
    }

    #[test]
    fn a_missing_path_never_syncs_and_never_deletes() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("m.yaml");
        let mut directory = Directory::new(&path);
        let missing = directory.scan();
        assert_eq!((missing.changes.len(), missing.findings.len()), (0, 1));
        fs::write(&path, node("a")).expect("written");
        assert_eq!(directory.scan().changes.len(), 2);
        fs::remove_file(&path).expect("removed");
        assert_eq!(directory.scan().changes, []);
    }

    #[test]
    fn a_file_that_is_no_text_keeps_what_it_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("m.yaml");
        fs::write(&path, node("a")).expect("written");
        let mut directory = Directory::new(dir.path());
        directory.scan();
        fs::write(&path, [0xff, 0xfe]).expect("written");
        let bad = directory.scan();
        assert_eq!((bad.changes.len(), bad.findings.len()), (0, 2));
        fs::write(&path, node("a")).expect("written");
        assert_eq!(directory.scan(), ScanResult::default());
    }

    #[tokio::test]
    async fn a_watch_tells_what_is_there_and_then_what_changes() {
        const DEADLINE: Duration = Duration::from_secs(20);
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("a.yaml"), node("a")).expect("written");
        let (tx, mut rx) = mpsc::channel(1);
        let watching = tokio::spawn(watch(dir.path().to_owned(), tx));
        let first = time::timeout(DEADLINE, rx.recv())
            .await
            .expect("in time")
            .expect("a result");
        assert_eq!(told(&first), (vec!["a".into()], 0));
        // The watch is in place before the first look, so that nothing is lost in between.
        fs::write(dir.path().join("b.yaml"), node("b")).expect("written");
        let second = time::timeout(DEADLINE, rx.recv())
            .await
            .expect("in time")
            .expect("a result");
        assert_eq!(told(&second), (vec!["b".into()], 0));
        drop(rx);
        let end = time::timeout(DEADLINE, watching).await.expect("in time");
        end.expect("no panic").expect("no error");
    }

    /// Less than the time after which a watch looks without a reason.
    const SOON: Duration = Duration::from_secs(20);

    async fn next(results: &mut mpsc::Receiver<ScanResult>) -> ScanResult {
        let result = time::timeout(SOON, results.recv()).await;
        result.expect("in time").expect("a result")
    }

    #[tokio::test]
    async fn a_directory_that_goes_and_comes_back_is_read_again_soon() {
        let dir = tempfile::tempdir().expect("a directory");
        let [here, away] = ["here", "away"].map(|name| dir.path().join(name));
        fs::create_dir(&here).expect("made");
        fs::write(here.join("a.yaml"), node("a")).expect("written");
        let (tx, mut rx) = mpsc::channel(1);
        tokio::spawn(watch(here.clone(), tx));
        assert_eq!(told(&next(&mut rx).await), (vec!["a".into()], 0));
        fs::rename(&here, &away).expect("renamed");
        let missing = next(&mut rx).await;
        assert_eq!(told(&missing), (vec![], 0), "what was read stays");
        let message = missing.findings[0].to_string();
        assert!(message.contains("what was read before stays"), "{message}");
        fs::write(away.join("b.yaml"), node("b")).expect("written");
        fs::rename(&away, &here).expect("renamed");
        assert_eq!(told(&next(&mut rx).await), (vec!["b".into()], 0));
        // It is watched again.
        fs::write(here.join("c.yaml"), node("c")).expect("written");
        assert_eq!(told(&next(&mut rx).await), (vec!["c".into()], 0));
    }

    #[tokio::test]
    async fn a_link_that_leads_elsewhere_is_followed_soon() {
        let dir = tempfile::tempdir().expect("a directory");
        let [one, two, link, new] = ["1", "2", "link", "new"].map(|name| dir.path().join(name));
        for (dir, name) in [(&one, "a"), (&two, "b")] {
            fs::create_dir(dir).expect("made");
            fs::write(dir.join("m.yaml"), node(name)).expect("written");
        }
        symlink(&one, &link).expect("linked");
        let (tx, mut rx) = mpsc::channel(1);
        tokio::spawn(watch(link.clone(), tx));
        assert_eq!(told(&next(&mut rx).await), (vec!["a".into()], 0));
        symlink(&two, &new).expect("linked");
        fs::rename(&new, &link).expect("renamed");
        assert_eq!(told(&next(&mut rx).await), (vec!["b".into()], 1));
        fs::write(two.join("n.yaml"), node("c")).expect("written");
        assert_eq!(told(&next(&mut rx).await), (vec!["c".into()], 0));
    }

    #[tokio::test]
    async fn a_path_without_a_directory_cannot_be_watched() {
        let (tx, _rx) = mpsc::channel(1);
        let error = watch("/nonexistent/dir/m.yaml".into(), tx)
            .await
            .expect_err("no directory");
        assert!(
            error
                .to_string()
                .starts_with("cannot watch /nonexistent/dir: "),
            "{error}"
        );
    }
}
