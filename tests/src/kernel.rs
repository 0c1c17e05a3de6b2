//! What this kernel lacks, said so that nobody takes a test that could not run for one that passed.

use std::io::{self, Write};

use anyhow::Result;

use crate::{link, netns::Namespace};

/// Whether the kernel, and this `ip`, can make netkit pairs.
pub fn has_netkit() -> Result<bool> {
    let [near, far] = [Namespace::anonymous("near")?, Namespace::anonymous("far")?];
    let pair = link::netkit("near0", "02:fc:05:00:00:01", "far0", &far, 1500);
    Ok(near.ip(&[pair]).is_ok())
}

/// Whether the kernel, and this `ip`, can make VLAN devices.
pub fn has_vlans() -> Result<bool> {
    let [near, far] = [Namespace::anonymous("near")?, Namespace::anonymous("far")?];
    near.ip(&[link::veth("near0", "02:fc:05:00:00:02", "far0", &far, 1500)])?;
    Ok(near.ip(&[link::vlan("near0", "near1")]).is_ok())
}

/// Says of each of these tests, by name, that it did not run for want of netkit; past libtest, which keeps what passing
/// tests print.
///
/// # Panics
///
/// If `FULCRUM_REQUIRE_NETKIT=1` says that this kernel has it.
pub fn report_without_netkit(names: &[String]) {
    report("netkit", "FULCRUM_REQUIRE_NETKIT", names);
}

/// The same for want of VLAN devices.
///
/// # Panics
///
/// If `FULCRUM_REQUIRE_VLAN=1` says that this kernel has them.
pub fn report_without_vlans(names: &[String]) {
    report("VLAN device", "FULCRUM_REQUIRE_VLAN", names);
}

fn report(missing: &str, variable: &str, names: &[String]) {
    let required = std::env::var_os(variable).is_some_and(|value| value == "1");
    assert!(
        !required,
        "no {missing} in this kernel or no `ip` that knows it, and skipping is forbidden here"
    );
    for name in names {
        // Nobody to tell if standard error is closed.
        let _ = writeln!(io::stderr(), "not in this kernel: {name}");
    }
}
