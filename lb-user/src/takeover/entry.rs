//! One entry of connection tracking, as messages of `linux/netfilter/nfnetlink_conntrack.h` have it.

use std::net::{IpAddr, SocketAddr};

use lb_common::net::ip::proto;

use crate::loader::attribute::{
    Message, attribute, find, find_addr, find_u16, find_u32, nested, number, octets,
};

/// `NFNL_SUBSYS_CTNETLINK`, and its messages.
const SUBSYSTEM: u16 = 1 << 8;
pub(super) const NEW: u16 = SUBSYSTEM;
pub(super) const GET: u16 = SUBSYSTEM | 1;
pub(super) const DELETE: u16 = SUBSYSTEM | 2;

/// `enum ctattr_type`.
mod of_entry {
    pub(super) const ORIGINAL: u16 = 1;
    pub(super) const REPLY: u16 = 2;
    pub(super) const STATUS: u16 = 3;
    pub(super) const PROTOCOL: u16 = 4;
    pub(super) const NAT_SOURCE: u16 = 6;
    pub(super) const TIMEOUT: u16 = 7;
    pub(super) const NAT_DESTINATION: u16 = 13;
    pub(super) const ZONE: u16 = 18;
}

/// `enum ctattr_tuple`, `ctattr_ip`, `ctattr_l4proto`.
mod of_tuple {
    pub(super) const ADDRESSES: u16 = 1;
    pub(super) const PROTOCOL: u16 = 2;
    pub(super) const ZONE: u16 = 3;
    pub(super) const SOURCE4: u16 = 1;
    pub(super) const DESTINATION4: u16 = 2;
    pub(super) const SOURCE6: u16 = 3;
    pub(super) const DESTINATION6: u16 = 4;
    pub(super) const NUMBER: u16 = 1;
    pub(super) const SOURCE_PORT: u16 = 2;
    pub(super) const DESTINATION_PORT: u16 = 3;
}

/// `enum ctattr_nat`, `ctattr_protonat`.
mod of_nat {
    pub(super) const FIRST4: u16 = 1;
    pub(super) const LAST4: u16 = 2;
    pub(super) const PORTS: u16 = 3;
    pub(super) const FIRST6: u16 = 4;
    pub(super) const LAST6: u16 = 5;
    pub(super) const FIRST_PORT: u16 = 1;
    pub(super) const LAST_PORT: u16 = 2;
}

/// `enum ctattr_protoinfo`, `ctattr_protoinfo_tcp`.
mod of_tcp {
    pub(super) const TCP: u16 = 1;
    pub(super) const STATE: u16 = 1;
    pub(super) const SCALE_ORIGINAL: u16 = 2;
    pub(super) const SCALE_REPLY: u16 = 3;
    pub(super) const FLAGS_ORIGINAL: u16 = 4;
    pub(super) const FLAGS_REPLY: u16 = 5;
}

/// `IPS_SEEN_REPLY`, `IPS_ASSURED`, `IPS_CONFIRMED`.
const STATUS: u32 = 1 << 1 | 1 << 2 | 1 << 3;

/// `IP_CT_TCP_FLAG_*`: windows scale and are not checked, since nobody has followed them; selective acknowledgements.
const TCP_FLAGS: u8 = 0x01 | 0x02 | 0x08;
/// `IP_CT_TCP_FLAG_CLOSE_INIT`: who has ended it may dial again.
const TCP_CLOSED: u8 = 0x04;
/// The largest that there is.
const MAX_SCALE: u8 = 14;

/// `enum tcp_conntrack`.
pub(super) mod tcp_state {
    pub(in crate::takeover) const ESTABLISHED: u8 = 3;
    pub(in crate::takeover) const LAST_ACK: u8 = 6;
    pub(in crate::takeover) const TIME_WAIT: u8 = 7;
    pub(in crate::takeover) const CLOSE: u8 = 8;
}

