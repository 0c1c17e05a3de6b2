//! Connections that have the homes a test wants.

use lb_common::{
    abi::NodeConfig,
    fake::{AtomicWord, FakeSlots},
    flow::{
        FlowKey, Rewrite,
        slot::BackendRef,
        table::{FlowTable, NewFlow},
    },
    hash::{self, HashKey},
    net::{addr::Addr4, ip::Ends},
};

/// A secret like any other.
pub(crate) const HASH_KEY: HashKey = [
    0x9e37_79b9,
    0x7f4a_7c15,
    0xf39c_c060,
    0x5ced_c834,
    0x1082_276b,
    0xf3a2_7251,
    0xf86c_6a11,
    0xd0c1_8e95,
    0x2767_f0b1,
    0x53d2_7b7f,
    0x0347_045b,
    0x5bf1_827f,
];

/// The node whose table it is: its flows live as long as they do by default.
pub(crate) static NODE: NodeConfig = NodeConfig {
    hash_key: HASH_KEY,
    ..NodeConfig::DEFAULT
};
/// The service address that all clients dial.
pub(crate) const VIP: Addr4 = addr(10, 96, 0, 1);

pub(crate) const fn addr(a: u8, b: u8, c: u8, d: u8) -> Addr4 {
    Addr4 {
        be32: u32::from_ne_bytes([a, b, c, d]),
    }
}

/// What the client with number `n` sends to `vip`.
pub(crate) fn from_client(n: u32, vip: Addr4) -> FlowKey<Addr4> {
    let [_, b, c, d] = (n >> 8).to_be_bytes();
    let sport = 1024 + (n & 0xff) as u16;
    FlowKey {
        ends: Ends {
            src: addr(10, b, c, d),
            dst: vip,
        },
        sport,
        dport: 80,
        proto: 6,
    }
}

/// What becomes of it if it goes to the backend with number `id`.
pub(crate) fn to_backend(key: &FlowKey<Addr4>, id: u32) -> NewFlow<Addr4> {
    let [_, b, c, d] = id.to_be_bytes();
    NewFlow {
        rewrite: Rewrite {
            ends: Ends {
                src: key.ends.src,
                dst: addr(172 + b, 16, c, d),
            },
            sport: key.sport,
            dport: 8080,
        },
        backend: BackendRef { id, generation: 1 },
        ..NewFlow::default()
    }
}

/// The key of the packets that answer such a flow's.
pub(crate) fn reply_key(flow: &NewFlow<Addr4>, proto: u8) -> FlowKey<Addr4> {
    reply_key_of(&flow.rewrite, proto)
}

/// The key of the packets that answer those which become `rewrite`.
pub(crate) fn reply_key_of(rewrite: &Rewrite<Addr4>, proto: u8) -> FlowKey<Addr4> {
    let mut key = FlowKey::default();
    rewrite.answered_by(proto, &mut key);
    key
}

/// What a reply to `key` becomes: as if it came from the address that the client dialled.
pub(crate) fn reply_rewrite(key: &FlowKey<Addr4>) -> Rewrite<Addr4> {
    Rewrite {
        ends: Ends {
            src: key.ends.dst,
            dst: key.ends.src,
        },
        sport: key.dport,
        dport: key.sport,
    }
}

/// Both homes of a key in a table of `mask + 1` positions.
pub(crate) fn homes(key: &FlowKey<Addr4>, mask: u32) -> [u32; 2] {
    let bits = hash::tuple(
        &HASH_KEY,
        key.ends.src,
        key.ends.dst,
        key.ports(),
        key.proto,
    );
    let [first, second] = [bits & u64::from(u32::MAX), bits >> 32];
    [first, second].map(|bits| u32::try_from(bits).expect("32 bits") & mask)
}

/// Clients whose packets' homes, and those of their answers from backend 1, are where `wanted` says.
pub(crate) fn with_homes(
    mask: u32,
    wanted: impl Fn([u32; 2], [u32; 2]) -> bool,
) -> impl Iterator<Item = FlowKey<Addr4>> {
    (0..).map(|n| from_client(n, VIP)).filter(move |key| {
        let reply = reply_key(&to_backend(key, 1), key.proto);
        wanted(homes(key, mask), homes(&reply, mask))
    })
}

/// The table in `slots` at `now`.
pub(crate) fn table<'s, 'm, W: AtomicWord>(
    slots: &'s &'m FakeSlots<Addr4, W>,
    now: u32,
) -> FlowTable<'s, Addr4, &'m FakeSlots<Addr4, W>> {
    FlowTable::new(slots, slots.mask(), &NODE, now)
}
