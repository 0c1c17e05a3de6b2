//! Who may use which endpoints, and whose source address gives way.
//!
//! The rules of kube-proxy's nftables mode (`pkg/proxy/nftables/proxier.go`): a `ClusterIP` heeds the internal
//! traffic policy, every other address the external one, from which pods and the node itself are exempt.

use super::{Decision, Role, Tables, Work};
use crate::{
    abi::{Reason, Service, SlotRange, backend_flags, node, place, service_flags},
    net::addr::Addr,
};

/// Where a client is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Client {
    /// Outside of the cluster.
    #[default]
    External = 0,
    /// A pod, on whichever node.
    Pod = 1,
    /// This node itself.
    Host = 2,
    /// A pod or outside: nobody says which addresses are pods'.
    Unknown = 3,
}

/// The endpoints that a policy leaves to a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum List {
    /// All.
    #[default]
    Cluster = 0,
    /// Those of this node, for clients outside.
    ExternalLocal = 1,
    /// Those of this node, for clients of a `ClusterIP`.
    InternalLocal = 2,
}

impl List {
    /// The flag of the backends in it.
    #[inline(always)]
    pub fn flag(self) -> u32 {
        match self {
            Self::Cluster => backend_flags::IN_CLUSTER,
            Self::ExternalLocal => backend_flags::IN_EXTERNAL_LOCAL,
            Self::InternalLocal => backend_flags::IN_INTERNAL_LOCAL,
        }
    }

    /// Its slots.
    #[inline(always)]
    pub fn range(self, service: &Service) -> SlotRange {
        match self {
            Self::Cluster => service.cluster,
            Self::ExternalLocal => service.external_local,
            Self::InternalLocal => service.internal_local,
        }
    }
}

/// Who dials, what, and what follows from it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// The frontend; id 0: none.
    pub service: Service,
    /// Where the client is.
    pub client: Client,
    /// Which endpoints it may use.
    pub list: List,
    /// Their slots.
    pub range: SlotRange,
    /// It has the backend that it had before.
    pub is_affine: bool,
    /// Its backend's connections are counted.
    pub is_counted: bool,
    /// Its source gives way to one of this node's.
    pub is_masqueraded: bool,
    /// The stack forwards it, and exchanges its source on the way out, if at all.
    pub is_left_to_stack: bool,
    /// Somebody says which addresses are pods'; false also where nobody asks.
    pub knows_pods: bool,
}

/// Notes where the client is, by the device that its packet came by and by its address.
///
/// As kube-proxy does it, the address alone tells pods; without any prefix of pods nothing does.
#[inline(always)]
pub(super) fn find_client<A: Addr, T: Tables<A>>(work: &mut Work<A>, tables: &T) {
    let as_needed = tables.node().masquerade == node::masquerade::AS_NEEDED;
    let is_host = tables.role().is_host();
    work.call.client = if is_host { Client::Host } else { Client::Pod };
    work.call.knows_pods = false;
    if as_needed && (is_host || tables.role() == Role::Pod) {
        return;
    }
    // The node's own addresses have their own prefixes: what is said of all others stands at no address.
    let asked = if is_host {
        A::default()
    } else {
        work.key.ends.src
    };
    let place = tables.place(asked);
    work.call.knows_pods = place != place::UNKNOWN;
    if !is_host {
        work.call.client = match place {
            place::PODS => Client::Pod,
            place::UNKNOWN if !as_needed => Client::Unknown,
            _ => Client::External,
        };
    }
}

/// Notes which endpoints the client may use.
///
/// # Errors
/// What becomes of the packet if there are none, or if the client is kept out.
#[inline(always)]
pub(super) fn admit<A: Addr, T: Tables<A>>(work: &mut Work<A>, tables: &T) -> Result<(), Decision> {
    let call = &mut work.call;
    call.list = list(call.service.flags, call.client);
    call.range = call.list.range(&call.service);
    let service = &call.service;
    if service.guard != 0 && !tables.allows(service.guard, work.key.ends.src) {
        return Err(Decision::Drop(Reason::DropSourceRange));
    }
    if call.range.count != 0 {
        return Ok(());
    }
    // Whom the policy alone keeps from endpoints must try elsewhere, and is not told that there are none.
    Err(if service.cluster.count != 0 {
        Decision::Drop(Reason::DropNoLocalBackend)
    } else {
        Decision::Reject(Reason::RejectNoBackend)
    })
}

/// The list that a client may use of an entry with these flags.
#[inline(always)]
pub(super) fn list(flags: u32, client: Client) -> List {
    let is_internal = flags & service_flags::CLUSTER_IP != 0;
    let is_exempt = matches!(client, Client::Pod | Client::Host);
    if is_internal && flags & service_flags::INTERNAL_LOCAL != 0 {
        List::InternalLocal
    } else if !is_internal && !is_exempt && flags & service_flags::EXTERNAL_LOCAL != 0 {
        List::ExternalLocal
    } else {
        List::Cluster
    }
}

/// True if kube-proxy would give the packet a source of this node's, wherever its backend is.
#[inline(always)]
pub(super) fn is_masqueraded_by_kube_proxy(mode: u32, call: &Call) -> bool {
    let flags = call.service.flags;
    if flags & service_flags::CLUSTER_IP != 0 {
        // Where nobody says which addresses are pods', all count as theirs, the node's too.
        let is_pod = !call.knows_pods || call.client == Client::Pod;
        mode == node::masquerade::ALL || !is_pod
    } else {
        flags & service_flags::EXTERNAL_LOCAL == 0 || call.client == Client::Host
    }
}
