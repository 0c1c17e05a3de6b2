//! Decisions over made-up devices, routes and addresses.

use super::*;
use crate::loader::{device::Uplinks, pattern::Pattern};

fn device(index: u32, name: &str) -> Device {
    Device {
        index,
        name: name.to_owned(),
        layer: Layer::Ethernet,
        pair: Pair::None,
        aggregate: None,
        is_bridge: false,
        is_fed_here: false,
        is_host_pair: false,
        mtu: 1500,
        obstacle: None,
    }
}

fn net(text: &str) -> IpNet {
    text.parse().expect("literal")
}

fn route(prefix: &str, device: u32, gateway: Option<&str>) -> Route {
    Route {
        prefix: net(prefix),
        hops: vec![Hop {
            device,
            gateway: gateway.map(|addr| addr.parse().expect("literal")),
        }],
        source: None,
        advmss: None,
        protocol: 3,
    }
}

fn default_route(device: u32, source: Option<&str>) -> Route {
    Route {
        source: source.map(|addr| addr.parse().expect("literal")),
        ..route("0.0.0.0/0", device, Some("192.0.2.254"))
    }
}

fn assigned(device: u32, addr: &str, usable: bool) -> Assigned {
    Assigned {
        device,
        addr: addr.parse().expect("literal"),
        usable,
        may_stand_in: usable,
    }
}

fn selection(uplinks: Uplinks) -> Selection {
    Selection {
        uplinks,
        pods: None,
        host: None,
    }
}

fn found(asked: NodeAddresses, routes: &[Route], addresses: &[Assigned]) -> NodeAddresses {
    let survey = Survey {
        devices: vec![device(1, "lo"), device(2, "eth0"), device(3, "eth1")],
        routes: routes.to_vec(),
        addresses: addresses.to_vec(),
    };
    let named = Uplinks::Named(vec![Pattern::exact("eth0")]);
    survey.node_addresses(asked, &selection(named))
}

/// The names of the devices that lead out, of a node with two NICs, an overlay, a bridge of pods and a pod.
fn ways_out(routes: &[Route], pod_cidrs: &[&str]) -> Vec<String> {
    let mut survey = Survey {
        devices: vec![
            device(2, "eth0"),
            device(3, "eth1"),
            device(4, "vxlan0"),
            device(5, "cni0"),
            device(6, "veth1"),
            device(7, "fulcrum0"),
        ],
        routes: routes.to_vec(),
        addresses: Vec::new(),
    };
    survey.devices[3].is_bridge = true;
    survey.devices[4].pair = Pair::Elsewhere;
    survey.devices[5].is_host_pair = true;
    let cidrs = pod_cidrs.iter().map(|text| net(text)).collect();
    let found = survey.ways_out(&cidrs, &selection(Uplinks::Found(BTreeSet::new())));
    let named = survey
        .devices
        .iter()
        .filter(|device| found.contains(&device.index));
    named.map(|device| device.name.clone()).collect()
}

#[test]
fn the_devices_of_the_default_routes_lead_out() {
    let routes = [
        default_route(3, None),
        default_route(2, None),
        route("192.0.2.0/24", 4, None),
    ];
    assert_eq!(ways_out(&routes, &[]), ["eth0", "eth1"]);
    assert_eq!(
        ways_out(&[default_route(5, None)], &[]),
        ["cni0"],
        "a bridge may"
    );
    assert_eq!(ways_out(&[], &["10.244.0.0/16"]), [""; 0]);
}

#[test]
fn an_overlay_that_leads_to_pods_elsewhere_leads_out() {
    let routes = [
        default_route(2, None),
        route("10.244.1.0/24", 5, None),
        route("10.244.2.0/24", 4, Some("10.244.2.0")),
    ];
    assert_eq!(ways_out(&routes, &["10.244.0.0/16"]), ["eth0", "vxlan0"]);
    assert_eq!(
        ways_out(&routes, &["10.244.1.0/24", "10.244.2.0/24"]),
        ["eth0", "vxlan0"]
    );
    assert_eq!(ways_out(&routes, &["10.245.0.0/16"]), ["eth0"]);
}

#[test]
fn a_route_that_covers_the_pods_leads_out_if_none_is_more_specific() {
    let routes = [
        route("10.0.0.0/8", 3, Some("192.0.2.1")),
        route("10.240.0.0/12", 4, None),
    ];
    assert_eq!(ways_out(&routes, &["10.244.0.0/16"]), ["vxlan0"]);
}

