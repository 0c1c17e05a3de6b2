//! What this node is, where the flags leave it open.
//!
//! Level-triggered like the devices: found out again at each look, since addresses and routes come and go.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    config::{Config, reload::Live},
    loader::{
        device::{Selection, Uplinks},
        pair::routes::{self, Wanted},
        uplink::{NodeAddresses, Survey},
    },
};

/// What the services ask of the node's devices and routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// All service addresses.
    pub services: Arc<BTreeSet<IpAddr>>,
    /// All prefixes of pods, those of this node included.
    pub pod_cidrs: BTreeSet<IpNet>,
}

/// The node's own addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// All that mean the node to others as well.
    pub addresses: BTreeSet<IpAddr>,
    /// Those of each uplink that may stand in for clients', the one that is taken first at first.
    pub stand_ins: BTreeMap<u32, Vec<IpAddr>>,
}

/// Which devices play a part, and what is known about the node's addresses.
#[derive(Debug)]
pub struct Node {
    /// Which devices take programs.
    pub selection: Selection,
    /// The node's addresses, fixed when the programs were loaded.
    pub addresses: NodeAddresses,
    service_cidrs: Vec<IpNet>,
}

impl Node {
    /// Finds out what the flags leave open, and says what it is and what it lacks.
    pub fn find(config: &Config, survey: &Survey) -> Self {
        let uplinks = match &config.uplinks {
            Some(patterns) => Uplinks::Named(patterns.clone()),
            None => Uplinks::Found(BTreeSet::new()),
        };
        let mut node = Self {
            selection: Selection {
                uplinks,
                pods: config.pod_devices.clone(),
                host: None,
            },
            addresses: NodeAddresses::default(),
            service_cidrs: config.service_cidrs.clone(),
        };
        node.follow(survey, &config.pod_cidrs.iter().copied().collect());
        node.addresses = survey.node_addresses(config.node_ips, &node.selection);
        node.tell(&config.node_name, survey);
        node
    }

    /// Takes other devices than the configuration named so far.
    pub fn select(&mut self, live: &Live) {
        let Selection { uplinks, pods, .. } = &mut self.selection;
        match (&live.uplinks, &*uplinks) {
            (Some(patterns), _) => *uplinks = Uplinks::Named(patterns.clone()),
            (None, Uplinks::Named(_)) => *uplinks = Uplinks::Found(BTreeSet::new()),
            // What was found stays.
            (None, Uplinks::Found(_)) => {}
        }
        pods.clone_from(&live.pod_devices);
    }

    /// Takes devices as uplinks that lead out of the node now, unless uplinks are named. One that was an
    /// uplink stays one as long as it lives: a route that goes for a moment must not break connections.
    pub fn follow(&mut self, survey: &Survey, pod_cidrs: &BTreeSet<IpNet>) {
        let found = survey.ways_out(pod_cidrs, &self.selection);
        let Uplinks::Found(uplinks) = &mut self.selection.uplinks else {
            return;
        };
        uplinks.retain(|index| survey.devices.iter().any(|device| device.index == *index));
        uplinks.extend(found);
    }

    /// The addresses that this node has now.
    pub fn own(&self, survey: &Survey) -> Own {
        Own {
            addresses: survey.own_addresses(),
            stand_ins: survey.stand_ins(&self.selection, self.addresses),
        }
    }

    /// The routes that let the node's own processes reach the services.
    pub fn routes(&self, survey: &Survey, demand: &Demand, has_ipv6: bool) -> Wanted {
        let uplinks = survey.uplinks(&self.selection).map(|device| device.index);
        Wanted {
            service_cidrs: self.service_cidrs.clone(),
            services: demand.services.clone(),
            sources: self.addresses,
            mtu: routes::mtu(survey, uplinks),
            has_ipv6,
        }
    }

