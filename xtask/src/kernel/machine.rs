//! The virtual machine: its command line, and a watch over it that ends it when it hangs.

use std::{
    fmt,
    fs::{self, File},
    io::{self, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::packages::Parts;
use crate::{run, tally::Tally};

/// Lines of the kernel's log that an error shows.
const N_SHOWN: usize = 15;
/// How often the machine is looked at.
const GLANCE: Duration = Duration::from_millis(200);

/// Who runs the machine's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accelerator {
    /// The processor.
    Kvm,
    /// The emulator.
    Emulation,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "the processor (KVM)",
            Self::Emulation => "emulation",
        })
    }
}

impl Accelerator {
    fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Emulation => ["-accel", "tcg", "-cpu", "max"],
        }
    }

    /// What the kernel is told because of it: emulated, copying by one instruction is copying byte by byte, and what
    /// processors leak costs much and protects nobody. The numbers are those of `rep_good`, `erms` and `fsrm`. What the kernel
    /// does not know becomes a variable of all programs: here how much longer tests shall wait.
    fn options(self) -> &'static str {
        match self {
            Self::Kvm => "",
            Self::Emulation => " clearcpuid=112,297,580 mitigations=off FULCRUM_PATIENCE=15",
        }
    }

    /// How long the machine may take until it is up.
    fn boot_limit(self) -> Duration {
        match self {
            Self::Kvm => Duration::from_secs(30),
            Self::Emulation => Duration::from_mins(5),
        }
    }

    /// How long it may say nothing.
    fn silence_limit(self) -> Duration {
        match self {
            Self::Kvm => Duration::from_mins(5),
            Self::Emulation => Duration::from_mins(20),
        }
    }
}

/// What came of a run.
#[derive(Debug)]
pub(super) enum Outcome {
    /// All was run.
    Ended {
        /// The sum over all suites.
        tally: Tally,
        /// Programs that failed.
        failed: Vec<String>,
    },
    /// The machine did not come up.
    NotUp,
}

/// Runs a machine with a first root, to its end; its output is copied to ours. Its files are in `dir`.
pub(super) fn run(
    parts: &Parts,
    accelerator: Accelerator,
    first_root: &Path,
    dir: &Path,
) -> Result<Outcome> {
    let (console, status) = (dir.join("console.log"), dir.join("status"));
    for path in [&console, &status] {
        File::create(path).with_context(|| format!("make {}", path.display()))?;
    }
    let mut command = command(parts, accelerator, first_root, dir);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run `{}`", run::shown(&command)))?;
    let output = child.stdout.take().context("the machine's output")?;
    let (sender, heard) = mpsc::channel();
    let reader = thread::spawn(move || {
        let output = BufReader::new(Heard {
            inner: output,
            sender,
        });
        Tally::stream(output, io::stdout())
    });
    let verdict = watch(&mut child, &heard, accelerator, &status);
    // Ended already, or to be ended.
    let _ = child.kill();
    child.wait().context("wait for the machine")?;
    let tally = reader
        .join()
        .map_err(|_| anyhow::anyhow!("the reader failed"))??;
    match verdict {
        Verdict::Ended => {}
        Verdict::NotUp if accelerator == Accelerator::Kvm => return Ok(Outcome::NotUp),
        Verdict::NotUp => bail!("the machine did not come up; {}", last_lines(&console)),
        Verdict::Silent => bail!(
            "the machine said nothing for {} minutes and was ended; {}",
            accelerator.silence_limit().as_secs() / 60,
            last_lines(&console)
        ),
    }
    let status = fs::read_to_string(&status).context("read the machine's status")?;
    if !status.lines().any(|line| line == "done") {
        bail!(
            "the machine ended before all was run; {}",
            last_lines(&console)
        );
    }
    Ok(Outcome::Ended {
        tally,
        failed: failed(&status),
    })
}

/// The programs whose exit code is not 0.
fn failed(status: &str) -> Vec<String> {
    let ends = status.lines().filter_map(|line| line.strip_prefix("exit "));
    ends.filter(|end| !end.starts_with("0 "))
        .filter_map(|end| end.split_once(' '))
        .map(|(code, program)| format!("{program} (exit code {code})"))
        .collect()
}

/// How a machine ended, or why it is to be ended.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Ended,
    NotUp,
    Silent,
}

/// Waits for the machine's end, as long as it is heard of.
fn watch(
    child: &mut Child,
    heard: &Receiver<()>,
    accelerator: Accelerator,
    status: &Path,
) -> Verdict {
    let mut last = Instant::now();
    let mut is_up = false;
    loop {
        match heard.recv_timeout(GLANCE) {
            Ok(()) => last = Instant::now(),
            Err(RecvTimeoutError::Timeout) => {}
            // Its output has ended: so has the machine, or it will in a moment.
            Err(RecvTimeoutError::Disconnected) => thread::sleep(GLANCE),
        }
        is_up = is_up || fs::metadata(status).is_ok_and(|status| status.len() > 0);
        if child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return if is_up {
                Verdict::Ended
            } else {
                Verdict::NotUp
            };
        }
        if !is_up && last.elapsed() > accelerator.boot_limit() {
            return Verdict::NotUp;
        }
        if last.elapsed() > accelerator.silence_limit() {
            return Verdict::Silent;
        }
    }
}

