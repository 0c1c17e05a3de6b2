//! The ports of datagrams whose first fragment was seen: a table of buckets, each record under a stamp.
//!
//! A record is written under a stamp that is odd meanwhile, and read between two looks at the stamp: a reader that was
//! overtaken has found nothing. Who cannot write a record, since another CPU writes it at this moment, takes
//! another place of the bucket; nobody waits.

use core::mem::offset_of;

use super::{LIFE, is_over, is_zero};
use crate::{
    abi::{Fragment, capacity},
    flow::{
        FlowKey,
        clock::{Tick, age},
        slot::Words,
    },
    hash::{self, HashKey},
    net::{addr::Addr, ip::IpHeader},
};

/// Places where a record may be.
const PLACES: u32 = 8;
/// Buckets minus one.
const BUCKETS_MASK: u32 = capacity::FRAGMENTS / PLACES - 1;
/// Places that are tried for a record.
const TRIES: u32 = 2;
/// Set in a [`Known`] that is.
const IS_KNOWN: u64 = 1 << 40;

/// The records' memory.
pub trait Records {
    /// One record's words, laid out as [`Fragment`].
    type Words: Words;
    /// The record at `position`.
    fn words(&self, position: u32) -> Option<Self::Words>;
}

/// What a first fragment has told, in one word, as it comes back from a call of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known(pub u64);

impl Known {
    #[inline(always)]
    fn new(ports: u32, proto: u32) -> Self {
        Self(IS_KNOWN | u64::from(proto & 0xff) << 32 | u64::from(ports))
    }

    /// True if there is a record.
    #[inline(always)]
    pub fn is_known(self) -> bool {
        self.0 & IS_KNOWN != 0
    }

    /// Source port, host byte order.
    #[inline(always)]
    pub fn sport(self) -> u16 {
        self.0 as u16
    }

    /// Destination port, host byte order.
    #[inline(always)]
    pub fn dport(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// IANA protocol number.
    #[inline(always)]
    pub fn proto(self) -> u8 {
        (self.0 >> 32) as u8
    }
}

/// One record, typed.
#[derive(Clone, Copy)]
struct Record<M>(M);

/// Word index of a field.
macro_rules! word {
    ($field:ident) => {
        offset_of!(Fragment<A>, $field) / 4
    };
}

impl<M: Words> Record<M> {
    /// 0 if the record is of this datagram; its ports aside.
    #[inline(always)]
    fn difference<A: Addr>(self, key: &FlowKey<A>, id: u32) -> u32 {
        let mut differ = (self.0.load(word!(id)) ^ id)
            | self.source_difference(key)
            | self.address_difference(word!(dst), key.ends.dst);
        if A::Header::PIECES_NAME_PROTOCOL {
            differ |= self.0.load(word!(proto)) ^ u32::from(key.proto);
        }
        differ
    }

    #[inline(always)]
    fn source_difference<A: Addr>(self, key: &FlowKey<A>) -> u32 {
        self.address_difference(word!(src), key.ends.src)
    }

    #[inline(always)]
    fn address_difference<A: Addr>(self, at: usize, addr: A) -> u32 {
        let mut differ = 0;
        for (offset, word) in addr.words().iter().enumerate().take(size_of::<A>() / 4) {
            differ |= self.0.load(at + offset) ^ word;
        }
        differ
    }

    #[inline(always)]
    fn write<A: Addr>(self, key: &FlowKey<A>, id: u32, now: Tick) {
        self.0.store(word!(seen), now);
        self.0.store(word!(id), id);
        self.0.store(word!(ports), key.ports());
        self.0.store(word!(proto), u32::from(key.proto));
        for (at, addr) in [(word!(src), key.ends.src), (word!(dst), key.ends.dst)] {
            for (offset, word) in addr.words().iter().enumerate().take(size_of::<A>() / 4) {
                self.0.store(at + offset, *word);
            }
        }
    }
}

/// The ports of the datagram that a later fragment belongs to; those in `key` are not looked at.
#[inline(always)]
pub fn find<A: Addr, R: Records>(
    records: &R,
    hash_key: &HashKey,
    key: &FlowKey<A>,
    id: u32,
    now: Tick,
) -> Known {
    let bucket = bucket(hash_key, key, id);
    for place in 0..PLACES {
        let Some(words) = records.words(bucket + place) else {
            continue;
        };
        let record = Record(words);
        let stamp = words.load(word!(stamp));
        let is_old = is_over(age(now, words.load(word!(seen))));
        let known = Known::new(words.load(word!(ports)), words.load(word!(proto)));
        let differ = record.difference(key, id) | (stamp & 1) | is_zero(stamp) | is_old;
        if differ | (words.load(word!(stamp)) ^ stamp) == 0 {
            return known;
        }
    }
    Known::default()
}

/// Notes the first fragment of a datagram: in its old place, else in one that is free or over, else in that of the oldest
/// from the same source, else of the oldest.
#[inline(always)]
pub fn note<A: Addr, R: Records>(
    records: &R,
    hash_key: &HashKey,
    key: &FlowKey<A>,
    id: u32,
    now: Tick,
) {
    let bucket = bucket(hash_key, key, id);
    for _ in 0..TRIES {
        let place = best_place(records, bucket, key, id, now);
        let Some(words) = records.words(bucket + place) else {
            return;
        };
        let stamp = words.load(word!(stamp));
        if stamp & 1 == 0 && words.exchange(word!(stamp), stamp, stamp | 1) {
            Record(words).write(key, id, now);
            // 0 stands for a place that was never used.
            let next = stamp.wrapping_add(2);
            words.exchange(word!(stamp), stamp | 1, next | is_zero(next) << 1);
            return;
        }
    }
}

/// The place of a bucket that suits best.
#[inline(always)]
fn best_place<A: Addr, R: Records>(
    records: &R,
    bucket: u32,
    key: &FlowKey<A>,
    id: u32,
    now: Tick,
) -> u32 {
    let mut best = 0;
    for place in 0..PLACES {
        let Some(words) = records.words(bucket + place) else {
            continue;
        };
        let record = Record(words);
        let stamp = words.load(word!(stamp));
        let age = age(now, words.load(word!(seen))).min(LIFE + 1);
        let is_free = is_zero(stamp) | is_over(age);
        let is_same = is_zero(record.difference(key, id));
        let is_own = is_zero(record.source_difference(key));
        // The more a bit weighs the better; what is being written is let alone.
        let suits = is_same << 11 | is_free << 10 | is_own << 9 | age;
        let suits = suits & (stamp & 1).wrapping_sub(1);
        best = (suits << 3 | place).max(best);
    }
    best % PLACES
}

/// The first of the places where the record of a datagram may be.
#[inline(always)]
fn bucket<A: Addr>(hash_key: &HashKey, key: &FlowKey<A>, id: u32) -> u32 {
    let proto = if A::Header::PIECES_NAME_PROTOCOL {
        key.proto
    } else {
        0
    };
    let hash = hash::tuple(hash_key, key.ends.src, key.ends.dst, id, proto);
    (hash as u32 & BUCKETS_MASK) * PLACES
}
