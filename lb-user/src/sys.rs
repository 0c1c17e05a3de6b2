//! System calls that no library has: many rows of an array map at a time, waiting for readers, the end of a
//! link, links of control groups, the name of a network namespace, and tables of the old iptables.
//!
//! Everything here is checked against the map before the kernel is told an address, so that nothing is
//! left for callers to get wrong.

use std::{
    ffi::CString,
    io,
    marker::PhantomData,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::{ffi::OsStrExt as _, net::UnixDatagram},
    },
    path::Path,
    ptr, thread,
    time::Duration,
};

use aya::maps::{MapData, MapType};
use lb_common::abi::Plain;

/// The rows of a map of type array (not per CPU), each a `V`. Needs Linux 5.6; without it each row is a
/// system call of its own by other means.
#[derive(Debug)]
pub(crate) struct Rows<'a, V> {
    fd: BorrowedFd<'a>,
    len: u32,
    value: PhantomData<V>,
}

/// `union bpf_attr` as the batch commands read it (`linux/bpf.h`).
#[repr(C)]
#[derive(Debug, Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// `union bpf_attr` as `BPF_OBJ_GET` reads it.
#[repr(C)]
#[derive(Debug, Default)]
struct ObjectAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// `union bpf_attr` as `BPF_LINK_DETACH` reads it.
#[repr(C)]
#[derive(Debug, Default)]
struct DetachAttr {
    link_fd: u32,
}

/// The same as `BPF_OBJ_PIN` reads it.
type PinAttr = ObjectAttr;

/// `union bpf_attr` as `BPF_LINK_CREATE` reads it.
#[repr(C)]
#[derive(Debug, Default)]
struct LinkAttr {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// `union bpf_attr` as `BPF_LINK_UPDATE` reads it.
#[repr(C)]
#[derive(Debug, Default)]
struct UpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// `union bpf_attr` as `BPF_OBJ_GET_INFO_BY_FD` reads it.
#[repr(C)]
#[derive(Debug, Default)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_link_info` of a control group's link.
#[repr(C)]
#[derive(Debug, Default)]
struct GroupLinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    pad: u32,
    cgroup_id: u64,
    attach_type: u32,
    end: u32,
}

/// `enum bpf_cmd` in `linux/bpf.h`.
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

/// `MEMBARRIER_CMD_GLOBAL` in `linux/membarrier.h`.
const MEMBARRIER_CMD_GLOBAL: libc::c_long = 1;

/// Rows per system call: keeps buffers below 512 KiB for the widest row.
const ROWS_PER_CALL: u32 = 4096;

/// Longer than any program runs that is in the middle of a packet, however busy the machine is.
const LONGEST_READER: Duration = Duration::from_secs(1);

impl<'a, V: Plain> Rows<'a, V> {
    /// The rows of `map`; an error of kind `InvalidInput`: it is not an array of such values.
    pub(crate) fn of(map: &'a MapData) -> io::Result<Self> {
        let info = map.info().map_err(io::Error::other)?;
        let is_array = matches!(info.map_type(), Ok(MapType::Array));
        if !is_array || info.key_size() != 4 || info.value_size() as usize != size_of::<V>() {
            let message = format!("not an array of values of {} bytes", size_of::<V>());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(Self {
            fd: map.fd().as_fd(),
            len: info.max_entries(),
            value: PhantomData,
        })
    }

    /// Number of rows.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Copies `count` rows from `base` on, or those of them that exist.
    pub(crate) fn read(&self, base: u32, count: u32) -> io::Result<Vec<V>> {
        let end = self.len.min(base.saturating_add(count));
        let mut values = Vec::with_capacity(end.saturating_sub(base) as usize);
        let mut at = base;
        while at < end {
            let n_read = self.read_some(at, (end - at).min(ROWS_PER_CALL), &mut values)?;
            if n_read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            at += n_read;
        }
        Ok(values)
    }

    /// Writes rows from `base` on. After an error any of them may be written.
    pub(crate) fn write(&self, base: u32, values: &[V]) -> io::Result<()> {
        let rows_per_call = ROWS_PER_CALL as usize;
        for (base, values) in (base..)
            .step_by(rows_per_call)
            .zip(values.chunks(rows_per_call))
        {
            let keys: Vec<u32> = (base..).take(values.len()).collect();
            let mut attr = self.attr(&keys, values.len())?;
            attr.values = values.as_ptr().addr() as u64;
            attr.keys = keys.as_ptr().addr() as u64;
            // SAFETY: the kernel reads `count` keys of 4 bytes and as many values of the map's size,
            // which `of` has compared with `V`'s; both buffers are that long and outlive the call.
            unsafe { bpf(BPF_MAP_UPDATE_BATCH, &mut attr) }?;
        }
        Ok(())
    }

    fn read_some(&self, base: u32, count: u32, values: &mut Vec<V>) -> io::Result<u32> {
        let mut keys = vec![0_u32; count as usize];
        let mut next = 0_u32;
        let before = base.wrapping_sub(1);
        let mut attr = self.attr(&keys, count as usize)?;
        values.reserve(count as usize);
        if base > 0 {
            attr.in_batch = ptr::from_ref(&before).addr() as u64;
        }
        attr.out_batch = ptr::from_mut(&mut next).addr() as u64;
        attr.keys = keys.as_mut_ptr().addr() as u64;
        attr.values = values.spare_capacity_mut().as_mut_ptr().addr() as u64;
        // SAFETY: the kernel reads one key at `in_batch` and writes one at `out_batch`, at most `count`
        // keys and as many values of the map's size, which `of` has compared with `V`'s. There is room
        // for them, and all of it outlives the call.
        let result = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) };
        match result {
            // The end of the map: what came before it is in the buffers.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            result => {
                result?;
            }
        }
        let n_read = attr.count.min(count);
        // SAFETY: the kernel has written that many values behind the ones that were there, and every
        // bit pattern is a valid `V`.
        unsafe { values.set_len(values.len() + n_read as usize) };
        Ok(n_read)
    }

    fn attr(&self, keys: &[u32], count: usize) -> io::Result<BatchAttr> {
        debug_assert_eq!(keys.len(), count);
        let map_fd = u32::try_from(self.fd.as_raw_fd()).map_err(io::Error::other)?;
        let count = u32::try_from(count).map_err(io::Error::other)?;
        Ok(BatchAttr {
            count,
            map_fd,
            ..BatchAttr::default()
        })
    }
}

