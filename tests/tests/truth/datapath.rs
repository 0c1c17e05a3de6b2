//! A case's packets through the datapath's code on the host: compiled, planned and applied on tables in memory.
//!
//! Which backend a packet gets is chance, so each flow is sent until every candidate was chosen, and then some more: nothing
//! else may be. The chance is seeded, and the number of tries bounded.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use anyhow::{Context, Result, bail, ensure};
use lb_common::{
    abi::{Reason, counter::Kind},
    datapath::{Role, Verdict, Via},
    fake::FakeNode,
    net::addr::{Addr, Addr4, Addr6},
};
use lb_tests::truth::{Answer, Case, Expect, Flow, Masquerade};
use lb_user::apply::FakeMaps;

use crate::{
    Answers,
    memory::{self, HOST_PEER, LOOPBACK, POD_DEVICE, UPLINK},
    packets,
};

/// Tries per candidate: fewer than one honest candidate in a hundred million is missed.
const TRIES: u16 = 20;
/// Where chance begins.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// What becomes of each flow of a case.
pub(crate) fn answers(case: &Case, mode: Masquerade) -> Result<Answers> {
    let maps = memory::tables(case, mode)?;
    let flows = case.flows.iter();
    Ok(flows
        .map(|flow| {
            if flow.to.is_ipv4() {
                answer::<Addr4>(case, &maps, flow, mode)
            } else {
                answer::<Addr6>(case, &maps, flow, mode)
            }
        })
        .collect())
}

/// What becomes of one flow, over all tries.
fn answer<A: Addr>(case: &Case, maps: &FakeMaps, flow: &Flow, mode: Masquerade) -> Result<Answer> {
    let n_candidates = match &flow.expect {
        Expect::Forward(candidates) => u16::try_from(candidates.len())?,
        _ => 1,
    };
    let mut outcomes = BTreeSet::new();
    let mut sources = BTreeMap::new();
    let mut node = memory::node::<A>(case, maps, mode)?;
    node.seed(SEED);
    for number in 0..TRIES * n_candidates {
        // What clients were given would be given them again.
        if !node.affinity().is_empty() {
            node = memory::node::<A>(case, maps, mode)?;
            // Neighbouring seeds begin alike.
            node.seed(SEED.wrapping_mul(u64::from(number) + 1));
        }
        // Each is a connection of its own.
        let from = SocketAddr::new(flow.from.ip(), flow.from.port() + number);
        let flow = Flow {
            from,
            ..flow.clone()
        };
        match send(case, &node, &flow)? {
            Outcome::Forwarded {
                backend,
                is_masqueraded,
            } => {
                outcomes.insert("forward");
                sources.insert(backend, is_masqueraded);
            }
            Outcome::Other(kind) => {
                outcomes.insert(kind);
            }
        }
    }
    ensure!(outcomes.len() == 1, "{outcomes:?} of one flow");
    let outcome = match outcomes.first().copied().context("an outcome")? {
        "forward" => Expect::Forward(sources.keys().copied().collect()),
        "reject" => Expect::Reject,
        "drop" => Expect::Drop,
        _ if case.is_local(flow.to.ip()) => Expect::Local,
        _ => Expect::Pass,
    };
    Ok(Answer {
        outcome,
        sources: sources.into_iter().collect(),
    })
}

