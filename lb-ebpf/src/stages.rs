//! Stages of the datapath as global functions: the verifier checks each once for all its callers and their states, where
//! inlined they would be followed again and again.

use core::ptr;

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use lb_common::{
    abi::{NextHop, next_hop::NextHopRef},
    datapath::{Role, Tried, Work, recollect, remember, try_source},
    net::addr::{Addr4, Addr6},
};

use crate::tables::KernelTables;

/// The stages of one family and kind of program.
macro_rules! stages {
    ($addr:ty, $context:ty, $xdp:literal, $try_source:ident) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $try_source(
            ctx: *mut $context,
            work: *mut Work<$addr>,
            original: u32,
        ) -> u32 {
            // SAFETY: the caller passes a reference; the verifier asks for the check because it does not see it.
            let Some(work) = (unsafe { work.as_mut() }) else {
                return Tried::BUSY.0;
            };
            let tables = KernelTables::<$xdp> {
                ctx: ctx.cast(),
                // Neither is asked for.
                ifindex: 0,
                role: Role::Uplink,
            };
            try_source(work, &tables, original).0
        }
    };
}

stages!(Addr4, __sk_buff, false, try_source_tc4);
stages!(Addr6, __sk_buff, false, try_source_tc6);
stages!(Addr4, xdp_md, true, try_source_xdp4);
stages!(Addr6, xdp_md, true, try_source_xdp6);

/// What concerns next hops, of both families: the reference's bits.
macro_rules! hops {
    ($stage:ident, $name:ident) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $name(hop: *const NextHop, entry: *mut NextHop, now: u32) -> u32 {
            // SAFETY: as above.
            let (Some(hop), Some(entry)) = (unsafe { (hop.as_ref(), entry.as_mut()) }) else {
                return u32::from(NextHopRef::NONE.bits());
            };
            let tables = KernelTables::<false> {
                ctx: ptr::null_mut(),
                ifindex: 0,
                role: Role::Uplink,
            };
            u32::from($stage::<Addr4, _>(&tables, hop, entry, now).bits())
        }
    };
}

hops!(remember, remember_hop);
hops!(recollect, recollect_hop);
