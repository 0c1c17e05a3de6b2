//! The pair: two devices of ours, by which the node's own processes reach services.
//!
//! Routes for service addresses point at the node's end, `fulcrum0`; what is sent there comes in at the other
//! end, `fulcrum1`, like a packet of any other client, with no default route, no ARP and no neighbour
//! discovery. What the node's own stack must receive is injected at the ingress of `fulcrum0`. All this
//! is made here, stays when the agent ends, and is removed by `fulcrum cleanup`: addresses, neighbours, routes and sysctls
//! go with the devices. Nothing else of the node is changed.

pub mod claim;
mod mend;
pub mod name;
mod request;
pub mod routes;
pub mod settings;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{File, TryLockError},
    io,
    path::Path,
};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;

use self::{
    claim::{Claim, claim},
    name::{FAR_MAC, Hairpin, Mac, NEAR_MAC, PairName},
    routes::{Changes, Reason, Value, Wanted},
};
use super::{
    channel::Channel,
    sysctl::{self, SysctlError},
    uplink::Survey,
};
use crate::{causes::with_causes, mended::Thing};

/// The largest that a veth takes. The pair must never be what makes a packet too large: whatever an uplink
/// or a pod's device takes, replies of that size and what the stack shall fragment are injected here.
const MTU: u32 = 65_535;

/// The two devices. Dropped, they stay, unless they were never finished.
#[derive(Debug)]
pub struct HostPair {
    name: PairName,
    near: u32,
    far: u32,
    hairpin: Hairpin,
    has_ipv6: bool,
    channel: Channel<RouteNetlinkMessage>,
    /// By which the pair is known to be that of our run directory.
    alias: String,
    /// The routes that were made.
    led: BTreeMap<IpNet, Value>,
    /// What has no route, and was said to have none.
    left_out: BTreeSet<(IpNet, Reason)>,
    /// Routes that could not be made or removed, and why; said once as well.
    refused: BTreeSet<(IpNet, String)>,
    /// Whether the devices stay.
    is_kept: bool,
    /// What could not be mended, said once.
    trouble: Option<String>,
}

/// What the programs must know about the pair; by default there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Index of the node's end.
    pub near: u32,
    /// The MAC of the node's end.
    pub near_mac: Mac,
    /// The MAC of the other end.
    pub far_mac: Mac,
    /// Sources of hairpin connections.
    pub hairpin: Hairpin,
}

