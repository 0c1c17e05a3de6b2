//! Which lists an endpoint is in: kube-proxy's cases (`TestCategorizeEndpoints`, features.md rows 37 to 48), as facts.

use super::*;

/// One case. Endpoints: last byte of the address, node or `-`, state, hints (`z=` zones, `n=` nodes).
struct Case {
    name: &'static str,
    /// `type`, external and internal policy.
    service: (&'static str, &'static str, &'static str),
    zone: &'static str,
    endpoints: &'static [&'static str],
    /// Last byte of the address of every endpoint in any list, with `C`, `E` and `I` for the lists.
    lists: &'static str,
}

/// A case of a node without a zone.
const fn case(
    name: &'static str,
    service: (&'static str, &'static str, &'static str),
    endpoints: &'static [&'static str],
    lists: &'static str,
) -> Case {
    Case {
        name,
        service,
        zone: "",
        endpoints,
        lists,
    }
}

const INTERNAL: (&str, &str, &str) = ("ClusterIP", "Cluster", "Cluster");
const NODE_PORT: (&str, &str, &str) = ("NodePort", "Cluster", "Cluster");
const EXTERNAL_LOCAL: (&str, &str, &str) = ("NodePort", "Local", "Cluster");
const INTERNAL_LOCAL: (&str, &str, &str) = ("ClusterIP", "Cluster", "Local");
const EXPOSED_INTERNAL_LOCAL: (&str, &str, &str) = ("NodePort", "Cluster", "Local");
const BOTH_LOCAL: (&str, &str, &str) = ("NodePort", "Local", "Local");

fn endpoint(text: &str) -> String {
    let mut words = text.split(' ');
    let mut word = || words.next().expect("three words");
    let (last, node, state) = (word(), word(), word());
    let node = match node {
        "-" => String::new(),
        node => format!(", nodeName: {node}"),
    };
    let conditions = match state {
        "ready" => "{ready: true}",
        "unready" => "{ready: false, serving: false}",
        "leaving" => "{ready: false, serving: true, terminating: true}",
        "gone" => "{ready: false, serving: false, terminating: true}",
        "published" => "{ready: true, serving: false, terminating: true}",
        other => panic!("{other} is no state"),
    };
    let hints: Vec<String> = words
        .map(|hint| {
            let (kind, names) = hint.split_once('=').expect("a hint");
            let field = if kind == "z" { "forZones" } else { "forNodes" };
            let names = names.split(',').map(|name| format!("{{name: {name}}}"));
            format!("{field}: [{}]", names.collect::<Vec<_>>().join(", "))
        })
        .collect();
    let hints = match &hints[..] {
        [] => String::new(),
        hints => format!(", hints: {{{}}}", hints.join(", ")),
    };
    format!("{{addresses: [10.1.2.{last}]{node}, conditions: {conditions}{hints}}}")
}

fn lists(case: &Case) -> String {
    let (service_type, external, internal) = case.service;
    let external = match service_type {
        "ClusterIP" => String::new(),
        _ => format!("  externalTrafficPolicy: {external}\n"),
    };
    let spec =
        format!("spec:\n  type: {service_type}\n{external}  internalTrafficPolicy: {internal}\n");
    let endpoints: Vec<_> = case.endpoints.iter().map(|text| endpoint(text)).collect();
    let text = [
        &SERVICE.replace("spec:\n", &spec),
        &slice("s", &endpoints.join(", ")),
    ]
    .map(String::as_str)
    .concat();
    let facts = NodeFacts {
        zone: Some(case.zone.to_owned()).filter(|zone| !zone.is_empty()),
        ..facts()
    };
    let compiled = compile(&snapshot(&text), &facts, &Allocations::default());
    let listed = http(&compiled).into_iter().filter_map(|line| {
        let (address, flags) = line.split_once(' ')?;
        let last = address.trim_start_matches("10.1.2.").split(':').next()?;
        let lists: String = flags.chars().filter(|flag| "CEI".contains(*flag)).collect();
        (!lists.is_empty()).then(|| format!("{last}:{lists}"))
    });
    listed.collect::<Vec<_>>().join(" ")
}

