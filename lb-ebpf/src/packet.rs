//! The one place that makes packet pointers: check the bounds, then read or write one header.

use core::{arch::asm, ffi::c_void, intrinsics::is_val_statically_known};

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_INVALIDATE_HASH, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR,
        BPF_F_RECOMPUTE_CSUM, bpf_adj_room_mode::BPF_ADJ_ROOM_NET, xdp_md,
    },
    helpers::generated::{
        bpf_csum_update, bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_change_tail,
        bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes, bpf_xdp_get_buff_len,
    },
};
use bytemuck::Pod;
use lb_common::{
    datapath::Packet,
    net::{
        addr::{Addr, Addr4, Addr6},
        crc32c,
        csum::Delta,
        eth,
        ip::IpHeader,
        letter::Letter,
    },
};

/// Offsets from the IP header stay below this; it bounds them for the verifier.
const OFFSET_MASK: u32 = 0xff;
/// The longest headers that are read: IPv4 with options and TCP without.
const HEADERS: u32 = 60 + 20;
/// Bytes from the IP header that reach beyond the beginning of any transport header: with them goes the
/// offset that a device would begin a checksum at.
const STRIP: u32 = 80;

/// Words of a letter's IP header, behind which a sum begins.
const V4: usize = <Addr4 as Addr>::Header::WORDS;
/// See [`V4`].
const V6: usize = <Addr6 as Addr>::Header::WORDS;

/// [`Packet::replace_in_crc`] as a global function: the verifier checks it once for all its callers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn replace_in_crc(check: u32, old: u32, new: u32, len: u32) -> u32 {
    crc32c::replace_first(check, old, new, len)
}

/// [`Packet::sum`], likewise.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sum_letter(letter: *const Letter, from: u32, len: u32) -> u64 {
    // SAFETY: the callers pass a reference; the verifier asks for the check because it does not see it.
    let Some(letter) = (unsafe { letter.as_ref() }) else {
        return 0;
    };
    // Each beginning by itself: of one that it does not know the verifier does not know how much is left.
    match from as usize {
        V4 => letter.sum(V4, len),
        _ => letter.sum(V6, len),
    }
}

/// A packet at TC, `L2` bytes before its IP header.
pub(crate) struct TcPacket<const L2: u32> {
    skb: *mut __sk_buff,
}

impl<const L2: u32> TcPacket<L2> {
    /// The packet, with its headers in the linear part where direct access reaches them.
    #[inline(always)]
    pub(crate) fn new(skb: *mut __sk_buff) -> Self {
        let mut packet = Self { skb };
        packet.reach(HEADERS);
        packet
    }

    /// The packet as it is: nothing is made linear.
    #[inline(always)]
    pub(crate) fn over(skb: *mut __sk_buff) -> Self {
        Self { skb }
    }

    /// Writes both MACs to where the frame begins.
    #[inline(always)]
    pub(crate) fn write_macs(&mut self, macs: &[u32; 3]) -> Option<()> {
        let (data, end) = self.bounds();
        // SAFETY: the pointer was checked against the packet's end.
        within::<[u32; 3]>(data, end, 0).map(|start| unsafe { put_macs(start, macs) })
    }

    /// Exchanges the two MACs of the Ethernet header.
    #[inline(always)]
    pub(crate) fn swap_macs(&mut self) -> Option<()> {
        let (data, end) = self.bounds();
        within::<[u16; 6]>(data, end, 0).map(|start| {
            let half = start.cast::<u16>();
            for at in 0..3 {
                // SAFETY: the pointer was checked against the packet's end. One half word at a time: an array of them
                // would take stack.
                unsafe {
                    let (dst, src) = (half.add(at), half.add(at + 3));
                    let (to, from) = (dst.read_unaligned(), src.read_unaligned());
                    dst.write_unaligned(from);
                    src.write_unaligned(to);
                }
            }
        })
    }

    /// A pointer to `T` at `at` bytes from the IP header, if it is inside the linear part.
    #[inline(always)]
    fn pointer<T>(&self, at: u32) -> Option<*mut T> {
        let (data, end) = self.bounds();
        within(data + L2 as usize, end, at)
    }

    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        // SAFETY: the context lives as long as the program; volatile because helpers change it.
        unsafe {
            (
                (&raw const (*self.skb).data).read_volatile() as usize,
                (&raw const (*self.skb).data_end).read_volatile() as usize,
            )
        }
    }
}