/// Returns when every BPF program that was running at the call has ended.
///
/// `membarrier(MEMBARRIER_CMD_GLOBAL)` is `synchronize_rcu`, which waits for programs in soft interrupts
/// as well (RCU flavours are one since Linux 4.20). It does nothing where only one CPU is online and is
/// refused where CPUs run without a tick; there the longest reader is waited for.
pub(crate) fn wait_for_readers() {
    // SAFETY: takes a name and touches no memory.
    let n_cpus = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    // SAFETY: takes three numbers and touches no memory of this process.
    let waited = n_cpus > 1
        && unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } == 0;
    if !waited {
        thread::sleep(LONGEST_READER);
    }
}

/// Gives memory back that was freed: the allocator keeps what a start has needed, many times what the agent needs after it.
pub(crate) fn give_memory_back() {
    // SAFETY: takes a number, and touches nothing that is in use.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Takes the program of the link that is pinned at `path` off its device. It is off when this returns; of a link that merely
/// nobody holds any more the kernel takes care by and by, while packets go on meeting the program.
///
/// # Errors
/// No link is there, its device is gone (`ENOLINK`), or the kernel does not know how.
pub(crate) fn detach(path: &Path) -> io::Result<()> {
    let link = open_link(path)?;
    let link_fd = number(link.as_fd())?;
    // SAFETY: there is no address in it.
    unsafe { bpf(BPF_LINK_DETACH, &mut DetachAttr { link_fd }) }?;
    Ok(())
}

/// The link that is pinned at `path`.
pub(crate) fn open_link(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut get = ObjectAttr {
        pathname: path.as_ptr().addr() as u64,
        ..ObjectAttr::default()
    };
    // SAFETY: the kernel reads a string at `pathname`, which ends with a zero and outlives the call.
    let fd = unsafe { bpf(BPF_OBJ_GET, &mut get) }?;
    owned(fd)
}

/// What a control group's link holds where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupLink {
    /// The program's id.
    pub(crate) program: u32,
    /// The control group's id; 0: it is gone, or somebody has detached the link.
    pub(crate) group: u64,
}

/// Puts a program in a control group, beside those that are there, for a hook of `enum bpf_attach_type`; it is off when the link
/// is closed, unless that is pinned.
pub(crate) fn link_to_group(
    program: BorrowedFd<'_>,
    group: BorrowedFd<'_>,
    hook: u32,
) -> io::Result<OwnedFd> {
    let mut attr = LinkAttr {
        prog_fd: number(program)?,
        target_fd: number(group)?,
        attach_type: hook,
        flags: 0,
    };
    // SAFETY: there is no address in it.
    let fd = unsafe { bpf(BPF_LINK_CREATE, &mut attr) }?;
    owned(fd)
}

/// Gives a link another program, with no moment in between that has neither.
///
/// # Errors
/// What it was attached to is gone, or somebody has detached it (`ENOLINK`).
pub(crate) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = UpdateAttr {
        link_fd: number(link)?,
        new_prog_fd: number(program)?,
        ..UpdateAttr::default()
    };
    // SAFETY: there is no address in it.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// What a control group's link holds.
