//! BPF instructions, and an assembler for programs of some dozens of them: generators, sinks and peers of measurements,
//! which so need no compiler.
//!
//! An instruction is a value; [`Assembler`] resolves jumps to labels. The kernel's verifier judges what comes of it.

use std::os::fd::{AsRawFd, BorrowedFd};

use anyhow::{Context as _, Result};

use crate::rawbpf::Kind;

/// `struct bpf_insn` of `linux/bpf.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    code: u8,
    registers: u8,
    off: i16,
    imm: i32,
}

/// A register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(u8);

/// What a call returns.
pub const R0: Register = Register(0);
/// First argument, and the context where a program begins. Registers up to [`R5`] are lost in calls.
pub const R1: Register = Register(1);
/// Second argument.
pub const R2: Register = Register(2);
/// Third argument.
pub const R3: Register = Register(3);
/// Fourth argument.
pub const R4: Register = Register(4);
/// Fifth argument.
pub const R5: Register = Register(5);
/// Kept in calls, as the following ones.
pub const R6: Register = Register(6);
/// See [`R6`].
pub const R7: Register = Register(7);
/// See [`R6`].
pub const R8: Register = Register(8);
/// See [`R6`].
pub const R9: Register = Register(9);
/// End of the stack: what lies there is at negative offsets.
pub const STACK: Register = Register(10);

/// How much memory an instruction reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// One byte.
    Byte = 0x10,
    /// Two bytes.
    Half = 0x08,
    /// Four bytes.
    Word = 0x00,
    /// Eight bytes.
    Double = 0x18,
}

/// `enum bpf_func_id` of `linux/bpf.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Helper {
    /// `bpf_map_lookup_elem`.
    MapLookup = 1,
    /// `bpf_get_prandom_u32`.
    Random = 7,
    /// `bpf_tail_call`.
    TailCall = 12,
    /// `bpf_redirect`.
    Redirect = 23,
    /// `bpf_fib_lookup`.
    FibLookup = 69,
    /// `bpf_ktime_get_coarse_ns`.
    CoarseTime = 160,
}

/// Operations on a whole register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Addition.
    Add = 0x00,
    /// Multiplication.
    Mul = 0x20,
    /// Bitwise or.
    Or = 0x40,
    /// Bitwise and.
    And = 0x50,
    /// To the left.
    ShiftLeft = 0x60,
    /// To the right, zeros follow.
    ShiftRight = 0x70,
    /// Bitwise exclusive or.
    Xor = 0xa0,
    /// A copy.
    Mov = 0xb0,
}

/// Conditions of jumps; numbers are unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum If {
    /// Equal.
    Equal = 0x10,
    /// The first is greater.
    Greater = 0x20,
    /// Different.
    Different = 0x50,
}

/// Ends the program, which returns [`R0`].
pub const EXIT: Insn = insn(0x95, 0, 0, 0, 0);

/// `dst = dst op src`.
pub fn alu(op: Op, dst: Register, src: Register) -> Insn {
    insn(0x0f | op as u8, dst.0, src.0, 0, 0)
}

/// `dst = dst op value`.
pub fn alu_imm(op: Op, dst: Register, value: i32) -> Insn {
    insn(0x07 | op as u8, dst.0, 0, 0, value)
}

/// `dst = src`.
pub fn mov(dst: Register, src: Register) -> Insn {
    alu(Op::Mov, dst, src)
}

/// `dst = value`.
pub fn mov_imm(dst: Register, value: i32) -> Insn {
    alu_imm(Op::Mov, dst, value)
}

/// Turns the lowest two bytes into network order, or back; the others become zero.
pub fn be16(dst: Register) -> Insn {
    insn(0xdc, dst.0, 0, 0, 16)
}

/// `dst = memory at base + at`.
pub fn load(size: Size, dst: Register, base: Register, at: i16) -> Insn {
    insn(0x61 | size as u8, dst.0, base.0, at, 0)
}

/// `memory at base + at = src`.
pub fn store(size: Size, base: Register, at: i16, src: Register) -> Insn {
    insn(0x63 | size as u8, base.0, src.0, at, 0)
}

/// `memory at base + at = value`.
pub fn store_imm(size: Size, base: Register, at: i16, value: i32) -> Insn {
    insn(0x62 | size as u8, base.0, 0, at, value)
}

/// Calls the kernel.
pub fn call(helper: Helper) -> Insn {
    insn(0x85, 0, 0, 0, helper as i32)
}

/// A map, as helpers take it.
pub fn map(dst: Register, map: BorrowedFd<'_>) -> [Insn; 2] {
    /// `BPF_PSEUDO_MAP_FD`.
    const MAP_FD: u8 = 1;
    wide(dst, MAP_FD, map)
}

