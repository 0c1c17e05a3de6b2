//! The programs of an object as instructions: which helpers they call, and how much stack their calls take.
//!
//! Read from the object alone, so it says the same on every kernel. The stack is counted as Linux 6.1 counts it, which
//! rounds each function's up to 32 bytes and allows 512 over the deepest chain of calls; newer kernels count less.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anyhow::{Context, Result, ensure};
use aya_obj::{Object, generated::bpf_insn};

/// What a function's stack is rounded up to (`check_max_stack_depth` of Linux 6.1).
const STACK_GRAIN: u32 = 32;

/// One program with all the functions that it calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Numbers of the helpers that are called, `enum bpf_func_id` of `linux/bpf.h`.
    pub helpers: BTreeSet<u32>,
    /// Bytes of stack over the deepest chain of calls.
    pub stack: u32,
}

/// The programs of an object by name.
pub fn listings(object: &[u8]) -> Result<BTreeMap<String, Listing>> {
    let mut object = Object::parse(object).context("parse the BPF object")?;
    let sections: HashSet<usize> = object
        .functions
        .keys()
        .map(|(section, _)| *section)
        .collect();
    object
        .relocate_calls(&sections)
        .context("link the functions of the BPF object")?;
    let programs = object.programs.iter().map(|(name, program)| {
        let function = object.functions.get(&program.function_key());
        let function =
            function.with_context(|| format!("the program {name} has no instructions"))?;
        let listing = Listing::of(&function.instructions)
            .with_context(|| format!("read the program {name}"))?;
        Ok((name.clone(), listing))
    });
    programs.collect()
}

impl Listing {
    fn of(instructions: &[bpf_insn]) -> Result<Self> {
        let calls = calls(instructions);
        let starts: BTreeSet<usize> = calls.iter().map(|(_, callee)| *callee).chain([0]).collect();
        let function_of = |at: usize| starts.range(..=at).next_back().copied().unwrap_or(0);
        let mut frames: BTreeMap<usize, Frame> = starts
            .iter()
            .map(|start| {
                let end = starts
                    .range(start + 1..)
                    .next()
                    .copied()
                    .unwrap_or(instructions.len());
                let body = instructions.get(*start..end).unwrap_or_default();
                (
                    *start,
                    Frame {
                        stack: own_stack(body),
                        callees: BTreeSet::new(),
                    },
                )
            })
            .collect();
        for (at, callee) in calls {
            if let Some(frame) = frames.get_mut(&function_of(at)) {
                frame.callees.insert(callee);
            }
        }
        let stack =
            deepest(&frames, 0, frames.len()).context("functions call each other in a circle")?;
        Ok(Self {
            helpers: helpers(instructions),
            stack,
        })
    }
}

/// What one function takes for itself, and whom it calls.
struct Frame {
    stack: u32,
    callees: BTreeSet<usize>,
}

/// `None`: deeper than there are functions.
fn deepest(frames: &BTreeMap<usize, Frame>, function: usize, levels: usize) -> Option<u32> {
    let Some(frame) = frames.get(&function) else {
        return Some(0);
    };
    let levels = levels.checked_sub(1)?;
    let mut below = 0;
    for callee in &frame.callees {
        below = below.max(deepest(frames, *callee, levels)?);
    }
    Some(frame.stack.max(1).next_multiple_of(STACK_GRAIN) + below)
}

/// Opcodes of `linux/bpf.h`, class and operation together.
mod opcode {
    pub(super) const CALL: u8 = 0x85;
    pub(super) const ADD64_IMM: u8 = 0x07;
    pub(super) const MOV64_REG: u8 = 0xbf;
    /// Low three bits: the class.
    pub(super) const CLASS: u8 = 0x07;
    pub(super) const LDX: u8 = 0x01;
    pub(super) const ST: u8 = 0x02;
    pub(super) const STX: u8 = 0x03;
}

/// `BPF_PSEUDO_CALL`: a call of a function of the same program.
const PSEUDO_CALL: u8 = 1;
const FRAME_POINTER: u8 = 10;

fn helpers(instructions: &[bpf_insn]) -> BTreeSet<u32> {
    let called = instructions
        .iter()
        .filter(|insn| insn.code == opcode::CALL && insn.src_reg() == 0);
    called.map(|insn| insn.imm.cast_unsigned()).collect()
}

/// Positions of the calls of functions, and where those begin.
fn calls(instructions: &[bpf_insn]) -> Vec<(usize, usize)> {
    let called = instructions.iter().enumerate();
    let called =
        called.filter(|(_, insn)| insn.code == opcode::CALL && insn.src_reg() == PSEUDO_CALL);
    called
        .filter_map(|(at, insn)| {
            Some((
                at,
                at.checked_add_signed(isize::try_from(insn.imm).ok()? + 1)?,
            ))
        })
        .collect()
}

/// The lowest place below the frame pointer that a function touches or takes the address of.
fn own_stack(body: &[bpf_insn]) -> u32 {
    let mut lowest = 0;
    // Registers that point into the frame, and where to.
    let mut pointers: BTreeMap<u8, i32> = BTreeMap::new();
    for insn in body {
        let (code, dst, src) = (insn.code, insn.dst_reg(), insn.src_reg());
        let base = match code & opcode::CLASS {
            opcode::LDX => src,
            opcode::ST | opcode::STX => dst,
            _ => 0,
        };
        if base == FRAME_POINTER {
            lowest = lowest.min(i32::from(insn.off));
        }
        match code {
            opcode::MOV64_REG if src == FRAME_POINTER => {
                pointers.insert(dst, 0);
            }
            opcode::ADD64_IMM if pointers.contains_key(&dst) => {
                let at = pointers.entry(dst).or_default();
                *at += insn.imm;
                lowest = lowest.min(*at);
            }
            _ if writes(code) => {
                pointers.remove(&dst);
            }
            _ => {}
        }
    }
    lowest.unsigned_abs()
}

