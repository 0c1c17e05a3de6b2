//! The rules of kube-proxy on a node, without kube-proxy: as its two modes write them for services with two addresses.
//!
//! After `pkg/proxy/nftables/proxier.go` and `pkg/proxy/iptables/proxier.go`: the chains, maps and marks by which
//! connections are translated, and what drops. Left out is what only concerns services that tests do not have.

use std::{
    fmt::Write as _,
    io::Write as _,
    net::{IpAddr, SocketAddr},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{addressing::Dual, netns::Namespace};

/// The mark of what is masqueraded.
const MARK: &str = "0x4000";

/// How kube-proxy writes its rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A table of its own.
    Nftables,
    /// Chains in the tables of iptables, which nftables has.
    Iptables,
    /// Chains in the tables of the old iptables.
    OldIptables,
}

/// A port of a service, of both families.
#[derive(Clone, Debug)]
pub struct ServicePort {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// The addresses that are dialled.
    pub cluster_ips: Dual,
    /// The port there.
    pub port: u16,
    /// The port at the node's addresses.
    pub node_port: u16,
    /// Addresses of backends.
    pub backends: Vec<Dual>,
    /// The port there.
    pub target: u16,
}

/// Rules that are there until they are removed.
#[derive(Debug)]
pub struct KubeProxy<'a> {
    namespace: &'a Namespace,
    mode: Mode,
    node: Dual,
    ports: Vec<ServicePort>,
}

impl<'a> KubeProxy<'a> {
    /// The rules for these ports on the node with these addresses; none is there yet.
    pub fn new(namespace: &'a Namespace, mode: Mode, node: Dual, ports: Vec<ServicePort>) -> Self {
        Self {
            namespace,
            mode,
            node,
            ports,
        }
    }

    /// Writes the rules, of each family at once.
    ///
    /// # Errors
    /// A tool is missing or refuses them.
    pub fn start(&self) -> Result<()> {
        for family in 0..2 {
            match self.mode {
                Mode::Nftables => self.pipe(&["nft", "-f", "-"], &self.nftables(family))?,
                Mode::Iptables | Mode::OldIptables => {
                    self.restore(family, &self.iptables(family))?;
                }
            }
        }
        Ok(())
    }

