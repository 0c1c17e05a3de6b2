//! The command line: one file per verb, and what all verbs share.
//!
//! Results go to standard output, messages and logs to standard error. Exit code 0: done; 1: it failed,
//! and one line says what and what to do; 2: the command line itself is wrong (of
//! `check-manifests` also: a file could not be read).

mod check;
pub mod check_manifests;
mod cleanup;
mod columns;
mod completions;
mod counters;
mod describe;
mod flows;
mod get;
mod man;
mod maps;
mod object;
mod output;
mod resource;
mod run;
mod status;
mod tabs;
mod trace;
mod yaml;

use std::{path::PathBuf, process::ExitCode};

use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use self::{get::table, output::indented_json, yaml::document as yaml_document};
use crate::{agent::run_dir, causes::with_causes, loader::pin};

/// Kubernetes Services in eBPF, from manifests
///
/// fulcrum serves the Services of a directory of manifests on this node: no API server, no kube-proxy, no netfilter.
#[derive(Parser, Debug)]
#[command(name = "fulcrum", version, arg_required_else_help = true)]
struct CommandLine {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    verb: Verb,
}

/// Which agent is meant: several may run on one machine.
#[derive(Args, Clone, Debug)]
struct Place {
    /// The agent's own directory: its lock, its socket, the addresses it gave to services
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/run/fulcrum"
    )]
    run_dir: PathBuf,

    /// The BPF filesystem that the tables are pinned in
    #[arg(long, global = true, value_name = "DIR", default_value = "/sys/fs/bpf")]
    bpffs: PathBuf,
}

impl Place {
    /// The run directory as the agent spells it.
    fn run_dir(&self) -> PathBuf {
        run_dir::resolve(&self.run_dir)
    }

    /// Where the agent's tables are pinned.
    fn pins(&self) -> PathBuf {
        pin::maps(&self.bpffs, &self.run_dir())
    }
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Run the agent: serve the manifests until SIGTERM or SIGINT
    ///
    /// Its tables and programs stay in the kernel when it ends and serve on, and the next agent of the same run directory takes them
    /// over: connections go on. `fulcrum cleanup` removes them.
    Run(run::RunArgs),
    /// Show services, endpoints, pods or nodes as the running agent sees them
    ///
    /// Columns and options are kubectl's; JSON and YAML are Kubernetes objects, with defaults and allocated addresses.
    Get(get::GetArgs),
    /// Show everything about services, endpoints, pods or nodes, as kubectl does
    Describe(describe::DescribeArgs),
    /// Show the running agent's devices, findings and troubles
    Status(status::StatusArgs),
    /// Say what would become of one packet, and why: which service, policy, endpoints, and what it is rewritten to
    ///
    /// Answers from the running agent's tables, or with --manifests for a node that the flags describe. Nothing is sent,
    /// and no table is changed. The verdict is forward, reject, drop, local (for this node, not for a service) or
    /// pass (neither ours nor this node's).
    Trace(Box<trace::TraceArgs>),
    /// List the tables in the kernel, or show what one contains; needs no running agent
    Maps(maps::MapsArgs),
    /// Show how many packets went which way, and why; needs no running agent
    Counters(counters::CountersArgs),
    /// List the connections in the tables, or take some of them out; needs no running agent
    ///
    /// One line per connection: who dialled what, which backend has it, how far it has come, seconds since its last packet,
    /// packets of the client and of the backend. Without an agent services are shown as numbers.
    Flows(flows::FlowsArgs),
    /// Find out whether this machine can run fulcrum, and what to do about it
    ///
    /// Prints one line per fact: ok, note, warn or fail, what was found, and the remedy. Exit code 1 if anything failed.
    Check(check::CheckArgs),
    /// Say of every object in manifests what would become of it; needs no root and no running agent
    ///
    /// Prints one line per object, ok or what else becomes of it, and below it what was found, with line and field. Objects
    /// are judged alone and together: names and addresses that two claim, ports that no pod names. Exit code 0: all is
    /// good (notices are no fault); 1: errors or warnings; 2: a file could not be read.
    CheckManifests(check_manifests::CheckManifestsArgs),
    /// Remove what an agent left that has ended: its tables with all connections, and its devices
    ///
    /// The tables of an agent outlive it, so that connections go on when the next one starts; this is for when there shall
    /// be no next one. Refused while an agent runs in the run directory. Addresses and ports that services were
    /// given stay in the run directory. Devices are those of this network namespace.
    Cleanup(cleanup::CleanupArgs),
    /// Print a script that completes this command's verbs and flags in a shell
    ///
    /// For bash: `fulcrum completions bash > /etc/bash_completion.d/fulcrum`
    Completions(completions::CompletionsArgs),
    /// Write the manual pages, one per verb
    Man(man::ManArgs),
    /// Print the version
    Version,
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let matches = CommandLine::command().get_matches();
    let CommandLine { place, verb } =
        CommandLine::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    // Of its verb, what was given and what is there by default.
    let none = ArgMatches::default();
    let given = matches.subcommand().map_or(&none, |(_, given)| given);
    let done = match verb {
        // Its configuration file has the same flags.
        Verb::Run(_) => run::run(given, &place),
        Verb::Get(args) => get::get(&args, &place),
        Verb::Describe(args) => describe::describe(&args, &place),
        Verb::Status(args) => status::status(&args, &place),
        Verb::Trace(args) => trace::trace(&args, &place),
        Verb::Maps(args) => maps::maps(&args, &place),
        Verb::Counters(args) => counters::counters(&args, &place),
        Verb::Flows(args) => flows::flows(&args, &place),
        Verb::Check(args) => check::check(&args, &place),
        Verb::CheckManifests(args) => check_manifests::check_manifests(&args),
        Verb::Cleanup(args) => cleanup::cleanup(&args, &place),
        Verb::Completions(args) => completions::completions(&args),
        Verb::Man(args) => man::man(&args),
        Verb::Version => version(),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {}", with_causes(error.as_ref()));
        ExitCode::FAILURE
    })
}

fn version() -> anyhow::Result<ExitCode> {
    output::print(&format!("fulcrum {}\n", env!("CARGO_PKG_VERSION")))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_verb_and_flag_has_a_help_text() {
        for verb in CommandLine::command().get_subcommands() {
            assert!(verb.get_about().is_some(), "{}", verb.get_name());
            for flag in verb.get_arguments() {
                assert!(
                    flag.get_help().is_some(),
                    "{} {}",
                    verb.get_name(),
                    flag.get_id()
                );
            }
        }
    }

    #[test]
    fn the_run_directory_is_a_flag_of_all_verbs() {
        let line = CommandLine::try_parse_from(["fulcrum", "get", "svc", "--run-dir", "/run/a"]);
        assert_eq!(line.expect("valid").place.run_dir, PathBuf::from("/run/a"));
        let line = CommandLine::try_parse_from(["fulcrum", "--run-dir", "/run/a", "maps"]);
        let place = line.expect("valid").place;
        assert!(
            place.pins().starts_with("/sys/fs/bpf/fulcrum/run-a/"),
            "{place:?}"
        );
    }
}
