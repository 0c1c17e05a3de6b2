//! `fulcrum flows`: the connections in the tables, and taking some of them out.
//!
//! Reads the pins and needs no running agent; one that runs adds the names of services and pods.

mod text;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use lb_common::{
    abi::{FlowSlot, NodeConfig, Plain},
    net::addr::Addr,
};

use self::text::{Names, Printer};
use super::{Place, output};
use crate::{
    apply::BpfMaps,
    clock,
    control::{
        Query, Request,
        client::{Event, ask, objects},
    },
    desired::Protocol,
    flows::{
        FlowTables, Table, Visitor,
        connection::{Connection, Stage},
        connections,
        filter::{End, Filter, ServiceName},
        memory::Access,
        owner::Owners,
        take_out,
    },
    loader::facts,
    model::object::Kind,
};

/// Flags of `flows`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct FlowsArgs {
    #[command(subcommand)]
    verb: Option<FlowsVerb>,

    #[command(flatten)]
    filter: FilterArgs,

    /// The form of the result
    #[arg(long, short, value_enum, default_value_t = Form::Table)]
    output: Form,

    /// Show so many at most
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

#[derive(Subcommand, Debug)]
enum FlowsVerb {
    /// Take connections out of the tables while packets flow; their next packets are those of unknown connections
    Delete(DeleteArgs),
}

#[derive(Args, Debug)]
struct DeleteArgs {
    #[command(flatten)]
    filter: FilterArgs,

    /// Take all of them out
    #[arg(long)]
    all: bool,

    /// Only say how many are meant
    #[arg(long)]
    dry_run: bool,
}

/// Which connections are meant: those that all of these say.
#[derive(Args, Debug, Default)]
struct FilterArgs {
    /// Of this service; PORT is a port's name. Needs the running agent
    #[arg(long, value_name = "NS/NAME[:PORT]")]
    service: Option<ServiceName>,

    /// From this client
    #[arg(long, value_name = "IP[:PORT]|CIDR")]
    from: Option<End>,

    /// To this address, as the client dialled it
    #[arg(long, value_name = "IP[:PORT]|CIDR")]
    to: Option<End>,

    /// With this backend
    #[arg(long, value_name = "IP[:PORT]|CIDR")]
    backend: Option<End>,

    /// Of this protocol: tcp, udp or sctp
    #[arg(long, value_name = "PROTOCOL", value_parser = super::trace::protocol)]
    protocol: Option<Protocol>,

    /// In one of these states; may be repeated
    #[arg(long, value_enum, value_delimiter = ',')]
    state: Vec<Stage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Columns for people
    Table,
    /// More columns
    Wide,
    /// One array of objects for programs
    Json,
}

pub(super) fn flows(args: &FlowsArgs, place: &Place) -> anyhow::Result<ExitCode> {
    match &args.verb {
        None => list(args, place),
        Some(FlowsVerb::Delete(args)) => delete(args, place),
    }
}

fn list(args: &FlowsArgs, place: &Place) -> anyhow::Result<ExitCode> {
    let services = service_names(place);
    let filter = args.filter.filter(services.as_ref())?;
    let mut listing = Listing {
        selection: Selection::new(place, filter)?,
        names: Names {
            services: services.unwrap_or_default(),
            pods: match args.output {
                Form::Table => BTreeMap::new(),
                Form::Wide | Form::Json => pods(place),
            },
        },
        printer: Printer::new(args.output),
        left: args.limit.unwrap_or(usize::MAX),
        broken: None,
    };
    let tables = open(place, Access::Read)?;
    tables.each(clock::now()?, &mut listing);
    if let Some(error) = listing.broken {
        return Err(error);
    }
    if !listing.printer.end()? && args.output != Form::Json {
        eprintln!("No connections found.");
    }
    Ok(ExitCode::SUCCESS)
}