/// Whether an instruction gives its destination register a new value.
fn writes(code: u8) -> bool {
    // Loads and arithmetic do; stores and jumps do not.
    matches!(code & opcode::CLASS, 0x00 | 0x01 | 0x04 | 0x07)
}

/// A kernel's version: major, minor.
type Version = (u32, u32);

/// The oldest kernel that is supported.
pub const OLDEST_KERNEL: Version = (6, 1);

/// Every helper that the programs may call; a new one is a decision about the oldest kernel.
///
/// Versions: `bpf-helpers(7)` and the commits that added them. That [`bpf_fib_lookup`'s][fib] answer holds the route's MTU
/// is younger than the helper: Linux 5.12.
///
/// [fib]: https://docs.kernel.org/bpf/helpers.html
const HELPERS: [(u32, &str, Version); 26] = [
    (1, "map_lookup_elem", (3, 19)),
    (2, "map_update_elem", (3, 19)),
    (7, "get_prandom_u32", (4, 1)),
    (9, "skb_store_bytes", (4, 1)),
    (11, "l4_csum_replace", (4, 1)),
    (13, "clone_redirect", (4, 2)),
    (19, "skb_vlan_pop", (4, 3)),
    (23, "redirect", (4, 4)),
    (26, "skb_load_bytes", (4, 5)),
    (32, "skb_change_type", (4, 8)),
    (38, "skb_change_tail", (4, 9)),
    (39, "skb_pull_data", (4, 9)),
    (40, "csum_update", (4, 9)),
    (43, "skb_change_head", (4, 10)),
    (46, "get_socket_cookie", (4, 19)),
    (50, "skb_adjust_room", (4, 13)),
    (51, "redirect_map", (4, 14)),
    (69, "fib_lookup", (5, 12)),
    (84, "sk_lookup_tcp", (4, 20)),
    (85, "sk_lookup_udp", (4, 20)),
    (86, "sk_release", (4, 20)),
    (122, "get_netns_cookie", (5, 7)),
    (152, "redirect_neigh", (5, 10)),
    (155, "redirect_peer", (5, 10)),
    (160, "ktime_get_coarse_ns", (5, 11)),
    (188, "xdp_get_buff_len", (5, 18)),
];

/// The names of helpers, all of which [`OLDEST_KERNEL`] has.
pub fn name_helpers(numbers: &BTreeSet<u32>) -> Result<Vec<String>> {
    numbers.iter().map(|number| name_helper(*number)).collect()
}

fn name_helper(number: u32) -> Result<String> {
    let known = HELPERS.iter().find(|(known, ..)| *known == number);
    let (_, name, since) = known.with_context(|| {
        format!("helper {number} is not in the table of tests/src/listing.rs: add it with the kernel that brought it")
    })?;
    let ((major, minor), (oldest_major, oldest_minor)) = (since, OLDEST_KERNEL);
    ensure!(
        *since <= OLDEST_KERNEL,
        "helper {name} came with Linux {major}.{minor}, but {oldest_major}.{oldest_minor} is supported: do without it"
    );
    Ok((*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> bpf_insn {
        let registers = bpf_insn::new_bitfield_1(dst, src);
        bpf_insn {
            code,
            _bitfield_align_1: [],
            _bitfield_1: registers,
            off,
            imm,
        }
    }

    const EXIT: u8 = 0x95;
    const STORE: u8 = 0x7b;

    #[test]
    fn the_stack_is_that_of_the_deepest_chain_rounded_function_by_function() {
        let program = [
            insn(STORE, 10, 1, -40, 0),
            insn(opcode::CALL, 0, PSEUDO_CALL, 0, 2), // to 4
            insn(opcode::CALL, 0, PSEUDO_CALL, 0, 4), // to 7
            insn(EXIT, 0, 0, 0, 0),
            insn(STORE, 10, 1, -8, 0),
            insn(opcode::CALL, 0, 0, 0, 7),
            insn(EXIT, 0, 0, 0, 0),
            insn(opcode::MOV64_REG, 2, 10, 0, 0),
            insn(opcode::ADD64_IMM, 2, 0, 0, -100),
            insn(opcode::CALL, 0, 0, 0, 1),
            insn(EXIT, 0, 0, 0, 0),
        ];
        let listing = Listing::of(&program).unwrap();
        assert_eq!(
            listing,
            Listing {
                helpers: BTreeSet::from([1, 7]),
                stack: 64 + 128
            }
        );
    }

    #[test]
    fn an_unknown_helper_is_named_with_what_to_do() {
        let error = name_helper(9999).unwrap_err().to_string();
        assert!(
            error.starts_with("helper 9999 is not in the table"),
            "{error}"
        );
    }

    #[test]
    fn every_helper_in_the_table_is_in_the_oldest_kernel() {
        for (number, name, _) in HELPERS {
            assert_eq!(name_helper(number).unwrap(), name);
        }
    }
}
