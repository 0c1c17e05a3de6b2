//! Programs and filters of others at TC, on the devices that we attach to.
//!
//! Read only.

use std::collections::BTreeSet;

use aya::programs::{SchedClassifier, TcAttachType};

use super::policy::Program;
use crate::loader::{attach, device::Device, filter};

/// Whatever of others is on these devices; what cannot be asked for is not there.
pub(super) fn find<'a>(devices: impl Iterator<Item = &'a Device>) -> Vec<Program> {
    let mut found = BTreeSet::new();
    for device in devices {
        for (attach_type, direction) in [
            (TcAttachType::Ingress, "ingress"),
            (TcAttachType::Egress, "egress"),
        ] {
            let names = linked(&device.name, attach_type)
                .into_iter()
                .chain(filters(device.index, attach_type));
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
fn filters(device: u32, direction: TcAttachType) -> Vec<String> {
    let filters = filter::on(device, direction).unwrap_or_default();
    filters
        .into_iter()
        .filter(|filter| !attach::is_priority_of_ours(filter.priority))
        .map(|filter| format!("a filter of kind {}", filter.kind))
        .collect()
}
