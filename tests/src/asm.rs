//! BPF instructions, as many of them as it takes to write a packet anew and jump to another program.
//!
//! `BPF_PROG_TEST_RUN` gives a repeated run the packet that the run before has left behind. [`restorer`] makes the program
//! that comes first and puts everything back.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::rawbpf::Kind;

/// `struct bpf_insn` of `linux/bpf.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Insn {
    code: u8,
    registers: u8,
    off: i16,
    imm: i32,
}

/// What differs from packet to packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vary {
    /// Nothing.
    None,
    /// The 16 bits at this offset are random.
    Random16(u8),
    /// The 16 bits at this offset count up.
    Count16(u8),
    /// The 32 bits at this offset count up.
    Count32(u8),
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

/// A program that writes the first `len` bytes of its packet, a multiple of eight, varies them and jumps to the target.
///
/// What it returns without a target, or for a packet that is shorter, no program under test returns.
pub(crate) fn restorer(kind: Kind, maps: Maps<'_>, len: u8, vary: Vary) -> Vec<Insn> {
    let Context {
        data,
        data_end,
        mark,
    } = Context::of(kind);
    let body = body(maps, len, vary);
    let behind_body = i16::try_from(body.len()).unwrap_or(i16::MAX);
    let mut program = vec![mov(R6, R1)];
    if let Some(mark) = mark {
        program.extend([mov_imm(R1, 0), store(WORD, R6, mark, R1)]);
    }
    program.extend([load(WORD, R7, R6, data), load(WORD, R1, R6, data_end)]);
    program.extend([
        mov(R2, R7),
        add_imm(R2, len.into()),
        jump_if_greater(R2, R1, behind_body),
    ]);
    program.extend(body);
    program.extend([mov_imm(R0, FAILED), EXIT]);
    program
}

/// What [`restorer`] returns if it could not do its work.
pub(crate) const FAILED: i32 = 0x55;

/// A program that does nothing but return.
pub(crate) fn trivial(value: i32) -> Vec<Insn> {
    vec![mov_imm(R0, value), EXIT]
}

fn body(maps: Maps<'_>, len: u8, vary: Vary) -> Vec<Insn> {
    let mut body = Vec::new();
    body.extend(map_value(R8, maps.template));
    for at in (0..len).step_by(8) {
        body.extend([load(DOUBLE, R1, R8, at), store(DOUBLE, R7, at, R1)]);
    }
    match vary {
        Vary::None => {}
        Vary::Random16(at) => body.extend([call(GET_PRANDOM_U32), store(HALF, R7, at, R0)]),
        Vary::Count16(at) => body.extend(count(HALF, at)),
        Vary::Count32(at) => body.extend(count(WORD, at)),
    }
    body.push(mov(R1, R6));
    body.extend(map(R2, maps.target));
    body.extend([mov_imm(R3, 0), call(TAIL_CALL)]);
    body
}

/// Writes the counter into the packet and raises it.
fn count(size: u8, at: u8) -> [Insn; 4] {
    [
        load(DOUBLE, R1, R8, COUNTER_AT),
        store(size, R7, at, R1),
        add_imm(R1, 1),
        store(DOUBLE, R8, COUNTER_AT, R1),
    ]
}

/// Offsets in `struct __sk_buff` or `struct xdp_md`.
struct Context {
    data: u8,
    data_end: u8,
    mark: Option<u8>,
}

impl Context {
    fn of(kind: Kind) -> Self {
        if kind == Kind::XDP {
            return Self {
                data: 0,
                data_end: 4,
                mark: None,
            };
        }
        Self {
            data: 76,
            data_end: 80,
            mark: Some(8),
        }
    }
}

const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const R6: u8 = 6;
const R7: u8 = 7;
const R8: u8 = 8;

/// Sizes of memory accesses.
const WORD: u8 = 0x00;
const HALF: u8 = 0x08;
const DOUBLE: u8 = 0x18;

/// `enum bpf_func_id`.
const GET_PRANDOM_U32: i32 = 7;
const TAIL_CALL: i32 = 12;

/// `BPF_PSEUDO_MAP_FD` and `BPF_PSEUDO_MAP_VALUE`.
const MAP_FD: u8 = 1;
const MAP_VALUE: u8 = 2;

const EXIT: Insn = insn(0x95, 0, 0, 0, 0);

const fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    Insn {
        code,
        registers: src << 4 | dst,
        off,
        imm,
    }
}

fn mov(dst: u8, src: u8) -> Insn {
    insn(0xbf, dst, src, 0, 0)
}

fn mov_imm(dst: u8, value: i32) -> Insn {
    insn(0xb7, dst, 0, 0, value)
}

fn add_imm(dst: u8, value: i32) -> Insn {
    insn(0x07, dst, 0, 0, value)
}

fn load(size: u8, dst: u8, base: u8, at: u8) -> Insn {
    insn(0x61 | size, dst, base, at.into(), 0)
}

fn store(size: u8, base: u8, at: u8, src: u8) -> Insn {
    insn(0x63 | size, base, src, at.into(), 0)
}

fn jump_if_greater(dst: u8, src: u8, over: i16) -> Insn {
    insn(0x2d, dst, src, over, 0)
}

fn call(helper: i32) -> Insn {
    insn(0x85, 0, 0, 0, helper)
}

fn map(dst: u8, map: BorrowedFd<'_>) -> [Insn; 2] {
    wide(dst, MAP_FD, map)
}

fn map_value(dst: u8, map: BorrowedFd<'_>) -> [Insn; 2] {
    wide(dst, MAP_VALUE, map)
}

/// An instruction of twice the length, which names a map.
fn wide(dst: u8, kind: u8, map: BorrowedFd<'_>) -> [Insn; 2] {
    [
        insn(0x18, dst, kind, 0, map.as_raw_fd()),
        insn(0, 0, 0, 0, 0),
    ]
}
