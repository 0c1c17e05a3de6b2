//! Endpoints and endpoint slices: addresses that answer for a service.
//!
//! Both kinds have one meaning; [`EndpointSlice`] is the one that the compiler works with. Nil
//! conditions are already resolved as KEP-1672 says: ready, serving, not terminating.

use std::net::IpAddr;

use lb_common::net::addr::Family;

use super::object::Meta;
use crate::desired::Protocol;

/// Label that names the service a slice belongs to.
pub const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label that names who writes a slice.
pub const LABEL_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Label by which an Endpoints object asks not to be mirrored (`"true"`).
pub const LABEL_SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";

/// One `EndpointSlice`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Name and labels.
    pub meta: Meta,
    /// `addressType`.
    pub address_type: AddressType,
    /// `endpoints`.
    pub endpoints: Vec<Endpoint>,
    /// `ports`.
    pub ports: Vec<EndpointPort>,
}

impl EndpointSlice {
    /// Name of the service that the slice belongs to, in its own namespace.
    pub fn service(&self) -> Option<&str> {
        self.meta.labels.get(LABEL_SERVICE_NAME).map(String::as_str)
    }
}

/// `addressType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressType {
    /// IP addresses of one family.
    Ip(Family),
    /// Host names, which no datapath can serve; the addresses are not kept.
    Fqdn,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `addresses`; proxies use the first.
    pub addresses: Vec<IpAddr>,
    /// `conditions`.
    pub conditions: Conditions,
    /// `nodeName`; an endpoint without one is remote everywhere.
    pub node_name: Option<String>,
    /// `hostname`.
    pub hostname: Option<String>,
    /// `targetRef` as `Kind name`.
    pub target: Option<String>,
    /// `zone`.
    pub zone: Option<String>,
}

/// State of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// It takes new connections.
    pub ready: bool,
    /// It answers, whether or not it is on its way out.
    pub serving: bool,
    /// It is on its way out.
    pub terminating: bool,
}

impl Conditions {
    /// In service.
    pub const READY: Self = Self {
        ready: true,
        serving: true,
        terminating: false,
    };
    /// Not in service, not on its way out.
    pub const UNREADY: Self = Self {
        ready: false,
        serving: false,
        terminating: false,
    };

    /// Conditions as slices give them: what is not given is in the endpoint's favour, each by
    /// itself, as in kube-proxy.
    pub fn from_nullable(
        ready: Option<bool>,
        serving: Option<bool>,
        terminating: Option<bool>,
    ) -> Self {
        Self {
            ready: ready.unwrap_or(true),
            serving: serving.unwrap_or(true),
            terminating: terminating.unwrap_or(false),
        }
    }
}

/// One port of a slice or subset.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointPort {
    /// `name`, the name of the service's port; empty for the only one.
    pub name: String,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`; without one, proxies ignore the entry.
    pub port: Option<u16>,
}

/// One Endpoints object. It belongs to the service of its own name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Name and labels.
    pub meta: Meta,
    /// `subsets`.
    pub subsets: Vec<Subset>,
}

/// One of `subsets`: every address with every port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subset {
    /// `addresses`.
    pub ready: Vec<SubsetAddress>,
    /// `notReadyAddresses`.
    pub not_ready: Vec<SubsetAddress>,
    /// `ports`.
    pub ports: Vec<EndpointPort>,
}

/// One address of a subset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubsetAddress {
    /// `ip`.
    pub ip: IpAddr,
    /// `hostname`.
    pub hostname: Option<String>,
    /// `nodeName`.
    pub node_name: Option<String>,
    /// `targetRef` as `Kind name`.
    pub target: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nil_conditions_mean_ready_serving_and_not_terminating() {
        assert_eq!(
            Conditions::from_nullable(None, None, None),
            Conditions::READY
        );
        let unready = Conditions::from_nullable(Some(false), Some(false), None);
        assert_eq!(unready, Conditions::UNREADY);
        let not_ready = Conditions::from_nullable(Some(false), None, None);
        assert!(not_ready.serving, "serving does not follow ready");
    }
}
