//! The flows of a case, dialled; and explained by the agent that carried them out.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use lb_tests::{
    client,
    dial::{self, Dial, Ended, dial},
    sniffer::{Direction, Sniffer},
    truth::{Case, Expect, Flow, Masquerade, Protocol, SourceClass, traced},
};

use crate::site::Site;

/// A refusal comes at once: in well under 10 ms on an idle machine.
const REFUSAL_LIMIT: Duration = Duration::from_secs(1);
/// Nothing came in this time: nothing comes.
const SILENCE: Duration = Duration::from_millis(250);
/// How long what should be answered may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Dials per candidate until each was chosen; one in fifty million honest runs ends before.
const DIALS: usize = 20;

/// Dials every flow that a socket can dial; gives back what differs, with what the agent counted.
pub(crate) fn run(site: &Site, case: &Case, mode: Masquerade) -> Vec<String> {
    let mut failures = Vec::new();
    for flow in case.flows.iter().filter(|flow| is_for_sockets(case, flow)) {
        if let Err(error) = check(site, case, flow, mode) {
            failures.push(format!(
                "{:?} ({} {} from {} to {}): {error:#}",
                flow.name,
                flow.protocol,
                flow.class.way_in(),
                flow.from.ip(),
                flow.to
            ));
        }
    }
    failures.extend(explained(site, case, mode).unwrap_or_else(|error| vec![format!("{error:#}")]));
    if let Some(last) = failures.last_mut() {
        let counters = site.agent.counters().map(|counters| {
            let counted = counters.into_iter().filter(|(_, count)| *count > 0);
            format!("counted over all flows: {:?}", counted.collect::<Vec<_>>())
        });
        last.push_str("\n  ");
        last.push_str(&counters.unwrap_or_else(|error| format!("{error:#}")));
    }
    failures
}

/// What `fulcrum trace` on the running agent's tables says of every flow, where it differs.
fn explained(site: &Site, case: &Case, mode: Masquerade) -> Result<Vec<String>> {
    let batch: String = case.flows.iter().map(traced::question).collect();
    let lines = site.trace(&batch)?;
    ensure!(
        lines.len() == case.flows.len(),
        "{} answers of trace",
        lines.len()
    );
    let flows = case.flows.iter().zip(lines);
    let differs = flows.filter_map(|(flow, line)| {
        let answer = traced::read(case, flow, &line);
        let error = answer
            .and_then(|answer| case.judge(flow, mode, &answer))
            .err()?;
        Some(format!("trace of {:?}: {error:#}: {line}", flow.name))
    });
    Ok(differs.collect())
}

/// Whether a socket can send it, and its packets come this way.
fn is_for_sockets(case: &Case, flow: &Flow) -> bool {
    let is_external = flow.class == SourceClass::External;
    // A client that has an address which others dial would be dialled in its own namespace.
    let is_dialled = |ip: IpAddr| case.flows.iter().any(|other| other.to.ip() == ip);
    flow.protocol != Protocol::Sctp
        && !(is_external && (is_dialled(flow.from.ip()) || flow.expect == Expect::Pass))
}

fn check(site: &Site, case: &Case, flow: &Flow, mode: Masquerade) -> Result<()> {
    match &flow.expect {
        Expect::Forward(candidates) => forwarded(site, case, flow, mode, candidates),
        Expect::Reject => refused(site, flow),
        Expect::Drop => silent(site, flow),
        Expect::Local => untouched(site, case, flow, "node"),
        Expect::Pass => untouched(site, case, flow, "outside"),
    }
}

/// Every candidate answers in its turn and nobody else; each sees whom it should.
fn forwarded(
    site: &Site,
    case: &Case,
    flow: &Flow,
    mode: Masquerade,
    candidates: &BTreeSet<SocketAddr>,
) -> Result<()> {
    let mut left: BTreeSet<IpAddr> = candidates.iter().map(SocketAddr::ip).collect();
    let all = left.clone();
    for _ in 0..DIALS * candidates.len() {
        let (server, client) = answered(site, flow)?;
        let server: IpAddr = server
            .parse()
            .with_context(|| format!("{server} answered"))?;
        ensure!(all.contains(&server), "{server} answered");
        sees(case, flow, mode, server, client)?;
        left.remove(&server);
        if left.is_empty() {
            return Ok(());
        }
    }
    bail!("{left:?} never answered")
}

/// Whether the server saw the client's own address or one of the node's, as it must.
fn sees(case: &Case, flow: &Flow, mode: Masquerade, server: IpAddr, client: IpAddr) -> Result<()> {
    let own = flow.from.ip();
    let is_nodes = case.is_local(client) && !client.is_loopback();
    let Some(is_masqueraded) = case.expects_masquerade(flow, SocketAddr::new(server, 0), mode)
    else {
        ensure!(client == own || is_nodes, "{server} saw {client}");
        return Ok(());
    };
    let is_right = match flow.class {
        // Its new address may be the one that it had.
        SourceClass::Node => is_nodes,
        _ if !is_masqueraded => client == own,
        // Who reaches itself sees an address that nobody has, or the node's.
        _ if server == own => client != own,
        _ => is_nodes,
    };
    ensure!(
        is_right,
        "{server} saw {client} (masqueraded: {is_masqueraded})"
    );
    Ok(())
}

