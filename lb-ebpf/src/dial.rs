//! Sockets of the node's own, as the programs of their control group meet them: before there is a packet.
//!
//! These programs run in the context of processes. A packet's program may interrupt them on the same CPU, and another process
//! may take their place there; so they use none of the work areas of [`crate::maps`], and count by one instruction.

use core::{
    arch::asm,
    intrinsics::{AtomicOrdering::SeqCst, atomic_xadd},
    ptr,
};

use aya_ebpf::{
    bindings::{BPF_ANY, bpf_sock_addr},
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    programs::SockAddrContext,
};
use lb_common::{
    abi::{Dialled, DialledKey, Reason, ServiceKey},
    datapath::{
        Role,
        dial::{Socket, Sockets, dial, dialled_as},
    },
    net::{
        addr::{Addr, Addr4, Addr6},
        ip::proto,
    },
};

use crate::{
    maps::{COUNTERS, FamilyMaps, NETNS},
    memory::copy,
    socket::ESTABLISHED,
    tables::KernelTables,
};

/// What the kernel is to do in any case; hooks that cannot refuse allow nothing else.
const GO_ON: i32 = 1;

/// What a hook does about an address.
pub(crate) trait Hook {
    /// True: `end` was replaced.
    fn meet<A: FamilyMaps>(call: Call, end: &mut ServiceKey<A>) -> bool;
}

/// `connect`: the address is what is dialled.
pub(crate) struct Connect;
/// `sendmsg` and its like with an address, of UDP: where the datagram goes.
pub(crate) struct Send;
/// `recvmsg` and its like, of UDP: whom the datagram is from.
pub(crate) struct Receive;
/// `getpeername`: the other end.
pub(crate) struct Peer;

/// A hook where addresses are written as those of IPv4.
#[inline(always)]
pub(crate) fn v4<H: Hook>(ctx: &SockAddrContext, _hook: H) -> i32 {
    let call = Call {
        ctx: ctx.sock_addr,
        is_v6: false,
    };
    if call.is_of_node() {
        let mut end = ServiceKey::new(call.addr4(), call.port(), call.proto());
        if H::meet(call, &mut end) {
            call.set_addr4(end.addr);
            call.set_port(end.port);
        }
    }
    GO_ON
}

/// A hook where addresses are written as those of IPv6, also if they stand for one of IPv4.
#[inline(always)]
pub(crate) fn v6<H: Hook>(ctx: &SockAddrContext, _hook: H) -> i32 {
    let call = Call {
        ctx: ctx.sock_addr,
        is_v6: true,
    };
    if !call.is_of_node() {
        return GO_ON;
    }
    let (addr, port, proto) = (call.addr6(), call.port(), call.proto());
    if let Some(addr) = addr.to_mapped() {
        let mut end = ServiceKey::new(addr, port, proto);
        if H::meet(call, &mut end) {
            call.set_addr6(Addr6::from_mapped(end.addr));
            call.set_port(end.port);
        }
    } else {
        let mut end = ServiceKey::new(addr, port, proto);
        if H::meet(call, &mut end) {
            call.set_addr6(end.addr);
            call.set_port(end.port);
        }
    }
    GO_ON
}

impl Hook for Connect {
    #[inline(always)]
    fn meet<A: FamilyMaps>(call: Call, end: &mut ServiceKey<A>) -> bool {
        // A datagram socket that is connected cannot be given another backend when this one is gone.
        let is_free = end.proto == proto::TCP && !call.has_device() && !call.has_source();
        given(call, is_free, end)
    }
}

impl Hook for Send {
    #[inline(always)]
    fn meet<A: FamilyMaps>(call: Call, end: &mut ServiceKey<A>) -> bool {
        // A connected socket hears its peer alone, and no backend that answers what went elsewhere.
        let is_free = !call.has_device() && !call.has_message_source() && !call.is_connected();
        given(call, is_free, end)
    }
}

impl Hook for Receive {
    #[inline(always)]
    fn meet<A: FamilyMaps>(call: Call, end: &mut ServiceKey<A>) -> bool {
        dialled_as(&KernelSockets, call.cookie(), end)
    }
}

impl Hook for Peer {
    #[inline(always)]
    fn meet<A: FamilyMaps>(call: Call, end: &mut ServiceKey<A>) -> bool {
        // A connected datagram socket has what it dialled.
        end.proto == proto::TCP && dialled_as(&KernelSockets, call.cookie(), end)
    }
}

#[inline(always)]
fn given<A: FamilyMaps>(call: Call, is_free: bool, end: &mut ServiceKey<A>) -> bool {
    let tables = KernelTables::<false> {
        // Neither is asked for.
        ctx: ptr::null_mut(),
        ifindex: 0,
        role: Role::Host,
    };
    let socket = Socket {
        cookie: call.cookie(),
        is_free,
    };
    let became = dial(&tables, &KernelSockets, socket, end);
    if let Some(reason) = became.reason() {
        count(reason);
    }
    became.is_direct()
}

#[inline(always)]
fn count(reason: Reason) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason as u32) {
        // SAFETY: this CPU's value, aligned to 8; packets that come in between add to it too.
        unsafe { atomic_xadd::<u64, u64, { SeqCst }>(counter, 1) };
    }
}

/// What sockets have dialled, in a map.
struct KernelSockets;

