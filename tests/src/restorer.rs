//! The program that comes before one under test: it writes the packet anew and jumps there.
//!
//! `BPF_PROG_TEST_RUN` gives a repeated run the packet that the run before has left behind. [`restorer`] makes the program
//! that puts everything back.

use std::os::fd::BorrowedFd;

use anyhow::Result;

use crate::{
    asm::{
        Assembler, Context, EXIT, Helper, Insn, Op, R0, R1, R2, R3, R6, R7, R8, Register, Size,
        alu, alu_imm, call, load, map, map_value, mov, mov_imm, store,
    },
    rawbpf::Kind,
};

/// What differs from packet to packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vary {
    /// Nothing.
    None,
    /// One of so many flows, at random.
    Random(Flows),
    /// One flow after the other.
    Count(Flows),
    /// The 32 bits at this offset count up.
    Count32(u8),
}

/// How flows differ: by the source port, and where there are more than that can tell, by the last byte of the source
/// address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flows {
    /// Where the port is.
    pub sport_at: u8,
    /// Where that byte is.
    pub client_at: u8,
    /// How many bits of a number tell one flow from another; 16 to 24.
    pub bits: u8,
}

/// What a restorer needs of its maps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Maps<'a> {
    /// An array of one value: [`COUNTER_AT`] bytes of packet, then eight of counter.
    pub template: BorrowedFd<'a>,
    /// A table of one program, which is run on the restored packet.
    pub target: BorrowedFd<'a>,
}

/// Where the counter stands in the template, behind as much packet as is ever restored.
pub(crate) const COUNTER_AT: u8 = 128;

/// What [`restorer`] returns if it could not do its work.
pub(crate) const FAILED: i32 = 0x55;

/// A program that writes the first `len` bytes of its packet, a multiple of eight, varies them and jumps to the target.
///
/// What it returns without a target, or for a packet that is shorter, no program under test returns.
pub(crate) fn restorer(kind: Kind, maps: Maps<'_>, len: u8, vary: Vary) -> Result<Vec<Insn>> {
    let mut code = Assembler::default();
    let failed = code.label();
    code.add([mov(R6, R1)]);
    if let Some(mark) = Context::of(kind).mark {
        code.add([mov_imm(R1, 0), store(Size::Word, R6, mark, R1)]);
    }
    code.packet_or(kind, R1, len.into(), failed);
    code.add(map_value(R8, maps.template));
    for at in (0..len).step_by(8).map(i16::from) {
        code.add([
            load(Size::Double, R1, R8, at),
            store(Size::Double, R7, at, R1),
        ]);
    }
    match vary {
        Vary::None => {}
        Vary::Random(flows) => {
            code.add([call(Helper::Random)]);
            code.add(write_flow(R0, flows));
        }
        Vary::Count(flows) => {
            code.add(count(R1));
            code.add(write_flow(R1, flows));
        }
        Vary::Count32(at) => {
            code.add(count(R1));
            code.add([store(Size::Word, R7, at.into(), R1)]);
        }
    }
    code.add([mov(R1, R6)]);
    code.add(map(R2, maps.target));
    code.add([mov_imm(R3, 0), call(Helper::TailCall)]);
    code.place(failed);
    code.add([mov_imm(R0, FAILED), EXIT]);
    code.finish()
}

/// Takes the counter and raises it.
fn count(into: Register) -> [Insn; 4] {
    let at = i16::from(COUNTER_AT);
    [
        load(Size::Double, into, R8, at),
        mov(R2, into),
        alu_imm(Op::Add, R2, 1),
        store(Size::Double, R8, at, R2),
    ]
}

/// Writes the flow of a number into the packet.
fn write_flow(number: Register, flows: Flows) -> Vec<Insn> {
    let Flows {
        sport_at,
        client_at,
        bits,
    } = flows;
    let mut insns = vec![store(Size::Half, R7, sport_at.into(), number)];
    if bits > 16 {
        let mask = (1 << (bits - 16)) - 1;
        insns.extend([
            alu_imm(Op::ShiftRight, number, 16),
            alu_imm(Op::And, number, mask),
            load(Size::Byte, R2, R7, client_at.into()),
            alu_imm(Op::And, R2, !mask),
            alu(Op::Or, R2, number),
            store(Size::Byte, R7, client_at.into(), R2),
        ]);
    }
    insns
}