pub(crate) fn group_link(link: BorrowedFd<'_>) -> io::Result<GroupLink> {
    let mut info = GroupLinkInfo::default();
    let mut attr = InfoAttr {
        bpf_fd: number(link)?,
        info_len: u32::try_from(size_of::<GroupLinkInfo>()).map_err(io::Error::other)?,
        info: ptr::from_mut(&mut info).addr() as u64,
    };
    // SAFETY: the kernel writes at most `info_len` bytes at `info`, which is as long and outlives the call.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(GroupLink {
        program: info.prog_id,
        group: info.cgroup_id,
    })
}

/// Keeps an object of the BPF subsystem at a path of a BPF filesystem.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = PinAttr {
        pathname: path.as_ptr().addr() as u64,
        bpf_fd: number(object)?,
        file_flags: 0,
    };
    // SAFETY: the kernel reads a string at `pathname`, which ends with a zero and outlives the call.
    unsafe { bpf(BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// `SO_NETNS_COOKIE` of `asm-generic/socket.h` (Linux 5.14).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// What tells the network namespace of this thread from all others, as programs see it.
pub(crate) fn netns_cookie() -> io::Result<u64> {
    let socket = UnixDatagram::unbound()?;
    let mut cookie = [0; 8];
    get_option(
        socket.as_fd(),
        (libc::SOL_SOCKET, SO_NETNS_COOKIE),
        &mut cookie,
    )?;
    Ok(u64::from_ne_bytes(cookie))
}

/// A descriptor as the kernel's structures have it.
fn number(fd: BorrowedFd<'_>) -> io::Result<u32> {
    u32::try_from(fd.as_raw_fd()).map_err(io::Error::other)
}

/// A descriptor that a call has returned, which has made it.
fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the callers' calls have just made it for them.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
///
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

/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES` (`linux/netfilter_ipv4/ip_tables.h`); those of IPv6 have the same numbers.
const OLD_TABLE_INFO: libc::c_int = 64;
const OLD_TABLE_ENTRIES: libc::c_int = 65;
/// Length of a table's name, `XT_TABLE_MAXNAMELEN`.
const OLD_TABLE_NAME: usize = 32;
/// `struct ipt_getinfo`: the name, thirteen numbers of which the last is the size of the entries.
const OLD_TABLE_INFO_LEN: usize = OLD_TABLE_NAME + 13 * 4;
/// Where entries begin in `struct ipt_get_entries`: after the name and their size, at a multiple of eight.
const OLD_TABLE_HEAD: usize = 40;
/// A table that is exchanged while it is read is read again.
const OLD_TABLE_TRIES: usize = 8;

/// The entries of a table of the old iptables as the kernel keeps them, with the names of chains in them. Needs
/// `CAP_NET_ADMIN`, where `iptables-legacy-save` needs `CAP_NET_RAW`. The kernel makes a table that is not there.
pub(crate) fn old_table(is_ipv6: bool, name: &str) -> io::Result<Vec<u8>> {
    let (domain, level) = if is_ipv6 {
        (libc::AF_INET6, libc::IPPROTO_IPV6)
    } else {
        (libc::AF_INET, libc::IPPROTO_IP)
    };
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::socket(domain, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut error = io::Error::from(io::ErrorKind::InvalidInput);
    if name.len() >= OLD_TABLE_NAME {
        return Err(error);
    }
    for _ in 0..OLD_TABLE_TRIES {
        let mut info = vec![0; OLD_TABLE_INFO_LEN];
        info[..name.len()].copy_from_slice(name.as_bytes());
        get_option(socket.as_fd(), (level, OLD_TABLE_INFO), &mut info)?;
        let size = info.last_chunk::<4>().copied().unwrap_or_default();
        let mut entries = vec![0; OLD_TABLE_HEAD + u32::from_ne_bytes(size) as usize];
        entries[..name.len()].copy_from_slice(name.as_bytes());
        entries[OLD_TABLE_NAME..OLD_TABLE_NAME + 4].copy_from_slice(&size);
        match get_option(socket.as_fd(), (level, OLD_TABLE_ENTRIES), &mut entries) {
            Ok(()) => return Ok(entries.split_off(OLD_TABLE_HEAD)),
            Err(refused) if refused.raw_os_error() == Some(libc::EAGAIN) => error = refused,
            Err(refused) => return Err(refused),
        }
    }
    Err(error)
}

/// Asks a socket for an option of a level; what is asked for stands at the beginning of `value`, and so does the answer.
fn get_option(
    socket: BorrowedFd<'_>,
    (level, option): (libc::c_int, libc::c_int),
    value: &mut [u8],
) -> io::Result<()> {
    let mut len = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel is told the length of `value`, and both are ours until it returns.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            value.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
