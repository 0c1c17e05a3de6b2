//! How much is measured: everything, enough to try, or as little as shows that it works.

use lb_tests::bench::Effort;

/// Numbers of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scale {
    /// What the run is called.
    pub(crate) name: &'static str,
    /// Interleaved rounds.
    pub(crate) rounds: u32,
    /// The larger number of services.
    pub(crate) services: u32,
    /// The numbers of services that are loaded, for the time that it takes.
    pub(crate) loaded: [u32; 2],
    /// Established flows, few and many; powers of two.
    pub(crate) flows: [u32; 2],
    /// Frames of a sample of established flows.
    pub(crate) frames: u32,
    /// New flows of a sample; a power of two.
    pub(crate) new_flows: u32,
    /// TCP connections of a sample.
    pub(crate) connections: u32,
    /// Bytes of a stream.
    pub(crate) stream_bytes: u64,
    /// Binary logarithms of the numbers of flows that single programs are run with.
    pub(crate) run_flows: [u8; 3],
    /// How often.
    pub(crate) runs: Effort,
}

impl Scale {
    /// Under ten minutes.
    pub(crate) const FULL: Self = Self {
        name: "full",
        rounds: 12,
        services: 10_000,
        loaded: [10_000, 50_000],
        flows: [1 << 10, 1 << 16],
        frames: 200_000,
        new_flows: 1 << 16,
        connections: 2_000,
        stream_bytes: 1 << 28,
        run_flows: [0, 16, 20],
        runs: Effort::FULL,
    };
    /// About two minutes.
    pub(crate) const QUICK: Self = Self {
        name: "quick",
        rounds: 5,
        services: 1_000,
        loaded: [1_000, 5_000],
        frames: 100_000,
        connections: 500,
        stream_bytes: 1 << 26,
        runs: Effort {
            turns: 3,
            ..Effort::FULL
        },
        ..Self::FULL
    };
    /// Some seconds, and figures that say nothing.
    pub(crate) const TINY: Self = Self {
        name: "tiny",
        rounds: 2,
        services: 20,
        loaded: [20, 40],
        flows: [1 << 4, 1 << 6],
        frames: 10_000,
        new_flows: 1 << 12,
        connections: 10,
        stream_bytes: 1 << 20,
        run_flows: [0, 16, 17],
        runs: Effort {
            turns: 2,
            repeat: 1_000,
            repeat_open: 1_000,
        },
    };
}
