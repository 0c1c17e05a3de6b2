//! The rules of nftables, read from the kernel by netlink, whatever tool made them.
//!
//! Read only. `iptables` of today writes here as well, so its chains are found here under their old names.

use std::io;

use netlink_packet_core::{NlaBuffer, NlasIterator};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::netfilter::{ChainName, Effect, Ruleset};
use crate::loader::{
    attribute::{Message, find},
    channel::Channel,
};

/// `linux/netfilter/nfnetlink.h`.
const NFNL_SUBSYS_NFTABLES: u16 = 10;

/// Messages of `linux/netfilter/nf_tables.h`, under the subsystem.
mod message {
    use super::NFNL_SUBSYS_NFTABLES;

    pub(super) const GET_CHAIN: u16 = NFNL_SUBSYS_NFTABLES << 8 | 4;
    pub(super) const GET_RULE: u16 = NFNL_SUBSYS_NFTABLES << 8 | 7;
}

/// Attributes of `linux/netfilter/nf_tables.h`.
mod attribute {
    pub(super) const CHAIN_TABLE: u16 = 1;
    pub(super) const CHAIN_NAME: u16 = 3;
    pub(super) const CHAIN_HOOK: u16 = 4;
    pub(super) const CHAIN_POLICY: u16 = 5;
    pub(super) const HOOK_NUMBER: u16 = 1;
    pub(super) const RULE_TABLE: u16 = 1;
    pub(super) const RULE_CHAIN: u16 = 2;
    pub(super) const RULE_EXPRESSIONS: u16 = 4;
    pub(super) const EXPRESSION_NAME: u16 = 1;
    pub(super) const EXPRESSION_DATA: u16 = 2;
    pub(super) const IMMEDIATE_DATA: u16 = 2;
    pub(super) const DATA_VERDICT: u16 = 2;
    pub(super) const VERDICT_CODE: u16 = 1;
    pub(super) const VERDICT_CHAIN: u16 = 2;
    pub(super) const TARGET_NAME: u16 = 1;
}

/// Verdicts of `linux/netfilter.h` and `linux/netfilter/nf_tables.h`.
mod verdict {
    pub(super) const DROP: i32 = 0;
    pub(super) const QUEUE: i32 = 3;
    pub(super) const JUMP: i32 = -3;
    pub(super) const GOTO: i32 = -4;
}

/// `NF_INET_FORWARD`, and `NF_BR_FORWARD` alike.
const FORWARD: u32 = 2;

/// Expressions that do something to packets, other than by a verdict.
const ACTING: [&str; 9] = [
    "reject", "queue", "nat", "masq", "redir", "tproxy", "dup", "fwd", "synproxy",
];
/// Targets of iptables that do nothing to packets.
const IDLE_TARGETS: [&str; 5] = ["ACCEPT", "RETURN", "LOG", "NFLOG", "TRACE"];

/// All chains and rules of the network namespace; none where the kernel has no nftables.
pub fn read() -> io::Result<Ruleset> {
    let mut rules = Ruleset::default();
    let result = ask(&mut rules);
    match result {
        Err(error) if is_absent(&error) => Ok(Ruleset::default()),
        result => result.map(|()| rules),
    }
}

fn ask(rules: &mut Ruleset) -> io::Result<()> {
    let mut channel = Channel::open(NETLINK_NETFILTER)?;
    for message in channel.list(all(message::GET_CHAIN))? {
        learn_chain(rules, &message);
    }
    for message in channel.list(all(message::GET_RULE))? {
        learn_rule(rules, &message);
    }
    Ok(())
}

/// Asks for everything of a kind, in all families.
fn all(kind: u16) -> Message {
    Message::new(kind, 0, 0, &[])
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPROTONOSUPPORT | libc::EOPNOTSUPP | libc::EINVAL | libc::ENOENT)
    )
}

fn family_name(message: &Message) -> &'static str {
    match message.family() {
        Some(1) => "inet",
        Some(2) => "ip",
        Some(3) => "arp",
        Some(5) => "netdev",
        Some(7) => "bridge",
        Some(10) => "ip6",
        _ => "unknown",
    }
}