/// Who talks to whom, in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tuple {
    /// IANA protocol number.
    pub(crate) protocol: u8,
    /// Who sends.
    pub(crate) source: SocketAddr,
    /// To whom.
    pub(crate) destination: SocketAddr,
}

impl Tuple {
    /// The other way round.
    #[must_use]
    pub(crate) fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            ..self
        }
    }

    fn family(&self) -> u8 {
        let family = match self.destination {
            SocketAddr::V4(_) => libc::AF_INET,
            SocketAddr::V6(_) => libc::AF_INET6,
        };
        u8::try_from(family).unwrap_or_default()
    }

    fn encode(&self, kind: u16) -> Vec<u8> {
        let (source, destination) = match self.destination {
            SocketAddr::V4(_) => (of_tuple::SOURCE4, of_tuple::DESTINATION4),
            SocketAddr::V6(_) => (of_tuple::SOURCE6, of_tuple::DESTINATION6),
        };
        let addresses = [
            attribute(source, &octets(self.source.ip())),
            attribute(destination, &octets(self.destination.ip())),
        ];
        let protocol = [
            attribute(of_tuple::NUMBER, &[self.protocol]),
            attribute(of_tuple::SOURCE_PORT, &self.source.port().to_be_bytes()),
            attribute(
                of_tuple::DESTINATION_PORT,
                &self.destination.port().to_be_bytes(),
            ),
        ];
        nested(
            kind,
            &[
                nested(of_tuple::ADDRESSES, &addresses),
                nested(of_tuple::PROTOCOL, &protocol),
            ],
        )
    }

    fn decode(entry: &[u8], kind: u16) -> Option<Self> {
        let tuple = find(entry, kind)?;
        if find(tuple, of_tuple::ZONE).is_some() {
            return None;
        }
        let addresses = find(tuple, of_tuple::ADDRESSES)?;
        let protocol = find(tuple, of_tuple::PROTOCOL)?;
        let end = |v4, v6, port| {
            let addr: IpAddr = find_addr(addresses, v4, v6)?;
            Some(SocketAddr::new(addr, find_u16(protocol, port)?))
        };
        Some(Self {
            protocol: *find(protocol, of_tuple::NUMBER)?.first()?,
            source: end(of_tuple::SOURCE4, of_tuple::SOURCE6, of_tuple::SOURCE_PORT)?,
            destination: end(
                of_tuple::DESTINATION4,
                of_tuple::DESTINATION6,
                of_tuple::DESTINATION_PORT,
            )?,
        })
    }
}

/// A connection as connection tracking knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// What the client sends, as it sends it.
    pub(crate) original: Tuple,
    /// What answers it, as the backend sends it.
    pub(crate) reply: Tuple,
    /// `enum tcp_conntrack`.
    pub(crate) tcp_state: Option<u8>,
    /// How much longer it lasts without a packet.
    pub(crate) seconds: u32,
}

impl Entry {
    /// The entry in a message; nothing for protocols without ports, and for zones that others keep apart from what the
    /// node's proxies translate.
    pub(crate) fn decode(message: &Message) -> Option<Self> {
        let entry = message.attributes();
        let tcp = find(entry, of_entry::PROTOCOL).and_then(|info| find(info, of_tcp::TCP));
        let state = tcp.and_then(|tcp| find(tcp, of_tcp::STATE)?.first().copied());
        // Without it the entry is not in the table yet.
        find_u32(entry, of_entry::STATUS)?;
        if find(entry, of_entry::ZONE).is_some() {
            return None;
        }
        Some(Self {
            original: Tuple::decode(entry, of_entry::ORIGINAL)?,
            reply: Tuple::decode(entry, of_entry::REPLY)?,
            tcp_state: state,
            seconds: find_u32(entry, of_entry::TIMEOUT).unwrap_or(u32::MAX),
        })
    }

    /// Whether its destination is exchanged.
    pub(crate) fn is_translated(&self) -> bool {
        self.reply.source != self.original.destination
    }

