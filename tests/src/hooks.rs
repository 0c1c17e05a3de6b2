//! Programs for TC on a device, by whatever hooks the kernel has: links (Linux 6.6), else filters of the clsact qdisc.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use serde_json::Value;

use crate::{netns::Namespace, place::Place};

/// Whether this kernel has links for TC.
pub fn are_links() -> bool {
    SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok()
}

/// The ids of the programs at the ingress of a device.
pub fn at_ingress(namespace: &Namespace, device: &str) -> Result<Vec<u32>> {
    if are_links() {
        let query = || SchedClassifier::query_tcx(device, TcAttachType::Ingress);
        let (_, programs) = namespace.run(query)?;
        return Ok(programs
            .iter()
            .map(aya::programs::ProgramInfo::id)
            .collect());
    }
    let listed = tc(
        namespace,
        &["-j", "filter", "show", "dev", device, "ingress"],
    )?;
    let filters: Vec<Value> =
        serde_json::from_str(&listed).with_context(|| format!("read filters: {listed}"))?;
    let ids = filters
        .iter()
        .filter_map(|filter| filter["options"]["prog"]["id"].as_u64());
    ids.map(|id| u32::try_from(id).context("an id")).collect()
}

/// Takes off these devices what an agent has put there: its links are severed, or its filters removed.
pub fn take_off(namespace: &Namespace, place: &Place, devices: &[&str]) -> Result<()> {
    for pin in pins(place)? {
        let mut command = namespace.command("bpftool");
        let output = command
            .args(["link", "detach", "pinned"])
            .arg(pin)
            .output()?;
        ensure!(output.status.success(), "{output:?}");
    }
    if !are_links() {
        for device in devices {
            for end in ["ingress", "egress"] {
                tc(namespace, &["filter", "del", "dev", device, end])?;
            }
        }
    }
    Ok(())
}

/// The pins of the links of an agent; none where there are no links.
pub fn pins(place: &Place) -> Result<Vec<PathBuf>> {
    let mut pins = Vec::new();
    for run_dir in std::fs::read_dir(place.bpffs().join("fulcrum"))? {
        for pin in std::fs::read_dir(run_dir?.path().join("links"))? {
            pins.push(pin?.path());
        }
    }
    pins.sort();
    Ok(pins)
}

fn tc(namespace: &Namespace, arguments: &[&str]) -> Result<String> {
    let output = namespace.command("tc").args(arguments).output()?;
    ensure!(output.status.success(), "tc {arguments:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}
