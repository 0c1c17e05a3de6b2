//! Endpoints and endpoint slices: addresses that answer for a service.
//!
//! Both kinds have one meaning; [`EndpointSlice`] is the one that the compiler works with. Nil
//! conditions are already resolved as KEP-1672 says: ready, serving, not terminating.

use std::{fmt, net::IpAddr, ops::Deref, slice, sync::Arc};

use lb_common::net::addr::Family;

use super::object::Meta;
use crate::desired::Protocol;

/// Label that names the service a slice belongs to.
pub const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label that names who writes a slice.
pub const LABEL_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Label by which an Endpoints object asks not to be mirrored (`"true"`).
pub const LABEL_SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";

/// Annotation by which an Endpoints object is a lock and not mirrored, whatever its value.
pub const ANNOTATION_LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

/// One `EndpointSlice`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Name and labels.
    pub meta: Meta,
    /// `addressType`.
    pub address_type: AddressType,
    /// `endpoints`.
    pub endpoints: Box<[Endpoint]>,
    /// `ports`.
    pub ports: Box<[EndpointPort]>,
}

impl EndpointSlice {
    /// Name of the service that the slice belongs to, in its own namespace.
    pub fn service(&self) -> Option<&Arc<str>> {
        self.meta.labels.get(LABEL_SERVICE_NAME)
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

/// One endpoint of a slice. There may be hundreds of thousands: what most do not have takes no room, and what many have they
/// share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `addresses`; proxies use the first.
    pub addresses: Addresses,
    /// `conditions`, with the meaning that missing ones have.
    pub conditions: Conditions,
    /// `conditions` as they are written.
    pub given: GivenConditions,
    /// `nodeName`; an endpoint without one is remote everywhere.
    pub node_name: Option<Arc<str>>,
    /// `hostname`.
    pub hostname: Option<Box<str>>,
    /// `targetRef`.
    pub target: Option<Box<Target>>,
    /// `zone`.
    pub zone: Option<Arc<str>>,
    /// `hints`, where there are any.
    pub hints: Option<Box<Hints>>,
    /// Its share of new connections, compared with those of others; 0: none, unless all have 0. Of the pod or of the
    /// object that lists it.
    pub weight: u8,
}

/// Addresses of one endpoint. Nearly all have one, which takes no memory of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// The only one.
    One(IpAddr),
    /// None, or several.
    Many(Box<[IpAddr]>),
}

impl Deref for Addresses {
    type Target = [IpAddr];

    fn deref(&self) -> &[IpAddr] {
        match self {
            Self::One(address) => slice::from_ref(address),
            Self::Many(addresses) => addresses,
        }
    }
}

impl From<Vec<IpAddr>> for Addresses {
    fn from(addresses: Vec<IpAddr>) -> Self {
        match *addresses {
            [address] => Self::One(address),
            _ => Self::Many(addresses.into()),
        }
    }
}

/// `targetRef`: the object behind an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// `kind`.
    pub kind: Arc<str>,
    /// `namespace`; empty where not given.
    pub namespace: Arc<str>,
    /// `name`.
    pub name: Arc<str>,
    /// `uid`, where given.
    pub uid: Option<Box<str>>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// `hints`: whose clients an endpoint is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// `forZones`.
    pub zones: Box<[Arc<str>]>,
    /// `forNodes`.
    pub nodes: Box<[Arc<str>]>,
}

/// `conditions` of an endpoint, each of which may be missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GivenConditions {
    /// `ready`.
    pub ready: Option<bool>,
    /// `serving`.
    pub serving: Option<bool>,
    /// `terminating`.
    pub terminating: Option<bool>,
}

impl GivenConditions {
    /// What they mean: what is not given is in the endpoint's favour, each by itself, as in kube-proxy.
    pub fn resolve(self) -> Conditions {
        Conditions {
            ready: self.ready.unwrap_or(true),
            serving: self.serving.unwrap_or(true),
            terminating: self.terminating.unwrap_or(false),
        }
    }
}

impl From<Conditions> for GivenConditions {
    fn from(conditions: Conditions) -> Self {
        Self {
            ready: Some(conditions.ready),
            serving: Some(conditions.serving),
            terminating: Some(conditions.terminating),
        }
    }
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
}

/// One port of a slice or subset.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointPort {
    /// `name`, the name of the service's port; empty for the only one.
    pub name: Arc<str>,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`; without one, proxies ignore the entry.
    pub port: Option<u16>,
    /// `appProtocol`.
    pub app_protocol: Option<Arc<str>>,
}

/// One Endpoints object. It belongs to the service of its own name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Name and labels.
    pub meta: Meta,
    /// `subsets`.
    pub subsets: Box<[Subset]>,
}

/// One of `subsets`: every address with every port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subset {
    /// `addresses`.
    pub ready: Box<[SubsetAddress]>,
    /// `notReadyAddresses`.
    pub not_ready: Box<[SubsetAddress]>,
    /// `ports`.
    pub ports: Box<[EndpointPort]>,
}

/// One address of a subset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubsetAddress {
    /// `ip`.
    pub ip: IpAddr,
    /// `hostname`.
    pub hostname: Option<Box<str>>,
    /// `nodeName`.
    pub node_name: Option<Arc<str>>,
    /// `targetRef`.
    pub target: Option<Target>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nil_conditions_mean_ready_serving_and_not_terminating() {
        let given = |ready, serving, terminating| GivenConditions {
            ready,
            serving,
            terminating,
        };
        assert_eq!(given(None, None, None).resolve(), Conditions::READY);
        let not_ready = given(Some(false), None, None).resolve();
        assert!(not_ready.serving, "serving does not follow ready");
        let all = given(Some(false), Some(false), Some(true));
        assert_eq!(GivenConditions::from(all.resolve()), all);
    }
}