    /// Asks for all entries.
    pub(super) fn list() -> Message {
        Message::new(GET, 0, 0, &[])
    }

    /// Asks for an entry like this. The answers come from where `reply` says, so that is what the destination becomes.
    pub(super) fn create(&self) -> Message {
        let Self {
            original,
            reply,
            seconds,
            ..
        } = self;
        let mut attributes = vec![
            original.encode(of_entry::ORIGINAL),
            original.reversed().encode(of_entry::REPLY),
            number(of_entry::STATUS, STATUS),
            number(of_entry::TIMEOUT, *seconds),
            nat(of_entry::NAT_DESTINATION, reply.source),
            // Said even if it stays what it is: else another port might be chosen.
            nat(of_entry::NAT_SOURCE, reply.destination),
        ];
        attributes.extend(self.protocol_info());
        Message::new(NEW, original.family(), 0, &attributes)
    }

    /// Asks for state and time of an entry that is there to be these.
    pub(super) fn update(&self) -> Message {
        let mut attributes = vec![
            self.original.encode(of_entry::ORIGINAL),
            number(of_entry::TIMEOUT, self.seconds),
        ];
        attributes.extend(self.protocol_info());
        Message::new(NEW, self.original.family(), 0, &attributes)
    }

    /// Asks for the time alone to be this.
    pub(super) fn renew(&self) -> Message {
        let as_it_is = Self {
            tcp_state: None,
            ..*self
        };
        as_it_is.update()
    }

    fn protocol_info(&self) -> Option<Vec<u8>> {
        let state = self
            .tcp_state
            .filter(|_| self.original.protocol == proto::TCP)?;
        let closed = if state >= tcp_state::TIME_WAIT {
            TCP_CLOSED
        } else {
            0
        };
        let flags = TCP_FLAGS | closed;
        let tcp = [
            attribute(of_tcp::STATE, &[state]),
            attribute(of_tcp::SCALE_ORIGINAL, &[MAX_SCALE]),
            attribute(of_tcp::SCALE_REPLY, &[MAX_SCALE]),
            attribute(of_tcp::FLAGS_ORIGINAL, &[flags, flags]),
            attribute(of_tcp::FLAGS_REPLY, &[flags, flags]),
        ];
        Some(nested(of_entry::PROTOCOL, &[nested(of_tcp::TCP, &tcp)]))
    }
}

/// Asks for the end of the entry of which this is one direction.
pub(super) fn delete(original: &Tuple) -> Message {
    let tuple = original.encode(of_entry::ORIGINAL);
    Message::new(DELETE, original.family(), 0, &[tuple])
}

