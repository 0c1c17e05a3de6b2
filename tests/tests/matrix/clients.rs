//! Clients of every kind on every kind of cluster: pods routed and behind a bridge, nodes connected by Ethernet, vxlan and
//! a device without Ethernet header; hairpin and host-network backends among the cells.

use lb_tests::{
    kernel,
    netns::require_root,
    stage::{Backend, Cell, Client, Frontend},
    topology::{Attachment, Config, DefaultRoute, Interconnect, Outside, ReversePath, Segment},
};

use crate::{run, two_nodes};

const CLUSTER_IP: [Frontend; 1] = [Frontend::ClusterIp];

#[test]
fn routed_pods_over_ethernet() {
    every_client(Attachment::Routed, Interconnect::Ethernet);
}

#[test]
fn routed_pods_over_vxlan() {
    every_client(Attachment::Routed, Interconnect::Vxlan);
}

#[test]
fn routed_pods_over_a_device_without_ethernet_header() {
    every_client(Attachment::Routed, Interconnect::Tun);
}

#[test]
fn pods_behind_a_bridge_over_ethernet() {
    every_client(Attachment::Bridge, Interconnect::Ethernet);
}

#[test]
fn pods_behind_a_bridge_over_vxlan() {
    every_client(Attachment::Bridge, Interconnect::Vxlan);
}

#[test]
fn pods_behind_a_bridge_over_a_device_without_ethernet_header() {
    every_client(Attachment::Bridge, Interconnect::Tun);
}

#[test]
fn pods_behind_netkit_over_ethernet() {
    every_client(Attachment::Netkit, Interconnect::Ethernet);
}

#[test]
fn with_strict_reverse_path_filters() {
    if !require_root() {
        return;
    }
    let config = Config {
        reverse_path: ReversePath::Strict,
        ..two_nodes()
    };
    run(&config, &cells());
}

#[test]
fn pods_behind_a_bridge_with_strict_reverse_path_filters() {
    if !require_root() {
        return;
    }
    let config = Config {
        attachment: Attachment::Bridge,
        reverse_path: ReversePath::Strict,
        ..two_nodes()
    };
    run(&config, &cells());
}

#[test]
fn a_client_behind_a_gateway_and_nodes_with_a_default_route() {
    if !require_root() {
        return;
    }
    let config = Config {
        outside: Outside::BehindGateway,
        default_route: DefaultRoute::With,
        ..two_nodes()
    };
    // With a gateway that knows the way to pods, they may have backends outside.
    let inside = [Client::Host, Client::Pod];
    let mut cells = cells();
    cells.extend(Cell::all(&inside, &CLUSTER_IP, &[Backend::Outside]));
    run(&config, &cells);
}

#[test]
fn over_a_segment_whose_frames_have_tags() {
    if !require_root() {
        return;
    }
    if !kernel::has_vlans().unwrap() {
        let cells = cells();
        let names = cells.iter().map(|cell| format!("vlan {cell}"));
        kernel::report_without_vlans(&names.collect::<Vec<_>>());
        return;
    }
    let config = Config {
        segment: Segment::Tagged,
        ..two_nodes()
    };
    run(&config, &cells());
}

fn every_client(attachment: Attachment, interconnect: Interconnect) {
    if !require_root() {
        return;
    }
    let config = Config {
        attachment,
        interconnect,
        ..two_nodes()
    };
    if attachment == Attachment::Netkit && !kernel::has_netkit().unwrap() {
        let names = cells()
            .iter()
            .map(|cell| format!("netkit {cell}"))
            .collect::<Vec<_>>();
        kernel::report_without_netkit(&names);
        return;
    }
    run(&config, &cells());
}

/// Everybody dials ClusterIPs of everybody, and a pod those of itself.
fn cells() -> Vec<Cell> {
    let mut cells = Cell::all(&Client::ALL, &CLUSTER_IP, &Backend::OF_NODES);
    cells.extend(Cell::all(&[Client::Pod], &CLUSTER_IP, &[Backend::Itself]));
    cells
}