fn check(cases: &[Case]) {
    for case in cases {
        assert_eq!(lists(case), case.lists, "{}", case.name);
    }
}

const USUAL: &[&str] = &[
    "3 - ready z=zone-a",
    "4 - ready z=zone-b",
    "5 - ready z=zone-c",
    "6 - ready z=zone-a",
];

const ZONES: &[Case] = &[
    Case {
        name: "every endpoint has hints and some are for this zone",
        service: INTERNAL,
        zone: "zone-a",
        endpoints: USUAL,
        lists: "3:C 6:C",
    },
    Case {
        name: "the node has no zone",
        service: INTERNAL,
        zone: "",
        endpoints: USUAL,
        lists: "3:C 4:C 5:C 6:C",
    },
    Case {
        name: "no endpoint is for the zone of the node",
        service: INTERNAL,
        zone: "zone-d",
        endpoints: USUAL,
        lists: "3:C 4:C 5:C 6:C",
    },
    Case {
        name: "an endpoint of this zone is not ready",
        service: INTERNAL,
        zone: "zone-a",
        endpoints: &[
            "3 - ready z=zone-a",
            "4 - ready z=zone-b",
            "5 - ready z=zone-c",
            "6 - unready z=zone-a",
        ],
        lists: "3:C",
    },
    Case {
        name: "no endpoint of this zone is ready",
        service: INTERNAL,
        zone: "zone-a",
        endpoints: &[
            "3 - unready z=zone-a",
            "4 - ready z=zone-b",
            "5 - ready z=zone-c",
            "6 - unready z=zone-a",
        ],
        lists: "4:C 5:C",
    },
    Case {
        name: "one ready endpoint has no hints",
        service: INTERNAL,
        zone: "zone-a",
        endpoints: &["3 - ready z=zone-a", "4 - ready z=zone-b", "5 - ready"],
        lists: "3:C 4:C 5:C",
    },
    Case {
        name: "an endpoint that is not ready has no hints",
        service: INTERNAL,
        zone: "zone-a",
        endpoints: &["3 - ready z=zone-a", "4 - ready z=zone-b", "5 - unready"],
        lists: "3:C",
    },
    Case {
        name: "several hints per endpoint",
        service: INTERNAL,
        zone: "zone-c",
        endpoints: &[
            "3 - ready z=zone-a,zone-b,zone-c",
            "4 - ready z=zone-b,zone-c",
            "5 - ready z=zone-b,zone-d",
            "6 - ready z=zone-c",
        ],
        lists: "3:C 4:C 6:C",
    },
    Case {
        name: "terminating endpoints are asked for no hints",
        service: INTERNAL,
        zone: "zone-a",
        endpoints: &["3 - leaving z=zone-a", "4 - leaving z=zone-b"],
        lists: "3:C 4:C",
    },
];

#[test]
fn zone_hints_narrow_the_cluster_list_all_or_nothing() {
    check(ZONES);
}

#[test]
fn node_hints_come_before_zone_hints() {
    let both: &[&str] = &[
        "3 n1 ready z=zone-a n=n1",
        "4 n2 ready z=zone-a n=n2",
        "5 n3 ready z=zone-b n=n3",
    ];
    check(&[
        Case {
            name: "an endpoint is for this node",
            service: INTERNAL,
            zone: "zone-a",
            endpoints: both,
            lists: "3:C",
        },
        Case {
            name: "no endpoint is for this node, some are for its zone",
            service: INTERNAL,
            zone: "zone-a",
            endpoints: &both[1..],
            lists: "4:C",
        },
        Case {
            name: "no endpoint is for this node or its zone",
            service: INTERNAL,
            zone: "zone-a",
            endpoints: &both[2..],
            lists: "5:C",
        },
        Case {
            name: "one endpoint has no node hint, all have zone hints",
            service: INTERNAL,
            zone: "zone-a",
            endpoints: &[
                "3 n1 ready z=zone-a n=n1",
                "4 n2 ready z=zone-a",
                "5 n3 ready z=zone-b",
            ],
            lists: "3:C 4:C",
        },
        Case {
            name: "the endpoint for this node is not ready",
            service: INTERNAL,
            zone: "zone-a",
            endpoints: &[
                "3 n1 unready z=zone-a n=n1",
                "4 n2 ready z=zone-a n=n2",
                "5 n3 ready z=zone-b n=n3",
            ],
            lists: "4:C",
        },
        Case {
            name: "node hints need no zone",
            service: INTERNAL,
            zone: "",
            endpoints: both,
            lists: "3:C",
        },
    ]);
}

