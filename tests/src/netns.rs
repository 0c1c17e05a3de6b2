//! Network namespaces that live as long as the value that owns them.
//!
//! A namespace starts with nothing but `lo`, up, and has no route out of the machine unless a test makes one. Threads
//! and children enter it by `setns`, so that they keep the mounts of the process (`ip netns exec` would hide the BPF
//! filesystem). The calling thread itself never changes its namespace.
//!
//! Anonymous namespaces are held by a file descriptor only: they go with the process, however it ends. Named ones can be
//! entered by a person (`nsenter --net=/run/netns/NAME`); their names hold the process id, and [`crate::residue`] removes
//! those of dead processes. Removing a namespace never panics and never hides the failure of a test.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    os::{fd::AsRawFd, unix::process::CommandExt},
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, bail};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::{
        prctl::set_pdeathsig,
        signal::{SigSet, Signal},
    },
    unistd::geteuid,
};

/// Where iproute2 looks for named namespaces.
pub(crate) const NETNS_DIR: &str = "/run/netns";

/// Whether privileged tests can run here; says on standard output why not.
///
/// # Panics
///
/// If they cannot, but skipping is forbidden by `FULCRUM_REQUIRE_ROOT=1` or `CI=true`.
#[must_use = "a test without root must return"]
pub fn require_root() -> bool {
    if geteuid().is_root() {
        return true;
    }
    let is = |name: &str, value: &str| std::env::var_os(name).is_some_and(|found| found == value);
    let reason = "needs root to make network namespaces";
    assert!(
        !is("FULCRUM_REQUIRE_ROOT", "1") && !is("CI", "true"),
        "{reason}, and skipping is forbidden here"
    );
    println!("skipped: {reason}");
    false
}

/// One network namespace.
#[derive(Debug)]
pub struct Namespace {
    label: String,
    file: Arc<File>,
    /// The bind mount of a named namespace.
    mount: Option<PathBuf>,
}

impl Namespace {
    /// A namespace without a name; `label` is for messages.
    pub fn anonymous(label: &str) -> Result<Self> {
        let file = fresh().with_context(|| format!("make the network namespace {label}"))?;
        Ok(Self {
            label: label.to_owned(),
            file: Arc::new(file),
            mount: None,
        })
    }

    /// A namespace that others can enter by its name, `fc-<process id>-<number>-<label>`.
    pub fn named(label: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut namespace = Self::anonymous(label)?;
        let name = format!("fc-{}-{number}-{label}", std::process::id());
        let path = Path::new(NETNS_DIR).join(name);
        let bind = || -> io::Result<()> {
            fs::create_dir_all(NETNS_DIR)?;
            File::create_new(&path)?;
            let source = namespace.path();
            mount(
                Some(&source),
                &path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )?;
            Ok(())
        };
        let bound = bind();
        // From here on, Drop removes whatever of it is there.
        namespace.mount = Some(path.clone());
        bound
            .with_context(|| format!("bind the network namespace {label} to {}", path.display()))?;
        Ok(namespace)
    }

    /// The same namespace once more, without its name.
    #[must_use]
    pub fn again(&self) -> Self {
        Self {
            label: self.label.clone(),
            file: Arc::clone(&self.file),
            mount: None,
        }
    }

    /// What the namespace is called in messages.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// A path by which any process of this user can enter the namespace: the name, or a file of this process.
    pub fn path(&self) -> PathBuf {
        self.mount.clone().unwrap_or_else(|| {
            let fd = self.file.as_raw_fd();
            PathBuf::from(format!("/proc/{}/fd/{fd}", std::process::id()))
        })
    }

