//! The flow tables' own memory, mapped into this process while packets flow.
//!
//! What `lb-common` knows of the table works on it as it does in the kernel: words are loaded and exchanged by the same
//! instructions. A mapping that was asked for reading alone takes no write: exchanges fail there, stores do nothing.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    path::Path,
    ptr::{self, NonNull},
    slice,
    sync::atomic::{
        AtomicU32,
        Ordering::{Acquire, Release, SeqCst},
    },
};

use aya::maps::MapData;
use lb_common::{
    abi::{FlowSlot, Plain, SlotLayout, former::WordTable},
    flow::{slot::Words, table::Slots},
    net::addr::Addr,
};

use crate::apply::{MapError, open_flow_table};

/// What is done with the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Looking.
    Read,
    /// Taking connections out as well.
    Write,
}

/// One family's flow table. `&FlowMemory` is what [`lb_common::flow::table::FlowTable`] takes.
#[derive(Debug)]
pub struct FlowMemory<A> {
    words: NonNull<AtomicU32>,
    positions: u32,
    layout: SlotLayout,
    access: Access,
    family: PhantomData<A>,
}

// SAFETY: the memory is the kernel's and the same for every thread; it is reached through atomics alone.
unsafe impl<A> Send for FlowMemory<A> {}
// SAFETY: as above.
unsafe impl<A> Sync for FlowMemory<A> {}

impl<A: Addr> FlowMemory<A>
where
    FlowSlot<A>: Plain,
{
    /// The table that is in use under this name.
    pub fn open(pin_dir: &Path, name: &'static str, access: Access) -> Result<Self, MapError> {
        let (map, layout) = open_flow_table(pin_dir, name)?;
        Self::of(&map, layout, access).map_err(|source| MapError::Kernel { name, source })
    }

    /// The table of this name that is pinned at `path`, in that layout.
    pub fn open_at(
        path: &Path,
        name: &'static str,
        layout: SlotLayout,
        access: Access,
    ) -> Result<Self, MapError> {
        let kernel = |source| MapError::Kernel { name, source };
        let map = MapData::from_pin(path).map_err(|error| kernel(io::Error::other(error)))?;
        Self::of(&map, layout, access).map_err(kernel)
    }

    fn of(map: &MapData, layout: SlotLayout, access: Access) -> io::Result<Self> {
        let info = map.info().map_err(io::Error::other)?;
        if info.value_size() as usize != layout.slot_size::<A>() {
            let message = format!("its values are of {} bytes", info.value_size());
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Self::map(map.fd().as_fd(), (info.max_entries(), layout), access)
    }

    /// The table of so many positions, a power of two, that `fd` stands for: a map that may be mapped, or a file.
    pub(super) fn map(
        fd: BorrowedFd<'_>,
        (positions, layout): (u32, SlotLayout),
        access: Access,
    ) -> io::Result<Self> {
        if !positions.is_power_of_two() {
            let message = format!("{positions} positions are no power of two");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let protection = match access {
            Access::Read => libc::PROT_READ,
            Access::Write => libc::PROT_READ | libc::PROT_WRITE,
        };
        // SAFETY: a new mapping at an address that the kernel chooses touches no memory that is in use.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                positions as usize * layout.slot_size::<A>(),
                protection,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let words = NonNull::new(address.cast())
            .ok_or_else(|| io::Error::other("mapped at the address zero"))?;
        Ok(Self {
            words,
            positions,
            layout,
            access,
            family: PhantomData,
        })
    }

    /// Number of positions.
    pub fn positions(&self) -> u32 {
        self.positions
    }

    /// Number of positions, minus one.
    pub fn mask(&self) -> u32 {
        self.positions - 1
    }

    /// Words of a slot.
    fn stride(&self) -> usize {
        self.layout.slot_size::<A>() / size_of::<u32>()
    }

    fn all(&self) -> &[AtomicU32] {
        // SAFETY: the mapping is as long as this says, aligned to a page, and lasts until `self` is dropped; its
        // words are written by others at any time, but only as a whole, which is what an atomic allows.
        unsafe {
            slice::from_raw_parts(self.words.as_ptr(), self.positions as usize * self.stride())
        }
    }
}

impl<A> Drop for FlowMemory<A> {
    fn drop(&mut self) {
        let n_bytes = self.positions as usize * self.layout.slot_size::<A>();
        // SAFETY: it was mapped with this length, and no slice of it outlives the value.
        unsafe { libc::munmap(self.words.as_ptr().cast(), n_bytes) };
    }
}

impl<'m, A: Addr> Slots<A> for &'m FlowMemory<A>
where
    FlowSlot<A>: Plain,
{
    type Words = SlotWords<'m>;

    fn words(&self, position: u32, base: u64) -> Option<SlotWords<'m>> {
        if base != 0 {
            return None;
        }
        let memory: &'m FlowMemory<A> = self;
        let start = position as usize * memory.stride();
        Some(SlotWords {
            words: memory.all().get(start..start + memory.stride())?,
            places: memory.layout.table::<A>(),
            access: memory.access,
        })
    }
}

/// One slot's words.
#[derive(Clone, Copy, Debug)]
pub struct SlotWords<'m> {
    words: &'m [AtomicU32],
    /// Where they are, if not where a [`FlowSlot`] has them.
    places: Option<&'static WordTable>,
    access: Access,
}

