//! Services: what a client dials, and which pods or addresses shall answer.
//!
//! Guarantees after conversion: ports are in 1..=65535, port names are unique, and at most one
//! explicit address per family is asked for. `ClusterIP`s that were not asked for are not here: see
//! [`crate::alloc`].

use std::{fmt, net::IpAddr};

use lb_common::net::addr::Family;

use super::object::{Labels, Meta};
use crate::desired::Protocol;

/// Label by which a service belongs to another proxy, whatever its value.
pub const LABEL_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Label by which a service or slice has no datapath state, whatever its value.
pub const LABEL_HEADLESS: &str = "service.kubernetes.io/headless";

/// One Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Name and labels.
    pub meta: Meta,
    /// `spec`.
    pub spec: ServiceSpec,
    /// `status.loadBalancer.ingress`: addresses and host names.
    pub ingress: Vec<String>,
}

impl Service {
    /// Whether it asks for no `ClusterIP` at all (`clusterIP: None`).
    pub fn is_headless(&self) -> bool {
        self.spec.cluster_ips == ClusterIps::Headless
    }

    /// Whether it is an alias in DNS and nothing else.
    pub fn is_external_name(&self) -> bool {
        self.spec.service_type == ServiceType::ExternalName
    }
}

/// `spec` of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// `type`.
    pub service_type: ServiceType,
    /// `clusterIP` and `clusterIPs`.
    pub cluster_ips: ClusterIps,
    /// `ports`, in the order of the manifest.
    pub ports: Vec<ServicePort>,
    /// `selector`; empty: somebody else writes the endpoints.
    pub selector: Labels,
    /// `ipFamilies`, primary first; empty where not given.
    pub ip_families: Vec<Family>,
    /// `ipFamilyPolicy`, where given.
    pub ip_family_policy: Option<IpFamilyPolicy>,
    /// Seconds of `sessionAffinity: ClientIP`; none without affinity.
    pub affinity_timeout_s: Option<u32>,
    /// `internalTrafficPolicy`.
    pub internal_traffic_policy: TrafficPolicy,
    /// `externalTrafficPolicy`.
    pub external_traffic_policy: TrafficPolicy,
    /// `publishNotReadyAddresses`.
    pub publish_not_ready_addresses: bool,
    /// `externalName`.
    pub external_name: Option<String>,
    /// `externalIPs`.
    pub external_ips: Vec<IpAddr>,
}

/// `spec.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceType {
    /// Reached inside the cluster.
    ClusterIp,
    /// Also reached on a port of every node.
    NodePort,
    /// Also reached on an address of a load balancer.
    LoadBalancer,
    /// An alias in DNS.
    ExternalName,
}

impl fmt::Display for ServiceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalName => "ExternalName",
        })
    }
}

/// What a service asks for in `clusterIP` and `clusterIPs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterIps {
    /// Nothing: addresses out of the service CIDRs.
    Allocate,
    /// `None`: no address.
    Headless,
    /// These, primary first; a family that is missing here is allocated.
    Explicit(Vec<IpAddr>),
}

/// `ipFamilyPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpFamilyPolicy {
    /// One family.
    SingleStack,
    /// Both families where the cluster has both.
    PreferDualStack,
    /// Both families or nothing.
    RequireDualStack,
}

/// Which endpoints traffic may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// All of them.
    Cluster,
    /// Those of the node that the traffic is on.
    Local,
}

/// One of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `name`; empty for the only port of a service.
    pub name: String,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`.
    pub port: u16,
    /// `targetPort`.
    pub target_port: TargetPort,
    /// `nodePort`, where given.
    pub node_port: Option<u16>,
}

/// `targetPort`: a number, or the name of a container port, looked up in each pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// The port itself.
    Number(u16),
    /// A name among the pod's container ports.
    Name(String),
}

impl fmt::Display for TargetPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(port) => port.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}
