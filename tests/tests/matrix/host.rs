//! The node's own processes as clients, with every `rp_filter`, with and without a default route: the matrix of the design.

use lb_tests::{
    netns::require_root,
    stage::{Backend, Cell, Client, Frontend},
    topology::{Config, DefaultRoute, Outside, ReversePath},
};

use crate::{run, two_nodes};

#[test]
fn rp_filter_0_without_default_route() {
    matrix(ReversePath::Off, DefaultRoute::Without);
}

#[test]
fn rp_filter_0_with_default_route() {
    matrix(ReversePath::Off, DefaultRoute::With);
}

#[test]
fn rp_filter_1_without_default_route() {
    matrix(ReversePath::Strict, DefaultRoute::Without);
}

#[test]
fn rp_filter_1_with_default_route() {
    matrix(ReversePath::Strict, DefaultRoute::With);
}

#[test]
fn rp_filter_2_without_default_route() {
    matrix(ReversePath::Loose, DefaultRoute::Without);
}

#[test]
fn rp_filter_2_with_default_route() {
    matrix(ReversePath::Loose, DefaultRoute::With);
}

fn matrix(reverse_path: ReversePath, default_route: DefaultRoute) {
    if !require_root() {
        return;
    }
    let config = Config {
        reverse_path,
        default_route,
        outside: Outside::BehindGateway,
        ..two_nodes()
    };
    run(
        &config,
        &Cell::all(&[Client::Host], &Frontend::OF_SERVICES, &Backend::OF_NODES),
    );
}
