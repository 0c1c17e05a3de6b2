//! `fulcrum trace`: what would become of one packet, and why.

mod batch;
mod node;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use clap::Args;

use self::{batch::Line, node::NodeArgs};
use super::{Place, output};
use crate::{
    control::{Request, client::ask},
    desired::Protocol,
    trace::{Entry, Question, Traced, text},
};

/// Source port where none is given.
const CLIENT_PORT: u16 = 40_000;

/// Flags of `trace`.
#[derive(Args, Debug)]
pub(super) struct TraceArgs {
    /// Where the packet comes from
    #[arg(long = "in", value_enum, value_name = "WHERE")]
    entry: Option<Entry>,

    /// Its source; port 40000 if none is given
    #[arg(long, value_name = "IP[:PORT]", required_unless_present = "batch")]
    from: Option<String>,

    /// Its destination
    #[arg(long, value_name = "IP:PORT", required_unless_present = "batch")]
    to: Option<String>,

    /// Its protocol: tcp, udp or sctp
    #[arg(long, value_name = "PROTOCOL", default_value = "tcp", value_parser = protocol)]
    protocol: Protocol,

    /// Many packets: one JSON object per line with in, from, to, protocol and name, answered by one line each;
    /// - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "to"])]
    batch: Option<PathBuf>,

    #[command(flatten)]
    node: NodeArgs,

    /// The form of the result; a batch is always answered in JSON
    #[arg(
        long,
        short,
        value_enum,
        default_value_t = output::Format::Table,
        overrides_with = "output"
    )]
    output: output::Format,
}

/// Who answers.
enum Oracle<'a> {
    /// The agent that runs, about its own tables.
    Agent(&'a Place),
    /// Tables made for the purpose.
    Alone(Box<node::Node>),
}

impl Oracle<'_> {
    fn ask(&mut self, question: &Question) -> anyhow::Result<Traced> {
        if question.from.is_ipv4() != question.to.is_ipv4() {
            bail!(
                "{} and {} are of different families; give two addresses of one",
                question.from.ip(),
                question.to.ip()
            );
        }
        match self {
            Self::Agent(place) => Ok(ask(&place.run_dir(), Request::Trace(question.clone()))?),
            Self::Alone(node) => node.ask(question),
        }
    }
}

pub(super) fn trace(args: &TraceArgs, place: &Place) -> anyhow::Result<ExitCode> {
    let lines = match &args.batch {
        Some(path) => Some(batch::read(path)?),
        None => None,
    };
    let mut oracle = if args.node.is_given() {
        Oracle::Alone(Box::new(node::Node::new(&args.node)?))
    } else {
        Oracle::Agent(place)
    };
    if let Some(lines) = lines {
        let defaults = Line {
            entry: args.entry,
            protocol: args.protocol,
        };
        return batch::answer(&lines, &defaults, |question| oracle.ask(question));
    }
    let (Some(from), Some(to)) = (&args.from, &args.to) else {
        bail!("--from and --to say which packet is meant");
    };
    let question = Question {
        name: None,
        entry: args
            .entry
            .context("--in says where the packet comes from: pod, uplink or host")?,
        from: address(from, Some(CLIENT_PORT))
            .map_err(|error| anyhow::anyhow!("--from {error}"))?,
        to: address(to, None).map_err(|error| anyhow::anyhow!("--to {error}"))?,
        protocol: args.protocol,
    };
    let traced = oracle.ask(&question)?;
    let shown = match args.output.structured(&traced)? {
        Some(text) => text,
        None => text(&question, &traced),
    };
    output::print(&shown)?;
    Ok(ExitCode::SUCCESS)
}

/// `IP:PORT` or, where there is a port to fall back to, `IP`.
fn address(text: &str, fallback: Option<u16>) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match (bare.unwrap_or(text).parse(), fallback) {
        (Ok(ip), Some(port)) => Ok(SocketAddr::new(ip, port)),
        (Ok(_), None) => Err(format!(
            "{text:?}: the port is missing; write IP:PORT or [IPv6]:PORT"
        )),
        (Err(_), _) => Err(format!(
            "{text:?}: not an address; write IP:PORT or [IPv6]:PORT"
        )),
    }
}

pub(super) fn protocol(text: &str) -> Result<Protocol, String> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        _ => Err(format!("{text:?} is none of tcp, udp, sctp")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_with_and_without_ports_and_brackets() {
        for (text, expected) in [
            ("10.0.0.1", "10.0.0.1:40000"),
            ("10.0.0.1:7", "10.0.0.1:7"),
            ("fd00::1", "[fd00::1]:40000"),
            ("[fd00::1]", "[fd00::1]:40000"),
            ("[fd00::1]:7", "[fd00::1]:7"),
        ] {
            let address = address(text, Some(CLIENT_PORT)).expect(text);
            assert_eq!(address.to_string(), expected);
        }
        for text in ["10.0.0.1", "fd00::1", "", "host:80", "10.0.0.1:65536"] {
            assert!(address(text, None).is_err(), "{text}");
        }
    }
}