/// The address of the first value of an array.
pub fn map_value(dst: Register, map: BorrowedFd<'_>) -> [Insn; 2] {
    /// `BPF_PSEUDO_MAP_VALUE`.
    const MAP_VALUE: u8 = 2;
    wide(dst, MAP_VALUE, map)
}

/// A program that does nothing but return.
pub fn trivial(value: i32) -> Vec<Insn> {
    vec![mov_imm(R0, value), EXIT]
}

/// Offsets in `struct __sk_buff` or `struct xdp_md`.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// Where the packet begins.
    pub data: i16,
    /// Where it ends.
    pub data_end: i16,
    /// The number of the device that it came by.
    pub ifindex: i16,
    /// Its mark, if it has one.
    pub mark: Option<i16>,
}

impl Context {
    /// Of programs of this kind.
    pub fn of(kind: Kind) -> Self {
        if kind == Kind::XDP {
            return Self {
                data: 0,
                data_end: 4,
                ifindex: 12,
                mark: None,
            };
        }
        Self {
            data: 76,
            data_end: 80,
            ifindex: 40,
            mark: Some(8),
        }
    }
}

/// A place in a program that jumps lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(usize);

/// Puts a program together.
#[derive(Debug, Default)]
pub struct Assembler {
    insns: Vec<Insn>,
    /// Jumps and where they lead.
    jumps: Vec<(usize, Label)>,
    /// Where the labels are.
    places: Vec<Option<usize>>,
}

impl Assembler {
    /// A label without a place yet.
    pub fn label(&mut self) -> Label {
        self.places.push(None);
        Label(self.places.len() - 1)
    }

    /// Here is this label.
    pub fn place(&mut self, label: Label) {
        let here = self.insns.len();
        if let Some(place) = self.places.get_mut(label.0) {
            *place = Some(here);
        }
    }

    /// Adds instructions.
    pub fn add(&mut self, insns: impl IntoIterator<Item = Insn>) {
        self.insns.extend(insns);
    }

    /// Jumps if the condition holds of two registers.
    pub fn jump_if(&mut self, condition: If, a: Register, b: Register, to: Label) {
        self.jump(insn(0x0d | condition as u8, a.0, b.0, 0, 0), to);
    }

    /// Jumps if the condition holds of a register and a number.
    pub fn jump_if_imm(&mut self, condition: If, a: Register, value: i32, to: Label) {
        self.jump(insn(0x05 | condition as u8, a.0, 0, 0, value), to);
    }

    fn jump(&mut self, insn: Insn, to: Label) {
        self.jumps.push((self.insns.len(), to));
        self.insns.push(insn);
    }

    /// Loads both ends of the packet, whose context is in [`R6`], into [`R7`] and `end`, and jumps if it is shorter than
    /// `len`.
    pub fn packet_or(&mut self, kind: Kind, end: Register, len: i32, too_short: Label) {
        let Context { data, data_end, .. } = Context::of(kind);
        self.add([
            load(Size::Word, R7, R6, data),
            load(Size::Word, end, R6, data_end),
            mov(R0, R7),
            alu_imm(Op::Add, R0, len),
        ]);
        self.jump_if(If::Greater, R0, end, too_short);
    }

    /// The program.
    ///
    /// # Errors
    /// A label has no place, or is too far away.
    pub fn finish(self) -> Result<Vec<Insn>> {
        let Self {
            mut insns,
            jumps,
            places,
        } = self;
        for (from, Label(label)) in jumps {
            let place = places.get(label).copied().flatten();
            let place = i16::try_from(place.context("a label without a place")?)?;
            // A jump counts from the instruction after it.
            insns[from].off = place - i16::try_from(from)? - 1;
        }
        Ok(insns)
    }
}

const fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    Insn {
        code,
        registers: src << 4 | dst,
        off,
        imm,
    }
}

/// An instruction of twice the length, which names a map.
fn wide(dst: Register, kind: u8, map: BorrowedFd<'_>) -> [Insn; 2] {
    [
        insn(0x18, dst.0, kind, 0, map.as_raw_fd()),
        insn(0, 0, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_lead_to_their_labels_forwards_and_backwards() {
        let mut code = Assembler::default();
        let (start, end) = (code.label(), code.label());
        code.place(start);
        code.jump_if_imm(If::Equal, R1, 0, end);
        code.add([mov_imm(R0, 1)]);
        code.jump_if(If::Greater, R1, R2, start);
        code.place(end);
        code.add([EXIT]);
        let insns = code.finish().unwrap();
        assert_eq!(
            insns.iter().map(|insn| insn.off).collect::<Vec<_>>(),
            [2, 0, -3, 0]
        );
    }

    #[test]
    fn a_jump_to_nowhere_is_an_error() {
        let mut code = Assembler::default();
        let nowhere = code.label();
        code.jump_if_imm(If::Different, R1, 0, nowhere);
        assert!(code.finish().is_err());
    }
}