/// Tells that something was read.
struct Heard<R> {
    inner: R,
    sender: Sender<()>,
}

impl<R: Read> Read for Heard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n_read = self.inner.read(buffer)?;
        // Nobody listens any more when the machine is being ended.
        let _ = self.sender.send(());
        Ok(n_read)
    }
}

/// The machine: no network, no disk, the host's files to be read, and two ways out for text.
fn command(parts: &Parts, accelerator: Accelerator, first_root: &Path, dir: &Path) -> Command {
    let mut command = parts.emulator.command();
    command.args(accelerator.arguments());
    command.args([
        "-nodefaults",
        "-nic",
        "none",
        "-display",
        "none",
        "-no-reboot",
    ]);
    command.args(["-smp", "2", "-m", "4096", "-device", "virtio-rng-pci"]);
    command.arg("-kernel").arg(&parts.image);
    command.arg("-initrd").arg(first_root);
    let options = accelerator.options();
    command.args([
        "-append",
        &format!("console=ttyS0 panic=-1 oops=panic{options}"),
    ]);
    let console = dir.join("console.log");
    command.args(["-serial", &format!("file:{}", console.display())]);
    command.args([
        "-fsdev",
        "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
        "-device",
        "virtio-9p-pci,fsdev=host,mount_tag=host",
        "-device",
        "virtio-serial-pci",
    ]);
    let status = dir.join("status");
    for (name, path) in [("output", Path::new("/dev/stdout")), ("status", &status)] {
        let file = format!("file,id={name},append=on,path={}", path.display());
        let port = format!("virtserialport,chardev={name},name={name}");
        command.args(["-chardev", &file, "-device", &port]);
    }
    command
}

/// The end of the kernel's log.
fn last_lines(console: &Path) -> String {
    let bytes = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    let shown = lines[lines.len().saturating_sub(N_SHOWN)..].join("\n");
    format!("its console ({}) ends with:\n{shown}", console.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::packages::Emulator;

    #[test]
    fn the_machine_reads_the_hosts_files_and_reaches_nothing_else() {
        let parts = Parts {
            image: "/k/vmlinuz".into(),
            modules: "/k/modules".into(),
            busybox: "/t/busybox".into(),
            emulator: Emulator::Installed,
        };
        let command = command(
            &parts,
            Accelerator::Emulation,
            Path::new("/d/root"),
            Path::new("/d"),
        );
        let shown = run::shown(&command);
        for part in [
            "-accel tcg",
            "-nic none",
            "readonly=on",
            "-kernel /k/vmlinuz",
            "-initrd /d/root",
            "FULCRUM_PATIENCE=",
            "file,id=status,append=on,path=/d/status",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        for part in ["netdev", "-drive", "-hda"] {
            assert!(!shown.contains(part), "{part}: {shown}");
        }
    }

    #[test]
    fn programs_that_failed_are_told_from_those_that_did_not() {
        let status =
            "up 6.1.0\nexit 0 /t/agents-1\nexit 101 /t/pair-2\nexit 139 /t/packets-3\ndone\n";
        let expected = ["/t/pair-2 (exit code 101)", "/t/packets-3 (exit code 139)"];
        assert_eq!(failed(status), expected);
    }

    #[test]
    fn a_machine_that_never_came_up_is_told_from_one_that_ended() {
        let dir = tempfile::tempdir().unwrap();
        let status = dir.path().join("status");
        fs::write(&status, "").unwrap();
        let (sender, heard) = mpsc::channel();
        drop(sender);
        let watch = |status: &Path| {
            let mut child = Command::new("/bin/true").spawn().unwrap();
            watch(&mut child, &heard, Accelerator::Kvm, status)
        };
        assert_eq!(watch(&status), Verdict::NotUp);
        fs::write(&status, "up 6.1.0\n").unwrap();
        assert_eq!(watch(&status), Verdict::Ended);
    }

    #[test]
    fn the_end_of_the_kernels_log_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let console = dir.path().join("console.log");
        let lines: Vec<_> = (1..=20).map(|line| format!("line {line}")).collect();
        fs::write(&console, lines.join("\n")).unwrap();
        let shown = last_lines(&console);
        assert!(
            shown.ends_with("line 20") && !shown.contains("line 5\n"),
            "{shown}"
        );
        assert!(shown.contains("line 6\n"), "{shown}");
    }
}