impl<A: FamilyMaps> Sockets<A> for KernelSockets {
    #[inline(always)]
    fn recall(&self, key: &DialledKey<A>, into: &mut Dialled<A>) -> bool {
        // SAFETY: copied at once. Torn by a thread of the same process that sends by the same socket, it names a backend which
        // is checked like any other, or a service that the socket has dialled.
        unsafe { A::dialled().get(key).map(|other| copy(other, into)) }.is_some()
    }

    #[inline(always)]
    fn note(&self, key: &DialledKey<A>, other: &Dialled<A>) -> bool {
        A::dialled().insert(key, other, u64::from(BPF_ANY)).is_ok()
    }
}

/// The address that a process has given for one of its sockets, or is about to be told.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    ctx: *mut bpf_sock_addr,
    /// How addresses are written.
    is_v6: bool,
}

impl Call {
    /// True if the socket is in the agent's network namespace; nobody's is, where the loader has not named one.
    #[inline(always)]
    fn is_of_node(self) -> bool {
        let mut own = (&raw const NETNS).cast::<u64>();
        // SAFETY: an empty instruction that hides where the pointer comes from, as in `tables::node`.
        unsafe { asm!("", inout("r1") own, options(nomem, nostack, preserves_flags)) };
        // SAFETY: `Global` is the value and nothing else, and the loader writes it before the program runs.
        let own = unsafe { *own };
        // SAFETY: the context is this program's.
        own != 0 && unsafe { bpf_get_netns_cookie(self.ctx.cast()) } == own
    }

    #[inline(always)]
    fn cookie(self) -> u64 {
        // SAFETY: the context is this program's.
        unsafe { bpf_get_socket_cookie(self.ctx.cast()) }
    }

    #[inline(always)]
    fn proto(self) -> u8 {
        // SAFETY: the context is this program's, and is read word by word as the verifier wants it.
        let protocol = unsafe { (&raw const (*self.ctx).protocol).read_volatile() };
        // Those of neither number are no service's; IPPROTO_MPTCP does not fit.
        u8::try_from(protocol).unwrap_or(0)
    }

    #[inline(always)]
    fn port(self) -> u16 {
        // SAFETY: as above.
        let be16 = unsafe { (&raw const (*self.ctx).user_port).read_volatile() };
        u16::from_be(be16 as u16)
    }

    #[inline(always)]
    fn set_port(self, port: u16) {
        // SAFETY: as above.
        unsafe { (&raw mut (*self.ctx).user_port).write_volatile(u32::from(port.to_be())) };
    }

    #[inline(always)]
    fn addr4(self) -> Addr4 {
        // SAFETY: as above; hooks of IPv4 alone ask.
        let be32 = unsafe { (&raw const (*self.ctx).user_ip4).read_volatile() };
        Addr4 { be32 }
    }

    #[inline(always)]
    fn set_addr4(self, addr: Addr4) {
        // SAFETY: as above.
        unsafe { (&raw mut (*self.ctx).user_ip4).write_volatile(addr.be32) };
    }

    #[inline(always)]
    fn addr6(self) -> Addr6 {
        // SAFETY: as above; hooks of IPv6 alone ask.
        Addr6::from_words(unsafe { words(&raw const (*self.ctx).user_ip6) })
    }

    #[inline(always)]
    fn set_addr6(self, addr: Addr6) {
        // SAFETY: as above.
        let into = unsafe { &raw mut (*self.ctx).user_ip6 }.cast::<u32>();
        for (at, word) in addr.words().into_iter().enumerate() {
            // SAFETY: one of its four words.
            unsafe { into.add(at).write_volatile(word) };
        }
    }

    /// True if the socket keeps to a device.
    #[inline(always)]
    fn has_device(self) -> bool {
        // SAFETY: the context's socket is there as long as the program runs.
        unsafe { (&raw const (*self.socket()).bound_dev_if).read_volatile() != 0 }
    }

    /// True if the socket is bound to an address.
    #[inline(always)]
    fn has_source(self) -> bool {
        let socket = self.socket();
        // SAFETY: as above.
        unsafe {
            if self.is_v6 {
                words(&raw const (*socket).src_ip6) != [0; 4]
            } else {
                (&raw const (*socket).src_ip4).read_volatile() != 0
            }
        }
    }

    /// True if the socket is bound to an address, or the datagram's source is given with it.
    #[inline(always)]
    fn has_message_source(self) -> bool {
        // SAFETY: the context is this program's; `sendmsg` alone asks.
        unsafe {
            if self.is_v6 {
                words(&raw const (*self.ctx).msg_src_ip6) != [0; 4]
            } else {
                (&raw const (*self.ctx).msg_src_ip4).read_volatile() != 0
            }
        }
    }

    /// True of a datagram socket that has a peer.
    #[inline(always)]
    fn is_connected(self) -> bool {
        // SAFETY: the context's socket is there as long as the program runs.
        unsafe { (&raw const (*self.socket()).state).read_volatile() == ESTABLISHED }
    }

    #[inline(always)]
    fn socket(self) -> *const aya_ebpf::bindings::bpf_sock {
        // SAFETY: the context is this program's; the union has the pointer and nothing else.
        unsafe { (&raw const (*self.ctx).__bindgen_anon_1.sk).read_volatile() }
    }
}

/// Four words one by one: the verifier allows no other reads of them.
///
/// # Safety
/// The array must be one of the context's, or of its socket's.
#[inline(always)]
unsafe fn words(array: *const [u32; 4]) -> [u32; 4] {
    let first = array.cast::<u32>();
    // SAFETY: the caller's promise.
    [0, 1, 2, 3].map(|at| unsafe { first.add(at).read_volatile() })
}
