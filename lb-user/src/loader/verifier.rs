//! Programs given to the kernel's verifier: several at a time, each on a processor of its own.
//!
//! The verifier follows one program on the processor that asks, half a second for a large one, and programs do not wait for
//! each other (`bpf_check` of `kernel/bpf/verifier.c` takes its lock for callers without privilege alone).

use std::{
    num::NonZero,
    sync::{Mutex, PoisonError},
    thread,
};

use aya::{
    Ebpf,
    programs::{Program, ProgramError},
};

use super::attach::AttachError;

/// More at a time would be over hardly sooner, and what the verifier notes of each is memory.
const AT_ONCE: usize = 4;

/// Has those of these programs verified that are not yet.
///
/// # Errors
/// The object has none of that name, or the verifier refuses it; then others may be loaded.
pub(super) fn load_all(ebpf: &mut Ebpf, names: &[&'static str]) -> Result<(), AttachError> {
    for name in names {
        if ebpf.program(name).is_none() {
            return Err(AttachError::NoProgram { name });
        }
    }
    let programs = ebpf.programs_mut().filter_map(|(name, program)| {
        let name = names.iter().find(|wanted| **wanted == name)?;
        program.fd().is_err().then_some((*name, program))
    });
    let programs: Vec<_> = programs.collect();
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let n_threads = processors.min(programs.len()).min(AT_ONCE);
    let waiting = Mutex::new(programs.into_iter());
    let next = || {
        waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next()
    };
    let work = || {
        while let Some((name, program)) = next() {
            load(program).map_err(|source| AttachError::Load { name, source })?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..n_threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        others.into_iter().fold(own, |result, other| {
            // Whoever panics ends this thread in the same way.
            let other = other
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result.and(other)
        })
    })
}

/// Of the types that devices take.
fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}
