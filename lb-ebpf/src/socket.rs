//! The one place that asks the kernel for a socket of the node's own.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_NETNS, bpf_sock_tuple},
    helpers::generated::{bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release},
};
use lb_common::{flow::FlowKey, net::ip::proto};

use crate::maps::FamilyMaps;

/// `TCP_ESTABLISHED` of `include/net/tcp_states.h`; a connected UDP socket is in this state too.
pub(crate) const ESTABLISHED: u32 = 1;
/// `TCP_LISTEN`.
const LISTEN: u32 = 10;

/// True if a socket of the node's is connected to where packets of this key come from. A call of its own in the
/// BPF object: the query takes much of a stack frame.
#[inline(never)]
pub(crate) fn is_connected<A: FamilyMaps>(ctx: *mut c_void, key: &FlowKey<A>) -> bool {
    let mut tuple = MaybeUninit::<bpf_sock_tuple>::uninit();
    let words = tuple.as_mut_ptr().cast::<u32>();
    let n = size_of::<A>() / 4;
    let (src, dst) = (key.ends.src.words(), key.ends.dst.words());
    let ports = u32::from(key.dport.to_be()) << 16 | u32::from(key.sport.to_be());
    // SAFETY: source, destination and both ports, of either family, in words. One by one, since the compiler would
    // write two at once where the verifier wants words of eight bytes aligned.
    unsafe {
        for at in 0..n {
            words.add(at).write_volatile(src[at]);
            words.add(n + at).write_volatile(dst[at]);
        }
        words.add(2 * n).write_volatile(ports);
    }
    let tuple = tuple.as_mut_ptr();
    let len = (8 * n + 4) as u32;
    let netns = i64::from(BPF_F_CURRENT_NETNS).cast_unsigned();
    // SAFETY: the context is this program's, the query `len` bytes long.
    let socket = unsafe {
        if key.proto == proto::TCP {
            bpf_sk_lookup_tcp(ctx, tuple, len, netns, 0)
        } else {
            bpf_sk_lookup_udp(ctx, tuple, len, netns, 0)
        }
    };
    if socket.is_null() {
        return false;
    }
    // SAFETY: not null, and held until it is released.
    let state = unsafe { (&raw const (*socket).state).read_volatile() };
    // SAFETY: the reference that the lookup has taken; not used after this.
    unsafe { bpf_sk_release(socket.cast()) };
    if key.proto == proto::TCP {
        state != LISTEN
    } else {
        state == ESTABLISHED
    }
}