fn chain_name(message: &Message, table: u16, chain: u16) -> ChainName {
    let text = |kind| find(message.attributes(), kind).map(string);
    ChainName {
        family: family_name(message).to_owned(),
        table: text(table).unwrap_or_default(),
        chain: text(chain).unwrap_or_default(),
    }
}

fn learn_chain(rules: &mut Ruleset, message: &Message) {
    let name = chain_name(message, attribute::CHAIN_TABLE, attribute::CHAIN_NAME);
    let has_forward = matches!(name.family.as_str(), "inet" | "ip" | "ip6" | "bridge");
    let chain = rules.chain(name);
    for (kind, value) in attributes(message.attributes()) {
        match kind {
            attribute::CHAIN_HOOK => {
                let number = find(value, attribute::HOOK_NUMBER).and_then(number);
                chain.is_forward = has_forward && number == Some(FORWARD);
            }
            attribute::CHAIN_POLICY => {
                chain.drops = number(value) == Some(verdict::DROP.cast_unsigned());
            }
            _ => {}
        }
    }
}

fn learn_rule(rules: &mut Ruleset, message: &Message) {
    let name = chain_name(message, attribute::RULE_TABLE, attribute::RULE_CHAIN);
    let chain = rules.chain(name);
    for (kind, value) in attributes(message.attributes()) {
        if kind == attribute::RULE_EXPRESSIONS {
            chain
                .effects
                .extend(attributes(value).filter_map(|(_, expression)| effect(expression)));
        }
    }
}

/// What an expression does, if it does anything.
fn effect(expression: &[u8]) -> Option<Effect> {
    let name = string(find(expression, attribute::EXPRESSION_NAME)?);
    let data = find(expression, attribute::EXPRESSION_DATA).unwrap_or_default();
    match name.as_str() {
        "immediate" => {
            let verdict = find(
                find(data, attribute::IMMEDIATE_DATA)?,
                attribute::DATA_VERDICT,
            )?;
            let to = || find(verdict, attribute::VERDICT_CHAIN).map(string);
            match number(find(verdict, attribute::VERDICT_CODE)?)?.cast_signed() {
                verdict::DROP => Some(Effect::Acts("drop".to_owned())),
                // The number of the queue is in the upper half.
                code if code & 0xff == verdict::QUEUE => Some(Effect::Acts("queue".to_owned())),
                verdict::JUMP | verdict::GOTO => to().map(Effect::Jumps),
                _ => None,
            }
        }
        "target" => {
            let target = string(find(data, attribute::TARGET_NAME)?);
            let is_idle = IDLE_TARGETS.contains(&target.as_str());
            (!is_idle).then_some(Effect::Acts(target))
        }
        // A map of verdicts: what is in it is not read.
        "lookup" => None,
        name if ACTING.contains(&name) => Some(Effect::Acts(name.to_owned())),
        _ => None,
    }
}

fn attributes(buffer: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let whole = NlasIterator::new(buffer).map_while(Result::ok);
    whole.map(|attribute: NlaBuffer<&[u8]>| {
        let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
        let value = attribute.into_inner().get(4..length).unwrap_or_default();
        (kind, value)
    })
}

/// Numbers are in network byte order here.
fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

