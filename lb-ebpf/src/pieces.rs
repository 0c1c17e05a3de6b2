//! The kernel's memory of fragments: records, the shelf, and the helpers that keep a frame and let it in again.

use core::{ffi::c_void, mem::offset_of};

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS, BPF_F_INVALIDATE_HASH, BPF_F_RECOMPUTE_CSUM},
    helpers::generated::{
        bpf_clone_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
};
use lb_common::{
    abi::{HeldPiece, PieceKey, capacity, held_piece::FRAME_LEN},
    datapath::Released,
    flow::{FlowKey, clock::Tick},
    fragment::{
        record::{self, Records},
        shelf::{self, Claim, Frame, Shelf},
    },
    net::addr::{Addr4, Addr6},
};

use crate::{
    maps::{FamilyMaps, PIECES, SCRATCH, SPARE},
    memory::KernelWords,
    packet::length,
    tables::node,
};

/// One family's records.
struct KernelRecords<A>(core::marker::PhantomData<A>);

impl<A: FamilyMaps> Records for KernelRecords<A> {
    type Words = KernelWords<A>;

    #[inline(always)]
    fn words(&self, position: u32) -> Option<KernelWords<A>> {
        A::fragments().get_ptr_mut(position).map(KernelWords::over)
    }

    #[inline(always)]
    fn scratch(&self) -> Option<KernelWords<A>> {
        SCRATCH.get_ptr_mut(0).map(KernelWords::over)
    }
}

/// The buffers of both families.
struct KernelShelf;

impl Shelf for KernelShelf {
    type Words = KernelWords<Addr4>;

    #[inline(always)]
    fn words(&self, buffer: u32) -> Option<KernelWords<Addr4>> {
        PIECES.get_ptr_mut(buffer).map(KernelWords::over)
    }

    #[inline(always)]
    fn scratch(&self) -> Option<KernelWords<Addr4>> {
        SCRATCH.get_ptr_mut(0).map(KernelWords::over)
    }
}

/// [`record::find`] as a global function: the verifier checks it once for all its callers.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn recall4(key: *const FlowKey<Addr4>, id: u32, now: u32) -> u64 {
    recall(key, id, now)
}

/// The same for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn recall6(key: *const FlowKey<Addr6>, id: u32, now: u32) -> u64 {
    recall(key, id, now)
}

#[inline(always)]
fn recall<A: FamilyMaps>(key: *const FlowKey<A>, id: u32, now: u32) -> u64 {
    // SAFETY: the callers pass references; the verifier asks for the check because it does not see them.
    let Some(key) = (unsafe { key.as_ref() }) else {
        return 0;
    };
    let records: KernelRecords<A> = KernelRecords(core::marker::PhantomData);
    record::find::<A, _>(&records, &node().hash_key, key, id, now).0
}

/// [`record::note`] as a global function.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn note4(key: *const FlowKey<Addr4>, id: u32, now: u32) -> u64 {
    note(key, id, now)
}

/// The same for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn note6(key: *const FlowKey<Addr6>, id: u32, now: u32) -> u64 {
    note(key, id, now)
}

#[inline(always)]
fn note<A: FamilyMaps>(key: *const FlowKey<A>, id: u32, now: u32) -> u64 {
    // SAFETY: as in `recall`.
    if let Some(key) = unsafe { key.as_ref() } {
        let records: KernelRecords<A> = KernelRecords(core::marker::PhantomData);
        record::note::<A, _>(&records, &node().hash_key, key, id, now);
    }
    0
}

/// [`shelf::claim`] as a global function.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn claim_piece(key: *const PieceKey, now: u32) -> u64 {
    // SAFETY: as in `recall`.
    let Some(key) = (unsafe { key.as_ref() }) else {
        return 0;
    };
    shelf::claim(&KernelShelf, node(), key, now).0
}

/// [`shelf::release`] as a global function.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn release_piece(key: *const PieceKey, buffer: u32, now: u32) -> u64 {
    // SAFETY: as in `recall`.
    let Some(key) = (unsafe { key.as_ref() }) else {
        return 0;
    };
    shelf::release(&KernelShelf, buffer, key, now).0
}

