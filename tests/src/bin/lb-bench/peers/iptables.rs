//! The chains that kube-proxy's iptables mode writes.

use std::{fmt::Write as _, time::Duration};

use anyhow::Result;
use lb_tests::netns::Namespace;

use super::{MARK, PODS, pipe};
use crate::services::{PORT, Service, Services, TARGET};

/// Puts the rules of these services in place, in one transaction; how long that took.
pub(crate) fn start(node: &Namespace, services: Services) -> Result<Duration> {
    pipe(
        node,
        &["iptables-legacy-restore", "--noflush"],
        &rules(services),
    )
}

const FILTER: &str = "*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A INPUT -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
";

fn rules(services: Services) -> String {
    let mut text = format!(
        "{FILTER}-A KUBE-FORWARD -m mark --mark {MARK}/{MARK} -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]\n"
    );
    let mut body = String::new();
    for service in services.all() {
        for protocol in service.protocols() {
            write_port(&mut text, &mut body, service, protocol);
        }
    }
    let _ = write!(
        text,
        "-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark {MARK}
-A KUBE-POSTROUTING -m mark ! --mark {MARK}/{MARK} -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark {MARK}
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
{body}-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
COMMIT
"
    );
    text
}

/// Chains and rules of one port.
fn write_port(chains: &mut String, rules: &mut String, service: Service, protocol: &str) {
    let (hash, address) = (hash(service, protocol), service.address());
    let comment = format!("default/{}:{protocol}", service.name());
    let dialled = format!("-p {protocol} -m {protocol} -d {address} --dport {PORT}");
    let _ = writeln!(chains, ":KUBE-SVC-{hash} - [0:0]");
    let _ = writeln!(
        rules,
        "-A KUBE-SERVICES -m comment --comment \"{comment} cluster IP\" {dialled} -j KUBE-SVC-{hash}
-A KUBE-SVC-{hash} -m comment --comment \"{comment} cluster IP\" {dialled} ! -s {PODS} -j KUBE-MARK-MASQ"
    );
    let endpoints = service.endpoints();
    for (endpoint, n_left) in endpoints.iter().zip((1..=endpoints.len()).rev()) {
        let to = format!("{endpoint}:{TARGET}");
        let own = format!("KUBE-SEP-{hash}-{n_left}");
        let chance = chance(n_left);
        let _ = writeln!(chains, ":{own} - [0:0]");
        let _ = writeln!(
            rules,
            "-A KUBE-SVC-{hash} -m comment --comment \"{comment} -> {to}\" {chance}-j {own}
-A {own} -m comment --comment {comment} -s {endpoint} -j KUBE-MARK-MASQ
-A {own} -m comment --comment {comment} -p {protocol} -m {protocol} -j DNAT --to-destination {to}"
        );
    }
}

/// Each of those that are left is as likely as any other.
fn chance(n_left: usize) -> String {
    if n_left == 1 {
        return String::new();
    }
    let n_left = u32::try_from(n_left).unwrap_or(u32::MAX);
    format!(
        "-m statistic --mode random --probability {:.10} ",
        1.0 / f64::from(n_left)
    )
}

/// kube-proxy's are hashes, too: names of chains are short.
fn hash(service: Service, protocol: &str) -> String {
    format!("{}{:07X}", protocol.to_uppercase(), service.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_a_chain_and_each_of_its_endpoints_has_one() {
        let text = rules(Services(3));
        let count = |line: &str| text.lines().filter(|found| found.starts_with(line)).count();
        // The service in the middle has two ports.
        assert_eq!((count(":KUBE-SVC-"), count(":KUBE-SEP-")), (4, 40));
        assert_eq!(count("-A KUBE-SERVICES"), 4 + 1);
        // No chain has a longer name.
        assert!(
            text.lines()
                .filter_map(|line| line.strip_prefix(':'))
                .all(|line| line.find(' ') < Some(29))
        );
    }
}
