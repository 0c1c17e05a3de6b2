//! A firewall as operators write one: netfilter rules for what a node forwards, by the state of connections.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::netns::Namespace;

/// A table with counters of what its rules met. It ends with its namespace.
#[derive(Debug)]
pub struct Firewall<'a>(&'a Namespace);

impl<'a> Firewall<'a> {
    /// Lets new connections through but for those that `rules` stop, and then only what belongs to them. What has an
    /// address of a service is let through in neither direction.
    ///
    /// # Errors
    /// `nft` is missing or refuses the rules.
    pub fn new(namespace: &'a Namespace, rules: &str) -> Result<Self> {
        let counters = ["invalid", "of_services", "established", "new", "stopped"];
        let counters = counters
            .map(|name| format!("counter {name} {{}}\n"))
            .concat();
        let text = format!(
            "table inet guard {{
               {counters}
               set services4 {{ type ipv4_addr; flags interval; elements = {{ 10.96.0.0/12 }} }}
               set services6 {{ type ipv6_addr; flags interval; elements = {{ fd00:10:96::/112 }} }}
               chain forward {{
                 type filter hook forward priority 0; policy drop;
                 ip daddr @services4 counter name of_services drop
                 ip saddr @services4 counter name of_services drop
                 ip6 daddr @services6 counter name of_services drop
                 ip6 saddr @services6 counter name of_services drop
                 icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
                 ct state invalid counter name invalid drop
                 {rules}
                 ct state established,related counter name established accept
                 ct state new counter name new accept
               }}
             }}"
        );
        namespace.run(|| {
            let mut nft = Command::new("nft")
                .args(["-f", "-"])
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .context("start nft")?;
            let stdin = nft.stdin.take().context("a pipe to nft")?;
            { stdin }.write_all(text.as_bytes())?;
            let output = nft.wait_with_output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "nft refuses the rules: {said}");
            Ok(Self(namespace))
        })
    }

    /// Packets that a rule has met: `invalid`, `of_services`, `established`, `new`, `stopped`.
    ///
    /// # Errors
    /// `nft` fails, or there is no such counter.
    pub fn count(&self, name: &str) -> Result<u64> {
        let args = ["-j", "list", "counter", "inet", "guard", name];
        let output = self.0.run(|| Command::new("nft").args(args).output())?;
        let listed: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let entries = listed["nftables"].as_array().context("a list")?;
        let packets = entries
            .iter()
            .find_map(|entry| entry["counter"]["packets"].as_u64());
        packets.with_context(|| format!("no counter {name}"))
    }
}
