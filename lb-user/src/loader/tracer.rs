//! The program that says what would become of a packet, loaded and ready to be run.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{Array, MapData},
    programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions},
};
use lb_common::abi::{
    TraceRecord, map,
    trace::mark::{ALONE, ROLE},
};

use crate::{
    apply::Raw,
    trace::{Entry, Question, frame},
};

/// The program in the object.
pub(super) const PROGRAM: &str = "trace";

/// See the module.
pub struct Tracer {
    program: Holder,
    record: Array<MapData, Raw<TraceRecord>>,
    /// Bits of the mark that hold for all packets.
    mark: u32,
    /// A device of the node in question.
    ifindex: u32,
}

/// Why packets cannot be traced.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The object is not the one that this binary was made for.
    #[error("the BPF object has no {0:?}")]
    Missing(&'static str),
    /// The program does not load.
    #[error("cannot load the program {PROGRAM:?}; run as root or with CAP_BPF and CAP_NET_ADMIN")]
    Load(#[source] ProgramError),
    /// The program cannot be kept.
    #[error("cannot pin the program {PROGRAM:?} at {path}")]
    Pin {
        /// Where.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: aya::pin::PinError,
    },
    /// The program cannot be run.
    #[error("cannot run the program {PROGRAM:?}")]
    Run(#[source] ProgramError),
    /// Its record cannot be read or cleared.
    #[error("cannot use the map {:?}", map::TRACE_RECORD)]
    Record(#[source] aya::maps::MapError),
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer")
            .field("mark", &self.mark)
            .field("ifindex", &self.ifindex)
            .finish_non_exhaustive()
    }
}

/// Who holds the program.
enum Holder {
    /// A pin does.
    Pin(Box<SchedClassifier>),
    /// The object, of which nothing else is used.
    Object(Box<Ebpf>),
}

impl Tracer {
    /// Takes the program out of the object of an agent, by way of a pin at `path`. It asks the machine as if packets
    /// came by device `ifindex`.
    pub fn pinned(ebpf: &mut Ebpf, path: &Path, ifindex: u32) -> Result<Self, TraceError> {
        let record = record(ebpf)?;
        let program = loaded(ebpf)?;
        program.pin(path).map_err(|source| TraceError::Pin {
            path: path.to_owned(),
            source,
        })?;
        let program = SchedClassifier::from_pin(path).map_err(TraceError::Load)?;
        Ok(Self {
            program: Holder::Pin(Box::new(program)),
            record,
            mark: 0,
            ifindex,
        })
    }

    /// An object of its own, which asks nothing of the machine that it runs on.
    pub fn alone(mut ebpf: Ebpf) -> Result<Self, TraceError> {
        let record = record(&mut ebpf)?;
        loaded(&mut ebpf)?;
        Ok(Self {
            program: Holder::Object(Box::new(ebpf)),
            record,
            mark: ALONE,
            ifindex: 0,
        })
    }

    fn program(&self) -> Result<&SchedClassifier, TraceError> {
        match &self.program {
            Holder::Pin(program) => Ok(program),
            Holder::Object(ebpf) => ebpf
                .program(PROGRAM)
                .ok_or(TraceError::Missing(PROGRAM))?
                .try_into()
                .map_err(TraceError::Load),
        }
    }

    /// What the program says of a packet. `is_own`: its destination is an address of the node's own.
    pub fn run(&mut self, question: &Question, is_own: bool) -> Result<TraceRecord, TraceError> {
        let empty = Raw(TraceRecord::default());
        self.record.set(0, empty, 0).map_err(TraceError::Record)?;
        let frame = frame(question);
        let mut output = vec![0; frame.len()];
        let context = self.context(role(question.entry, is_own));
        let context: Vec<u8> = context.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.program()?
            .test_run(TestRunOptions {
                data_in: Some(&frame),
                data_out: Some(&mut output),
                ctx_in: Some(&context),
                repeat: 1,
                ..TestRunOptions::default()
            })
            .map_err(TraceError::Run)?;
        let Raw(record) = self.record.get(&0, 0).map_err(TraceError::Record)?;
        Ok(record)
    }

    /// `struct __sk_buff` of `linux/bpf.h` as words, as long as Linux 6.1 knows it.
    fn context(&self, role: u32) -> [u32; 46] {
        const MARK: usize = 2;
        const IFINDEX: usize = 10;
        let mut context = [0; 46];
        context[MARK] = self.mark | role & ROLE;
        context[IFINDEX] = self.ifindex;
        context
    }
}

fn record(ebpf: &mut Ebpf) -> Result<Array<MapData, Raw<TraceRecord>>, TraceError> {
    let missing = TraceError::Missing(map::TRACE_RECORD);
    let record = ebpf.take_map(map::TRACE_RECORD).ok_or(missing)?;
    record.try_into().map_err(TraceError::Record)
}

fn loaded(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, TraceError> {
    let program = ebpf
        .program_mut(PROGRAM)
        .ok_or(TraceError::Missing(PROGRAM))?;
    let program: &mut SchedClassifier = program.try_into().map_err(TraceError::Load)?;
    if program.fd().is_err() {
        program.load().map_err(TraceError::Load)?;
    }
    Ok(program)
}

/// The number of [`lb_common::datapath::Role`] that the program knows.
fn role(entry: Entry, is_own: bool) -> u32 {
    match entry {
        Entry::Pod => 0,
        Entry::Uplink => 1,
        // The node reaches its own addresses by the loopback device.
        Entry::Host if is_own => 3,
        Entry::Host => 2,
    }
}