/// One address and port that one end becomes.
fn nat(kind: u16, end: SocketAddr) -> Vec<u8> {
    let (first, last) = match end {
        SocketAddr::V4(_) => (of_nat::FIRST4, of_nat::LAST4),
        SocketAddr::V6(_) => (of_nat::FIRST6, of_nat::LAST6),
    };
    let port = end.port().to_be_bytes();
    let ports = [
        attribute(of_nat::FIRST_PORT, &port),
        attribute(of_nat::LAST_PORT, &port),
    ];
    nested(
        kind,
        &[
            attribute(first, &octets(end.ip())),
            attribute(last, &octets(end.ip())),
            nested(of_nat::PORTS, &ports),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(client: &str, dialled: &str, backend: &str, source: &str) -> Entry {
        let addr = |text: &str| text.parse().expect("literal");
        Entry {
            original: Tuple {
                protocol: proto::TCP,
                source: addr(client),
                destination: addr(dialled),
            },
            reply: Tuple {
                protocol: proto::TCP,
                source: addr(backend),
                destination: addr(source),
            },
            tcp_state: Some(tcp_state::ESTABLISHED),
            seconds: 60,
        }
    }

    const ENDS: [[&str; 4]; 2] = [
        [
            "10.1.0.9:40000",
            "10.96.0.10:80",
            "10.2.0.3:8080",
            "192.0.2.1:1024",
        ],
        [
            "[fd00:1::9]:40000",
            "[fd00:96::a]:80",
            "[fd00:2::3]:8080",
            "[2001:db8::1]:1024",
        ],
    ];

    #[test]
    fn an_entry_is_asked_for_as_it_was_before_its_ends_are_exchanged() {
        for [client, dialled, backend, source] in ENDS {
            let wanted = entry(client, dialled, backend, source);
            let message = wanted.create();
            let asked = Entry::decode(&message).expect("an entry");
            assert_eq!(asked.original, wanted.original);
            assert_eq!(asked.reply, wanted.original.reversed());
            assert_eq!(asked.tcp_state, wanted.tcp_state);
            assert_eq!(asked.seconds, 60);
            assert!(!asked.is_translated());
            assert!(wanted.is_translated());
            let nat = |kind| find(message.attributes(), kind).expect("it is there");
            for (kind, end) in [
                (of_entry::NAT_DESTINATION, wanted.reply.source),
                (of_entry::NAT_SOURCE, wanted.reply.destination),
            ] {
                let nat = nat(kind);
                for (v4, v6) in [
                    (of_nat::FIRST4, of_nat::FIRST6),
                    (of_nat::LAST4, of_nat::LAST6),
                ] {
                    assert_eq!(find_addr(nat, v4, v6), Some(end.ip()));
                }
                let ports = find(nat, of_nat::PORTS).expect("ports");
                for port in [of_nat::FIRST_PORT, of_nat::LAST_PORT] {
                    assert_eq!(find_u16(ports, port), Some(end.port()));
                }
            }
        }
    }

    #[test]
    fn what_has_ended_may_be_dialled_again() {
        let [client, dialled, backend, source] = ENDS[0];
        let flags = |state| {
            let mut entry = entry(client, dialled, backend, source);
            entry.tcp_state = Some(state);
            let message = entry.update();
            let info = find(message.attributes(), of_entry::PROTOCOL).expect("state");
            let tcp = find(info, of_tcp::TCP).expect("of TCP");
            find(tcp, of_tcp::FLAGS_REPLY).expect("flags").to_vec()
        };
        assert_eq!(flags(tcp_state::ESTABLISHED), [0x0b, 0x0b]);
        assert_eq!(flags(tcp_state::TIME_WAIT), [0x0f, 0x0f]);
    }

    #[test]
    fn who_is_only_renewed_keeps_its_state() {
        let [client, dialled, backend, source] = ENDS[0];
        let message = entry(client, dialled, backend, source).renew();
        let asked = message.attributes();
        assert_eq!(find_u32(asked, of_entry::TIMEOUT), Some(60));
        assert!(find(asked, of_entry::PROTOCOL).is_none());
    }

    #[test]
    fn datagrams_have_no_state_and_other_protocols_no_entry() {
        let [client, dialled, backend, source] = ENDS[0];
        let mut entry = entry(client, dialled, backend, source);
        entry.original.protocol = proto::UDP;
        let message = entry.create();
        assert!(find(message.attributes(), of_entry::PROTOCOL).is_none());
        let nothing = Message::new(NEW, 2, 0, &[number(of_entry::STATUS, 0)]);
        assert_eq!(Entry::decode(&nothing), None);
    }

    #[test]
    fn what_is_in_a_zone_is_somebody_elses() {
        let [client, dialled, backend, source] = ENDS[0];
        let wanted = entry(client, dialled, backend, source);
        let asked = wanted.create();
        let zone = attribute(of_entry::ZONE, &7_u16.to_be_bytes());
        let zoned = Message::new(NEW, 2, 0, &[asked.attributes().to_vec(), zone]);
        assert!(Entry::decode(&asked).is_some());
        assert_eq!(Entry::decode(&zoned), None);
    }
}