impl<const L2: u32> Packet for TcPacket<L2> {
    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: the context lives as long as the program.
        unsafe { (*self.skb).len }.saturating_sub(L2)
    }

    #[inline(always)]
    fn reach(&mut self, len: u32) {
        // SAFETY: the context lives as long as the program.
        let (whole, linear) = unsafe {
            let data = (&raw const (*self.skb).data).read_volatile();
            let end = (&raw const (*self.skb).data_end).read_volatile();
            ((*self.skb).len, end.wrapping_sub(data))
        };
        let wanted = whole.min(L2 + len);
        if linear < wanted {
            // Out of memory leaves the packet as it is: then its headers do not parse, and it is passed.
            // SAFETY: the helper checks the length against the packet's.
            unsafe { bpf_skb_pull_data(self.skb, wanted) };
        }
    }

    #[inline(always)]
    fn segment_len(&self, len: u32, headers: u32) -> u32 {
        // SAFETY: the context lives as long as the program.
        match unsafe { (*self.skb).gso_size } {
            0 => len,
            size => (headers + size).min(len),
        }
    }

    #[inline(always)]
    fn read<T: Pod>(&self, at: u32) -> Option<T> {
        // SAFETY: the pointer was checked against the packet's end; any bytes are a `T`.
        self.pointer::<T>(at)
            .map(|header| unsafe { header.read_unaligned() })
    }

    #[inline(always)]
    fn write<T: Pod>(&mut self, at: u32, value: T) -> Option<()> {
        // SAFETY: as in `read`; the kernel has made the packet this program's own before it ran.
        self.pointer::<T>(at)
            .map(|header| unsafe { header.write_unaligned(value) })
    }

    #[inline(always)]
    fn change_sum(&mut self, change: Delta) {
        // SAFETY: takes no pointers. Refused where the device has left no sum: then there is none to change.
        unsafe { bpf_csum_update(self.skb, change.fold32()) };
    }

    /// The kernel knows which part of the sum a packet still lacks: with a partial checksum only the
    /// pseudo header's change is applied, with a complete one its own sum is corrected.
    #[inline(always)]
    fn update_checksum(
        &mut self,
        at: u32,
        addresses: Delta,
        header: Delta,
        zero_is_none: bool,
    ) -> Option<()> {
        let mangled = if zero_is_none {
            u64::from(BPF_F_MARK_MANGLED_0)
        } else {
            0
        };
        let pseudo = mangled | u64::from(BPF_F_PSEUDO_HDR);
        let at = L2 + at;
        // SAFETY: size 0 means "`to` is a difference"; the helper checks the offset.
        let replace = |change: Delta, flags| unsafe {
            bpf_l4_csum_replace(self.skb, at, 0, u64::from(change.fold32()), flags)
        };
        let mut error = replace(addresses, pseudo);
        if !header.is_none() {
            error |= replace(header, mangled);
        }
        (error == 0).then_some(())
    }

    #[inline(always)]
    fn replace_in_crc(check: u32, old: u32, new: u32, len: u32) -> u32 {
        replace_in_crc(check, old, new, len)
    }

    #[inline(always)]
    fn sum(letter: &Letter, from: usize, len: u32) -> u64 {
        sum_letter(letter, from as u32, len)
    }

    #[inline(always)]
    fn copy(&self, words: &mut [u32], len: u32) -> Option<()> {
        let len = length(len, size_of_val(words) as u32)?;
        let to = words.as_mut_ptr().cast::<c_void>();
        // SAFETY: `len` bytes fit into `words`; the helper checks them against the packet's.
        let error = unsafe { bpf_skb_load_bytes(self.skb.cast(), L2, to, len) };
        (error == 0).then_some(())
    }

    /// Between two changes of length the bytes at the beginning are taken off together with what the device was
    /// to sum up and cut: the new packet owes it nothing.
    #[inline(always)]
    fn replace(&mut self, words: &[u32], len: u32) -> Option<()> {
        let len = length(len, size_of_val(words) as u32)?;
        let from = words.as_ptr().cast::<c_void>();
        let offloads = u64::from(BPF_F_RECOMPUTE_CSUM | BPF_F_INVALIDATE_HASH);
        // SAFETY: no pointers but `from`, of which `len` bytes are read; the helpers check offsets and lengths.
        let error = unsafe {
            bpf_skb_change_tail(self.skb, L2 + 2 * STRIP, 0)
                | bpf_skb_adjust_room(self.skb, -(STRIP as i32), BPF_ADJ_ROOM_NET as u32, 0)
                | bpf_skb_change_tail(self.skb, L2 + len, 0)
                | bpf_skb_store_bytes(self.skb, L2, from, len, offloads)
        };
        (error == 0).then_some(())
    }
}

/// A packet at XDP, untagged Ethernet; its headers are in the first of its buffers, or else it does not parse.
pub(crate) struct XdpPacket {
    xdp: *mut xdp_md,
}

impl XdpPacket {
    #[inline(always)]
    pub(crate) fn new(xdp: *mut xdp_md) -> Self {
        Self { xdp }
    }

    /// Bytes of the frame in all of its buffers.
    #[inline(always)]
    fn frame_len(&self) -> u32 {
        // SAFETY: takes no pointers but the context.
        unsafe { bpf_xdp_get_buff_len(self.xdp) as u32 }
    }

    /// The Ethernet header, in place.
    #[inline(always)]
    pub(crate) fn ethernet(&self) -> Option<*mut eth::Ethernet> {
        let (data, end) = self.bounds();
        within(data, end, 0)
    }

