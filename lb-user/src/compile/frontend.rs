//! Which addresses a service occupies, and whether it has a place in the datapath at all.

use std::{net::IpAddr, sync::Arc};

use lb_common::net::addr::Family;

use crate::{
    alloc::Addresses,
    desired::{DesiredPort, Frontend, FrontendKind, PortName},
    model::{
        object::family_of,
        service::{LABEL_HEADLESS, LABEL_PROXY_NAME, Service, ServicePort},
    },
};

/// Whether the datapath serves it: not if it is headless or an alias, nor if a label says so.
pub(super) fn is_served(service: &Service) -> bool {
    let labels = &service.meta.labels;
    !service.is_headless()
        && !service.is_external_name()
        && !labels.contains_key(LABEL_HEADLESS)
        && !labels.contains_key(LABEL_PROXY_NAME)
}

/// Every port of a service in every family that it has, without endpoints. The first one of each
/// family also has what is dialled at its address and belongs to no port.
pub(super) fn ports<'a>(
    service: &'a Service,
    addresses: &'a Addresses,
) -> impl Iterator<Item = (&'a ServicePort, PortName, DesiredPort)> {
    let ports = service.spec.ports.iter().enumerate();
    ports.flat_map(move |(index, port)| {
        addresses.families.iter().map(move |family| {
            let name = port_name(service, port, *family);
            let addr = addresses.ips.iter().find(|ip| family_of(**ip) == *family);
            let own = addr.map(|addr| frontend(*addr, port.port, FrontendKind::ClusterIp));
            let first = addr.filter(|_| index == 0);
            let rest = first.map(|addr| frontend(*addr, 0, FrontendKind::AnyPort));
            let entry = DesiredPort {
                frontends: own.into_iter().chain(rest).collect(),
                affinity_timeout_s: service.spec.affinity_timeout_s.unwrap_or(0),
                ..DesiredPort::default()
            };
            (port, name, entry)
        })
    })
}

fn frontend(addr: IpAddr, port: u16, kind: FrontendKind) -> Frontend {
    Frontend { addr, port, kind }
}

fn port_name(service: &Service, port: &ServicePort, family: Family) -> PortName {
    PortName {
        namespace: Arc::clone(&service.meta.name.namespace),
        service: Arc::clone(&service.meta.name.name),
        port: Arc::clone(&port.name),
        protocol: port.protocol,
        family,
    }
}
