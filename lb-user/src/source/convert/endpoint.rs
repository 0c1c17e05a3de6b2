//! `EndpointSlice` and Endpoints.

use k8s_openapi::api::core::v1 as core;

use super::{
    Remarks, name, port,
    port::{app_protocol, protocol},
};
use crate::{
    model::endpoint::{EndpointPort, Target},
    shared_text::shared,
};

mod slice;
mod subsets;

pub(crate) use self::{slice::slice, subsets::endpoints};

/// What the ports of both kinds have in common, before it is checked.
struct RawPort {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<i32>,
    app_protocol: Option<String>,
}

fn endpoint_port(raw: RawPort, field: &str, remarks: &mut Remarks) -> EndpointPort {
    let of = |part: &str| format!("{field}.{part}");
    let name = raw.name.unwrap_or_default();
    if !name.is_empty() {
        name::want_label(&name, "a port", &of("name"), remarks);
    }
    EndpointPort {
        name: shared(&name),
        protocol: protocol(raw.protocol.as_deref(), &of("protocol"), remarks),
        port: raw
            .port
            .and_then(|number| port(number, &of("port"), remarks)),
        app_protocol: app_protocol(raw.app_protocol.as_deref(), &of("appProtocol"), remarks),
    }
}

/// Checks of `hostname` and `nodeName`, which both kinds have.
fn want_host_and_node(
    hostname: Option<&str>,
    node_name: Option<&str>,
    field: &str,
    remarks: &mut Remarks,
) {
    if let Some(hostname) = hostname {
        name::want_label(hostname, "a host", &format!("{field}.hostname"), remarks);
    }
    if let Some(node_name) = node_name {
        name::want_subdomain(node_name, "a Node", &format!("{field}.nodeName"), remarks);
    }
}

fn target(raw: core::ObjectReference) -> Target {
    Target {
        kind: shared(&raw.kind.unwrap_or_default()),
        namespace: shared(&raw.namespace.unwrap_or_default()),
        name: raw.name.unwrap_or_default().into(),
        uid: raw.uid.map(Into::into),
    }
}

#[cfg(test)]
mod tests;
