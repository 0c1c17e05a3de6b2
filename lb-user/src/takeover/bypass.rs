//! A table of ours beside another proxy's: the node's own connections go past its rules, and what it translated is
//! translated on.
//!
//! What a process of the node dials meets netfilter before it meets our programs. There a translation to the very address
//! that was dialled, before the other proxy's rules, settles that nobody else exchanges it. And connection tracking
//! translates nothing any more when the last such chain of a network namespace goes, so ours holds what the other proxy's
//! connections need when its rules go.

use std::{io, os::unix::ffi::OsStrExt as _, path::Path};

use lb_common::net::ip::proto;
use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::proxy::is_absent;
use crate::{
    alloc::PortRange,
    loader::{
        attribute::{Message, attribute, nested, number, text},
        channel::Channel,
    },
};

/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;

/// Messages of `linux/netfilter/nfnetlink.h` and `linux/netfilter/nf_tables.h`.
mod message {
    use super::SUBSYSTEM;

    pub(super) const BEGIN: u16 = 0x10;
    pub(super) const END: u16 = 0x11;
    pub(super) const NEW_TABLE: u16 = SUBSYSTEM << 8;
    pub(super) const GET_TABLE: u16 = SUBSYSTEM << 8 | 1;
    pub(super) const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
    pub(super) const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
    pub(super) const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
}

/// `NF_INET_PRE_ROUTING`, `NF_INET_LOCAL_OUT`.
const PREROUTING: u32 = 0;
const OUTPUT: u32 = 3;
/// `NF_IP_PRI_RAW`; just before `NF_IP_PRI_NAT_DST`.
const RAW: i32 = -300;
const BEFORE_NAT: i32 = -101;
/// `NFT_META_*`.
const IIFNAME: u32 = 6;
const OIFNAME: u32 = 7;
const L4PROTO: u32 = 16;
/// `NFT_REG_1`.
const REGISTER: u32 = 1;
/// `NFT_PAYLOAD_*_HEADER`.
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
/// Length of a device's name, with what fills it up.
const NAME: usize = 16;

/// What the table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// What the node's own processes dial is ours.
    Take,
    /// What they dial is the other proxy's; what they have dialled is ours until it is handed over.
    Give,
}

/// What the rules must know of the node.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The node's end of the pair.
    pub(crate) near: String,
    /// Ports at the node's own addresses that are services'.
    pub(crate) node_ports: PortRange,
}

/// A family of addresses as netfilter has it.
#[derive(Clone, Copy)]
struct Family {
    number: u8,
    /// Where the destination stands in the header, and its length.
    destination: (u32, u32),
}

const FAMILIES: [Family; 2] = [
    Family {
        number: 2,
        destination: (16, 4),
    },
    Family {
        number: 10,
        destination: (24, 16),
    },
];

/// The table of an agent, by its run directory.
#[derive(Clone, Debug)]
pub(crate) struct Bypass {
    /// Its name, in both families.
    name: String,
}

