//! What counts as CPU time: that of the calling thread, in whose context the kernel's work on packets is done, and that of
//! the kernel's own thread for such work on the same CPU.
//!
//! Everything is on one CPU, so nothing is done elsewhere, nothing is lost, and what other processes take does not count.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};

/// The calling process or thread, where a process is asked for by number.
const CALLER: Pid = Pid::from_raw(0);

/// The CPU that measurements use.
#[derive(Clone, Debug)]
pub(crate) struct Cpu {
    number: usize,
    /// What the kernel's thread for packets has used.
    schedstat: PathBuf,
}

impl Cpu {
    /// The last one that this process may use.
    pub(crate) fn last() -> Result<Self> {
        let allowed = sched_getaffinity(CALLER).context("ask for CPUs")?;
        let is_allowed = |number: &usize| allowed.is_set(*number).unwrap_or(false);
        let number = (0..CpuSet::count()).rfind(is_allowed).context("a CPU")?;
        let name = format!("ksoftirqd/{number}");
        let mut threads = fs::read_dir("/proc").context("list processes")?.flatten();
        let thread = threads.find(|entry| {
            let comm = fs::read_to_string(entry.path().join("comm"));
            comm.is_ok_and(|comm| comm.trim_end() == name)
        });
        let thread = thread.with_context(|| format!("there is no {name}"))?;
        Ok(Self {
            number,
            schedstat: thread.path().join("schedstat"),
        })
    }

    /// Keeps the calling thread on this CPU.
    pub(crate) fn pin(&self) -> Result<()> {
        let mut set = CpuSet::new();
        set.set(self.number).context("name a CPU")?;
        sched_setaffinity(CALLER, &set).with_context(|| format!("move to CPU {}", self.number))
    }

    /// Does the work on this CPU and tells what it took.
    pub(crate) fn measure<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
        self.pin()?;
        let before = self.used()?;
        let value = work()?;
        Ok((value, self.used()?.saturating_sub(before)))
    }

    fn used(&self) -> Result<Duration> {
        let own = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("ask for CPU time")?;
        let text = fs::read_to_string(&self.schedstat).context("ask for the kernel's CPU time")?;
        let kernels: u64 = text
            .split(' ')
            .next()
            .unwrap_or_default()
            .parse()
            .context("a time")?;
        Ok(Duration::from(own) + Duration::from_nanos(kernels))
    }
}
