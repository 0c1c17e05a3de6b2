//! The few `bpf` system calls that aya does not offer: programs made of instructions, maps for them, links to devices, and
//! many runs in one call.
//!
//! What is made lives as long as its value. Every address that the kernel is told is that of a slice that outlives the
//! call.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

use anyhow::{Context, Result, ensure};

use crate::asm::Insn;

/// `enum bpf_cmd` of `linux/bpf.h`.
mod command {
    pub(super) const MAP_CREATE: libc::c_long = 0;
    pub(super) const MAP_LOOKUP_ELEM: libc::c_long = 1;
    pub(super) const MAP_UPDATE_ELEM: libc::c_long = 2;
    pub(super) const PROG_LOAD: libc::c_long = 5;
    pub(super) const PROG_TEST_RUN: libc::c_long = 10;
    pub(super) const LINK_CREATE: libc::c_long = 28;
}

/// `enum bpf_map_type` of `linux/bpf.h`.
const MAP_TYPE_HASH: u32 = 1;
const MAP_TYPE_ARRAY: u32 = 2;
const MAP_TYPE_PROG_ARRAY: u32 = 3;
const MAP_TYPE_PERCPU_ARRAY: u32 = 6;
const MAP_TYPE_LRU_HASH: u32 = 9;

/// `BPF_F_TEST_XDP_LIVE_FRAMES` of `linux/bpf.h`: what a run returns is done.
const LIVE_FRAMES: u32 = 1 << 1;
/// Frames that one turn of such a run makes; the kernel's own default.
const BATCH: u32 = 64;

/// A kind of program: `enum bpf_prog_type`, and what the kernel wants to know besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    program: u32,
    attach: u32,
    /// `BPF_F_*` of loading.
    flags: u32,
}

impl Kind {
    /// `BPF_PROG_TYPE_SCHED_CLS`.
    pub const TC: Self = Self {
        program: 3,
        attach: 0,
        flags: 0,
    };
    /// `BPF_PROG_TYPE_XDP`, for `BPF_XDP`, with `BPF_F_XDP_HAS_FRAGS`: programs jump only to such as take the same packets.
    pub const XDP: Self = Self {
        program: 6,
        attach: 37,
        flags: 1 << 5,
    };
}

/// Loads a program.
pub fn load(kind: Kind, insns: &[Insn]) -> Result<OwnedFd> {
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

/// Where a program meets packets that come by a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// XDP in the driver.
    Xdp,
    /// TC's ingress; links there are new in Linux 6.6.
    Tc,
    /// TC's egress; likewise.
    TcEgress,
}

impl Hook {
    /// Its programs.
    pub fn kind(self) -> Kind {
        match self {
            Self::Xdp => Kind::XDP,
            Self::Tc | Self::TcEgress => Kind::TC,
        }
    }

    /// `BPF_XDP`, `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS`, and the flags: `XDP_FLAGS_DRV_MODE`.
    fn attach(self) -> (u32, u32) {
        match self {
            Self::Xdp => (37, 1 << 2),
            Self::Tc => (46, 0),
            Self::TcEgress => (47, 0),
        }
    }
}

/// Links a program to a device of the calling thread's namespace; it leaves the device when the link is dropped.
pub fn link(program: &OwnedFd, ifindex: u32, hook: Hook) -> Result<OwnedFd> {
    let (attach_type, flags) = hook.attach();
    let mut attr = LinkCreate {
        prog_fd: number(program)?,
        target_ifindex: ifindex,
        attach_type,
        flags,
        ..LinkCreate::default()
    };
    // SAFETY: the attributes hold no addresses.
    unsafe { fd(command::LINK_CREATE, &mut attr) }.context("link a program to a device")
}

/// An array of one value.
#[derive(Debug)]
pub struct Value {
    map: OwnedFd,
    len: usize,
}

impl Value {
    /// With this value.
    pub fn new(value: &[u8]) -> Result<Self> {
        let map = create(MAP_TYPE_ARRAY, 4, u32::try_from(value.len())?, 1)?;
        update(&map, value)?;
        Ok(Self {
            map,
            len: value.len(),
        })
    }

    /// Replaces the value by one of the same length.
    pub fn set(&self, value: &[u8]) -> Result<()> {
        let (wanted, len) = (self.len, value.len());
        ensure!(
            len == wanted,
            "a value of {len} bytes where {wanted} belong"
        );
        update(&self.map, value)
    }
}

impl AsFd for Value {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

/// An array of counters, each of which every CPU has one of.
#[derive(Debug)]
pub struct Counters(OwnedFd);

impl Counters {
    /// So many, all 0.
    pub fn new(number: u32) -> Result<Self> {
        Ok(Self(create(MAP_TYPE_PERCPU_ARRAY, 4, 8, number)?))
    }

