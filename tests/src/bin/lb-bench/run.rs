//! One run: everybody gets to work, all are measured in turns, and a report is made of it.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use lb_tests::{hooks, residue, signals::Signals};

use crate::{
    bar, connections,
    contender::Contender,
    cpu::Cpu,
    loading,
    measure::Measure,
    packets,
    report::{Machine, Report, Samples},
    rounds, runs,
    scale::Scale,
    setting::{FORWARDING, FORWARDING_AGAIN},
    stats::Ratio,
    stream, table,
};

/// What is to be known of what is compared.
const NOTES: [&str; 9] = [
    "A packet's CPU time is that of making it, of the node, and of counting and dropping it, all on one CPU, in network namespaces joined by \
     veth pairs. `xdp` packets are dropped by XDP, before they have a buffer of the stack's; all others by TC.",
    "`xdp`: client and backends are behind the one uplink, since XDP forwards what leaves by the device that it came by. `tc` and all others: the \
     client is a pod of the node, the backends are behind its uplink. TCP needs two ends, so `xdp` has no rows there.",
    "`forwarding` carries out no Service: its client dials a backend. It is what the stack does before anybody does more. \
     `forwarding-again` is the same once more: what differs between the two is noise.",
    "`connect-time`: the agent is on the client's own machine, and its programs meet the client's sockets (--socket-lb host); the node only forwards. \
     With `connect-time+tc` those for packets are on that machine's device too, as on a node that serves others. What is made past sockets has no rows there.",
    "`nftables` and `iptables` are kube-proxy's rules, without kube-proxy, in the order in which it writes them, for ClusterIPs alone; iptables in its \
     old tables, which are the faster ones. They track connections for all of the node, which is more than a Service needs, and leave neighbours to the stack.",
    "Nobody masquerades: the clients are pods. Services have ten endpoints each; the one in the middle is dialled.",
    "A new flow's packets have a source that was not seen before; flows are established in both directions before they are measured.",
    "`stateless` and `lru-fib` are programs that do a part of a Service's work: the one keeps no connections, the other looks them up in the \
     kernel's hash map, and the way in its routes; `service-lru-fib` looks for the service before (tests/src/bin/lb-bench/programs.rs). Program runs are net of an empty program's.",
    "Ratios are medians of those of the rounds; their intervals are bootstrapped.",
];

/// A part of a run.
type Part = fn(&Scale, &Signals, &mut Samples) -> Result<()>;

/// Makes everything, measures it, and removes it.
pub(crate) fn run(scale: &Scale, signals: &Signals) -> Result<Report> {
    ensure!(
        hooks::are_links(),
        "the bench needs links for TC: Linux 6.6 or newer"
    );
    residue::reap();
    let mut machine = Machine::this()?;
    let mut samples = Samples::default();
    let parts: [(&str, Part); 3] = [
        ("packets and connections", compare),
        ("single programs", runs::sample),
        ("loading", loading::sample),
    ];
    for (name, part) in parts {
        eprintln!("bench: {name}");
        if let Err(error) = part(scale, signals, &mut samples) {
            // What was measured before is reported all the same.
            samples.faults.push(format!("{name}: {error:#}"));
            break;
        }
    }
    machine.load.push(Machine::load()?);
    let mut report = Report {
        scale: scale.name.to_owned(),
        machine,
        notes: NOTES.map(str::to_owned).to_vec(),
        noise: BTreeMap::new(),
        rows: samples.rows(),
        bar: Vec::new(),
        faults: samples.faults,
    };
    report.noise = noise(&report);
    report.bar = bar::marks(&report, scale.services);
    Ok(report)
}

/// Measures all that work side by side.
fn compare(scale: &Scale, signals: &Signals, samples: &mut Samples) -> Result<()> {
    let cpu = Cpu::last()?;
    let mut contenders = Contender::all(scale, |contender| {
        let name = table::title(contender.setting.name, contender.services);
        eprintln!("bench: {name} is up");
        signals.check()
    })?;
    for contender in &contenders {
        if let Some(took) = contender.loading {
            let (name, services) = (contender.setting.name, contender.services);
            samples.add(Measure::Load, name, services, took.as_secs_f64() * 1e3);
        }
    }
    eprintln!("bench: {} rounds", scale.rounds);
    rounds::interleave(scale.rounds, &mut contenders, |contender, round| {
        signals.check()?;
        if contender.setting.worker.meets_packets() {
            packets::sample(contender, &cpu, scale, round, samples)?;
        }
        let _stay = contender.enter()?;
        connections::sample(contender, &cpu, scale, samples)?;
        stream::sample(contender, &cpu, scale, samples)
    })
}

/// What differs where nothing differs.
fn noise(report: &Report) -> BTreeMap<Measure, Ratio> {
    let ratio = |measure| {
        let of = |name| report.row(measure, name, 0);
        let (once, again) = (of(FORWARDING)?, of(FORWARDING_AGAIN)?);
        Some((measure, Ratio::paired(&again.samples, &once.samples)?))
    };
    Measure::ALL.into_iter().filter_map(ratio).collect()
}
