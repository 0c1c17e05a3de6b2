//! A node that is described by flags: tables of its own in the kernel, of which nobody else knows.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Args;
use ipnet::IpNet;

use crate::{
    alloc::Allocations,
    apply::{self, BpfMaps, LbMaps, Retry},
    compile::{self, Compiled, NodeFacts},
    config::{FlowSettings, FlowTableSizes, ServiceFlags},
    desired::PortName,
    loader::{
        object::{self, Facts},
        pair::HostFacts,
        tracer::Tracer,
        uplink::NodeAddresses,
    },
    model::finding::Severity,
    plan::{BackendId, BackendRow, Capacity, Ledger},
    source::{dir, files::Files, manifest, stdin},
    store::{Snapshot, Store},
    trace::{Known, Question, Traced},
};

/// Places in tables that no flow is ever put into.
const FLOWS: u32 = 64;

/// Flags that describe a node, for packets that no running agent is asked about.
#[derive(Args, Debug)]
pub(super) struct NodeArgs {
    /// Manifests to answer from instead of a running agent: files, directories, or - for standard input
    ///
    /// Tables of its own are made for them, which touch nothing else; nothing is allocated, and nothing is asked of the
    /// machine: what is not in the flags does not hold.
    #[arg(long, short = 'f', value_name = "FILE|DIR|-", num_args = 1..)]
    manifests: Vec<PathBuf>,

    /// The node's name, as endpoints spell it
    #[arg(
        long,
        value_name = "NAME",
        default_value = "node",
        requires = "manifests"
    )]
    node: String,

    /// The address by which the cluster knows the node; once per family
    #[arg(long, value_name = "IP", num_args = 1.., value_delimiter = ',', requires = "manifests")]
    node_ip: Vec<IpAddr>,

    /// Further addresses of the node
    #[arg(long, value_name = "IP", num_args = 1.., value_delimiter = ',', requires = "manifests")]
    local_ip: Vec<IpAddr>,

    /// Prefixes of the cluster's pods
    #[arg(long, value_name = "CIDR", num_args = 1.., value_delimiter = ',', requires = "manifests")]
    pod_cidr: Vec<IpNet>,

    /// Prefixes that ClusterIPs are taken from
    #[arg(
        long,
        value_name = "CIDR",
        num_args = 1..,
        value_delimiter = ',',
        default_value = "10.96.0.0/12,fd00:10:96::/112"
    )]
    service_cidr: Vec<IpNet>,

    #[command(flatten)]
    services: ServiceFlags,
}

impl NodeArgs {
    /// Whether they describe a node at all.
    pub(super) fn is_given(&self) -> bool {
        !self.manifests.is_empty()
    }

    fn addresses(&self) -> NodeAddresses {
        let mut addresses = NodeAddresses::default();
        for addr in &self.node_ip {
            match addr {
                IpAddr::V4(addr) => addresses.v4 = addresses.v4.or(Some(*addr)),
                IpAddr::V6(addr) => addresses.v6 = addresses.v6.or(Some(*addr)),
            }
        }
        addresses
    }

    fn facts(&self) -> anyhow::Result<NodeFacts> {
        let NodeAddresses { v4, v6 } = self.addresses();
        let primary = v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6));
        let own = self.node_ip.iter().chain(&self.local_ip).copied();
        let mut facts = NodeFacts {
            name: self.node.clone(),
            service_cidrs: self.service_cidr.iter().map(IpNet::trunc).collect(),
            pod_cidrs: self.pod_cidr.iter().map(IpNet::trunc).collect(),
            addresses: own.chain([Ipv4Addr::LOCALHOST.into()]).collect(),
            primary: primary.collect(),
            gives_nothing: true,
            ..NodeFacts::default()
        };
        self.services.clone().check()?.tell(&mut facts);
        Ok(facts)
    }
}

/// See the module.
pub(super) struct Node {
    facts: NodeFacts,
    snapshot: std::sync::Arc<Snapshot>,
    compiled: Compiled,
    ports: BTreeMap<u32, PortName>,
    maps: BpfMaps,
    backends: BTreeMap<BackendId, BackendRow>,
    tracer: Tracer,
}

impl Node {
    pub(super) fn new(args: &NodeArgs) -> anyhow::Result<Self> {
        let facts = args.facts()?;
        let snapshot = read(&args.manifests)?;
        let compiled = compile::compile(&snapshot, &facts, &Allocations::default());
        for finding in &compiled.findings {
            if finding.severity != Severity::Notice {
                eprintln!("{finding}");
            }
        }
        let (mut ebpf, _) = object::load(Facts {
            flow_table: FlowTableSizes {
                size: FLOWS,
                max: FLOWS,
                is_given: true,
            },
            addresses: args.addresses(),
            host: HostFacts::default(),
            masquerade: args.services.masquerade,
            by_stack: false,
            flows: FlowSettings::default(),
            maglev_seed: args.services.maglev_seed,
            netns: 0,
            tables: Capacity::of(&compiled.desired),
        })?;
        let mut maps = BpfMaps::take(&mut ebpf)?;
        let mut ledger = Ledger::new(maps.capacity());
        let outcome =
            apply::reconcile(&compiled.desired, &mut ledger, &mut maps, &Retry::default());
        if let Some(failure) = outcome
            .reports
            .iter()
            .flat_map(|report| &report.failed)
            .next()
        {
            bail!("the tables cannot be filled: {failure}");
        }
        for refusal in &outcome.refused {
            eprintln!("{refusal}");
        }
        let ids: BTreeSet<u32> = ledger
            .services()
            .values()
            .map(|service| service.id)
            .collect();
        let ports = ids.into_iter();
        let ports = ports.filter_map(|id| Some((id, ledger.name(id)?.clone())));
        Ok(Self {
            facts,
            snapshot,
            compiled,
            ports: ports.collect(),
            backends: maps.backends()?,
            maps,
            tracer: Tracer::alone(ebpf)?,
        })
    }

    pub(super) fn ask(&mut self, question: &Question) -> anyhow::Result<Traced> {
        let known = Known {
            maps: &self.maps,
            backends: &self.backends,
            ports: &self.ports,
            snapshot: &self.snapshot,
            addresses: &self.compiled.addresses,
            facts: &self.facts,
        };
        let record = self.tracer.run(question, known.is_own(question.to.ip()))?;
        Ok(known.explain(question, &record)?)
    }
}

/// The objects of all manifests; what is wrong with them is told.
fn read(paths: &[PathBuf]) -> anyhow::Result<std::sync::Arc<Snapshot>> {
    let mut held = Files::default();
    for path in paths {
        if path == Path::new(stdin::NAME) {
            let bytes =
                dir::read_all(std::io::stdin().lock()).context("cannot read standard input")?;
            held.insert(stdin::NAME, manifest::parse_bytes(stdin::NAME, bytes));
            continue;
        }
        let files = dir::manifests(path)
            .with_context(|| format!("cannot read the manifests {}", path.display()))?;
        for file in files {
            let name = file.display().to_string();
            let bytes = dir::read(&file).with_context(|| format!("cannot read {name}"))?;
            held.insert(&name, manifest::parse_bytes(&name, bytes));
        }
    }
    let scanned = held.merge();
    for finding in scanned
        .findings
        .iter()
        .filter(|it| it.severity != Severity::Notice)
    {
        eprintln!("{finding}");
    }
    let mut store = Store::new([]);
    for change in scanned.changes {
        store.apply(change);
    }
    Ok(store.snapshot())
}