/// Refused at once, as often as it is dialled.
fn refused(site: &Site, flow: &Flow) -> Result<()> {
    let mut slowest = Duration::ZERO;
    for _ in 0..3 {
        let Dial { ended, took } = dialled(site, flow, LIMIT)?;
        ensure!(
            ended == Ended::Refused,
            "{ended:?} after {took:?} instead of refused"
        );
        slowest = slowest.max(took);
    }
    println!(
        "refused within {slowest:?}: {:?} {}",
        flow.name, flow.protocol
    );
    ensure!(slowest < REFUSAL_LIMIT, "refused after {slowest:?}");
    Ok(())
}

/// Nothing comes back: the socket waits, and no packet of any kind is on the client's link.
fn silent(site: &Site, flow: &Flow) -> Result<()> {
    let (namespace, device) = site.client(flow)?;
    let sniffer = Sniffer::open(namespace, device)?;
    let Dial { ended, took } = dialled(site, flow, SILENCE)?;
    ensure!(
        ended == Ended::Silent,
        "{ended:?} after {took:?} instead of silence"
    );
    if flow.class.is_host() {
        return Ok(());
    }
    // What is awaited has had its time. An error may come from anywhere; neighbours ask for each other all the time, and the
    // last acknowledgement to another client, dialled from before, comes when its socket is closed already.
    let is_answer = |packet: &[u8]| {
        ends(packet).is_some_and(|(from, to)| {
            to == flow.from.ip() && (from == flow.to.ip() || is_error(packet))
        })
    };
    match sniffer.next(Direction::In, Duration::ZERO, "an answer", is_answer) {
        Ok(packet) => bail!("{} bytes came back: {packet:02x?}", packet.len()),
        Err(_) => Ok(()),
    }
}

/// It ends where it would without any service, from the client's own address; health checks are answered as they are.
fn untouched(site: &Site, case: &Case, flow: &Flow, stranger: &str) -> Result<()> {
    if let Some(n_ready) = case.health(flow.to.port()) {
        return healthy(site, flow, n_ready);
    }
    let (server, client) = answered(site, flow)?;
    ensure!(server == stranger, "{server} answered");
    ensure!(client == flow.from.ip(), "{server} saw {client}");
    Ok(())
}

/// The health-check port says whether there are ready endpoints here, and how many.
fn healthy(site: &Site, flow: &Flow, n_ready: usize) -> Result<()> {
    let (namespace, _) = site.client(flow)?;
    let response = namespace.run(|| client::http(flow.to))?;
    let status = if n_ready > 0 { "200" } else { "503" };
    ensure!(
        response.starts_with(&format!("HTTP/1.1 {status} ")),
        "{status} is not in {response:?}"
    );
    let weight = format!("x-load-balancing-endpoint-weight: {n_ready}\r\n");
    ensure!(
        response.to_lowercase().contains(&weight),
        "{weight:?} is not in {response:?}"
    );
    Ok(())
}

fn answered(site: &Site, flow: &Flow) -> Result<(String, IpAddr)> {
    let Dial { ended, took } = dialled(site, flow, LIMIT)?;
    match ended {
        Ended::Answered { server, client } => Ok((server, client)),
        other => bail!("{other:?} after {took:?}"),
    }
}

fn dialled(site: &Site, flow: &Flow, limit: Duration) -> Result<Dial> {
    let (namespace, _) = site.client(flow)?;
    let protocol = match flow.protocol {
        Protocol::Udp => dial::Protocol::Udp,
        Protocol::Tcp | Protocol::Sctp => dial::Protocol::Tcp,
    };
    let from = SocketAddr::new(flow.from.ip(), 0);
    namespace.run(|| dial(protocol, from, flow.to, limit))
}

/// Whether a packet is an ICMP error: a destination that cannot be reached above all.
fn is_error(packet: &[u8]) -> bool {
    let at = |index: usize| packet.get(index).copied();
    if at(0).is_some_and(|first| first >> 4 == 6) {
        // RFC 4443 section 2.1: errors are the types below 128.
        at(6) == Some(58) && at(40).is_some_and(|kind| kind < 128)
    } else {
        at(9) == Some(1) && matches!(at(20), Some(3 | 11 | 12))
    }
}

/// The source of a packet, and its destination.
fn ends(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    if packet.first()? >> 4 == 6 {
        let at = |from: usize| Some(IpAddr::from(*packet.get(from..)?.first_chunk::<16>()?));
        Some((at(8)?, at(24)?))
    } else {
        let at = |from: usize| Some(IpAddr::from(*packet.get(from..)?.first_chunk::<4>()?));
        Some((at(12)?, at(16)?))
    }
}