#[test]
fn hints_never_touch_a_local_list() {
    let endpoints: &[&str] = &[
        "3 n1 ready z=zone-a",
        "4 n1 ready z=zone-b",
        "5 n2 ready z=zone-c",
        "6 n2 ready z=zone-a",
    ];
    check(&[
        Case {
            name: "externalTrafficPolicy Local",
            service: EXTERNAL_LOCAL,
            zone: "zone-a",
            endpoints,
            lists: "3:CE 4:E 6:C",
        },
        Case {
            name: "internalTrafficPolicy Local of a service with node ports",
            service: EXPOSED_INTERNAL_LOCAL,
            zone: "zone-a",
            endpoints,
            lists: "3:CI 4:I 6:C",
        },
        Case {
            name: "both",
            service: BOTH_LOCAL,
            zone: "zone-a",
            endpoints,
            lists: "3:CEI 4:EI 6:C",
        },
        Case {
            name: "hints for nodes",
            service: BOTH_LOCAL,
            zone: "",
            endpoints: &["3 n1 ready n=n2", "4 n2 ready n=n1"],
            lists: "3:EI 4:C",
        },
    ]);
}

#[test]
fn local_lists_follow_from_policies_and_places() {
    const SOME: &[&str] = &["0 n1 ready", "1 n2 ready"];
    const REMOTE: &[&str] = &["0 n2 ready", "1 - ready"];
    check(&[
        case("internal Local, no endpoints", INTERNAL_LOCAL, &[], ""),
        case(
            "internal Local, all remote",
            INTERNAL_LOCAL,
            REMOTE,
            "0:C 1:C",
        ),
        case(
            "internal Local, all local",
            INTERNAL_LOCAL,
            &["0 n1 ready", "1 n1 ready"],
            "0:CI 1:CI",
        ),
        case(
            "internal Local, some local",
            INTERNAL_LOCAL,
            SOME,
            "0:CI 1:C",
        ),
        case(
            "internal Local, external Cluster",
            EXPOSED_INTERNAL_LOCAL,
            SOME,
            "0:CI 1:C",
        ),
        case(
            "internal Cluster, external Local",
            EXTERNAL_LOCAL,
            SOME,
            "0:CE 1:C",
        ),
        case("both Local, some local", BOTH_LOCAL, SOME, "0:CEI 1:C"),
        case("both Local, all remote", BOTH_LOCAL, REMOTE, "0:C 1:C"),
        case("both Cluster", NODE_PORT, SOME, "0:C 1:C"),
        case(
            "no node name is remote everywhere",
            BOTH_LOCAL,
            &["0 - ready"],
            "0:C",
        ),
    ]);
}