    /// Writes both MACs to where the frame begins.
    #[inline(always)]
    pub(crate) fn write_macs(&mut self, macs: &[u32; 3]) -> Option<()> {
        // SAFETY: the pointer was checked against the packet's end.
        self.ethernet()
            .map(|start| unsafe { put_macs(start.cast(), macs) })
    }

    /// True if the frame is in one buffer: not every device sends others.
    #[inline(always)]
    pub(crate) fn is_linear(&self) -> bool {
        let (data, end) = self.bounds();
        end - data == self.frame_len() as usize
    }

    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        // SAFETY: the context lives as long as the program.
        unsafe {
            (
                (&raw const (*self.xdp).data).read_volatile() as usize,
                (&raw const (*self.xdp).data_end).read_volatile() as usize,
            )
        }
    }

    #[inline(always)]
    fn pointer<T>(&self, at: u32) -> Option<*mut T> {
        let (data, end) = self.bounds();
        within(data + eth::LEN as usize, end, at)
    }
}

impl Packet for XdpPacket {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.frame_len().saturating_sub(eth::LEN)
    }

    /// The first buffer holds most packets whole, and its end is known without a call.
    #[inline(always)]
    fn holds(&self, len: u32) -> bool {
        let (data, end) = self.bounds();
        data + (eth::LEN + len) as usize <= end
    }

    /// Nothing is cut up after the driver.
    #[inline(always)]
    fn segment_len(&self, len: u32, _headers: u32) -> u32 {
        len
    }

    #[inline(always)]
    fn read<T: Pod>(&self, at: u32) -> Option<T> {
        // SAFETY: the pointer was checked against the packet's end; any bytes are a `T`.
        self.pointer::<T>(at)
            .map(|header| unsafe { header.read_unaligned() })
    }

    #[inline(always)]
    fn write<T: Pod>(&mut self, at: u32, value: T) -> Option<()> {
        // SAFETY: as in `read`.
        self.pointer::<T>(at)
            .map(|header| unsafe { header.write_unaligned(value) })
    }

    #[inline(always)]
    fn replace_in_crc(check: u32, old: u32, new: u32, len: u32) -> u32 {
        replace_in_crc(check, old, new, len)
    }

    #[inline(always)]
    fn sum(letter: &Letter, from: usize, len: u32) -> u64 {
        sum_letter(letter, from as u32, len)
    }

    /// Nothing is answered before the stack.
    #[inline(always)]
    fn copy(&self, _words: &mut [u32], _len: u32) -> Option<()> {
        None
    }

    #[inline(always)]
    fn replace(&mut self, _words: &[u32], _len: u32) -> Option<()> {
        None
    }

    #[inline(always)]
    fn change_sum(&mut self, _change: Delta) {}

    #[inline(always)]
    fn update_checksum(
        &mut self,
        at: u32,
        addresses: Delta,
        header: Delta,
        zero_is_none: bool,
    ) -> Option<()> {
        let old = u16::from_ne_bytes(self.read::<[u8; 2]>(at)?);
        self.write(
            at,
            addresses
                .and(header)
                .update(old, zero_is_none)
                .to_ne_bytes(),
        )
    }
}

/// Writes both MACs. Word by word: all at once the compiler would call a function that does it byte by byte.
///
/// # Safety
/// Twelve bytes from `to` on are inside the packet.
#[inline(always)]
unsafe fn put_macs(to: *mut [u32; 3], macs: &[u32; 3]) {
    let to = to.cast::<u32>();
    let [a, b, c] = *macs;
    // SAFETY: the caller's.
    unsafe {
        to.write_unaligned(a);
        to.add(1).write_unaligned(b);
        to.add(2).write_unaligned(c);
    }
}

/// The offset, bounded for the verifier. The compiler takes a mask away where a comparison before makes it needless, and
/// the verifier may not know of that comparison any more: so it is shown none.
#[inline(always)]
fn bounded(at: u32) -> usize {
    if is_val_statically_known(at) {
        return (at & OFFSET_MASK) as usize;
    }
    let mut at = at as usize;
    // SAFETY: one instruction that takes and gives a number.
    unsafe {
        asm!("{0} &= {1}", inout(reg) at, const OFFSET_MASK, options(pure, nomem, nostack, preserves_flags));
    }
    at
}

/// A length from 1 to `max`, as a helper wants it. That a number is not 0 tells the verifier nothing about its least value
/// before Linux 6.8; so what it is shown is a number below `max`, and one added that the compiler cannot take away.
#[inline(always)]
pub(crate) fn length(len: u32, max: u32) -> Option<u32> {
    let mut len = u64::from(len.wrapping_sub(1));
    if len >= u64::from(max) {
        return None;
    }
    // SAFETY: one instruction that takes and gives a number.
    unsafe {
        asm!("{0} += 1", inout(reg) len, options(pure, nomem, nostack, preserves_flags));
    }
    Some(len as u32)
}

/// A pointer to `T` at `at` bytes from `base`, if it ends before `end`.
#[inline(always)]
fn within<T>(base: usize, end: usize, at: u32) -> Option<*mut T> {
    let start = base + bounded(at);
    if start + size_of::<T>() > end {
        return None;
    }
    Some(start as *mut T)
}
