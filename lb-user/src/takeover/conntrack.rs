//! The table of connection tracking: listed, added to and taken out of, by netlink.

use std::io;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::entry::{self, Entry, Tuple};
use crate::loader::{attribute::Message, channel::Channel};

/// The table of this network namespace.
#[derive(Debug)]
pub(crate) struct Conntrack(Channel<Message>);

impl Conntrack {
    pub(crate) fn open() -> io::Result<Self> {
        Channel::open(NETLINK_NETFILTER).map(Self)
    }

    /// Connections with ports, as far as they are wanted.
    pub(crate) fn entries(&mut self, is_wanted: impl Fn(&Entry) -> bool) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        self.0.each(Entry::list(), |message| {
            entries.extend(Entry::decode(&message).filter(&is_wanted));
        })?;
        Ok(entries)
    }

    /// Adds an entry; `AlreadyExists`: a packet in one of its directions belongs to another.
    pub(crate) fn create(&mut self, entry: &Entry) -> io::Result<()> {
        self.0.change(entry.create(), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Sets state and time of an entry that is there.
    pub(crate) fn update(&mut self, entry: &Entry) -> io::Result<()> {
        self.0.change(entry.update(), 0)
    }

    /// Sets the time alone; that the entry has just run out is no error.
    pub(crate) fn renew(&mut self, entry: &Entry) -> io::Result<()> {
        present(self.0.change(entry.renew(), 0))
    }

    /// Takes out the entry of which this is one direction; that there is none is no error.
    pub(crate) fn delete(&mut self, tuple: &Tuple) -> io::Result<()> {
        present(self.0.change(entry::delete(tuple), 0))
    }
}

fn present(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
