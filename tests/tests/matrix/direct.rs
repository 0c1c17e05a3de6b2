//! The clusters themselves, without any agent: whoever has a route reaches everybody, and is seen as who he is.

use lb_tests::{
    netns::require_root,
    stage::{self, Backend, Cell, Client, Frontend},
    topology::{Attachment, Config, DefaultRoute, Interconnect, Outside, ReversePath},
};

use crate::two_nodes;

#[test]
fn every_place_is_reached_with_every_attachment_and_interconnect() {
    for attachment in [Attachment::Routed, Attachment::Bridge] {
        for interconnect in [
            Interconnect::Ethernet,
            Interconnect::Vxlan,
            Interconnect::Tun,
        ] {
            directly(&Config {
                attachment,
                interconnect,
                ..two_nodes()
            });
        }
    }
}

#[test]
fn every_place_is_reached_with_every_reverse_path_filter_and_default_route() {
    let all = [ReversePath::Off, ReversePath::Strict, ReversePath::Loose];
    for reverse_path in all {
        for default_route in [DefaultRoute::Without, DefaultRoute::With] {
            directly(&Config {
                reverse_path,
                default_route,
                outside: Outside::BehindGateway,
                ..two_nodes()
            });
        }
    }
}

#[test]
fn every_place_is_reached_with_an_mtu_of_its_own_between_nodes() {
    for interconnect in [Interconnect::Vxlan, Interconnect::Tun] {
        directly(&Config {
            interconnect,
            tunnel_mtu: Some(1400),
            ..two_nodes()
        });
    }
}

fn directly(config: &Config) {
    if !require_root() {
        return;
    }
    let direct = [Frontend::Direct];
    let inside = [Client::Host, Client::Pod];
    let mut cells = Cell::all(&inside, &direct, &Backend::OF_NODES);
    if config.outside == Outside::BehindGateway {
        cells.extend(Cell::all(&[Client::Outside], &direct, &Backend::OF_NODES));
        cells.extend(Cell::all(&inside, &direct, &[Backend::Outside]));
    } else {
        // On the segment nobody knows the way to pods.
        let nodes = [Backend::HostHere, Backend::HostThere];
        cells.extend(Cell::all(&[Client::Outside], &direct, &nodes));
        cells.extend(Cell::all(&[Client::Host], &direct, &[Backend::Outside]));
    }
    if let Err(error) = stage::run_directly(config, &cells) {
        panic!("{config:?}: {error:#}");
    }
}
