//! An answer in words.

use std::{collections::BTreeSet, fmt::Write as _, net::SocketAddr};

use lb_common::{
    abi::{
        Reason, TraceRecord, place, service_flags,
        trace::{decision, flow},
    },
    datapath::Client,
};

use super::{Entry, Question, Traced, dialled, reason};
use crate::compile::explain::{EndpointChoice, List};

/// How a packet comes to what becomes of it, one sentence each.
pub(super) fn steps(
    question: &Question,
    record: &TraceRecord,
    traced: &Traced,
    endpoints: &[EndpointChoice],
) -> Vec<String> {
    let mut steps = vec![arrival(question, record, traced)];
    steps.push(frontend(question, record, traced));
    if traced.service.is_some() {
        steps.push(policy(record));
        steps.extend(guard(record));
        steps.push(chosen_list(traced));
        steps.extend(others(traced, endpoints));
    }
    if let Some(known) = &traced.existing_flow {
        steps.push(format!(
            "it belongs to a known flow ({}), which goes on as it is while its endpoint serves",
            known.direction
        ));
    }
    steps.extend(choice(record, traced));
    steps.extend(rewrite(question, record, traced));
    steps.push(end(record, traced));
    steps
}

fn arrival(question: &Question, record: &TraceRecord, traced: &Traced) -> String {
    let device = match question.entry {
        Entry::Pod => "a pod's device",
        Entry::Uplink => "an uplink",
        Entry::Host => "a process of this node",
    };
    let from = question.from;
    if traced.service.is_none() {
        return format!("{from} sends by {device}");
    }
    let is = |client: Client| record.client == client as u32;
    let client = if is(Client::Pod) {
        "a pod"
    } else if is(Client::Host) {
        "this node"
    } else if is(Client::Unknown) {
        "a pod or a client outside: no prefix says which addresses are pods'"
    } else {
        "a client outside"
    };
    format!("{from} comes by {device} and counts as {client}")
}

fn frontend(question: &Question, record: &TraceRecord, traced: &Traced) -> String {
    let dialled = dialled(question);
    if let Some(service) = &traced.service {
        let kind = match traced.frontend.as_deref() {
            Some("cluster-ip") => "a ClusterIP",
            Some("node-port") => "a node port",
            Some("load-balancer") => "an address of a load balancer",
            _ => "one of externalIPs",
        };
        return format!("{dialled} is {kind} of {service}");
    }
    match reason(record.service_reason) {
        Some(Reason::RejectNotServed) => {
            format!("{dialled}: the address is a ClusterIP, and its service has no such port")
        }
        Some(Reason::DropUnallocated) => {
            format!("{dialled}: no service has this address, which is inside a service CIDR")
        }
        _ => format!("{dialled} is no frontend of any service"),
    }
}

fn policy(record: &TraceRecord) -> String {
    let flags = record.service.flags;
    let is_internal = flags & service_flags::CLUSTER_IP != 0;
    let is_exempt = [Client::Pod, Client::Host]
        .iter()
        .any(|client| record.client == *client as u32);
    let text = if is_internal && flags & service_flags::INTERNAL_LOCAL != 0 {
        "internalTrafficPolicy is Local: endpoints of this node alone"
    } else if is_internal {
        "internalTrafficPolicy is Cluster: all endpoints"
    } else if flags & service_flags::EXTERNAL_LOCAL == 0 {
        "externalTrafficPolicy is Cluster: all endpoints"
    } else if is_exempt {
        "externalTrafficPolicy is Local, from which pods and the node itself are exempt: all endpoints"
    } else {
        "externalTrafficPolicy is Local: endpoints of this node alone"
    };
    text.to_owned()
}

fn guard(record: &TraceRecord) -> Option<String> {
    let is_kept_out = record.service_reason == Reason::DropSourceRange as u32;
    (record.service.guard != place::NODE_SPACE).then(|| {
        if is_kept_out {
            "loadBalancerSourceRanges do not have the client".to_owned()
        } else {
            "loadBalancerSourceRanges have the client".to_owned()
        }
    })
}