/// Why host clients cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// No socket.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// Devices cannot be listed.
    #[error("cannot list the node's devices")]
    List(#[source] io::Error),
    /// Somebody else has the name.
    #[error(
        "there is a device {name} already that no fulcrum made; rename or remove it, or give the agent's own \
         pair another name by --host-device"
    )]
    Stranger {
        /// The device.
        name: String,
    },
    /// Another agent has it, or may have it.
    #[error(
        "the devices {near} and {far} belong to the agent of {run_dir}, which {state}; give this agent a pair \
         of its own by --host-device, or, if nothing of that agent shall serve any more, remove what is left of it by \
         `fulcrum --run-dir {run_dir} cleanup`"
    )]
    Another {
        /// The node's end.
        near: String,
        /// The other end.
        far: String,
        /// The other agent's run directory.
        run_dir: String,
        /// What is known about that agent.
        state: &'static str,
    },
    /// The devices cannot be made.
    #[error(
        "cannot make the veth pair {near} and {far}; the kernel needs CONFIG_VETH (modprobe veth), and the agent \
         CAP_NET_ADMIN"
    )]
    Make {
        /// The node's end.
        near: String,
        /// The other end.
        far: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A property of the pair cannot be set.
    #[error("cannot set {what} of {device}; the agent needs CAP_NET_ADMIN")]
    Set {
        /// Which one, with its value.
        what: String,
        /// The device.
        device: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A setting cannot be made.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
}

impl HostPair {
    /// Makes the pair, or takes over what an earlier agent of `run_dir` left, and brings it up. The caller
    /// holds the lock of `run_dir`.
    pub fn make(name: PairName, run_dir: &Path, hairpin: Hairpin) -> Result<Self, PairError> {
        let mut channel = Channel::open(NETLINK_ROUTE).map_err(PairError::Open)?;
        let run_dir = run_dir.display().to_string();
        let ends = match look(&mut channel, &name, &run_dir)? {
            Claim::Ours { near, far } => {
                tracing::info!(
                    device = name.near(),
                    "took over the pair of an earlier agent"
                );
                Some((near, far))
            }
            Claim::Free => None,
            Claim::Unfinished { near } => {
                remove(&mut channel, near, &name)?;
                None
            }
            Claim::Another { run_dir } => return Err(another(&name, run_dir)),
            Claim::Stranger { name } => return Err(PairError::Stranger { name }),
        };
        let is_kept = ends.is_some();
        let (near, far) = match ends {
            Some(ends) => ends,
            None => create(&mut channel, &name)?,
        };
        // From here on, whatever fails: dropping it removes the devices, if they are new.
        let mut pair = Self {
            name,
            near,
            far,
            hairpin,
            has_ipv6: sysctl::has_ipv6(),
            channel,
            alias: name::alias(&run_dir),
            led: BTreeMap::new(),
            left_out: BTreeSet::new(),
            refused: BTreeSet::new(),
            is_kept,
            trouble: None,
        };
        pair.set_up()?;
        Ok(pair)
    }

    /// Keeps the devices from now on, whatever becomes of the agent.
    pub fn keep(&mut self) {
        self.is_kept = true;
    }

    /// What the programs must know.
    pub fn facts(&self) -> HostFacts {
        HostFacts {
            near: self.near,
            near_mac: NEAR_MAC,
            far_mac: FAR_MAC,
            hairpin: self.hairpin,
        }
    }

    /// Index of the end where the node's connections come in.
    pub fn far(&self) -> u32 {
        self.far
    }

    /// Whether this kernel has IPv6.
    pub fn has_ipv6(&self) -> bool {
        self.has_ipv6
    }

    /// Makes the routes to the pair as `wanted`, as far as it goes; says once what does not, and says so again
    /// when it was mended meanwhile. Returns whether anything failed that may work later.
    pub fn lead(&mut self, wanted: &Wanted, survey: &Survey) -> bool {
        let Changes {
            put,
            delete,
            left_out,
        } = routes::changes(wanted, self.hairpin, survey, self.near);
        let left_out: BTreeSet<_> = left_out.into_iter().collect();
        for (prefix, reason) in left_out.difference(&self.left_out) {
            tracing::warn!(
                "processes of this node do not reach the services of {prefix}: {reason}"
            );
        }
        self.left_out = left_out;
        let mut refused = BTreeSet::new();
        // First what goes, so that a prefix which moves is never without its better half.
        for (prefix, value) in delete {
            let message = request::route(prefix, value, self.near);
            let result = self
                .channel
                .change(RouteNetlinkMessage::DelRoute(message), 0);
            // Gone is gone.
            let result = result.or_else(|error| match error.raw_os_error() {
                Some(libc::ESRCH) => Ok(()),
                _ => Err(error),
            });
            self.led.remove(&prefix);
            refused.extend(self.told("remove", prefix, value, result));
        }
        for (prefix, value) in put {
            let message = request::route(prefix, value, self.near);
            let message = RouteNetlinkMessage::NewRoute(message);
            let result = self.channel.change(message, NLM_F_CREATE | NLM_F_REPLACE);
            if result.is_ok() && self.led.insert(prefix, value) == Some(value) {
                self.mended(Thing::Route, &prefix.to_string());
            }
            refused.extend(self.told("make", prefix, value, result));
        }
        self.refused = refused;
        !self.refused.is_empty()
    }

    /// What was refused, said unless it was before.
    fn told(
        &self,
        verb: &str,
        prefix: IpNet,
        value: Value,
        result: io::Result<()>,
    ) -> Option<(IpNet, String)> {
        let device = self.name.near();
        let source = value.source.map(tracing::field::display);
        let Err(error) = result else {
            tracing::debug!(%prefix, device, source, advmss = value.advmss, "{verb} a route");
            return None;
        };
        let refused = (prefix, format!("{verb}: {error}"));
        if !self.refused.contains(&refused) {
            tracing::warn!(
                %prefix, device, source, %error,
                "cannot {verb} the route of a service; processes of this node may not reach it; tried again"
            );
        }
        Some(refused)
    }

    fn set_up(&mut self) -> Result<(), PairError> {
        if !self.has_ipv6 {
            tracing::info!(
                "this kernel has no IPv6; processes of this node reach IPv4 services only"
            );
        }
        let links = self.links()?;
        for (index, mac) in [(self.near, NEAR_MAC), (self.far, FAR_MAC)] {
            let mut links = links.iter();
            let found = links.find(|link| link.index == index);
            let has_mac = found.is_some_and(|link| link.mac == Some(mac));
            self.properties(index, (!has_mac).then_some(mac))?;
        }
        self.clear_addresses()?;
        match self.restore(false) {
            // Pods and clients outside are served without, and sysctls may become writable.
            Err(PairError::Sysctl(error)) => {
                self.note(Some(with_causes(&error)));
                Ok(())
            }
            restored => restored,
        }
    }

    /// Removes the addresses that an earlier agent gave, with another hairpin address perhaps.
    fn clear_addresses(&mut self) -> Result<(), PairError> {
        let listed = self.channel.list(request::all_addresses());
        let own = request::address(self.near, self.hairpin.near_address());
        for message in listed.map_err(PairError::List)? {
            let RouteNetlinkMessage::NewAddress(message) = message else {
                continue;
            };
            let index = message.header.index;
            let is_of_pair = index == self.near || index == self.far;
            if is_of_pair && !request::is_same_address(&own, &message) {
                let message = RouteNetlinkMessage::DelAddress(message);
                self.set(index, "no old address".to_owned(), message, 0)?;
            }
        }
        Ok(())
    }
}

impl Drop for HostPair {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let result = self.channel.change(request::delete(self.near), 0);
        match result {
            Err(error) if error.raw_os_error() != Some(libc::ENODEV) => {
                let device = self.name.near();
                tracing::warn!(device, %error, "cannot remove the pair; `ip link delete {device}` does");
            }
            _ => {}
        }
    }
}