impl SlotWords<'_> {
    fn word(&self, at: usize) -> Option<&AtomicU32> {
        let at = match self.places {
            Some(places) => usize::from(*places.get(at)?),
            None => at,
        };
        self.words.get(at)
    }

    fn writable(&self, at: usize) -> Option<&AtomicU32> {
        (self.access == Access::Write).then(|| self.word(at))?
    }
}

impl Words for SlotWords<'_> {
    fn load(self, at: usize) -> u32 {
        // Not SeqCst, which is not promised for memory that can only be read.
        self.word(at).map_or(0, |word| word.load(Acquire))
    }

    fn store(self, at: usize, value: u32) {
        if let Some(word) = self.writable(at) {
            word.store(value, Release);
        }
    }

    fn exchange(self, at: usize, old: u32, new: u32) -> bool {
        self.writable(at)
            .is_some_and(|word| word.compare_exchange(old, new, SeqCst, SeqCst).is_ok())
    }

    fn set_bits(self, at: usize, bits: u32) {
        if let Some(word) = self.writable(at) {
            word.fetch_or(bits, SeqCst);
        }
    }

    fn keep_bits(self, at: usize, bits: u32) {
        if let Some(word) = self.writable(at) {
            word.fetch_and(bits, SeqCst);
        }
    }

    fn add(self, at: usize, value: u32) {
        if let Some(word) = self.writable(at) {
            word.fetch_add(value, SeqCst);
        }
    }

    fn add64(self, at: usize, value: u64) {
        let sum: u64 = bytemuck::cast([self.load(at), self.load(at + 1)]);
        let [first, second]: [u32; 2] = bytemuck::cast(sum.wrapping_add(value));
        self.store(at, first);
        self.store(at + 1, second);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use lb_common::{
        flow::slot::{Slot, State, StateWord},
        net::addr::{Addr4, Addr6},
    };

    use super::*;

    fn file(n_bytes: usize) -> File {
        let file = tempfile::tempfile().expect("a temporary file");
        file.set_len(n_bytes as u64).expect("room");
        file
    }

    fn slot<A: Addr>(memory: &FlowMemory<A>, position: u32) -> Slot<A, SlotWords<'_>>
    where
        FlowSlot<A>: Plain,
    {
        Slot::new(Slots::<A>::words(&memory, position, 0).expect("a position"))
    }

    fn both_see_one_table<A: Addr>(ip: &str)
    where
        FlowSlot<A>: Plain,
    {
        let file = file(8 * size_of::<FlowSlot<A>>());
        let map = |access| {
            FlowMemory::<A>::map(file.as_fd(), (8, SlotLayout::OWN), access).expect("mapped")
        };
        let (writer, reader) = (map(Access::Write), map(Access::Read));
        let addr = A::from_ip(ip.parse().expect("literal")).expect("of the family");
        let mine = slot(&writer, 7);
        mine.set_rewrite(addr, addr, 1, 2);
        mine.count(1_500);
        assert!(mine.exchange(StateWord(0), StateWord(8).with(State::HalfOpen)));
        let seen = slot(&reader, 7);
        assert_eq!(seen.state().state(), State::HalfOpen);
        assert_eq!(seen.counted(), (1, 1_500));
        assert_eq!(slot(&reader, 6).state(), StateWord(0));
        assert!(Slots::<A>::words(&&reader, 8, 0).is_none());
    }

    #[test]
    fn what_one_mapping_writes_another_reads_at_its_own_place() {
        both_see_one_table::<Addr4>("10.0.0.1");
        both_see_one_table::<Addr6>("fd00::1");
    }

    #[test]
    fn a_mapping_for_reading_changes_nothing() {
        let file = file(8 * 64);
        let memory = FlowMemory::<Addr4>::map(file.as_fd(), (8, SlotLayout::OWN), Access::Read)
            .expect("mapped");
        let slot = slot(&memory, 0);
        assert!(!slot.exchange(StateWord(0), StateWord(8)));
        slot.set_last_seen(7);
        slot.count(9);
        assert_eq!((slot.state(), slot.last_seen()), (StateWord(0), 0));
        assert_eq!(slot.counted(), (0, 0));
    }

    #[test]
    fn a_size_that_cannot_be_masked_is_refused() {
        let file = file(3 * 64);
        let error = FlowMemory::<Addr4>::map(file.as_fd(), (3, SlotLayout::OWN), Access::Read)
            .expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
