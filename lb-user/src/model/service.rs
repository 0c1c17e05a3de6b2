//! Services: what a client dials, and which pods or addresses shall answer.
//!
//! Guarantees after conversion: what the API would refuse is not here, and every field has the default
//! that the API gives it. Ports are in 1..=65535, port names are unique, and at most one explicit address
//! per family is asked for. What depends on the cluster (`clusterIPs`, `ipFamilies` and
//! `ipFamilyPolicy` where they are not given) comes from [`crate::alloc`].

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use lb_common::net::addr::Family;

use super::object::{Labels, Meta};
use crate::desired::{Algorithm, Protocol};

/// Label by which a service belongs to another proxy, whatever its value.
pub const LABEL_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Label by which a service or slice has no datapath state, whatever its value.
pub const LABEL_HEADLESS: &str = "service.kubernetes.io/headless";

/// Annotation that says how backends are chosen: one of [`Algorithm::ALL`].
pub const ANNOTATION_ALGORITHM: &str = "fulcrum.dev/algorithm";
/// Annotation that says how many places the Maglev tables have.
pub const ANNOTATION_MAGLEV_SIZE: &str = "fulcrum.dev/maglev-size";

/// One Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Name and labels.
    pub meta: Meta,
    /// `spec`.
    pub spec: ServiceSpec,
    /// `status.loadBalancer.ingress`.
    pub ingress: Box<[Ingress]>,
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

    /// Whether clients outside of the cluster have a way to it.
    pub fn is_externally_accessible(&self) -> bool {
        match self.spec.service_type {
            ServiceType::NodePort | ServiceType::LoadBalancer => true,
            ServiceType::ClusterIp => !self.spec.external_ips.is_empty(),
            ServiceType::ExternalName => false,
        }
    }

    /// `externalTrafficPolicy` as the API shows it: only where there can be external traffic.
    pub fn shown_external_traffic_policy(&self) -> Option<TrafficPolicy> {
        self.is_externally_accessible()
            .then_some(self.spec.external_traffic_policy)
    }

    /// `internalTrafficPolicy` as the API shows it: an alias has none.
    pub fn shown_internal_traffic_policy(&self) -> Option<TrafficPolicy> {
        (!self.is_external_name()).then_some(self.spec.internal_traffic_policy)
    }

    /// `sessionAffinity` as the API shows it.
    pub fn shown_session_affinity(&self) -> &'static str {
        if self.spec.affinity_timeout_s.is_some() {
            "ClientIP"
        } else {
            "None"
        }
    }
}

/// `spec` of a Service, and what annotations of ours add to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// `type`.
    pub service_type: ServiceType,
    /// `clusterIP` and `clusterIPs`.
    pub cluster_ips: ClusterIps,
    /// `ports`, in the order of the manifest.
    pub ports: Box<[ServicePort]>,
    /// `selector`; empty: somebody else writes the endpoints.
    pub selector: Labels,
    /// `ipFamilies`, primary first; empty where not given.
    pub ip_families: Box<[Family]>,
    /// `ipFamilyPolicy`, where given; else see [`crate::alloc::Addresses`].
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
    pub external_name: Option<Box<str>>,
    /// `externalIPs`.
    pub external_ips: Box<[IpAddr]>,
    /// `loadBalancerIP`, which the API takes as it is.
    pub load_balancer_ip: Option<Box<str>>,
    /// `loadBalancerSourceRanges`.
    pub load_balancer_source_ranges: Box<[IpNet]>,
    /// `loadBalancerClass`.
    pub load_balancer_class: Option<Box<str>>,
    /// `allocateLoadBalancerNodePorts`; none unless the type is `LoadBalancer`.
    pub allocate_node_ports: Option<bool>,
    /// `healthCheckNodePort`, where given.
    pub health_check_node_port: Option<u16>,
    /// `trafficDistribution`, where given.
    pub traffic_distribution: Option<TrafficDistribution>,
    /// [`ANNOTATION_ALGORITHM`], where given.
    pub algorithm: Option<Algorithm>,
    /// [`ANNOTATION_MAGLEV_SIZE`], where given.
    pub maglev_size: Option<u32>,
}

/// One of `status.loadBalancer.ingress`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// `ip`.
    pub ip: Option<IpAddr>,
    /// `hostname`.
    pub hostname: Option<String>,
    /// `ipMode`; none without an `ip`.
    pub ip_mode: Option<IpMode>,
    /// `ports`.
    pub ports: Vec<IngressPort>,
}

impl fmt::Display for Ingress {
    /// The address, else the host name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.ip, &self.hostname) {
            (Some(ip), _) => ip.fmt(f),
            (None, Some(hostname)) => hostname.fmt(f),
            (None, None) => Ok(()),
        }
    }
}

/// One of `ports` of an [`Ingress`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressPort {
    /// `port`.
    pub port: u16,
    /// `protocol`.
    pub protocol: Protocol,
    /// `error`.
    pub error: Option<String>,
}

/// `ipMode`: how traffic for a load balancer's address arrives at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpMode {
    /// With the load balancer's address as its destination.
    Vip,
    /// With an address of the node, so that nodes must leave the load balancer's address alone.
    Proxy,
}

impl fmt::Display for IpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vip => "VIP",
            Self::Proxy => "Proxy",
        })
    }
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
    Explicit(Box<[IpAddr]>),
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

impl fmt::Display for IpFamilyPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SingleStack => "SingleStack",
            Self::PreferDualStack => "PreferDualStack",
            Self::RequireDualStack => "RequireDualStack",
        })
    }
}

/// Which endpoints traffic may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// All of them.
    Cluster,
    /// Those of the node that the traffic is on.
    Local,
}

impl fmt::Display for TrafficPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster => "Cluster",
            Self::Local => "Local",
        })
    }
}

/// `trafficDistribution`: which endpoints are preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficDistribution {
    /// The older name of [`Self::PreferSameZone`].
    PreferClose,
    /// Those of the client's zone.
    PreferSameZone,
    /// Those of the client's node, then those of its zone.
    PreferSameNode,
}

impl fmt::Display for TrafficDistribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PreferClose => "PreferClose",
            Self::PreferSameZone => "PreferSameZone",
            Self::PreferSameNode => "PreferSameNode",
        })
    }
}

/// One of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `name`; empty for the only port of a service.
    pub name: Arc<str>,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`.
    pub port: u16,
    /// `targetPort`.
    pub target_port: TargetPort,
    /// `nodePort`, where given.
    pub node_port: Option<u16>,
    /// `appProtocol`, passed on in slices.
    pub app_protocol: Option<Arc<str>>,
}

/// `targetPort`: a number, or the name of a container port, looked up in each pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// The port itself.
    Number(u16),
    /// A name among the pod's container ports.
    Name(Arc<str>),
}

impl fmt::Display for TargetPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(port) => port.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}