fn chosen_list(traced: &Traced) -> String {
    let list = traced.list.as_deref().unwrap_or("cluster");
    match traced.candidates.as_deref() {
        None | Some([]) => format!("the list {list} leaves it no endpoint"),
        Some(candidates) => format!("the list {list} has {}", candidates.join(", ")),
    }
}

/// Why each other endpoint is not in the list.
fn others(traced: &Traced, endpoints: &[EndpointChoice]) -> Vec<String> {
    let candidates: BTreeSet<&str> = traced
        .candidates
        .iter()
        .flatten()
        .map(String::as_str)
        .collect();
    let list = match traced.list.as_deref() {
        Some("external-local") => List::ExternalLocal,
        Some("internal-local") => List::InternalLocal,
        _ => List::Cluster,
    };
    let others = endpoints.iter().filter(|endpoint| {
        let address: SocketAddr = endpoint.address;
        !candidates.contains(address.to_string().as_str())
    });
    let sentence = |endpoint: &EndpointChoice| {
        let reason = endpoint.reasons.get(&list);
        Some(format!("{} is not in it: {}", endpoint.address, reason?))
    };
    others.filter_map(sentence).collect()
}

fn choice(record: &TraceRecord, traced: &Traced) -> Option<String> {
    let backend = traced.backend.as_deref()?;
    Some(if record.flow == flow::REPLY {
        format!("{backend} answers")
    } else if record.flow == flow::ORIGINAL {
        format!("{backend} is the endpoint of its flow")
    } else if record.is_affine != 0 {
        format!("{backend} is what this client was given before (sessionAffinity)")
    } else if traced.candidates.as_ref().is_none_or(|it| it.len() <= 1) {
        format!("{backend} is the only one")
    } else if record.service.flags & service_flags::MAGLEV != 0 {
        format!(
            "{backend} has the packet's place in the Maglev table, on this node and on every other"
        )
    } else if record.service.flags & service_flags::LEAST_CONNECTIONS != 0 {
        format!("{backend} has the fewer connections for its weight, of two of them at random")
    } else {
        format!("{backend} is one of them at random")
    })
}

fn rewrite(question: &Question, record: &TraceRecord, traced: &Traced) -> Vec<String> {
    let (Some(source), Some(destination)) = (&traced.source, &traced.destination) else {
        return Vec::new();
    };
    let mut steps = vec![format!(
        "rewritten: {} -> {} becomes {source} -> {destination}",
        question.from, question.to
    )];
    if record.flow == flow::REPLY {
        return steps;
    }
    steps.push(if traced.masquerade == Some(true) {
        "the source gives way to one of this node's, so that the answer comes back here".to_owned()
    } else {
        "the endpoint sees the client's own address".to_owned()
    });
    steps.push(format!(
        "the reply comes as {destination} -> {source} and reaches the client as {} -> {}",
        question.to, question.from
    ));
    steps
}

fn end(record: &TraceRecord, traced: &Traced) -> String {
    let meaning = reason(record.reason).map_or("", Reason::meaning).trim();
    let mut text = match record.decision {
        decision::SEND => match &traced.next_hop {
            Some(hop) => {
                let mac = hop
                    .mac
                    .as_deref()
                    .unwrap_or("a neighbour yet to be resolved");
                format!("sent by device {} to {mac}", hop.ifindex)
            }
            None => "sent on by the node's own routes".to_owned(),
        },
        decision::REJECT => "rejected, and told so at once".to_owned(),
        decision::DROP => "dropped without a word".to_owned(),
        _ if traced.verdict == "local" => "left to this node's own processes".to_owned(),
        _ => "left to the node's own routes".to_owned(),
    };
    let _ = write!(text, " ({}: {meaning})", traced.reason);
    text
}

/// An answer for people.
pub fn text(question: &Question, traced: &Traced) -> String {
    let mut text = String::new();
    let title = traced.name.as_deref().map(|name| format!("{name}: "));
    let _ = writeln!(
        text,
        "{}{} {} -> {}: {}",
        title.unwrap_or_default(),
        question.protocol,
        question.from,
        question.to,
        traced.verdict
    );
    for (index, step) in traced.steps.iter().enumerate() {
        let _ = writeln!(text, "{:>4}. {step}", index + 1);
    }
    text
}