fn delete(args: &DeleteArgs, place: &Place) -> anyhow::Result<ExitCode> {
    let services = service_names(place);
    let filter = args.filter.filter(services.as_ref())?;
    if (filter == Filter::default()) != args.all {
        bail!("say which connections are meant, or --all for all of them, and not both");
    }
    let mut removal = Removal {
        selection: Selection::new(place, filter)?,
        is_dry: args.dry_run,
    };
    let tables = open(place, Access::Write)?;
    let n: usize = tables.each(clock::now()?, &mut removal).into_iter().sum();
    let connections = if n == 1 { "connection" } else { "connections" };
    let done = if args.dry_run {
        "would be removed"
    } else {
        "removed"
    };
    output::print(&format!("{n} {connections} {done}\n"))?;
    Ok(ExitCode::SUCCESS)
}

impl FilterArgs {
    /// What the flags say; `services` are the agent's names of service ports, where it runs.
    fn filter(
        &self,
        services: Result<&BTreeMap<u32, String>, &anyhow::Error>,
    ) -> anyhow::Result<Filter> {
        let services = match &self.service {
            None => None,
            Some(wanted) => {
                let known = services.map_err(|error| {
                    anyhow::anyhow!("--service: only the agent knows services by name: {error:#}")
                })?;
                let ids = known.iter().filter(|(_, name)| wanted.names(name));
                let ids: BTreeSet<u32> = ids.map(|(id, _)| *id).collect();
                if ids.is_empty() {
                    bail!(
                        "--service: the agent serves no such service; `fulcrum get services -A` lists them"
                    );
                }
                Some(ids)
            }
        };
        Ok(Filter {
            services,
            from: self.from,
            to: self.to,
            backend: self.backend,
            protocol: self.protocol,
            stages: self.state.clone(),
        })
    }
}

/// The tables, and how long what is in them lives: as the programs were told, else as it is by default.
fn open(place: &Place, access: Access) -> anyhow::Result<FlowTables> {
    let pins = place.pins();
    let node = facts::read(&pins).unwrap_or(NodeConfig::DEFAULT);
    Ok(FlowTables::open(&pins, node, access)?)
}

fn service_names(place: &Place) -> anyhow::Result<BTreeMap<u32, String>> {
    Ok(ask(&place.run_dir(), Request::Names)?)
}

/// The pods that have an address, by it; none where no agent answers.
fn pods(place: &Place) -> BTreeMap<std::net::IpAddr, String> {
    let mut pods = BTreeMap::new();
    let Ok(mut objects) = objects(&place.run_dir(), Query::all(Kind::Pod)) else {
        return pods;
    };
    while let Ok(Event::Object(pod)) = objects.event() {
        let of = |pointer: &str| pod.pointer(pointer).and_then(serde_json::Value::as_str);
        let (Some(namespace), Some(name)) = (of("/metadata/namespace"), of("/metadata/name"))
        else {
            continue;
        };
        // Pods of the host's network have the node's address: it names none of them.
        if pod
            .pointer("/spec/hostNetwork")
            .and_then(serde_json::Value::as_bool)
            == Some(true)
        {
            continue;
        }
        let ips = pod.pointer("/status/podIPs").and_then(|ips| ips.as_array());
        for ip in ips.into_iter().flatten() {
            if let Some(ip) = ip["ip"].as_str().and_then(|ip| ip.parse().ok()) {
                pods.insert(ip, format!("{namespace}/{name}"));
            }
        }
    }
    pods
}

/// Which connections are meant, and whose they are.
struct Selection {
    filter: Filter,
    owners: Owners,
}

impl Selection {
    fn new(place: &Place, filter: Filter) -> anyhow::Result<Self> {
        let maps = BpfMaps::open(&place.pins())?;
        let owners = Owners::read(&maps).context("cannot read whose the connections are")?;
        Ok(Self { filter, owners })
    }

    fn has(&self, connection: &Connection) -> bool {
        let service = || self.owners.service(connection);
        self.filter.matches(connection, service)
    }
}

struct Listing {
    selection: Selection,
    names: Names,
    printer: Printer,
    left: usize,
    broken: Option<anyhow::Error>,
}

impl Visitor for Listing {
    type Output = ();

