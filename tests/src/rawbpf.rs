//! The few `bpf` system calls that aya does not offer: a program made of instructions, a table of programs to jump to, and
//! many runs in one call.
//!
//! What is made lives as long as its value. Every address that the kernel is told is that of a slice that outlives the
//! call.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

use anyhow::{Context, Result, ensure};

use crate::asm::Insn;

/// `enum bpf_cmd` of `linux/bpf.h`.
mod command {
    pub(super) const MAP_CREATE: libc::c_long = 0;
    pub(super) const MAP_UPDATE_ELEM: libc::c_long = 2;
    pub(super) const PROG_LOAD: libc::c_long = 5;
    pub(super) const PROG_TEST_RUN: libc::c_long = 10;
}

/// `enum bpf_map_type` of `linux/bpf.h`.
const MAP_TYPE_ARRAY: u32 = 2;
const MAP_TYPE_PROG_ARRAY: u32 = 3;

/// A kind of program: `enum bpf_prog_type`, and what the kernel wants to know besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    program: u32,
    attach: u32,
    /// `BPF_F_*` of loading.
    flags: u32,
}

impl Kind {
    /// `BPF_PROG_TYPE_SCHED_CLS`.
    pub(crate) const TC: Self = Self {
        program: 3,
        attach: 0,
        flags: 0,
    };
    /// `BPF_PROG_TYPE_XDP`, for `BPF_XDP`, with `BPF_F_XDP_HAS_FRAGS`: programs jump only to such as take the same packets.
    pub(crate) const XDP: Self = Self {
        program: 6,
        attach: 37,
        flags: 1 << 5,
    };
}

/// Loads a program.
pub(crate) fn load(kind: Kind, insns: &[Insn]) -> Result<OwnedFd> {
    let mut log = vec![0_u8; 64 * 1024];
    let license = c"GPL";
    let mut attr = ProgLoad {
        prog_type: kind.program,
        insn_cnt: u32::try_from(insns.len())?,
        insns: address(insns),
        license: license.as_ptr().addr() as u64,
        log_level: 1,
        log_size: u32::try_from(log.len())?,
        log_buf: log.as_mut_ptr().addr() as u64,
        prog_flags: kind.flags,
        expected_attach_type: kind.attach,
        ..ProgLoad::default()
    };
    // SAFETY: the instructions, the licence and the log are as long as the attributes say, and outlive the call.
    let loaded = unsafe { fd(command::PROG_LOAD, &mut attr) };
    loaded.with_context(|| {
        let log = String::from_utf8_lossy(&log);
        format!(
            "load a program of {} instructions: {}",
            insns.len(),
            log.trim_end_matches('\0').trim_end()
        )
    })
}

/// Makes an array of one value.
pub(crate) fn single_value(value: &[u8]) -> Result<OwnedFd> {
    let map = create(MAP_TYPE_ARRAY, u32::try_from(value.len())?)?;
    update(&map, value)?;
    Ok(map)
}

/// Makes a table of one program.
pub(crate) fn jump_table() -> Result<OwnedFd> {
    create(MAP_TYPE_PROG_ARRAY, 4)
}

/// Makes `program` the one of a table; it must be of the kind of those that jump there.
pub(crate) fn set_target(table: &OwnedFd, program: BorrowedFd<'_>) -> Result<()> {
    update(table, &program.as_raw_fd().to_ne_bytes())
}

/// Replaces the first value of an array, which must be as long as `value`.
pub(crate) fn update(map: &OwnedFd, value: &[u8]) -> Result<()> {
    let key = [0_u32];
    let mut attr = MapUpdate {
        map_fd: number(map)?,
        key: address(&key),
        value: address(value),
        ..MapUpdate::default()
    };
    // SAFETY: both kinds of map have keys of four bytes; the length of the value is the caller's, who made the map.
    unsafe { bpf(command::MAP_UPDATE_ELEM, &mut attr) }.context("write to a map")?;
    Ok(())
}

/// Runs a program `repeat` times on one packet, which it must restore itself; what the last run returned, and the
/// nanoseconds that each took on average.
pub(crate) fn repeat(
    program: &OwnedFd,
    packet: &[u8],
    context: &[u32],
    repeat: u32,
) -> Result<(u32, u32)> {
    let mut attr = TestRun {
        prog_fd: number(program)?,
        data_size_in: u32::try_from(packet.len())?,
        data_in: address(packet),
        repeat,
        ctx_size_in: u32::try_from(size_of_val(context))?,
        ctx_in: address(context),
        ..TestRun::default()
    };
    // SAFETY: packet and context are as long as the attributes say, and the kernel only reads them.
    unsafe { bpf(command::PROG_TEST_RUN, &mut attr) }.context("run a program")?;
    Ok((attr.retval, attr.duration))
}

fn create(map_type: u32, value_size: u32) -> Result<OwnedFd> {
    let mut attr = MapCreate {
        map_type,
        key_size: 4,
        value_size,
        max_entries: 1,
        map_flags: 0,
    };
    // SAFETY: the attributes hold no addresses.
    unsafe { fd(command::MAP_CREATE, &mut attr) }.context("make a map")
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct MapUpdate {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// # Safety
/// As for [`bpf`]; the command returns a new descriptor.
unsafe fn fd<T>(command: libc::c_long, attr: &mut T) -> Result<OwnedFd> {
    // SAFETY: the caller's.
    let number = unsafe { bpf(command, attr) }?;
    let number = i32::try_from(number)?;
    ensure!(number >= 0, "the kernel returned the descriptor {number}");
    // SAFETY: the kernel has just made it, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// # Safety
/// The addresses in `attr` must be those of memory that the command may read or write.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is as long as the size says; what it points to is the caller's promise.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn address<T>(slice: &[T]) -> u64 {
    slice.as_ptr().addr() as u64
}

fn number(fd: &OwnedFd) -> Result<u32> {
    Ok(u32::try_from(fd.as_raw_fd())?)
}