impl Bypass {
    pub(crate) fn of(run_dir: &Path) -> Self {
        Self {
            name: table_name(run_dir),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Makes the table, in the place of one that is there, between two packets of a family. One family has it even if the
    /// kernel does not let the other have it.
    pub(crate) fn install(&self, purpose: Purpose, place: &Place) -> io::Result<()> {
        let installed = FAMILIES.map(|family| {
            let table = |kind| Self::message(kind, family, &[text(1, &self.name)]);
            // What is not there cannot be removed.
            let (new, delete) = (message::NEW_TABLE, message::DELETE_TABLE);
            let mut batch = vec![table(new), table(delete), table(new)];
            batch.extend(self.chains(family, purpose, place));
            transact(batch)
        });
        installed.into_iter().collect()
    }

    /// Removes the table; true: it was there.
    pub(crate) fn remove(&self) -> io::Result<bool> {
        let mut batch = Vec::new();
        for family in FAMILIES {
            if self.exists_in(family)? {
                batch.push(Self::message(
                    message::DELETE_TABLE,
                    family,
                    &[text(1, &self.name)],
                ));
            }
        }
        let is_there = !batch.is_empty();
        if is_there {
            transact(batch)?;
        }
        Ok(is_there)
    }

    pub(crate) fn exists(&self) -> io::Result<bool> {
        for family in FAMILIES {
            if self.exists_in(family)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn exists_in(&self, family: Family) -> io::Result<bool> {
        let question = Message::new(message::GET_TABLE, family.number, 0, &[text(1, &self.name)]);
        let answer =
            Channel::open(NETLINK_NETFILTER).and_then(|mut channel| channel.change(question, 0));
        match answer {
            Ok(()) => Ok(true),
            // Whoever may not see it has not made it.
            Err(error) if is_absent(&error) || error.raw_os_error() == Some(libc::EPERM) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn message(kind: u16, family: Family, attributes: &[Vec<u8>]) -> (Message, u16) {
        let flags = match kind {
            message::NEW_RULE => NLM_F_CREATE | NLM_F_APPEND,
            message::DELETE_TABLE => 0,
            _ => NLM_F_CREATE,
        };
        (
            Message::new(kind, family.number, 0, attributes),
            NLM_F_ACK | flags,
        )
    }

    fn chains(&self, family: Family, purpose: Purpose, place: &Place) -> Vec<(Message, u16)> {
        let mut batch = vec![self.chain(family, "output", "nat", OUTPUT, BEFORE_NAT)];
        let mut rule = |chain: &str, expressions: Vec<Vec<u8>>| {
            batch.push(Self::message(
                message::NEW_RULE,
                family,
                &[text(1, &self.name), text(2, chain), nested(4, &expressions)],
            ));
        };
        let pair = || device(OIFNAME, &place.near);
        let loopback = || device(OIFNAME, "lo");
        let stay = || stay(family);
        match purpose {
            Purpose::Take => {
                rule("output", [pair(), stay()].concat());
                // The node's own addresses are dialled by this device.
                for protocol in [proto::TCP, proto::UDP, proto::SCTP] {
                    let to = [is_protocol(protocol), is_to(place.node_ports)].concat();
                    rule("output", [loopback(), to, stay()].concat());
                }
            }
            Purpose::Give => rule("output", [pair(), goes_on(), stay()].concat()),
        }
        rule("output", [loopback(), goes_on(), stay()].concat());
        if purpose == Purpose::Give {
            // An answer that we have translated is none of the connection's that is handed over at this moment.
            let begins = self.chain(family, "prerouting", "filter", PREROUTING, RAW);
            let rules = [
                device(IIFNAME, &place.near),
                vec![expression("notrack", &[])],
            ];
            batch.push(begins);
            batch.push(Self::message(
                message::NEW_RULE,
                family,
                &[
                    text(1, &self.name),
                    text(2, "prerouting"),
                    nested(4, &rules.concat()),
                ],
            ));
        }
        batch
    }

    fn chain(
        &self,
        family: Family,
        name: &str,
        kind: &str,
        hook: u32,
        priority: i32,
    ) -> (Message, u16) {
        let hook = [number(1, hook), number(2, priority.cast_unsigned())];
        Self::message(
            message::NEW_CHAIN,
            family,
            &[
                text(1, &self.name),
                text(3, name),
                nested(4, &hook),
                text(7, kind),
            ],
        )
    }
}

/// A name that `nft` takes in a command: letters, digits, `/`, `-`, `.`, and what else there is in hexadecimal after `_`.
fn table_name(run_dir: &Path) -> String {
    let mut name = String::from("fulcrum");
    for byte in run_dir.as_os_str().as_bytes() {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'/' | b'-' | b'.' => {
                name.push(char::from(*byte));
            }
            other => {
                name.push('_');
                let digits = [other >> 4, other & 15].map(|it| char::from_digit(it.into(), 16));
                name.extend(digits.into_iter().flatten());
            }
        }
    }
    name
}

/// All of it or nothing.
fn transact(batch: Vec<(Message, u16)>) -> io::Result<()> {
    let limit = |kind| (Message::new(kind, 0, SUBSYSTEM, &[]), 0);
    let mut messages = vec![limit(message::BEGIN)];
    messages.extend(batch);
    messages.push(limit(message::END));
    Channel::open(NETLINK_NETFILTER)?.transact(messages)
}

fn expression(name: &str, data: &[Vec<u8>]) -> Vec<u8> {
    nested(1, &[text(1, name), nested(2, data)])
}

fn meta(key: u32) -> Vec<u8> {
    expression("meta", &[number(1, REGISTER), number(2, key)])
}

/// Goes on if the register holds this.
fn is(value: &[u8]) -> Vec<u8> {
    let value = nested(3, &[attribute(1, value)]);
    expression("cmp", &[number(1, REGISTER), number(2, 0), value])
}

fn payload(base: u32, offset: u32, length: u32) -> Vec<u8> {
    let data = [
        number(1, REGISTER),
        number(2, base),
        number(3, offset),
        number(4, length),
    ];
    expression("payload", &data)
}

fn device(key: u32, name: &str) -> Vec<Vec<u8>> {
    let mut value = name.as_bytes().to_vec();
    value.resize(NAME, 0);
    vec![meta(key), is(&value)]
}

fn is_protocol(protocol: u8) -> Vec<Vec<u8>> {
    vec![meta(L4PROTO), is(&[protocol])]
}

/// TCP in the middle of a connection.
fn goes_on() -> Vec<Vec<u8>> {
    let syn = [
        number(1, REGISTER),
        number(2, REGISTER),
        number(3, 1),
        nested(4, &[attribute(1, &[2])]),
        nested(5, &[attribute(1, &[0])]),
    ];
    let mut expressions = is_protocol(proto::TCP);
    expressions.extend([
        payload(TRANSPORT, 13, 1),
        expression("bitwise", &syn),
        is(&[0]),
    ]);
    expressions
}

fn is_to(ports: PortRange) -> Vec<Vec<u8>> {
    let bound = |kind, port: u16| nested(kind, &[attribute(1, &port.to_be_bytes())]);
    let range = [
        number(1, REGISTER),
        number(2, 0),
        bound(3, ports.first()),
        bound(4, ports.last()),
    ];
    vec![payload(TRANSPORT, 2, 2), expression("range", &range)]
}

/// The destination becomes what it is: nobody exchanges it after that.
fn stay(family: Family) -> Vec<Vec<u8>> {
    let (offset, length) = family.destination;
    let nat = [
        number(1, 1),
        number(2, family.number.into()),
        number(3, REGISTER),
    ];
    vec![payload(NETWORK, offset, length), expression("nat", &nat)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_directory_has_a_table_of_its_own_that_commands_can_name() {
        for (run_dir, name) in [
            ("/run/fulcrum", "fulcrum/run/fulcrum"),
            ("/tmp/.a-1/run", "fulcrum/tmp/.a-1/run"),
            ("/tmp/a_b c", "fulcrum/tmp/a_5fb_20c"),
        ] {
            assert_eq!(Bypass::of(Path::new(run_dir)).name(), name);
        }
    }
}
