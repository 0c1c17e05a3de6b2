//! `fulcrum check`: can this machine run fulcrum?

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use ipnet::IpNet;
use serde_json::Value;

use super::{
    Place,
    output::{self, Format},
};
use crate::{
    check::{
        self,
        facts::{Facts, Named},
        node_ports::Agent,
    },
    config,
    control::{Request, client::ask},
};

/// Flags of `check`.
#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    /// Devices that lead out of the node, as for `run` [default: those of the default routes, and those by which
    /// routes lead to --pod-cidr]
    #[arg(long, value_name = "DEVICE|GLOB", value_delimiter = ',')]
    uplink: Vec<String>,

    /// Host sides of the pods' devices, as for `run` [default: every veth and netkit whose peer is in another network
    /// namespace]
    #[arg(long, value_name = "DEVICE|GLOB", value_delimiter = ',')]
    pod_device: Vec<String>,

    /// Prefixes of the cluster's pods, as for `run`
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pod_cidr: Vec<IpNet>,

    /// The form of the result
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// The agent whose tables say which numbers are node ports. None need run.
fn agent(place: &Place) -> Agent {
    let run_dir = place.run_dir();
    let status: Option<Value> = ask(&run_dir, Request::Status).ok();
    let pid = status.as_ref().and_then(|it| it.get("pid")?.as_u64());
    Agent {
        pins: place.pins(),
        pid: pid.and_then(|pid| u32::try_from(pid).ok()),
        names: ask(&run_dir, Request::Names).unwrap_or_default(),
    }
}

pub(super) fn check(args: &CheckArgs, place: &Place) -> anyhow::Result<ExitCode> {
    let named = Named {
        uplinks: config::patterns("uplink", &args.uplink)?,
        pods: config::patterns("pod-device", &args.pod_device)?,
        pod_cidrs: args.pod_cidr.iter().map(IpNet::trunc).collect(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let facts = runtime.block_on(Facts::gather(&place.bpffs, named, &agent(place)));
    let items = check::items(&facts);
    let text = match args.output.structured(&items)? {
        Some(text) => text,
        None => items
            .iter()
            .flat_map(|item| [item.to_string(), "\n".to_owned()])
            .collect(),
    };
    output::print(&text)?;
    Ok(if check::has_failed(&items) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
