//! Map values that several CPUs share: flow slots and next hops, word by word.

use core::{
    arch::asm,
    intrinsics::{AtomicOrdering::SeqCst, atomic_and, atomic_cxchg, atomic_or, atomic_xadd},
    mem::offset_of,
};

use lb_common::{
    abi::{
        FlowSlot, NextHop, Plain,
        former::{self, layout_offsets},
    },
    datapath::HopMemory,
    flow::{
        FlowKey,
        clock::Tick,
        reserve::{Glance, Oldest, Request, Reserved, Room},
        slot::Words,
        table::{FlowTable, Homes, Refusal, Sighting, Slots},
    },
    net::addr::{Addr, Addr4, Addr6},
};

use crate::{
    maps::{FamilyMaps, LAYOUTS},
    tables::node,
};

/// The flow table's memory.
pub(crate) struct KernelSlots;

impl<A: FamilyMaps> Slots<A> for KernelSlots {
    type Words = KernelWords<A, OfTable>;

    #[inline(always)]
    fn words(&self, position: u32, base: u64) -> Option<Self::Words> {
        let slot = if base == 0 {
            A::flows().get_ptr_mut(position)
        } else {
            A::other_flows().get_ptr_mut(position)
        };
        slot.map(|slot| KernelWords(slot, OfTable(base)))
    }

    #[inline(always)]
    fn reserve(
        &self,
        table: &FlowTable<'_, A, Self>,
        key: &FlowKey<A>,
        request: Request,
        twin: u32,
    ) -> Reserved {
        Reserved(A::reserve(key, request.0, table.now(), twin))
    }

    #[inline(always)]
    fn search(&self, table: &FlowTable<'_, A, Self>, key: &FlowKey<A>) -> Sighting {
        Sighting(A::search(key, table.base()))
    }

    #[inline(always)]
    fn oldest(&self, table: &FlowTable<'_, A, Self>, homes: Homes) -> Oldest {
        Oldest(A::oldest(homes.first, homes.second, table.now()))
    }

    #[inline(always)]
    fn unmark_homes(&self, _: &FlowTable<'_, A, Self>, position: u32) {
        A::unmark(position);
    }

    #[inline(always)]
    fn outdo(&self, table: &FlowTable<'_, A, Self>, key: &FlowKey<A>, mine: u32) -> bool {
        A::outdo(key, mine, table.base()) != 0
    }

    #[inline(always)]
    fn glance(&self, table: &FlowTable<'_, A, Self>, position: u32) -> Glance {
        Glance(A::glance(position, table.now()))
    }

    #[inline(always)]
    fn room(&self, table: &FlowTable<'_, A, Self>, home: u32) -> Room {
        Room(A::room(home, table.now()))
    }
}