/// Keeps a copy of a frame whose IP packet is `len` bytes long: the claim.
#[inline(always)]
pub(crate) fn hold(skb: *mut __sk_buff, len: u32, key: &PieceKey, now: Tick) -> u64 {
    // SAFETY: the context lives as long as the program.
    let (frame_len, ifindex) = unsafe { ((&raw const (*skb).len).read_volatile(), (*skb).ifindex) };
    let Some(frame_len) = length(frame_len, FRAME_LEN as u32) else {
        return 0;
    };
    let claim = Claim(claim_piece(key, now));
    if !claim.is_some() {
        return 0;
    }
    let Some(piece) = PIECES.get_ptr_mut(claim.buffer()) else {
        return 0;
    };
    let words = KernelWords::<Addr4>::over(piece);
    let bytes = frame_of(piece);
    // SAFETY: `frame_len` bytes fit into the buffer, which is this program's until it is published; the helper checks
    // them against the packet's.
    if unsafe { bpf_skb_load_bytes(skb.cast(), 0, bytes, frame_len) } != 0 {
        shelf::give_back(words, claim);
        return 0;
    }
    let frame = Frame {
        ifindex,
        l2: frame_len.saturating_sub(len),
        len: frame_len,
    };
    shelf::publish(words, claim, key, frame, now);
    claim.0
}

/// [`shelf::take_back`].
#[inline(always)]
pub(crate) fn take_back(claim: u64) -> bool {
    let claim = Claim(claim);
    PIECES
        .get_ptr_mut(claim.buffer())
        .is_some_and(|piece| shelf::take_back(KernelWords::<Addr4>::over(piece), claim))
}

/// Lets in again what is kept of a datagram: the packet at hand becomes one fragment after the other, of which
/// clones are sent to the ingress of the device that they came by, and then itself again.
///
/// They go through the backlog and are not taken in before this program has ended.
#[inline(always)]
pub(crate) fn release(skb: *mut __sk_buff, key: &PieceKey, now: Tick) -> Released {
    match release_pieces(skb, key, now) {
        0 => Released::None,
        1 => Released::Some,
        _ => Released::Damaged,
    }
}

/// [`release`] as a global function: one for both families.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn release_pieces(skb: *mut __sk_buff, key: *const PieceKey, now: u32) -> u32 {
    // SAFETY: as in `recall`.
    let Some(key) = (unsafe { key.as_ref() }) else {
        return Released::None as u32;
    };
    released(skb, key, now) as u32
}

#[inline(always)]
fn released(skb: *mut __sk_buff, key: &PieceKey, now: Tick) -> Released {
    let Some(first) = shelf::first_buffer(node(), key) else {
        return Released::None;
    };
    let Some(spare) = SPARE.get_ptr_mut(0) else {
        return Released::None;
    };
    let spare = spare.cast::<c_void>();
    // SAFETY: the context lives as long as the program.
    let own_len = unsafe { (&raw const (*skb).len).read_volatile() };
    let Some(own_len) = length(own_len, FRAME_LEN as u32) else {
        return Released::None;
    };
    let mut is_saved = false;
    for place in 0..capacity::PIECES_PER_SET {
        let claim = Claim(release_piece(key, first + place, now));
        if !claim.is_some() {
            continue;
        }
        let Some(piece) = PIECES.get_ptr_mut(first + place) else {
            continue;
        };
        let words = KernelWords::<Addr4>::over(piece);
        if !is_saved {
            // SAFETY: `own_len` bytes fit into this CPU's own buffer; the helper checks them against the packet's.
            is_saved = unsafe { bpf_skb_load_bytes(skb.cast(), 0, spare, own_len) } == 0;
        }
        let frame = shelf::frame(words);
        if is_saved && become_frame(skb, frame_of(piece), frame.len) {
            // SAFETY: takes no pointers but the context.
            unsafe { bpf_clone_redirect(skb, frame.ifindex, u64::from(BPF_F_INGRESS)) };
        }
        shelf::give_back(words, claim);
    }
    if !is_saved {
        return Released::None;
    }
    if become_frame(skb, spare, own_len) {
        Released::Some
    } else {
        Released::Damaged
    }
}

/// Makes a packet out of `len` bytes.
#[inline(always)]
fn become_frame(skb: *mut __sk_buff, frame: *const c_void, len: u32) -> bool {
    let Some(len) = length(len, FRAME_LEN as u32) else {
        return false;
    };
    let flags = u64::from(BPF_F_RECOMPUTE_CSUM | BPF_F_INVALIDATE_HASH);
    // SAFETY: no pointers but `frame`, of which `len` bytes are read; the helpers check the packet's.
    unsafe {
        bpf_skb_change_tail(skb, len, 0) == 0 && bpf_skb_store_bytes(skb, 0, frame, len, flags) == 0
    }
}

#[inline(always)]
fn frame_of(piece: *mut HeldPiece) -> *mut c_void {
    piece
        .cast::<u8>()
        .wrapping_add(offset_of!(HeldPiece, frame))
        .cast()
}