    /// What one says, over all CPUs.
    pub fn get(&self, index: u32) -> Result<u64> {
        let n_cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        let mut values = vec![0_u64; n_cpus];
        let key = [index];
        let mut attr = MapElement {
            map_fd: number(&self.0)?,
            key: address(&key),
            value: values.as_mut_ptr().addr() as u64,
            ..MapElement::default()
        };
        // SAFETY: the map was made for keys of four bytes and values of eight, of which the kernel writes one for each
        // possible CPU; there is room for them.
        unsafe { bpf(command::MAP_LOOKUP_ELEM, &mut attr) }.context("read a counter")?;
        Ok(values.iter().sum())
    }
}

impl AsFd for Counters {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A map with keys and values of so many bytes.
#[derive(Debug)]
pub struct Table<const KEY: usize, const VALUE: usize>(OwnedFd);

impl<const KEY: usize, const VALUE: usize> Table<KEY, VALUE> {
    /// A hash map.
    pub fn hash(entries: u32) -> Result<Self> {
        Self::new(MAP_TYPE_HASH, entries)
    }

    /// One that forgets what has not been used for the longest time.
    pub fn lru_hash(entries: u32) -> Result<Self> {
        Self::new(MAP_TYPE_LRU_HASH, entries)
    }

    /// An array; keys are numbers of four bytes.
    pub fn array(entries: u32) -> Result<Self> {
        Self::new(MAP_TYPE_ARRAY, entries)
    }

    /// Puts an entry into it.
    pub fn insert(&self, key: &[u8; KEY], value: &[u8; VALUE]) -> Result<()> {
        let mut attr = MapElement {
            map_fd: number(&self.0)?,
            key: address(key),
            value: address(value),
            ..MapElement::default()
        };
        // SAFETY: the map was made for keys and values of these lengths.
        unsafe { bpf(command::MAP_UPDATE_ELEM, &mut attr) }.context("write to a map")?;
        Ok(())
    }

    fn new(map_type: u32, entries: u32) -> Result<Self> {
        let (key, value) = (u32::try_from(KEY)?, u32::try_from(VALUE)?);
        Ok(Self(create(map_type, key, value, entries)?))
    }
}

impl<const KEY: usize, const VALUE: usize> AsFd for Table<KEY, VALUE> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A table of one program.
#[derive(Debug)]
pub struct JumpTable(OwnedFd);

impl JumpTable {
    /// An empty one.
    pub fn new() -> Result<Self> {
        Ok(Self(create(MAP_TYPE_PROG_ARRAY, 4, 4, 1)?))
    }

    /// Makes `program` the one of the table; it must be of the kind of those that jump there.
    pub fn set(&self, program: BorrowedFd<'_>) -> Result<()> {
        update(&self.0, &program.as_raw_fd().to_ne_bytes())
    }
}

impl AsFd for JumpTable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Runs a program `repeat` times on one packet, which it must restore itself; what the last run returned, and the
/// nanoseconds that each took on average.
pub fn repeat(
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

/// Runs an XDP program on `n` frames as if they had come by a device of the calling thread's namespace, and does with each
/// what the program says. A frame that comes back is used again, as it is then.
pub fn live(program: &OwnedFd, frame: &[u8], ifindex: u32, n: u32) -> Result<()> {
    // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context = [0, u32::try_from(frame.len())?, 0, ifindex, 0, 0];
    let mut attr = TestRun {
        prog_fd: number(program)?,
        data_size_in: u32::try_from(frame.len())?,
        data_in: address(frame),
        repeat: n,
        ctx_size_in: u32::try_from(size_of_val(&context))?,
        ctx_in: address(&context),
        flags: LIVE_FRAMES,
        batch_size: BATCH,
        ..TestRun::default()
    };
    // SAFETY: packet and context are as long as the attributes say, and the kernel only reads them.
    unsafe { bpf(command::PROG_TEST_RUN, &mut attr) }.context("run a program on live frames")?;
    Ok(())
}

/// Replaces the first value of an array, which must be as long as `value`.
fn update(map: &OwnedFd, value: &[u8]) -> Result<()> {
    let key = [0_u32];
    let mut attr = MapElement {
        map_fd: number(map)?,
        key: address(&key),
        value: address(value),
        ..MapElement::default()
    };
    // SAFETY: both kinds of map have keys of four bytes; the length of the value is the caller's, who made the map.
    unsafe { bpf(command::MAP_UPDATE_ELEM, &mut attr) }.context("write to a map")?;
    Ok(())
}

fn create(map_type: u32, key_size: u32, value_size: u32, max_entries: u32) -> Result<OwnedFd> {
    let mut attr = MapCreate {
        map_type,
        key_size,
        value_size,
        max_entries,
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
struct MapElement {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part of `union bpf_attr` that links a program to a device; without any relation to other programs.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    pad: u32,
    expected_revision: u64,
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