fn string(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&value[..end.unwrap_or(value.len())]).into_owned()
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{
        NetlinkDeserializable as _, NetlinkHeader, NetlinkSerializable as _,
    };

    use super::*;
    use crate::check::netfilter::testing::name;

    fn nla(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).expect("short");
        let mut nla = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        nla.extend(value);
        nla.resize(nla.len().next_multiple_of(4), 0);
        nla
    }

    fn text(kind: u16, value: &str) -> Vec<u8> {
        nla(kind, format!("{value}\0").as_bytes())
    }

    fn message(family: u8, attributes: &[Vec<u8>]) -> Message {
        Message::new(0, family, 0, attributes)
    }

    fn base_chain(family: u8, hook: u32, policy: u32) -> Message {
        message(
            family,
            &[
                text(attribute::CHAIN_TABLE, "filter"),
                text(attribute::CHAIN_NAME, "c"),
                nla(
                    attribute::CHAIN_HOOK,
                    &nla(attribute::HOOK_NUMBER, &hook.to_be_bytes()),
                ),
                nla(attribute::CHAIN_POLICY, &policy.to_be_bytes()),
            ],
        )
    }

    fn immediate(code: i32, chain: Option<&str>) -> Vec<u8> {
        let mut verdict = nla(attribute::VERDICT_CODE, &code.to_be_bytes());
        verdict.extend(
            chain
                .iter()
                .flat_map(|it| text(attribute::VERDICT_CHAIN, it)),
        );
        let data = nla(
            attribute::IMMEDIATE_DATA,
            &nla(attribute::DATA_VERDICT, &verdict),
        );
        [
            text(attribute::EXPRESSION_NAME, "immediate"),
            nla(attribute::EXPRESSION_DATA, &data),
        ]
        .concat()
    }

    #[test]
    fn chains_of_the_forward_hook_are_told_with_their_policy() {
        for (family, hook, policy, is_forward, drops) in [
            (2, 2, 0, true, true),
            (10, 2, 1, true, false),
            (1, 3, 0, false, true),
            (7, 2, 0, true, true),
            (5, 2, 0, false, true),
        ] {
            let mut rules = Ruleset::default();
            learn_chain(&mut rules, &base_chain(family, hook, policy));
            let chain = rules.chains.values().next().expect("one chain");
            assert_eq!(
                (chain.is_forward, chain.drops),
                (is_forward, drops),
                "{family} {hook}"
            );
        }
    }

    #[test]
    fn rules_are_told_by_what_they_do() {
        let named = |name: &str| text(attribute::EXPRESSION_NAME, name);
        let target = |name: &str| {
            let data = nla(
                attribute::EXPRESSION_DATA,
                &text(attribute::TARGET_NAME, name),
            );
            [named("target"), data].concat()
        };
        let acts = |what: &str| Some(Effect::Acts(what.to_owned()));
        for (expression, expected) in [
            (immediate(0, None), acts("drop")),
            (immediate(1, None), None),
            (immediate(-5, None), None),
            (
                immediate(-3, Some("x")),
                Some(Effect::Jumps("x".to_owned())),
            ),
            (
                immediate(-4, Some("x")),
                Some(Effect::Jumps("x".to_owned())),
            ),
            (immediate(0x0007_0003, None), acts("queue")),
            (named("counter"), None),
            (named("reject"), acts("reject")),
            (target("LOG"), None),
            (target("TCPMSS"), acts("TCPMSS")),
        ] {
            assert_eq!(effect(&expression), expected, "{expression:?}");
        }
    }

    #[test]
    fn a_rule_belongs_to_its_chain() {
        let expressions: Vec<u8> = [immediate(0, None)].map(|it| nla(1, &it)).concat();
        let rule = message(
            2,
            &[
                text(attribute::RULE_TABLE, "filter"),
                text(attribute::RULE_CHAIN, "FORWARD"),
                nla(attribute::RULE_EXPRESSIONS, &expressions),
            ],
        );
        let mut rules = Ruleset::default();
        learn_rule(&mut rules, &rule);
        let chain = &rules.chains[&name("ip", "filter", "FORWARD")];
        assert_eq!(chain.effects, [Effect::Acts("drop".to_owned())]);
    }

    #[test]
    fn what_is_cut_short_is_passed_over() {
        let whole = base_chain(2, 2, 0);
        let mut payload = vec![0; whole.buffer_len()];
        whole.serialize(&mut payload);
        for length in 0..payload.len() {
            let header = NetlinkHeader::default();
            let cut = Message::deserialize(&header, &payload[..length]).expect("as it is");
            let mut rules = Ruleset::default();
            learn_chain(&mut rules, &cut);
            learn_rule(&mut rules, &cut);
            assert!(rules.chains.len() <= 2);
        }
    }
}