const TERMINATING: &[Case] = &[
    case(
        "none ready",
        INTERNAL,
        &["0 n1 unready", "1 n2 unready"],
        "",
    ),
    case(
        "some ready",
        INTERNAL,
        &["0 n1 unready", "1 n2 ready"],
        "1:C",
    ),
    case(
        "all terminating",
        INTERNAL,
        &["0 n1 leaving", "1 n2 leaving"],
        "0:C 1:C",
    ),
    case(
        "terminating and gone",
        INTERNAL,
        &["0 n1 leaving", "1 n2 gone"],
        "0:C",
    ),
    case(
        "terminating beside ready",
        INTERNAL,
        &["0 n1 leaving", "1 n2 ready"],
        "1:C",
    ),
    case(
        "published though terminating",
        INTERNAL,
        &["0 n1 published", "1 n2 leaving"],
        "0:C",
    ),
    case(
        "all remote and terminating",
        BOTH_LOCAL,
        &["0 n2 leaving", "1 n2 leaving"],
        "0:C 1:C",
    ),
    case(
        "local ones terminate, ready ones elsewhere",
        EXTERNAL_LOCAL,
        &["0 n1 leaving", "1 n1 unready", "2 n2 ready"],
        "0:E 2:C",
    ),
    case(
        "a local one is ready beside one that terminates",
        BOTH_LOCAL,
        &["0 n1 leaving", "1 n1 ready", "2 n2 leaving"],
        "1:CEI",
    ),
    case(
        "all terminate, some here",
        EXTERNAL_LOCAL,
        &["0 n1 leaving", "1 n1 gone", "2 n2 leaving"],
        "0:CE 2:C",
    ),
];

#[test]
fn terminating_endpoints_fill_in_for_each_list_by_itself() {
    check(TERMINATING);
}

#[test]
fn external_addresses_alone_make_a_service_external() {
    let service = SERVICE.replace(
        "spec:\n",
        "spec:\n  externalIPs: [203.0.113.7]\n  externalTrafficPolicy: Local\n",
    );
    let endpoints = slice("s", "{addresses: [10.1.2.3], nodeName: n1}");
    let compiled = compiled(&[&service, endpoints.as_str()].concat());
    assert_eq!(http(&compiled), ["10.1.2.3:8080 SCEL"]);
}

#[test]
fn the_zone_is_that_of_the_flag_else_that_of_the_node_object() {
    let node = "---\n{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {topology.kubernetes.io/zone: zone-a}}}\n";
    let hinted = [
        endpoint("3 - ready z=zone-a"),
        endpoint("4 - ready z=zone-b"),
    ]
    .join(", ");
    let text = [SERVICE, &slice("s", &hinted), node].concat();
    assert_eq!(
        http(&compiled(&text)),
        ["10.1.2.3:8080 SC", "10.1.2.4:8080 S"]
    );
    let facts = NodeFacts {
        zone: Some("zone-b".to_owned()),
        ..facts()
    };
    let moved = compile(&snapshot(&text), &facts, &Allocations::default());
    assert_eq!(http(&moved), ["10.1.2.3:8080 S", "10.1.2.4:8080 SC"]);
}

#[test]
fn a_wish_for_close_endpoints_is_granted_without_an_api_server() {
    let node = |name: &str, zone: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Node, metadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: {zone}}}}}}}\n"
        )
    };
    let on = |name: &str, ip: &str, node: &str| {
        pod(name, ip, "").replace("nodeName: n1", &format!("nodeName: {node}"))
    };
    let nodes = [node("n1", "a"), node("n2", "a"), node("n3", "b")].concat();
    let pods = [on("p2", "10.244.2.1", "n2"), on("p3", "10.244.3.1", "n3")].concat();
    let here = on("p1", "10.244.1.1", "n1");
    let chosen = |wish: &str, pods: &str| {
        let spec = format!("spec:\n  trafficDistribution: {wish}\n");
        let service = SERVICE.replace("spec:\n", &spec);
        let all = http(&compiled(&[&service, &nodes, pods].concat()));
        let is_in = |line: &String| line.ends_with('C') || line.ends_with("CL");
        all.into_iter().filter(is_in).count()
    };
    let all = [here, pods.clone()].concat();
    assert_eq!(chosen("PreferSameZone", &all), 2);
    assert_eq!(chosen("PreferClose", &all), 2);
    assert_eq!(chosen("PreferSameNode", &all), 1);
    assert_eq!(chosen("PreferSameNode", &pods), 1, "that of the zone");
    let unplaced = all.replace("nodeName: n3", "nodeName: n4");
    assert_eq!(chosen("PreferSameZone", &unplaced), 3, "one has no zone");
}