/// The parts of the flow table's algorithm that are global functions: the verifier checks each once for all its
/// callers, where inlined they would take over a million instructions.
macro_rules! global {
    ($addr:ty, $search:ident, $reserve:ident, $glance:ident, $room:ident, $oldest:ident, $outdo:ident, $unmark:ident) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $search(key: *const FlowKey<$addr>, base: u64) -> u64 {
            // SAFETY: the callers pass references; the verifier asks for the check because it does not see them.
            let Some(key) = (unsafe { key.as_ref() }) else {
                return 0;
            };
            // One after the other: so the compiler knows in each which table it is.
            if base == 0 {
                return table(0).search_here(key).0;
            }
            match table(0).other() {
                Some(other) => other.search_here(key).0,
                None => 0,
            }
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $reserve(
            key: *const FlowKey<$addr>,
            request: u32,
            now: u32,
            twin: u32,
        ) -> u64 {
            // SAFETY: as above.
            let Some(key) = (unsafe { key.as_ref() }) else {
                return Refusal::Busy as u64;
            };
            table(now).reserve_here(key, Request(request), twin).0
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $glance(position: u32, now: u32) -> u64 {
            table::<$addr>(now).glance_here(position).0
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $room(home: u32, now: u32) -> u64 {
            table::<$addr>(now).room_here(home).0
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $oldest(first: u32, second: u32, now: u32) -> u64 {
            table::<$addr>(now).oldest_here(Homes { first, second }).0
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $outdo(key: *const FlowKey<$addr>, mine: u32, base: u64) -> u32 {
            // SAFETY: as above.
            let Some(key) = (unsafe { key.as_ref() }) else {
                return 0;
            };
            if base == 0 {
                return u32::from(table(0).outdo_here(key, mine));
            }
            match table(0).other() {
                Some(other) => u32::from(other.outdo_here(key, mine)),
                None => 1,
            }
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $unmark(position: u32) -> u32 {
            table::<$addr>(0).unmark_homes_here(position);
            0
        }
    };
}

global!(
    Addr4, search4, reserve4, glance4, room4, oldest4, outdo4, unmark4
);
global!(
    Addr6, search6, reserve6, glance6, room6, oldest6, outdo6, unmark6
);

#[inline(always)]
fn table<A: FamilyMaps>(now: u32) -> FlowTable<'static, A, KernelSlots> {
    let node = node();
    FlowTable::new(&KernelSlots, A::flow_mask(node), node, now)
}

/// One flow slot in the kernel's memory, or the words of another map's value.
pub(crate) struct KernelWords<A, P = InOrder>(*mut FlowSlot<A>, P);

impl<A, P: Copy> Clone for KernelWords<A, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A, P: Copy> Copy for KernelWords<A, P> {}

impl<A> KernelWords<A> {
    /// The words of any other map value.
    #[inline(always)]
    pub(crate) fn over<T>(value: *mut T) -> Self {
        Self(value.cast(), InOrder)
    }
}

impl<A: Addr, P: Places> KernelWords<A, P> {
    #[inline(always)]
    fn word(self, at: usize) -> *mut u32 {
        self.0.cast::<u32>().wrapping_add(self.1.place::<A>(at))
    }
}

/// Where words stand.
pub(crate) trait Places: Copy {
    /// Word `at`.
    fn place<A: Addr>(self, at: usize) -> usize;
}

/// Where they are said to be.
#[derive(Clone, Copy)]
pub(crate) struct InOrder;

impl Places for InOrder {
    #[inline(always)]
    fn place<A: Addr>(self, at: usize) -> usize {
        at
    }
}

/// Where the layout of a flow table has them, which a base stands for ([`FlowTable::base`]).
///
/// A whole register: of half a one that is put on the stack the verifier forgets what it held.
#[derive(Clone, Copy)]
pub(crate) struct OfTable(u64);

impl Places for OfTable {
    /// Looked up anew for each word: kept, the places would be as many values more, and the stack is full. Without a branch:
    /// the compiler would make two of all that follows.
    #[inline(always)]
    fn place<A: Addr>(self, at: usize) -> usize {
        if former::VERSION.is_none() {
            return at;
        }
        let mut layouts = (&raw const LAYOUTS).cast::<u8>();
        // SAFETY: an empty instruction that hides where the pointer comes from, as in `node`.
        unsafe { asm!("", inout("r1") layouts, options(nomem, nostack, preserves_flags)) };
        let (own, other) = layout_offsets(A::FAMILY);
        let offset = own + self.0 as usize * (other - own);
        // SAFETY: inside the tables, which the loader has written.
        usize::from(unsafe { *layouts.wrapping_add(offset + at) })
    }
}

impl<A: Addr, P: Places> Words for KernelWords<A, P> {
    #[inline(always)]
    fn load(self, at: usize) -> u32 {
        // SAFETY: the pointer is to a map value of an array, which lives as long as the program, and `at`
        // comes from the layout of `FlowSlot`; volatile because other CPUs write it.
        unsafe { self.word(at).read_volatile() }
    }

    #[inline(always)]
    fn store(self, at: usize, value: u32) {
        // SAFETY: as in `load`.
        unsafe { self.word(at).write_volatile(value) }
    }

    #[inline(always)]
    fn exchange(self, at: usize, old: u32, new: u32) -> bool {
        // SAFETY: as in `load`; the word is aligned to 4.
        unsafe { exchange(self.word(at), old, new) }
    }

    #[inline(always)]
    fn set_bits(self, at: usize, bits: u32) {
        // SAFETY: as in `load`; the word is aligned to 4.
        unsafe { atomic_or::<u32, u32, { SeqCst }>(self.word(at), bits) };
    }

    #[inline(always)]
    fn keep_bits(self, at: usize, bits: u32) {
        // SAFETY: as in `load`; the word is aligned to 4.
        unsafe { atomic_and::<u32, u32, { SeqCst }>(self.word(at), bits) };
    }

    #[inline(always)]
    fn add(self, at: usize, value: u32) {
        // SAFETY: as in `load`; the word is aligned to 4.
        unsafe { atomic_xadd::<u32, u32, { SeqCst }>(self.word(at), value) };
    }

    #[inline(always)]
    fn add64(self, at: usize, value: u64) {
        let sum = self.word(at).cast::<u64>();
        // SAFETY: as in `load`; the only 64-bit field of a slot is aligned to 8.
        unsafe { sum.write_volatile(sum.read_volatile().wrapping_add(value)) }
    }
}

/// One next hop in the kernel's memory.
#[derive(Clone, Copy)]
pub(crate) struct KernelHop(pub(crate) *mut NextHop);

impl HopMemory for KernelHop {
    #[inline(always)]
    fn read(self, into: &mut NextHop) {
        // SAFETY: the pointer is to a map value of an array, which lives as long as the program. An entry
        // that is being written has an odd stamp, which the reader refuses.
        unsafe {
            into.stamp = (&raw const (*self.0).stamp).read_volatile();
            into.valid_until = (&raw const (*self.0).valid_until).read_volatile();
            into.ifindex = (&raw const (*self.0).ifindex).read_volatile();
            into.mtu = (&raw const (*self.0).mtu).read_volatile();
            into.macs = (&raw const (*self.0).macs).read_volatile();
        }
    }

    #[inline(always)]
    fn write(self, hop: &NextHop) {
        // SAFETY: as in `read`; only the CPU that made the stamp odd writes.
        unsafe {
            (&raw mut (*self.0).ifindex).write_volatile(hop.ifindex);
            (&raw mut (*self.0).mtu).write_volatile(hop.mtu);
            (&raw mut (*self.0).macs).write_volatile(hop.macs);
            (&raw mut (*self.0).valid_until).write_volatile(hop.valid_until);
        }
    }

    #[inline(always)]
    fn exchange_stamp(self, old: u32, new: u32) -> bool {
        let stamp = self
            .0
            .cast::<u8>()
            .wrapping_add(offset_of!(NextHop, stamp))
            .cast::<u32>();
        // SAFETY: as in `read`; the word is aligned to 4.
        unsafe { exchange(stamp, old, new) }
    }

    #[inline(always)]
    fn prolong(self, valid_until: Tick, mtu: u32) {
        // SAFETY: as in `read`; two single words, each meaningful alone.
        unsafe {
            (&raw mut (*self.0).mtu).write_volatile(mtu);
            (&raw mut (*self.0).valid_until).write_volatile(valid_until);
        }
    }
}

/// Copies a value out of a map, word by word: the compiler would call a function for it that the verifier refuses.
///
/// # Safety
/// `from` points to a live map value.
#[inline(always)]
pub(crate) unsafe fn copy<T: Plain>(from: *const T, to: &mut T) {
    let (from, to) = (from.cast::<u32>(), (&raw mut *to).cast::<u32>());
    for at in 0..size_of::<T>() / 4 {
        // SAFETY: the caller's; tables' values are words, any of which is valid.
        unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
    }
}

/// `BPF_ATOMIC | BPF_CMPXCHG` on a word: a full barrier on every architecture.
///
/// # Safety
/// `word` points to a live map value and is aligned to 4.
#[inline(always)]
unsafe fn exchange(word: *mut u32, old: u32, new: u32) -> bool {
    // SAFETY: the caller's.
    let (found, _) = unsafe { atomic_cxchg::<u32, { SeqCst }, { SeqCst }>(word, old, new) };
    found == old
}
