//! `fulcrum check-manifests`: what would become of every object of some manifests.

mod report;

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use ipnet::IpNet;

pub use self::report::{Counts, FileText, Judgement, Report, Unread, Verdict, judge};
use super::output::{self, Format};
use crate::{
    compile::NodeFacts,
    config::PoolFlags,
    source::{dir, stdin},
};

/// Flags of `check-manifests`.
#[derive(Args, Debug)]
pub(super) struct CheckManifestsArgs {
    /// Files, directories (their *.yaml, *.yml and *.json, not recursive), or - for standard input
    #[arg(required = true, value_name = "FILE|DIR|-")]
    manifests: Vec<PathBuf>,

    /// Prefixes that addresses of services are taken from, as for `run`; may be repeated
    #[arg(
        long,
        value_name = "CIDR",
        value_delimiter = ',',
        default_value = "10.96.0.0/12,fd00:10:96::/112"
    )]
    service_cidr: Vec<IpNet>,

    #[command(flatten)]
    pools: PoolFlags,

    /// The form of the result
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
}

pub(super) fn check_manifests(args: &CheckManifestsArgs) -> anyhow::Result<ExitCode> {
    let (mut files, mut unread) = (Vec::new(), Vec::new());
    for path in &args.manifests {
        collect(path, &mut files, &mut unread);
    }
    let mut facts = NodeFacts {
        service_cidrs: args.service_cidr.iter().map(IpNet::trunc).collect(),
        ..NodeFacts::default()
    };
    args.pools.tell(&mut facts);
    let mut report = judge(files, &facts);
    report.unread = unread;
    let text = match args.output.structured(&report)? {
        Some(text) => text,
        None => report.to_string(),
    };
    output::print(&text)?;
    for unread in &report.unread {
        eprintln!("error: {unread}");
    }
    Ok(report.exit_code().into())
}

/// Reads what an argument names.
fn collect(path: &Path, files: &mut Vec<FileText>, unread: &mut Vec<Unread>) {
    let name = path.display().to_string();
    let mut push = |name: String, bytes: io::Result<Vec<u8>>| match bytes {
        Ok(bytes) => files.push(FileText { name, bytes }),
        Err(error) => unread.push(Unread {
            file: name,
            error: error.to_string(),
        }),
    };
    if path == Path::new(stdin::NAME) {
        return push(name, dir::read_all(io::stdin().lock()));
    }
    match dir::manifests(path) {
        Ok(paths) if paths.is_empty() => {
            let message = "no manifest here; files are read that end in .yaml, .yml or .json";
            push(name, Err(io::Error::other(message)));
        }
        Ok(paths) => {
            for path in paths {
                push(path.display().to_string(), dir::read(&path));
            }
        }
        Err(error) => push(name, Err(error)),
    }
}