    fn tell(&self, name: &str, survey: &Survey) {
        if let Uplinks::Named(patterns) = &self.selection.uplinks {
            for pattern in patterns {
                let mut devices = survey.devices.iter();
                if !devices.any(|device| pattern.matches(&device.name)) {
                    tracing::warn!(
                        %pattern,
                        "no device has this name yet; it is attached when it appears"
                    );
                }
            }
        }
        let uplinks: Vec<&str> = survey
            .uplinks(&self.selection)
            .map(|device| device.name.as_str())
            .collect();
        if uplinks.is_empty() {
            tracing::warn!(
                "no route leads out of the node: only its own pods and processes reach services until one does; \
                 name the devices that lead out by --uplink"
            );
        }
        let NodeAddresses { v4, v6 } = self.addresses;
        if (v4, v6) == (None, None) {
            tracing::warn!(
                "no uplink has an address: clients from outside are not masqueraded; give one by --node-ip"
            );
        }
        let own = survey.own_addresses();
        for addr in v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6)) {
            if !own.contains(&addr) {
                tracing::warn!(
                    %addr,
                    "no device has this address, which --node-ip names; connections of the node's own \
                     processes take another source"
                );
            }
        }
        tracing::info!(
            node = name,
            ?uplinks,
            ipv4 = v4.map(tracing::field::display::<Ipv4Addr>),
            ipv6 = v6.map(tracing::field::display::<Ipv6Addr>),
            "this node"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{LocalDelivery, ServiceSettings},
        loader::{
            device::{Device, Layer, Pair},
            route::{Hop, Route},
        },
    };

    fn survey(devices: &[u32], default_route: Option<u32>) -> Survey {
        let device = |index: &u32| Device {
            index: *index,
            name: format!("eth{index}"),
            layer: Layer::Ethernet,
            pair: Pair::None,
            aggregate: None,
            is_bridge: false,
            is_fed_here: false,
            is_host_pair: false,
            mtu: 1400,
            obstacle: None,
        };
        let route = |device| Route {
            prefix: "0.0.0.0/0".parse().expect("literal"),
            hops: vec![Hop {
                device,
                gateway: None,
            }],
            source: None,
            advmss: None,
            protocol: 3,
        };
        Survey {
            devices: devices.iter().map(device).collect(),
            routes: default_route.map(route).into_iter().collect(),
            addresses: Vec::new(),
        }
    }

    fn node(uplinks: Uplinks) -> Node {
        Node {
            selection: Selection {
                uplinks,
                pods: None,
                host: None,
            },
            addresses: NodeAddresses::default(),
            service_cidrs: Vec::new(),
        }
    }

    #[test]
    fn an_uplink_stays_one_while_it_lives_and_new_ones_are_found() {
        let mut node = node(Uplinks::Found(BTreeSet::new()));
        let mut after = |devices: &[u32], default_route| {
            node.follow(&survey(devices, default_route), &BTreeSet::new());
            node.selection.uplinks.clone()
        };
        let found = |indexes: &[u32]| Uplinks::Found(indexes.iter().copied().collect());
        assert_eq!(after(&[2, 3], None), found(&[]));
        assert_eq!(after(&[2, 3], Some(2)), found(&[2]));
        assert_eq!(
            after(&[2, 3], None),
            found(&[2]),
            "the route went for a moment"
        );
        assert_eq!(after(&[2, 3], Some(3)), found(&[2, 3]));
        assert_eq!(after(&[3], Some(3)), found(&[3]), "the device went");
    }

    #[test]
    fn other_devices_can_be_named_while_it_runs_and_none() {
        let live = |uplinks: Option<&str>| Live {
            uplinks: uplinks.map(|name| vec![name.parse().expect("a name")]),
            pod_devices: Some(vec!["veth*".parse().expect("a pattern")]),
            pod_cidrs: Vec::new(),
            services: ServiceSettings::default(),
            local_delivery: LocalDelivery::default(),
        };
        let mut node = node(Uplinks::Found(BTreeSet::from([2])));
        node.select(&live(None));
        assert_eq!(node.selection.uplinks, Uplinks::Found(BTreeSet::from([2])));
        assert!(node.selection.pods.is_some());
        node.select(&live(Some("eth3")));
        let named = Uplinks::Named(vec!["eth3".parse().expect("a name")]);
        assert_eq!(node.selection.uplinks, named);
        node.select(&live(None));
        node.follow(&survey(&[2, 3], Some(3)), &BTreeSet::new());
        assert_eq!(node.selection.uplinks, Uplinks::Found(BTreeSet::from([3])));
    }

    #[test]
    fn named_uplinks_are_these_and_no_others() {
        let named = Uplinks::Named(vec!["eth2".parse().expect("a name")]);
        let mut node = node(named.clone());
        let survey = survey(&[2, 3], Some(3));
        node.follow(&survey, &BTreeSet::new());
        assert_eq!(node.selection.uplinks, named);
        let wanted = node.routes(&survey, &Demand::default(), true);
        assert_eq!(wanted.mtu, 1400);
    }
}
