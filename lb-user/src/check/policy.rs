//! Firewalls, policy engines and other programs that traffic of services no longer passes.
//!
//! Pure: from what was found to items. Traffic of services is redirected at the ingress of the device where it comes
//! in, so that whatever works on forwarded packets behind that does not see it.

use std::collections::BTreeSet;

use super::{
    Item,
    legacy::Legacy,
    netfilter::{ChainName, Lost, Ruleset},
    ok, warn,
};

/// What might work on forwarded packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The rules of nftables, or why they cannot be read.
    pub nftables: Result<Ruleset, String>,
    /// The rules of the old iptables.
    pub legacy: Legacy,
    /// The names of all devices.
    pub devices: Vec<String>,
    /// Programs and filters of others on the devices that we attach to.
    pub programs: Vec<Program>,
    /// An agent runs, or has run, by which the stack forwards.
    pub by_stack: bool,
}

/// A program or filter at TC that is not ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Program {
    /// The device that it is on.
    pub device: String,
    /// `ingress` or `egress`.
    pub direction: &'static str,
    /// Its name, or the filter's kind.
    pub name: String,
}

/// By what an engine is known.
#[derive(Clone, Copy, Debug)]
enum Trace {
    /// The beginning of a chain's name.
    Chain(&'static str),
    /// The name of a table of nftables.
    Table(&'static str),
    /// The beginning of a device's name.
    Device(&'static str),
    /// The beginning of a program's name.
    Program(&'static str),
}

/// What people call them, and how they are known.
const ENGINES: [(&str, &[Trace]); 14] = [
    ("Calico", &[Trace::Chain("cali-"), Trace::Program("cali_")]),
    (
        "Cilium",
        &[
            Trace::Chain("CILIUM_"),
            Trace::Device("cilium_"),
            Trace::Program("cil_"),
        ],
    ),
    (
        "kube-router",
        &[
            Trace::Chain("KUBE-ROUTER-"),
            Trace::Chain("KUBE-POD-FW-"),
            Trace::Chain("KUBE-NWPLCY-"),
        ],
    ),
    (
        "Antrea",
        &[Trace::Chain("ANTREA-"), Trace::Device("antrea-gw")],
    ),
    ("Open vSwitch", &[Trace::Device("ovs-system")]),
    ("Weave Net", &[Trace::Chain("WEAVE-")]),
    (
        "kube-network-policies",
        &[Trace::Table("kube-network-policies")],
    ),
    ("the CNI firewall plugin", &[Trace::Chain("CNI-FORWARD")]),
    ("Docker", &[Trace::Chain("DOCKER")]),
    (
        "libvirt",
        &[Trace::Chain("LIBVIRT_"), Trace::Table("libvirt_network")],
    ),
    ("ufw", &[Trace::Chain("ufw-"), Trace::Chain("ufw6-")]),
    ("firewalld", &[Trace::Table("firewalld")]),
    ("Flannel", &[Trace::Chain("FLANNEL-FWD")]),
    ("Istio ambient", &[Trace::Chain("ISTIO_")]),
];

/// What kube-proxy leaves.
const KUBE_PROXY_CHAIN: &str = "KUBE-SERVICES";
const KUBE_PROXY_TABLE: &str = "kube-proxy";
const KUBE_PROXY_DEVICE: &str = "kube-ipvs0";

const REMEDY: &str = "run with --forward stack, by which such traffic passes there again, or enforce it where it passes \
    anyway: in the pods' own network namespaces, or before it reaches the node";

/// All items about what traffic of services passes no more.
pub fn items(found: &Found) -> Vec<Item> {
    let mut rules = found.legacy.rules.clone();
    let mut items = Vec::new();
    match &found.nftables {
        Ok(nftables) => rules.merge(nftables.clone()),
        Err(error) => items.push(warn(
            "firewall",
            format!("the rules of nftables cannot be read: {error}"),
            "run as root to know what traffic of services passes no more",
        )),
    }
    let judged = if found.by_stack { passed } else { firewall };
    items.extend(rules.lost().iter().map(judged));
    let unread = found.legacy.unread.iter().filter(|_| !found.by_stack);
    items.extend(unread.map(|it| {
        warn(
            "firewall",
            format!(
                "{} table {} of the old iptables is in use and its rules cannot be read; traffic of services \
                 passes no more what its chain FORWARD holds",
                it.family, it.table
            ),
            format!("install {} and check again", it.tool),
        )
    }));
    items.extend(engines(found, &rules));
    items.extend(found.programs.iter().map(program));
    items.extend(kube_proxy(found, &rules));
    if items.is_empty() {
        items.push(ok("firewall", "no rules or programs for forwarded packets"));
    }
    items
}

/// The first chain that does anything to forwarded packets, and what; none: there is no reason to have them pass there.
pub fn first_filter(nftables: &Ruleset, legacy: &Legacy) -> Option<String> {
    let mut rules = legacy.rules.clone();
    rules.merge(nftables.clone());
    let unread = || {
        let unread = legacy.unread.first()?;
        Some(format!(
            "{} table {} of the old iptables",
            unread.family, unread.table
        ))
    };
    rules.lost().first().map(chain).or_else(unread)
}

/// A chain and what it does.
fn chain(lost: &Lost) -> String {
    let policy = lost.drops.then(|| "policy drop".to_owned());
    let what: Vec<String> = policy.into_iter().chain(lost.acts.clone()).collect();
    let ChainName {
        family,
        table,
        chain,
    } = &lost.name;
    format!("table {family} {table} chain {chain} ({})", what.join(", "))
}

fn firewall(lost: &Lost) -> Item {
    let whose = ENGINES.iter().filter(|(_, traces)| {
        traces.iter().any(|trace| match trace {
            Trace::Chain(begin) => lost.reached.iter().any(|it| it.starts_with(begin)),
            Trace::Table(name) => lost.name.table == *name,
            _ => false,
        })
    });
    let whose: Vec<&str> = whose.map(|(name, _)| *name).collect();
    let by = if whose.is_empty() {
        String::new()
    } else {
        format!(" of {}", whose.join(", "))
    };
    warn(
        "firewall",
        format!(
            "traffic to services is redirected past FORWARD: {}{by} no longer sees it",
            chain(lost),
        ),
        REMEDY,
    )
}

fn passed(lost: &Lost) -> Item {
    ok(
        "firewall",
        format!(
            "{} sees traffic to services, which the stack forwards",
            chain(lost)
        ),
    )
}

/// Engines that leave other traces than chains that were told already.
fn engines(found: &Found, rules: &Ruleset) -> Vec<Item> {
    let told: BTreeSet<String> = rules.lost().into_iter().flat_map(|it| it.reached).collect();
    let trace = |trace: &Trace| match trace {
        Trace::Chain(_) if found.by_stack => None,
        Trace::Chain(begin) => rules
            .chains
            .keys()
            .find(|name| name.chain.starts_with(begin) && !told.contains(&name.chain))
            .map(|name| format!("chain {}", name.chain)),
        Trace::Table(_) => None,
        Trace::Device(begin) => found
            .devices
            .iter()
            .find(|name| name.starts_with(begin))
            .map(|name| format!("device {name}")),
        Trace::Program(begin) => found
            .programs
            .iter()
            .find(|program| program.name.starts_with(begin))
            .map(|program| format!("program {} on {}", program.name, program.device)),
    };
    let is_told = |traces: &[Trace]| {
        traces.iter().any(|trace| match trace {
            Trace::Chain(begin) => told.iter().any(|chain| chain.starts_with(begin)),
            _ => false,
        })
    };
    let present = ENGINES.iter().filter(|(_, traces)| !is_told(traces));
    present
        .filter_map(|(name, traces)| {
            let trace = traces.iter().find_map(trace)?;
            Some(warn(
                "policy engine",
                format!(
                    "{name} is on this node ({trace}); what it enforces on forwarded packets is not enforced on \
                     traffic to services"
                ),
                REMEDY,
            ))
        })
        .collect()
}

fn program(program: &Program) -> Item {
    let Program {
        device,
        direction,
        name,
    } = program;
    let finding = if *direction == "ingress" {
        format!(
            "{name} at the ingress of {device} runs behind fulcrum and no longer sees traffic to services"
        )
    } else {
        format!(
            "{name} at the egress of {device} runs before fulcrum and sees replies with the backend's address"
        )
    };
    warn(
        "other programs",
        finding,
        "see whether what it does is needed for services; fulcrum is the first at ingress and the last at egress",
    )
}

fn kube_proxy(found: &Found, rules: &Ruleset) -> Option<Item> {
    let chain = rules.chains.iter().find(|(name, chain)| {
        let is_services = name.chain == KUBE_PROXY_CHAIN && !chain.effects.is_empty();
        is_services || name.table == KUBE_PROXY_TABLE
    });
    let chain = chain.map(|(name, _)| format!("{} table {}", name.family, name.table));
    let device = found.devices.iter().find(|name| *name == KUBE_PROXY_DEVICE);
    let trace = chain.or_else(|| device.map(|name| format!("device {name}")))?;
    Some(warn(
        "kube-proxy",
        format!(
            "its rules are here ({trace}); they act on whatever fulcrum passes on, and on services that fulcrum does \
             not serve"
        ),
        "stop kube-proxy and run `kube-proxy --cleanup`",
    ))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            legacy::Unread,
            netfilter::{
                Chain,
                testing::{name, put},
            },
        },
        *,
    };

    fn nothing() -> Found {
        Found {
            nftables: Ok(Ruleset::default()),
            legacy: Legacy::default(),
            devices: vec!["lo".to_owned(), "eth0".to_owned()],
            programs: Vec::new(),
            by_stack: false,
        }
    }

    /// What is said about a node with these rules and whatever else `change` makes of it.
    fn said(change: impl FnOnce(&mut Ruleset, &mut Found)) -> Vec<String> {
        let (mut rules, mut found) = (Ruleset::default(), nothing());
        change(&mut rules, &mut found);
        if found.nftables.is_ok() {
            found.nftables = Ok(rules);
        }
        items(&found).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_node_without_any_is_good() {
        let expected = ["ok    firewall: no rules or programs for forwarded packets"];
        assert_eq!(said(|_, _| {}), expected);
    }

    #[test]
    fn a_firewall_is_named_with_its_chain_what_it_does_and_what_to_do() {
        let lines = said(|rules, _| {
            *rules.chain(name("inet", "filter", "forward")) = Chain {
                is_forward: true,
                drops: true,
                effects: Vec::new(),
            };
        });
        let expected = "warn  firewall: traffic to services is redirected past FORWARD: table inet filter chain forward \
            (policy drop) no longer sees it; run with --forward stack, by which such traffic passes there again, or enforce \
            it where it passes anyway: in the pods' own network namespaces, or before it reaches the node";
        assert_eq!(lines, [expected]);
    }

    #[test]
    fn where_the_stack_forwards_a_firewall_is_as_it_should_be() {
        let lines = said(|rules, found| {
            put(rules, "FORWARD", true, &[">cali-FORWARD"]);
            put(rules, "cali-FORWARD", false, &["drop"]);
            put(rules, "cali-other", false, &["drop"]);
            found.by_stack = true;
        });
        let expected = "ok    firewall: table ip filter chain FORWARD (policy drop, drop) sees traffic to services, \
            which the stack forwards";
        assert_eq!(lines, [expected]);
    }

    #[test]
    fn the_first_chain_that_does_anything_is_the_reason_to_let_the_stack_forward() {
        let mut rules = Ruleset::default();
        let mut legacy = Legacy::default();
        assert_eq!(first_filter(&rules, &legacy), None);
        put(&mut rules, "FORWARD", false, &[">KUBE-FORWARD"]);
        assert_eq!(first_filter(&rules, &legacy), None);
        legacy.unread.push(Unread {
            family: "ip",
            table: "filter".to_owned(),
            tool: "iptables",
        });
        let unread = first_filter(&rules, &legacy).expect("nobody knows what it says");
        assert_eq!(unread, "ip table filter of the old iptables");
        put(&mut rules, "KUBE-FORWARD", false, &["drop"]);
        let first = first_filter(&rules, &legacy).expect("it drops");
        assert_eq!(first, "table ip filter chain FORWARD (drop)");
    }

    #[test]
    fn engines_are_called_by_their_names() {
        for (chain, engine) in [
            ("cali-FORWARD", "Calico"),
            ("KUBE-ROUTER-FORWARD", "kube-router"),
            ("DOCKER-USER", "Docker"),
            ("ufw-before-forward", "ufw"),
            ("ANTREA-FORWARD", "Antrea"),
        ] {
            let jump = format!(">{chain}");
            let lines = said(|rules, _| {
                put(rules, "FORWARD", false, &[&jump]);
                put(rules, chain, false, &["drop"]);
            });
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert!(
                lines[0].contains(&format!("(drop) of {engine} no longer")),
                "{lines:?}"
            );
        }
        let lines = said(|rules, _| {
            *rules.chain(name("inet", "firewalld", "filter_FORWARD")) = Chain {
                is_forward: true,
                drops: true,
                effects: Vec::new(),
            };
        });
        assert!(lines[0].contains("of firewalld no longer"), "{lines:?}");
    }

    #[test]
    fn engines_without_chains_at_the_hook_are_known_by_other_traces() {
        let lines = said(|_, found| found.devices.push("cilium_host".to_owned()));
        assert!(
            lines[0].contains("Cilium is on this node (device cilium_host)"),
            "{lines:?}"
        );
        let lines = said(|rules, _| put(rules, "cali-tw-eth0", false, &["drop"]));
        assert!(
            lines[0].contains("Calico is on this node (chain cali-tw-eth0)"),
            "{lines:?}"
        );
    }

    #[test]
    fn other_programs_are_told_by_device_and_direction() {
        let program = |direction, name: &str| Program {
            device: "eth0".to_owned(),
            direction,
            name: name.to_owned(),
        };
        let lines = said(|_, found| {
            found.programs = vec![program("ingress", "shaper"), program("egress", "meter")];
        });
        assert_eq!(lines.len(), 2);
        assert!(
            lines[0].contains("shaper at the ingress of eth0 runs behind"),
            "{lines:?}"
        );
        assert!(
            lines[1].contains("meter at the egress of eth0 runs before"),
            "{lines:?}"
        );
        let lines =
            said(|_, found| found.programs = vec![program("ingress", "cil_from_container")]);
        assert!(
            lines
                .iter()
                .any(|line| line.contains("Cilium is on this node")),
            "{lines:?}"
        );
    }

    #[test]
    fn kube_proxys_rules_are_found_in_each_of_its_modes() {
        let is_told = |lines: Vec<String>| {
            lines
                .iter()
                .any(|line| line.starts_with("warn  kube-proxy"))
        };
        assert!(is_told(said(|rules, _| put(
            rules,
            "KUBE-SERVICES",
            false,
            &[">KUBE-SVC-1"]
        ))));
        assert!(is_told(said(|rules, _| {
            rules.chain(name("ip", "kube-proxy", "services"));
        })));
        assert!(is_told(said(|_, found| found
            .devices
            .push("kube-ipvs0".to_owned()))));
        assert!(
            !is_told(said(|rules, _| put(rules, "KUBE-SERVICES", false, &[]))),
            "cleaned up"
        );
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let lines = said(|_, found| found.nftables = Err("no".to_owned()));
        assert!(
            lines[0].contains("nftables cannot be read: no"),
            "{lines:?}"
        );
        let lines = said(|_, found| {
            found.legacy.unread = vec![Unread {
                family: "ip",
                table: "filter".to_owned(),
                tool: "iptables-legacy-save",
            }];
        });
        assert!(
            lines[0].ends_with("install iptables-legacy-save and check again"),
            "{lines:?}"
        );
    }
}
