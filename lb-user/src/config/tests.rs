//! What flags make of a configuration, and which are refused.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    flags: Flags,
}

fn config(line: &str) -> Result<Config, String> {
    let words = ["run", "--manifests", "dir", "--node-name", "n1"].into_iter();
    let line = Line::try_parse_from(words.chain(line.split_whitespace()))
        .map_err(|error| error.to_string())?;
    line.flags.check().map_err(|error| error.to_string())
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let expected = Config {
        manifests: Manifests::Path("dir".into()),
        node_name: "n1".to_owned(),
        node_ips: NodeAddresses::default(),
        uplinks: None,
        pod_devices: None,
        host_device: "fulcrum".parse().expect("a name"),
        hairpin: Hairpin {
            v4: "169.254.90.1".parse().expect("literal"),
            v6: "fd66:756c:6372:756d::1".parse().expect("literal"),
        },
        service_cidrs: vec![
            "10.96.0.0/12".parse().expect("literal"),
            "fd00:10:96::/112".parse().expect("literal"),
        ],
        pod_cidrs: Vec::new(),
        services: ServiceSettings::default(),
        flows: FlowSettings::default(),
        flow_table: FlowTableSizes {
            size: 1 << 17,
            max: 1 << 19,
            is_given: true,
        },
        modes: Modes::new(&["auto".parse().expect("a mode")]),
        forward: Forward::Direct,
        local_delivery: LocalDelivery::Auto,
        sockets: Sockets::None,
        probe: false,
        healthz: Some("0.0.0.0:10256".parse().expect("literal")),
    };
    assert_eq!(config("--flow-table-size 131072"), Ok(expected));
}

#[test]
fn lists_may_be_repeated_or_joined_by_commas() {
    let config = config("--uplink eth0,eth1 --uplink wg* --mode xdp").expect("valid flags");
    let uplinks: Vec<String> = config
        .uplinks
        .expect("given")
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(uplinks, ["eth0", "eth1", "wg*"]);
    assert_eq!(config.modes.of("eth0"), Mode::Xdp);
}

#[test]
fn a_dash_means_standard_input() {
    let words = ["run", "-f", "-", "--node-name", "n1"];
    let line = Line::try_parse_from(words)
        .map_err(|error| error.to_string())
        .expect("valid");
    let config = line.flags.check().expect("valid");
    assert_eq!(config.manifests, Manifests::Stdin);
}

#[test]
fn there_is_something_to_serve() {
    let line = Line::try_parse_from(["run", "--node-name", "n1"]);
    assert!(line.is_err(), "no file could say it");
    let line = Line::try_parse_from(["run", "--node-name", "n1", "--config", "f"]);
    let line = line.map_err(|error| error.to_string()).expect("valid");
    let error = line.flags.check().expect_err("nothing to serve");
    assert!(error.to_string().contains("--manifests"), "{error}");
}

#[test]
fn what_cannot_be_used_is_named_with_its_flag_and_value() {
    for (line, message) in [
        (
            "--flow-table-size 1000",
            "--flow-table-size 1000: must be a power of two from 64",
        ),
        (
            "--service-node-port-range 60000-62000",
            "--snat-ports 61000-65535 overlaps --service-node-port-range 60000-62000",
        ),
        (
            "--node-ip 0.0.0.0",
            "--node-ip 0.0.0.0: not an address that a node can have",
        ),
        (
            "--node-ip 192.0.2.1 --node-ip 192.0.2.2",
            "--node-ip 192.0.2.2: there is 192.0.2.1 already",
        ),
        (
            "--uplink a/b",
            "--uplink \"a/b\": a device name has no blank, slash",
        ),
        (
            "--pod-cidr 10.244.1.1/16",
            "--pod-cidr 10.244.1.1/16: has host bits; did you mean 10.244.0.0/16?",
        ),
        (
            "--pod-cidr 10.100.0.0/16",
            "--pod-cidr 10.100.0.0/16 overlaps service-cidr 10.96.0.0/12",
        ),
        (
            "--service-cidr 10.0.0.0/8,10.1.0.0/16",
            "--service-cidr 10.1.0.0/16 overlaps service-cidr 10.0.0.0/8",
        ),
        ("--node-name Upper", "cannot be used multiple times"),
    ] {
        let error = config(line).expect_err(line);
        assert!(error.contains(message), "{line}: {error}");
    }
}

#[test]
fn the_agents_own_devices_and_addresses_are_nobody_elses() {
    for (line, message) in [
        (
            "--host-device fifteen-letters",
            "--host-device \"fifteen-letters\": a device name has at most 15 bytes",
        ),
        (
            "--hairpin-ip fe80::1",
            "--hairpin-ip fe80::1: pods ask their own link",
        ),
        ("--hairpin-ip 169.254.1.1,169.254.1.2", "invalid value"),
        (
            "--hairpin-ip 169.254.1.1 --hairpin-ip 169.254.1.2",
            "--hairpin-ip 169.254.1.2: there is 169.254.1.1 already",
        ),
        (
            "--hairpin-ip 10.96.0.9",
            "--hairpin-ip 10.96.0.9: belongs to 10.96.0.0/12",
        ),
        (
            "--hairpin-ip 192.0.2.1 --node-ip 192.0.2.2",
            "--hairpin-ip 192.0.2.2: belongs to this node",
        ),
        (
            "--pod-cidr 169.254.0.0/16",
            "--hairpin-ip 169.254.90.1: belongs to 169.254.0.0/16",
        ),
    ] {
        let error = config(line).expect_err(line);
        assert!(error.contains(message), "{line}: {error}");
    }
}

#[test]
fn a_node_has_a_name_that_kubernetes_allows() {
    assert_eq!(
        node_name(Some("node-1.example".to_owned())).expect("valid"),
        "node-1.example"
    );
    for name in ["", "Node", "-a", "a_b", "a-"] {
        let error = node_name(Some(name.to_owned()))
            .expect_err(name)
            .to_string();
        assert!(error.contains("--node-name"), "{error}");
    }
    assert!(
        node_name(None).is_ok(),
        "the host name of any machine that runs tests"
    );
}