#[test]
fn the_nodes_own_pods_do_not_lead_out() {
    let routes = [
        route("10.244.1.2/32", 6, None),
        route("10.244.1.0/24", 5, None),
        route("10.244.1.9/32", 7, None),
    ];
    assert_eq!(ways_out(&routes, &["10.244.1.0/24"]), [""; 0]);
    // A node that is a container itself: its uplink is a pair as well.
    let routes = [route("10.244.2.0/24", 6, Some("172.18.0.3"))];
    assert_eq!(ways_out(&routes, &["10.244.2.0/24"]), ["veth1"]);
}

#[test]
fn the_preferred_source_of_an_uplinks_route_is_the_nodes_address() {
    let addresses = [
        assigned(2, "192.0.2.1", true),
        assigned(2, "192.0.2.9", true),
    ];
    let routes = [
        default_route(3, Some("198.51.100.1")),
        default_route(2, Some("192.0.2.9")),
    ];
    let result = found(NodeAddresses::default(), &routes, &addresses);
    assert_eq!(result.v4, Some(Ipv4Addr::new(192, 0, 2, 9)));
    assert_eq!(result.v6, None);
}

#[test]
fn without_one_the_first_usable_address_of_the_uplink_is() {
    let addresses = [
        assigned(3, "198.51.100.1", true),
        assigned(2, "fe80::1", false),
        assigned(2, "2001:db8::1", true),
        assigned(2, "192.0.2.1", true),
    ];
    let routes = [default_route(2, None), {
        let mut host = route("198.51.100.9/32", 2, None);
        host.source = Some("198.51.100.1".parse().expect("literal"));
        host
    }];
    let result = found(NodeAddresses::default(), &routes, &addresses);
    assert_eq!(result.v4, Some(Ipv4Addr::new(192, 0, 2, 1)));
    assert_eq!(result.v6, Some("2001:db8::1".parse().expect("literal")));
}

#[test]
fn what_was_asked_for_stands() {
    let asked = NodeAddresses {
        v4: Some(Ipv4Addr::new(203, 0, 113, 5)),
        v6: None,
    };
    let routes = [default_route(2, Some("192.0.2.9"))];
    assert_eq!(found(asked, &routes, &[]).v4, asked.v4);
}

#[test]
fn the_nodes_own_addresses_are_those_that_mean_it_to_others_too() {
    let mut pair = device(7, "fulcrum0");
    pair.is_host_pair = true;
    let survey = Survey {
        devices: vec![device(1, "lo"), device(2, "eth0"), pair],
        routes: Vec::new(),
        addresses: vec![
            assigned(1, "127.0.0.1", false),
            assigned(1, "::1", false),
            assigned(1, "198.51.100.7", false),
            assigned(2, "192.0.2.1", true),
            assigned(2, "169.254.3.4", false),
            assigned(2, "fe80::1", false),
            assigned(2, "2001:db8::1", true),
            assigned(7, "10.9.8.7", false),
        ],
    };
    let own: Vec<String> = survey
        .own_addresses()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(own, ["192.0.2.1", "198.51.100.7", "2001:db8::1"]);
}

#[test]
fn an_uplinks_addresses_stand_in_for_clients_the_preferred_one_first() {
    let pair = Device {
        is_host_pair: true,
        ..device(4, "fulcrum0")
    };
    let survey = Survey {
        devices: vec![device(1, "lo"), device(2, "eth0"), device(3, "eth1"), pair],
        routes: vec![default_route(2, Some("192.0.2.3"))],
        addresses: vec![
            assigned(2, "192.0.2.1", true),
            assigned(2, "169.254.1.1", true),
            assigned(2, "192.0.2.2", true),
            assigned(2, "192.0.2.3", true),
            assigned(2, "192.0.2.4", false),
            assigned(2, "fe80::1", true),
            assigned(2, "2001:db8::1", true),
            assigned(3, "198.51.100.1", true),
            assigned(4, "203.0.113.1", true),
        ],
    };
    let node = NodeAddresses {
        v4: Some("192.0.2.2".parse().expect("literal")),
        v6: None,
    };
    let found = |uplink: &str| {
        let named = selection(Uplinks::Named(vec![uplink.parse().expect("a pattern")]));
        let found = survey.stand_ins(&named, node);
        let texts = |addrs: Vec<IpAddr>| addrs.iter().map(ToString::to_string).collect();
        found
            .into_iter()
            .map(|(device, addrs)| (device, texts(addrs)))
            .collect::<Vec<(u32, Vec<String>)>>()
    };
    let of_eth0 = ["192.0.2.3", "192.0.2.2", "192.0.2.1", "2001:db8::1"].map(str::to_owned);
    assert_eq!(found("eth0"), [(2, of_eth0.to_vec())]);
    let of_eth1 = (3, vec!["198.51.100.1".to_owned()]);
    assert_eq!(found("eth*"), [(2, of_eth0.to_vec()), of_eth1]);
    assert_eq!(found("fulcrum0"), [], "our own device leads nowhere");
}