/// What became of one packet.
pub(crate) enum Outcome {
    Forwarded {
        backend: SocketAddr,
        is_masqueraded: bool,
    },
    Other(&'static str),
}

/// Sends one packet, by the way that the node's devices would take it, and its answer back.
pub(crate) fn send<A: Addr>(case: &Case, node: &FakeNode<A>, flow: &Flow) -> Result<Outcome> {
    memory::route_to(case, node, flow.from.ip(), flow.class);
    let (role, device) = way_in(case, flow);
    let mut packet = packets::first::<A>(flow.protocol, flow.from, flow.to)?;
    let before = packet.clone();
    let verdict = node.tc(role, device).run(&mut packet).verdict;
    let reason = reason(node)?;
    let kind = kind_of(reason);
    match (kind, verdict) {
        ("forward", Verdict::Send(_)) => {
            let (source, backend) = packets::ends(&packet).context("a packet with two ends")?;
            let is_masqueraded = source.ip() != flow.from.ip();
            let hairpin = memory::hairpin(flow.to.is_ipv6());
            ensure!(
                !is_masqueraded || case.is_local(source.ip()) || source.ip() == hairpin,
                "the new source is {source}"
            );
            if case.is_local(backend.ip()) {
                // The stack takes its own addresses for sources on the agent's device alone.
                let is_own = case.is_local(source.ip());
                let via = if is_own { Via::Host } else { Via::Stack };
                ensure!(verdict == Verdict::Send(via), "{verdict:?} from {source}");
            }
            come_back(case, node, flow, (source, backend))
                .with_context(|| format!("the answer of {backend} to {source}"))?;
            Ok(Outcome::Forwarded {
                backend,
                is_masqueraded,
            })
        }
        ("pass", Verdict::Pass) | ("drop", Verdict::Drop) => {
            ensure!(packet == before, "touched: {}", reason.name());
            Ok(Outcome::Other(kind))
        }
        ("reject", Verdict::Back | Verdict::Send(_)) => {
            ensure!(packet != before, "the answer is the packet itself");
            let (source, to) = packets::addresses(&packet).context("an answer with two ends")?;
            ensure!(
                source == flow.to.ip() && to == flow.from.ip(),
                "the answer goes from {source} to {to}"
            );
            Ok(Outcome::Other(kind))
        }
        _ => bail!("{} with the verdict {verdict:?}", reason.name()),
    }
}

/// The one reason that the last packet was counted under, notes aside.
fn reason<A: Addr>(node: &FakeNode<A>) -> Result<Reason> {
    let counts = node.take_counts();
    let mut reasons = counts.keys().filter(|reason| reason.kind() != Kind::Note);
    match (reasons.next(), reasons.next()) {
        (Some(reason), None) => Ok(*reason),
        _ => bail!("counted as {counts:?}: one outcome each"),
    }
}

/// Fails unless the backend's answer, by the device that it comes by, arrives as one of what was dialled.
fn come_back<A: Addr>(
    case: &Case,
    node: &FakeNode<A>,
    flow: &Flow,
    (source, backend): (SocketAddr, SocketAddr),
) -> Result<()> {
    let (role, device) = if case.is_local(backend.ip()) {
        // What the node itself answers leaves by the client's device, or never leaves.
        match flow.class.way_in() {
            _ if case.is_local(source.ip()) => (Role::Loopback, LOOPBACK),
            "pod" => (Role::Egress, POD_DEVICE),
            "uplink" => (Role::Egress, UPLINK),
            _ => return Ok(()),
        }
    } else if case.is_local_endpoint(backend.ip()) {
        (Role::Pod, POD_DEVICE)
    } else {
        (Role::Uplink, UPLINK)
    };
    let mut answer = packets::answer::<A>(flow.protocol, backend, source)?;
    let verdict = node.tc(role, device).run(&mut answer).verdict;
    let reason = reason(node)?;
    ensure!(
        matches!(verdict, Verdict::Send(_)),
        "{} with the verdict {verdict:?}",
        reason.name()
    );
    let (from, to) = packets::ends(&answer).context("an answer with two ends")?;
    ensure!(
        from == flow.to && to == flow.from,
        "it arrives at {to} from {from}"
    );
    Ok(())
}

/// What a reason means, by its name's first word.
fn kind_of(reason: Reason) -> &'static str {
    match reason.name().split('_').next() {
        Some("pass") => "pass",
        Some("drop") => "drop",
        Some("reject") => "reject",
        _ => "forward",
    }
}

/// The program that meets the packet: a process of the node that dials one of its addresses does so by the loopback device.
fn way_in(case: &Case, flow: &Flow) -> (Role, u32) {
    match flow.class.way_in() {
        "pod" => (Role::Pod, POD_DEVICE),
        "uplink" => (Role::Uplink, UPLINK),
        _ if case.is_local(flow.to.ip()) => (Role::Loopback, LOOPBACK),
        _ => (Role::Host, HOST_PEER),
    }
}