    fn visit<A: Addr>(&mut self, table: &Table<'_, A>)
    where
        FlowSlot<A>: Plain,
    {
        for (_, connection) in connections(table) {
            if self.left == 0 || self.broken.is_some() {
                return;
            }
            if !self.selection.has(&connection) {
                continue;
            }
            self.left -= 1;
            let service = self.selection.owners.service(&connection);
            match self.printer.row(&connection, service, &self.names) {
                Ok(true) => {}
                // Nobody reads any more.
                Ok(false) => self.left = 0,
                Err(error) => self.broken = Some(error),
            }
        }
    }
}

struct Removal {
    selection: Selection,
    is_dry: bool,
}

impl Visitor for Removal {
    type Output = usize;

    fn visit<A: Addr>(&mut self, table: &Table<'_, A>) -> usize
    where
        FlowSlot<A>: Plain,
    {
        let meant = connections(table).filter(|(_, connection)| self.selection.has(connection));
        let taken = meant
            .filter(|(position, connection)| self.is_dry || take_out(table, *position, connection));
        taken.count()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flows: FlowsArgs,
    }

    fn line(text: &str) -> Result<FlowsArgs, String> {
        let words = std::iter::once("flows").chain(text.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        Ok(line.flows)
    }

    fn names() -> BTreeMap<u32, String> {
        [
            (1, "default/web:http TCP IPv4"),
            (2, "default/web:dns UDP IPv4"),
            (3, "other/web TCP IPv4"),
        ]
        .map(|(id, name)| (id, name.to_owned()))
        .into()
    }

    #[test]
    fn a_service_is_found_by_its_name_and_that_of_its_port() {
        let (names, nobody) = (names(), anyhow::anyhow!("nobody answers"));
        let ids = |text: &str| {
            let filter = line(text).expect(text).filter;
            let filter = filter
                .filter(Ok(&names))
                .map_err(|error| error.to_string())?;
            Ok(filter.services.map(Vec::from_iter))
        };
        assert_eq!(ids("--service default/web"), Ok(Some(vec![1, 2])));
        assert_eq!(ids("--service default/web:dns"), Ok(Some(vec![2])));
        assert_eq!(ids("--service other/web"), Ok(Some(vec![3])));
        assert_eq!(ids("--from 10.0.0.1"), Ok(None));
        let unknown: Result<_, String> = ids("--service default/db");
        assert!(
            unknown
                .expect_err("unknown")
                .contains("serves no such service")
        );
        let filter = line("--service a/b").expect("valid").filter;
        let error = filter.filter(Err(&nobody)).expect_err("nobody knows");
        assert!(error.to_string().ends_with("nobody answers"), "{error}");
    }

    #[test]
    fn each_flag_is_its_own_part_of_the_filter() {
        let args = line(
            "--from 10.0.0.1 --to 10.0.0.2:80 --backend 10.0.0.3 --protocol udp --state closed,orphan",
        );
        let filter = args.expect("valid").filter.filter(Ok(&names()));
        let end = |text: &str| text.parse::<End>().ok();
        let expected = Filter {
            services: None,
            from: end("10.0.0.1"),
            to: end("10.0.0.2:80"),
            backend: end("10.0.0.3"),
            protocol: Some(Protocol::Udp),
            stages: vec![Stage::Closed, Stage::Orphan],
        };
        assert_eq!(filter.expect("no service is asked for"), expected);
    }

    #[test]
    fn deleting_has_filters_of_its_own() {
        let args =
            line("delete --from 10.0.0.1 --state closing,half-open --dry-run").expect("valid");
        let Some(FlowsVerb::Delete(args)) = args.verb else {
            panic!("deletes");
        };
        assert!(args.dry_run && !args.all);
        assert_eq!(args.filter.state, [Stage::Closing, Stage::HalfOpen]);
        line("--from 10.0.0.1 delete").expect_err("whose filter is it?");
        line("--state dead").expect_err("no state");
        line("--to 10.0.0.256").expect_err("no address");
    }
}
