//! The ports of datagrams whose first fragment was seen: a table of buckets, each record under a stamp.
//!
//! A record is written under a stamp that is odd meanwhile, and read between two looks at the stamp: a reader that was
//! overtaken has found nothing. Who cannot write a record, since another CPU writes it at this moment, takes
//! another place of the bucket; nobody waits.

use core::mem::offset_of;

use super::{BEST, OWN, STAMP, is_over, is_zero, sign};
use crate::{
    abi::{Fragment, capacity},
    flow::{FlowKey, clock::Tick, slot::Words},
    hash::{self, HashKey},
    net::{addr::Addr, ip::IpHeader},
};

/// Places where a record may be.
const PLACES: u32 = 8;
/// Buckets minus one.
const BUCKETS_MASK: u32 = capacity::FRAGMENTS / PLACES - 1;
/// Places of a bucket that a source may have before those of others give way to it no more.
const SHARE: u32 = PLACES / 2;
/// Set in a [`Known`] that is.
const IS_KNOWN: u64 = 1 << 40;

/// The records' memory.
pub trait Records {
    /// One record's words, laid out as [`Fragment`].
    type Words: Words;
    /// The record at `position`.
    fn words(&self, position: u32) -> Option<Self::Words>;
    /// Words that nobody else uses: see [`super::shelf::Shelf::scratch`].
    fn scratch(&self) -> Option<Self::Words>;
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
    let Some(scratch) = records.scratch() else {
        return Known::default();
    };
    for place in 0..PLACES {
        let Some(words) = records.words(bucket + place) else {
            continue;
        };
        let record = Record(words);
        let stamp = words.load(word!(stamp));
        let is_old = is_over(scratch, now.wrapping_sub(words.load(word!(seen))));
        let known = Known::new(words.load(word!(ports)), words.load(word!(proto)));
        let differ = record.difference(key, id) | (stamp & 1) | is_zero(scratch, stamp) | is_old;
        if differ | (words.load(word!(stamp)) ^ stamp) == 0 {
            return known;
        }
    }
    Known::default()
}

/// Notes the first fragment of a datagram: in its old place, else in one that is free or over, else in that of the oldest
/// from another source, or from the same one if that has half of the bucket.
#[inline(always)]
pub fn note<A: Addr, R: Records>(
    records: &R,
    hash_key: &HashKey,
    key: &FlowKey<A>,
    id: u32,
    now: Tick,
) {
    let bucket = bucket(hash_key, key, id);
    // Another CPU may take the best place at this moment; then it is not the best any more.
    if !is_noted(records, bucket, key, id, now) {
        is_noted(records, bucket, key, id, now);
    }
}

#[inline(always)]
fn is_noted<A: Addr, R: Records>(
    records: &R,
    bucket: u32,
    key: &FlowKey<A>,
    id: u32,
    now: Tick,
) -> bool {
    let place = best_place(records, bucket, key, id, now);
    let Some(words) = records.words(bucket + place) else {
        return true;
    };
    let stamp = records.scratch().map_or(1, |scratch| scratch.load(STAMP));
    // The stamp that the choice was made by: another CPU may have written here since.
    if stamp & 1 != 0 || !words.exchange(word!(stamp), stamp, stamp | 1) {
        return false;
    }
    Record(words).write(key, id, now);
    // 0 stands for a place that was never used.
    let next = stamp.wrapping_add(2).max(2);
    words.exchange(word!(stamp), stamp | 1, next);
    true
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
    let Some(scratch) = records.scratch() else {
        return 0;
    };
    scratch.store(BEST, 0);
    scratch.store(STAMP, 1);
    scratch.store(OWN, 0);
    for place in 0..PLACES {
        if let Some(words) = records.words(bucket + place) {
            let is_own = is_zero(scratch, Record(words).source_difference(key));
            scratch.store(OWN, scratch.load(OWN) + is_own);
        }
    }
    for place in 0..PLACES {
        let Some(words) = records.words(bucket + place) else {
            continue;
        };
        let record = Record(words);
        let stamp = words.load(word!(stamp));
        let age = now.wrapping_sub(words.load(word!(seen)));
        let is_free = is_zero(scratch, stamp) | is_over(scratch, age);
        let is_same = is_zero(scratch, record.difference(key, id));
        let is_own = is_zero(scratch, record.source_difference(key));
        // Others give way to a source that has not yet its share, then its own.
        let has_share = sign(scratch, (SHARE - 1).wrapping_sub(scratch.load(OWN)));
        let gives_way = is_own ^ has_share ^ 1;
        // The more a bit weighs the better; what is being written is let alone.
        let suits = is_same << 10 | is_free << 9 | gives_way << 8 | age & 0xff;
        let suits = suits & (stamp & 1).wrapping_sub(1);
        let candidate = suits << 3 | place;
        if candidate > scratch.load(BEST) {
            scratch.store(BEST, candidate);
            scratch.store(STAMP, stamp);
        }
    }
    scratch.load(BEST) % PLACES
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
