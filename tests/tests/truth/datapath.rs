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
    datapath::{Role, Verdict},
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
const TRIES: u64 = 20;

/// What becomes of each flow of a case.
pub(crate) fn answers(case: &Case, mode: Masquerade) -> Result<Answers> {
    let maps = memory::tables(case)?;
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
        Expect::Forward(candidates) => candidates.len() as u64,
        _ => 1,
    };
    let mut outcomes = BTreeSet::new();
    let mut sources = BTreeMap::new();
    for seed in 1..=TRIES * n_candidates {
        // A node of its own each time: no flow and no affinity is there before.
        let node = memory::node::<A>(case, maps, mode)?;
        node.seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        match send(case, &node, flow)? {
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

/// Sends one packet, by the way that the node's devices would take it.
pub(crate) fn send<A: Addr>(case: &Case, node: &FakeNode<A>, flow: &Flow) -> Result<Outcome> {
    let (role, device) = way_in(case, flow);
    let mut packet = packets::first::<A>(flow)?;
    let before = packet.clone();
    let verdict = node.tc(role, device).run(&mut packet).verdict;
    let counts = node.take_counts();
    let mut reasons = counts.keys().filter(|reason| reason.kind() != Kind::Note);
    let (Some(reason), None) = (reasons.next(), reasons.next()) else {
        bail!("counted as {counts:?}: one outcome each");
    };
    let kind = kind_of(*reason);
    match (kind, verdict) {
        ("forward", Verdict::Send(_)) => {
            let (source, backend) = packets::ends(&packet).context("a packet with two ends")?;
            ensure!(
                !case.is_local(source.ip()) || source.port() != 0,
                "the new source is {source}"
            );
            Ok(Outcome::Forwarded {
                backend,
                is_masqueraded: source.ip() != flow.from.ip(),
            })
        }
        ("pass", Verdict::Pass) | ("drop", Verdict::Drop) => {
            ensure!(packet == before, "touched: {}", reason.name());
            Ok(Outcome::Other(kind))
        }
        // What the node's processes send to the services' own device and is none: routed there, it would come back.
        ("reject", Verdict::Back | Verdict::Send(_)) => {
            ensure!(packet != before, "the answer is the packet itself");
            let (source, to) = packets::ends(&packet).context("an answer with two ends")?;
            ensure!(
                source.ip() == flow.to.ip() && to.ip() == flow.from.ip(),
                "the answer goes from {source} to {to}"
            );
            Ok(Outcome::Other(kind))
        }
        _ => bail!("{} with the verdict {verdict:?}", reason.name()),
    }
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