fn look(
    channel: &mut Channel<RouteNetlinkMessage>,
    name: &PairName,
    run_dir: &str,
) -> Result<Claim, PairError> {
    let links = channel
        .list(request::all_links())
        .map_err(PairError::List)?;
    let links: Vec<claim::Link> = links.iter().filter_map(request::link).collect();
    // An alias holds no more than the end of a long path.
    let alias = name::alias(run_dir);
    Ok(claim(&links, name, name::owner(&alias).unwrap_or(run_dir)))
}

/// A pair that nobody holds any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// The node's end; the other goes with it.
    pub name: String,
    index: u32,
}

/// The pairs in this network namespace that dead agents of `run_dir` left; the caller holds its lock, or there is none.
pub fn left_behind(run_dir: &Path) -> Result<Vec<Leftover>, PairError> {
    let mut channel = Channel::open(NETLINK_ROUTE).map_err(PairError::Open)?;
    let links = channel
        .list(request::all_links())
        .map_err(PairError::List)?;
    let links: Vec<claim::Link> = links.iter().filter_map(request::link).collect();
    // An alias holds no more than the end of a long path.
    let alias = name::alias(&run_dir.display().to_string());
    let ends = claim::of_run_dir(&links, name::owner(&alias).unwrap_or_default());
    let left = ends.map(|near| Leftover {
        name: near.name.clone(),
        index: near.index,
    });
    Ok(left.collect())
}

impl Leftover {
    /// Removes both ends, and with them routes and addresses.
    pub fn remove(&self) -> Result<(), PairError> {
        let mut channel = Channel::open(NETLINK_ROUTE).map_err(PairError::Open)?;
        channel
            .change(request::delete(self.index), 0)
            .map_err(|source| PairError::Set {
                what: "the removal".to_owned(),
                device: self.name.clone(),
                source,
            })
    }
}

fn create(
    channel: &mut Channel<RouteNetlinkMessage>,
    name: &PairName,
) -> Result<(u32, u32), PairError> {
    let refused = |source| PairError::Make {
        near: name.near(),
        far: name.far(),
        source,
    };
    channel
        .change(request::create(name, MTU, None), NLM_F_CREATE | NLM_F_EXCL)
        .map_err(refused)?;
    let found = channel.list(request::all_links()).and_then(|links| {
        let index = |name: &str| {
            let mut links = links.iter().filter_map(request::link);
            links.find(|link| link.name == name).map(|link| link.index)
        };
        // None if somebody was faster to remove them than we to look.
        let ends = index(&name.near()).zip(index(&name.far()));
        ends.ok_or(io::ErrorKind::NotFound.into())
    });
    found.map_err(|error| {
        // Without its number it is removed by its name; where it is gone there is nothing to remove.
        let _ = channel.change(request::delete_named(&name.near()), 0);
        refused(error)
    })
}

fn remove(
    channel: &mut Channel<RouteNetlinkMessage>,
    near: u32,
    name: &PairName,
) -> Result<(), PairError> {
    channel
        .change(request::delete(near), 0)
        .map_err(|source| PairError::Set {
            what: "the removal".to_owned(),
            device: name.near(),
            source,
        })
}

/// Why the pair of another run directory is not ours: an agent that has ended serves on by it.
fn another(name: &PairName, run_dir: String) -> PairError {
    let lock = File::open(Path::new(&run_dir).join(crate::agent::run_dir::LOCK));
    let state = match lock.map(|lock| lock.try_lock()) {
        Ok(Ok(())) => "has ended, but what it left in the kernel serves on",
        Ok(Err(TryLockError::WouldBlock)) => "runs",
        _ => "may run: its lock is not there to be tried",
    };
    PairError::Another {
        near: name.near(),
        far: name.far(),
        run_dir,
        state,
    }
}