    /// Removes them, as `kube-proxy --cleanup` does.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn stop(&self) -> Result<()> {
        for (family, names) in FAMILIES.iter().enumerate() {
            match self.mode {
                Mode::Nftables => {
                    let text = format!("delete table {} kube-proxy\n", names.nft);
                    self.pipe(&["nft", "-f", "-"], &text)?;
                }
                Mode::Iptables | Mode::OldIptables => {
                    self.restore(family, &self.iptables_removed())?;
                }
            }
        }
        Ok(())
    }

    fn restore(&self, family: usize, text: &str) -> Result<()> {
        let Family {
            restore,
            old_restore,
            ..
        } = &FAMILIES[family];
        let tool = if self.mode == Mode::OldIptables {
            old_restore
        } else {
            restore
        };
        self.pipe(&[tool, "--noflush"], text)
    }

    fn pipe(&self, command: &[&str], text: &str) -> Result<()> {
        self.namespace.run(|| {
            let mut child = Command::new(command[0])
                .args(&command[1..])
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .with_context(|| format!("start {}", command[0]))?;
            let stdin = child.stdin.take().context("a pipe")?;
            { stdin }.write_all(text.as_bytes())?;
            let output = child.wait_with_output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(
                output.status.success(),
                "{} refuses the rules: {said}\n{text}",
                command[0]
            );
            Ok(())
        })
    }

    fn nftables(&self, family: usize) -> String {
        let Family {
            nft, address, pods, ..
        } = &FAMILIES[family];
        let node = self.node.both()[family];
        let mut text = format!(
            "table {nft} kube-proxy {{
               map service-ips {{ type {address} . inet_proto . inet_service : verdict; }}
               map service-nodeports {{ type inet_proto . inet_service : verdict; }}
               set nodeport-ips {{ type {address}; elements = {{ {node} }} }}
               chain mark-for-masquerade {{ meta mark set meta mark or {MARK}; }}
               chain masquerading {{
                 meta mark and {MARK} == 0 return
                 meta mark set meta mark xor {MARK}
                 masquerade fully-random
               }}
               chain services {{
                 {nft} daddr . meta l4proto . th dport vmap @service-ips
                 {nft} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
               }}
               chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
               chain nat-output {{ type nat hook output priority -100; jump services; }}
               chain nat-postrouting {{ type nat hook postrouting priority srcnat; jump masquerading; }}
             }}\n"
        );
        for port in &self.ports {
            let (name, protocol) = (port.name(), port.protocol);
            let (vip, number) = (port.cluster_ips.both()[family], port.port);
            let mut endpoints = String::new();
            for (at, backend) in port.backends.iter().enumerate() {
                let addr = backend.both()[family];
                let to = SocketAddr::new(addr, port.target);
                let _ = writeln!(
                    text,
                    "add chain {nft} kube-proxy endpoint-{name}-{at}
                     add rule {nft} kube-proxy endpoint-{name}-{at} {nft} saddr {addr} jump mark-for-masquerade
                     add rule {nft} kube-proxy endpoint-{name}-{at} meta l4proto {protocol} dnat to {to}"
                );
                let _ = write!(endpoints, "{at} : goto endpoint-{name}-{at}, ");
            }
            let n_backends = port.backends.len();
            let _ = writeln!(
                text,
                "add chain {nft} kube-proxy service-{name}
                 add rule {nft} kube-proxy service-{name} {nft} daddr {vip} {protocol} dport {number} {nft} saddr != {pods} \
                   jump mark-for-masquerade
                 add rule {nft} kube-proxy service-{name} numgen random mod {n_backends} vmap {{ {endpoints} }}
                 add chain {nft} kube-proxy external-{name}
                 add rule {nft} kube-proxy external-{name} jump mark-for-masquerade
                 add rule {nft} kube-proxy external-{name} goto service-{name}
                 add element {nft} kube-proxy service-ips {{ {vip} . {protocol} . {number} : goto service-{name} }}
                 add element {nft} kube-proxy service-nodeports {{ {protocol} . {} : goto external-{name} }}",
                port.node_port
            );
        }
        text
    }

    fn iptables(&self, family: usize) -> String {
        let pods = FAMILIES[family].pods;
        let mut text = String::from("*nat\n");
        for chain in self.nat_chains() {
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        let _ = writeln!(
            text,
            "-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark {MARK}
-A KUBE-POSTROUTING -m mark ! --mark {MARK}/{MARK} -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark {MARK}
-A KUBE-POSTROUTING -j MASQUERADE --random-fully"
        );
        for port in &self.ports {
            let (name, protocol) = (port.name(), port.protocol);
            let (vip, number, node_port) =
                (port.cluster_ips.both()[family], port.port, port.node_port);
            let _ = writeln!(
                text,
                "-A KUBE-SERVICES -d {vip} -p {protocol} -m {protocol} --dport {number} -j KUBE-SVC-{name}
-A KUBE-NODEPORTS -p {protocol} -m {protocol} --dport {node_port} -j KUBE-EXT-{name}
-A KUBE-EXT-{name} -j KUBE-MARK-MASQ
-A KUBE-EXT-{name} -j KUBE-SVC-{name}
-A KUBE-SVC-{name} ! -s {pods} -d {vip} -p {protocol} -m {protocol} --dport {number} -j KUBE-MARK-MASQ"
            );
            for (at, backend) in port.backends.iter().enumerate() {
                let addr: IpAddr = backend.both()[family];
                let to = SocketAddr::new(addr, port.target);
                let n_left = port.backends.len() - at;
                let chance = if n_left == 1 {
                    String::new()
                } else {
                    format!(
                        "-m statistic --mode random --probability 0.{}",
                        100 / n_left
                    )
                };
                let _ = writeln!(
                    text,
                    "-A KUBE-SVC-{name} {chance} -j KUBE-SEP-{name}-{at}
-A KUBE-SEP-{name}-{at} -s {addr} -j KUBE-MARK-MASQ
-A KUBE-SEP-{name}-{at} -p {protocol} -m {protocol} -j DNAT --to-destination {to}"
                );
            }
        }
        let _ = writeln!(
            text,
            "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
COMMIT
*filter
:KUBE-FORWARD - [0:0]
-A FORWARD -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark {MARK}/{MARK} -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT"
        );
        text
    }

    fn iptables_removed(&self) -> String {
        let mut text = String::from("*nat\n");
        for chain in self.nat_chains() {
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        text.push_str(
            "-D PREROUTING -j KUBE-SERVICES
-D OUTPUT -j KUBE-SERVICES
-D POSTROUTING -j KUBE-POSTROUTING\n",
        );
        for chain in self.nat_chains() {
            let _ = writeln!(text, "-X {chain}");
        }
        text.push_str(
            "COMMIT
*filter
:KUBE-FORWARD - [0:0]
-D FORWARD -j KUBE-FORWARD
-X KUBE-FORWARD
COMMIT\n",
        );
        text
    }

    fn nat_chains(&self) -> Vec<String> {
        let fixed = [
            "KUBE-SERVICES",
            "KUBE-NODEPORTS",
            "KUBE-MARK-MASQ",
            "KUBE-POSTROUTING",
        ];
        let mut chains: Vec<_> = fixed.map(str::to_owned).into();
        for port in &self.ports {
            let name = port.name();
            chains.extend(["SVC", "EXT"].map(|kind| format!("KUBE-{kind}-{name}")));
            let endpoints = 0..port.backends.len();
            chains.extend(endpoints.map(|at| format!("KUBE-SEP-{name}-{at}")));
        }
        chains
    }
}

impl ServicePort {
    /// As chains may be called.
    fn name(&self) -> String {
        format!("{}-{}", self.protocol, self.port)
    }
}

/// What differs by family.
struct Family {
    nft: &'static str,
    address: &'static str,
    restore: &'static str,
    old_restore: &'static str,
    /// Those of all nodes.
    pods: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        nft: "ip",
        address: "ipv4_addr",
        restore: "iptables-nft-restore",
        old_restore: "iptables-legacy-restore",
        pods: "10.244.0.0/16",
    },
    Family {
        nft: "ip6",
        address: "ipv6_addr",
        restore: "ip6tables-nft-restore",
        old_restore: "ip6tables-legacy-restore",
        pods: "fd00:10:244::/48",
    },
];