    /// Runs `body` on a thread of its own that has entered the namespace, and hands on its result or its panic.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            self.enter();
            body()
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(value) => value,
            Err(panic) => resume_unwind(panic),
        })
    }

    /// Starts a thread that has entered the namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<thread::JoinHandle<T>> {
        let file = Arc::clone(&self.file);
        let label = self.label.clone();
        thread::Builder::new().name(label.clone()).spawn(move || {
            enter(&file, &label);
            body()
        })
    }

    /// A command whose child enters the namespace before it starts; it keeps the mounts of this process.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let file = Arc::clone(&self.file);
        let mut command = Command::new(program);
        let enter = move || {
            setns(&*file, CloneFlags::CLONE_NEWNET)?;
            // A program that waits for signals on a thread of its own has blocked them; children must not inherit that.
            SigSet::empty().thread_set_mask()?;
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes system calls only, on a descriptor that it owns and on its own
        // signal mask, and allocates nothing.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// As [`Self::command`]; the child is told to end (SIGTERM) when the thread that spawned it ends, and so never
    /// outlives a test that was killed. It has a process group of its own: an interrupt from the terminal is the
    /// harness's to handle.
    pub fn daemon(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.command(program);
        let end_with_parent = || set_pdeathsig(Signal::SIGTERM).map_err(io::Error::from);
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe { command.pre_exec(end_with_parent) };
        command.process_group(0);
        command
    }

    /// Runs these `ip` commands, each without the word `ip`, in one process; stops at the first that fails.
    pub fn ip(&self, commands: &[String]) -> Result<()> {
        self.batch("ip", commands)
    }

    /// As [`Self::ip`], for `bridge`.
    pub fn bridge(&self, commands: &[String]) -> Result<()> {
        self.batch("bridge", commands)
    }

    /// The address that the namespace's own sockets send from to this one, by its routes; nothing is sent.
    pub fn source_to(&self, address: IpAddr) -> Result<IpAddr> {
        let any: IpAddr = match address {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let source = || -> io::Result<IpAddr> {
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect((address, 9))?;
            Ok(socket.local_addr()?.ip())
        };
        self.run(source).with_context(|| {
            format!(
                "find the source of packets from {} to {address}",
                self.label
            )
        })
    }

    fn batch(&self, program: &str, commands: &[String]) -> Result<()> {
        let label = &self.label;
        let mut batch = self.command(program);
        batch
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let mut child = batch
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("run `{program}` in {label}; install iproute2"))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A broken pipe means that `ip` gave up; its message says why.
            let _ = stdin.write_all((commands.join("\n") + "\n").as_bytes());
        }
        let output = child
            .wait_with_output()
            .with_context(|| format!("wait for `{program}` in {label}"))?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr);
            bail!(
                "{program} in {label}: {}; the batch was:\n{}",
                message.trim(),
                commands.join("\n")
            );
        }
        Ok(())
    }

    /// Sets a sysctl, named as below `/proc/sys`, e.g. `net/ipv4/ip_forward`.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.sysctls(&[(name, value)])
    }

    /// Sets sysctls in this order.
    pub fn sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        // The files below /proc/sys/net are those of the namespace of the thread that opens them.
        self.run(|| {
            settings.iter().try_for_each(|(name, value)| {
                fs::write(format!("/proc/sys/{name}"), value)
                    .with_context(|| format!("set {name} to {value} in {}", self.label))
            })
        })
    }

    fn enter(&self) {
        enter(&self.file, &self.label);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some(path) = &self.mount {
            unbind(path);
        }
    }
}

/// Removes the name of a namespace; the namespace goes when nothing else holds it.
pub(crate) fn unbind(path: &Path) {
    // Drop may run while a test unwinds, and what cannot be removed now is removed by a later run.
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}

fn enter(file: &File, label: &str) {
    if let Err(error) = setns(file, CloneFlags::CLONE_NEWNET) {
        panic!("cannot enter the network namespace {label}: {error}");
    }
}

/// A new namespace with `lo` up, made on a thread that ends with this call.
fn fresh() -> Result<File> {
    let make = || -> io::Result<File> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let status = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status()?;
        if !status.success() {
            return Err(io::Error::other(format!("`ip link set lo up`: {status}")));
        }
        File::open("/proc/thread-self/ns/net")
    };
    let file = thread::scope(|scope| match scope.spawn(make).join() {
        Ok(result) => result,
        Err(panic) => resume_unwind(panic),
    })?;
    Ok(file)
}
