//! The same where the stack forwards, and a firewall on each node lets through what belongs to connections.

use lb_tests::{
    firewall::Firewall,
    netns::require_root,
    stage::{Backend, Cell, Client, Frontend, Stage},
    topology::{Attachment, Config, Interconnect, ReversePath},
};

use crate::two_nodes;

#[test]
fn routed_pods_over_ethernet() {
    through_a_firewall(&two_nodes());
}

#[test]
fn routed_pods_over_a_device_without_ethernet_header() {
    through_a_firewall(&Config {
        interconnect: Interconnect::Tun,
        ..two_nodes()
    });
}

#[test]
fn pods_behind_a_bridge_over_vxlan() {
    through_a_firewall(&Config {
        attachment: Attachment::Bridge,
        interconnect: Interconnect::Vxlan,
        reverse_path: ReversePath::Loose,
        ..two_nodes()
    });
}

/// Every cell of every address is answered, all that is forwarded are whole connections between clients and backends, and
/// none has passed the firewall by. A packet that belongs to no connection is dropped: an answer that did would be missed.
fn through_a_firewall(config: &Config) {
    if !require_root() {
        return;
    }
    let stage = Stage::new(config, &["--forward", "stack"]).unwrap();
    let nodes = &stage.cluster().nodes;
    let walls: Vec<Firewall<'_>> = nodes
        .iter()
        .map(|node| Firewall::new(&node.namespace, "").unwrap())
        .collect();
    let mut cells = Cell::all(&Client::ALL, &Frontend::OF_SERVICES, &Backend::OF_NODES);
    cells.extend(Cell::all(
        &[Client::Pod],
        &[Frontend::ClusterIp],
        &[Backend::Itself],
    ));
    cells.retain(Cell::is_served);
    if let Err(error) = stage.run(&cells) {
        panic!("{error:#}");
    }
    for (node, wall) in nodes.iter().zip(&walls) {
        let count = |name| wall.count(name).unwrap();
        assert_eq!(count("of_services"), 0, "{}", node.name);
        assert!(count("new") > 0, "{}", node.name);
        assert!(count("established") > count("new"), "{}", node.name);
    }
}
