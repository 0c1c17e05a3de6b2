//! Programs and filters of others at TC, on the devices that we attach to.
//!
//! Read only.

use std::collections::BTreeSet;

use aya::programs::{SchedClassifier, TcAttachType};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcMessage},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::policy::Program;
use crate::loader::{attach, channel::Channel, device::Device};

/// `TC_H_CLSACT` of `linux/pkt_sched.h`, and the two ends of the qdisc.
const CLSACT: u16 = 0xffff;
const INGRESS: u16 = 0xfff2;
const EGRESS: u16 = 0xfff3;

/// Whatever of others is on these devices; what cannot be asked for is not there.
pub(super) fn find<'a>(devices: impl Iterator<Item = &'a Device>) -> Vec<Program> {
    let mut found = BTreeSet::new();
    for device in devices {
        for (attach_type, minor, direction) in [
            (TcAttachType::Ingress, INGRESS, "ingress"),
            (TcAttachType::Egress, EGRESS, "egress"),
        ] {
            let names = linked(&device.name, attach_type)
                .into_iter()
                .chain(filters(device.index, minor));
            found.extend(names.map(|name| Program {
                device: device.name.clone(),
                direction,
                name,
            }));
        }
    }
    found.into_iter().collect()
}

/// Programs by links (tcx), under the names that the kernel keeps.
fn linked(device: &str, direction: TcAttachType) -> Vec<String> {
    let programs = SchedClassifier::query_tcx(device, direction);
    let programs = programs.map(|(_, programs)| programs).unwrap_or_default();
    programs
        .iter()
        .map(|program| program.name_as_str().unwrap_or("a program").to_owned())
        .filter(|name| !attach::is_ours(name))
        .collect()
}

/// Filters of the clsact qdisc, by their kind.
fn filters(device: u32, minor: u16) -> Vec<String> {
    let Ok(index) = i32::try_from(device) else {
        return Vec::new();
    };
    let mut question = TcMessage::default();
    question.header.index = index;
    question.header.parent = TcHandle {
        major: CLSACT,
        minor,
    };
    let listed = Channel::open(NETLINK_ROUTE)
        .and_then(|mut channel| channel.list(RouteNetlinkMessage::GetTrafficFilter(question)));
    let filters = listed.unwrap_or_default();
    let kind = |message: &RouteNetlinkMessage| {
        let RouteNetlinkMessage::NewTrafficFilter(filter) = message else {
            return None;
        };
        // The priority is in the upper half.
        if attach::is_priority_of_ours(filter.header.info >> 16) {
            return None;
        }
        filter
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                TcAttribute::Kind(kind) => Some(format!("a filter of kind {kind}")),
                _ => None,
            })
    };
    filters.iter().filter_map(kind).collect()
}
