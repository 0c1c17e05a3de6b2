//! Judgements over made-up facts.

use super::*;

fn good() -> Facts {
    Facts {
        release: Some("6.12.9-amd64\n".to_owned()),
        has_btf: true,
        jit: Some("1\n".to_owned()),
        bpffs: "/sys/fs/bpf".into(),
        is_bpffs: Ok(true),
        status: Some("Name:\tx\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n".to_owned()),
        forwarding4: Some("1\n".to_owned()),
        forwarding6: Some("1\n".to_owned()),
        disable_ipv6: Some("0\n".to_owned()),
        uplinks: Ok(vec![uplink("eth0", None)]),
        devices: vec![forwarding("eth0", Some(true), None)],
        policy: policy::Found {
            nftables: Ok(netfilter::Ruleset::default()),
            legacy: legacy::Legacy::default(),
            devices: Vec::new(),
            programs: Vec::new(),
            by_stack: false,
        },
        node_ports: node_ports::Found::default(),
        rp_filters: vec![filter("all", 0), filter("eth0", 2)],
        cgroups: Ok(Some("/sys/fs/cgroup".into())),
    }
}

fn uplink(name: &str, no_xdp: Option<&'static str>) -> Uplink {
    Uplink {
        name: name.to_owned(),
        no_xdp,
    }
}

fn forwarding(device: &str, v4: Option<bool>, v6: Option<bool>) -> Forwarding {
    Forwarding {
        device: device.to_owned(),
        v4,
        v6,
    }
}

fn filter(device: &str, value: u8) -> RpFilter {
    RpFilter {
        device: device.to_owned(),
        value,
    }
}

/// The lines that are not `ok`.
fn complaints(change: impl FnOnce(&mut Facts)) -> Vec<String> {
    let mut facts = good();
    change(&mut facts);
    let items = items(&facts);
    items
        .iter()
        .filter(|item| item.level != Level::Ok)
        .map(ToString::to_string)
        .collect()
}

#[test]
fn a_good_machine_has_nothing_to_complain_about() {
    assert_eq!(complaints(|_| {}), [""; 0]);
    assert!(!has_failed(&items(&good())));
}

#[test]
fn lines_name_level_item_finding_and_remedy() {
    let mut facts = good();
    facts.forwarding4 = Some("0\n".to_owned());
    let items = items(&facts);
    assert!(has_failed(&items));
    let lines: Vec<String> = items.iter().map(ToString::to_string).collect();
    assert_eq!(lines[0], "ok    kernel: 6.12.9-amd64");
    let expected = "fail  IPv4 forwarding: off, so the kernel names no next hop for packets of others; \
        sysctl -w net.ipv4.ip_forward=1";
    assert!(lines.iter().any(|line| line == expected), "{lines:#?}");
}

#[test]
fn kernels_are_judged_by_their_version() {
    for (release, level, has_tcx) in [
        ("6.1.0-18-amd64", Level::Ok, false),
        ("6.6.0", Level::Ok, true),
        ("7.0-rc1", Level::Ok, true),
        ("5.15.0-100-generic", Level::Fail, false),
        ("custom", Level::Warn, false),
    ] {
        assert_eq!(kernel(Some(release)).level, level, "{release}");
        assert_eq!(tcx(Some(release)).level == Level::Ok, has_tcx, "{release}");
    }
    assert_eq!(kernel(None).level, Level::Warn);
}

#[test]
fn missing_capabilities_are_named() {
    // CAP_NET_ADMIN alone.
    let lines = complaints(|facts| facts.status = Some("CapEff:\t0000000000001000\n".to_owned()));
    assert_eq!(
        lines,
        ["fail  capabilities: no CAP_BPF, CAP_PERFMON; run as root or grant them"]
    );
    // CAP_SYS_ADMIN stands for both.
    let status = Some("CapEff:\t0000000000201000\n".to_owned());
    assert_eq!(complaints(|facts| facts.status = status), [""; 0]);
    let lines = complaints(|facts| facts.status = Some("CapEff:\tnonsense\n".to_owned()));
    assert!(
        lines[0].starts_with("warn  capabilities: cannot be read"),
        "{lines:?}"
    );
}

#[test]
fn the_filesystem_is_named_with_the_command_that_mounts_it() {
    let lines = complaints(|facts| facts.is_bpffs = Ok(false));
    assert_eq!(
        lines,
        ["fail  BPF filesystem: not mounted on /sys/fs/bpf; \
            mount -t bpf bpf /sys/fs/bpf, or name another by --bpffs"]
    );
}

#[test]
fn a_setting_of_the_machine_that_a_namespace_hides_is_no_complaint() {
    assert_eq!(complaints(|facts| facts.jit = None), [""; 0]);
    assert_eq!(
        complaints(|facts| facts.jit = Some("0\n".to_owned())).len(),
        1
    );
}

#[test]
fn reverse_path_filters_count_as_the_kernel_counts_them() {
    for (all, eth0, strict) in [(0, 0, 0), (0, 1, 1), (1, 0, 2), (1, 2, 1), (2, 1, 0)] {
        let lines = complaints(|facts| {
            facts.rp_filters = vec![filter("all", all), filter("eth0", eth0)];
        });
        assert_eq!(lines.len(), strict, "all={all} eth0={eth0}: {lines:#?}");
    }
}

#[test]
fn a_device_that_does_not_forward_is_named_with_the_setting() {
    let lines = complaints(|facts| {
        facts.devices = vec![
            forwarding("eth0.5", Some(false), None),
            forwarding("veth1", Some(true), Some(false)),
        ];
    });
    assert_eq!(
        lines,
        [
            "warn  device forwarding: IPv4 is not forwarded from eth0.5, so its packets reach no backend elsewhere; \
                sysctl -w net.ipv4.conf.eth0/5.forwarding=1",
            "warn  device forwarding: IPv6 is not forwarded from veth1, so its packets reach no backend elsewhere; \
                sysctl -w net.ipv6.conf.veth1.forwarding=1",
        ]
    );
}

#[test]
fn a_node_without_ipv6_is_no_complaint() {
    for setting in [None, Some("1\n".to_owned())] {
        assert_eq!(complaints(|facts| facts.disable_ipv6 = setting), [""; 0]);
    }
}

#[test]
fn without_an_uplink_the_flag_is_named() {
    let lines = complaints(|facts| facts.uplinks = Ok(Vec::new()));
    assert!(
        lines[0].starts_with("warn  uplinks: ") && lines[0].contains("--uplink"),
        "{lines:?}"
    );
    let lines = complaints(|facts| facts.uplinks = Err("no".to_owned()));
    assert!(
        lines[0].starts_with("fail  uplinks: cannot be listed: no"),
        "{lines:?}"
    );
}

#[test]
fn each_uplink_has_a_word_on_where_it_is_met_and_why() {
    let facts = Facts {
        uplinks: Ok(vec![
            uplink("eth0", None),
            uplink("veth0", Some("so it is")),
        ]),
        ..good()
    };
    let items = items(&facts);
    let told: Vec<_> = items
        .iter()
        .filter(|item| item.item == "native XDP")
        .map(|item| item.finding.as_str())
        .collect();
    let expected = [
        "eth0 is met in its driver, and at TC",
        "veth0 is met at TC alone: so it is",
    ];
    assert_eq!(told, expected);
}
