//! What sockets have dialled, in memory.

use core::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use crate::{
    abi::{Dialled, DialledKey, capacity},
    datapath::dial::Sockets,
    net::addr::Addr,
};

/// The table of one family. What there is no room for is refused: the kernel's forgets instead, which [`Self::forget`]
/// stands for.
#[derive(Debug)]
pub struct FakeSockets<A> {
    known: RefCell<BTreeMap<DialledKey<A>, Dialled<A>>>,
    room: Cell<usize>,
}

impl<A: Addr> Default for FakeSockets<A> {
    fn default() -> Self {
        Self {
            known: RefCell::default(),
            room: Cell::new(capacity::DIALLED as usize),
        }
    }
}

impl<A: Addr> FakeSockets<A> {
    /// All that is known.
    pub fn known(&self) -> BTreeMap<DialledKey<A>, Dialled<A>> {
        self.known.borrow().clone()
    }

    /// How much may be known.
    pub fn set_room(&self, room: usize) {
        self.room.set(room);
    }

    /// Forgets what keys of this kind ask for ([`DialledKey::asks`]).
    pub fn forget(&self, asks: u8) {
        self.known.borrow_mut().retain(|key, _| key.asks != asks);
    }
}

impl<A: Addr> Sockets<A> for FakeSockets<A> {
    fn recall(&self, key: &DialledKey<A>, into: &mut Dialled<A>) -> bool {
        let known = self.known.borrow().get(key).copied();
        *into = known.unwrap_or(*into);
        known.is_some()
    }

    fn note(&self, key: &DialledKey<A>, other: &Dialled<A>) -> bool {
        let mut known = self.known.borrow_mut();
        let has_room = known.contains_key(key) || known.len() < self.room.get();
        if has_room {
            known.insert(*key, *other);
        }
        has_room
    }
}
