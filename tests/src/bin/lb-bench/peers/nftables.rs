//! The table that kube-proxy's nftables mode writes.

use std::{fmt::Write as _, time::Duration};

use anyhow::Result;
use lb_tests::netns::Namespace;

use super::{MARK, PODS, pipe};
use crate::services::{PORT, Service, Services, TARGET};

/// Puts the rules of these services in place, in one transaction; how long that took.
pub(crate) fn start(node: &Namespace, services: Services) -> Result<Duration> {
    pipe(node, &["nft", "-f", "-"], &rules(services))
}

/// What every node has.
const BASE: &str = "
  set cluster-ips { type ipv4_addr; }
  set nodeport-ips { type ipv4_addr; }
  map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }
  map no-endpoint-nodeports { type inet_proto . inet_service : verdict; }
  map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
  map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
  map service-nodeports { type inet_proto . inet_service : verdict; }
  chain cluster-ips-check {
    ip daddr @cluster-ips reject
    ip daddr 10.96.0.0/12 drop
  }
  chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips; }
  chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }
  chain nodeport-endpoints-check { ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports; }
  chain services {
    ip daddr . meta l4proto . th dport vmap @service-ips
    ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
  }
  chain filter-prerouting { type filter hook prerouting priority -110; ct state new jump firewall-check; }
  chain filter-input {
    type filter hook input priority -110
    ct state new jump nodeport-endpoints-check
    ct state new jump service-endpoints-check
  }
  chain filter-forward {
    type filter hook forward priority -110
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }
  chain filter-output {
    type filter hook output priority -110
    ct state new jump service-endpoints-check
    ct state new jump firewall-check
  }
  chain filter-output-post-dnat { type filter hook output priority -90; ct state new jump cluster-ips-check; }
  chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
  chain nat-output { type nat hook output priority -100; jump services; }
  chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
";

fn rules(services: Services) -> String {
    let mut text = format!(
        "table ip kube-proxy {{
  chain mark-for-masquerade {{ meta mark set meta mark or {MARK}; }}
  chain masquerading {{
    meta mark and {MARK} == 0 return
    meta mark set meta mark xor {MARK}
    masquerade fully-random
  }}{BASE}}}\n"
    );
    // Chains come before the rules that lead to them, as kube-proxy writes them.
    for service in services.all() {
        for protocol in service.protocols() {
            write_port(&mut text, service, protocol);
        }
        let address = service.address();
        let _ = writeln!(
            text,
            "add element ip kube-proxy cluster-ips {{ {address} }}"
        );
    }
    text
}

fn write_port(text: &mut String, service: Service, protocol: &str) {
    let (name, address) = (chain(service, protocol), service.address());
    let mut choices = Vec::new();
    for (at, endpoint) in service.endpoints().into_iter().enumerate() {
        let chain = format!("endpoint-{name}__{endpoint}/{TARGET}");
        let _ = writeln!(
            text,
            "add chain ip kube-proxy {chain}
add rule ip kube-proxy {chain} ip saddr {endpoint} jump mark-for-masquerade
add rule ip kube-proxy {chain} meta l4proto {protocol} dnat to {endpoint}:{TARGET}"
        );
        choices.push(format!("{at} : goto {chain}"));
    }
    let _ = writeln!(
        text,
        "add chain ip kube-proxy service-{name}
add rule ip kube-proxy service-{name} ip daddr {address} {protocol} dport {PORT} ip saddr != {PODS} jump mark-for-masquerade
add rule ip kube-proxy service-{name} numgen random mod {} vmap {{ {} }}
add element ip kube-proxy service-ips {{ {address} . {protocol} . {PORT} : goto service-{name} }}",
        choices.len(),
        choices.join(", ")
    );
}

/// As kube-proxy calls chains: a hash of so many letters, then names.
fn chain(service: Service, protocol: &str) -> String {
    format!(
        "{:08X}-default/{}/{protocol}/{protocol}",
        service.number,
        service.name()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_a_chain_and_each_of_its_endpoints_has_one() {
        let text = rules(Services(3));
        let chains = |of: &str| {
            text.matches(&format!("add chain ip kube-proxy {of}-"))
                .count()
        };
        // The service in the middle has two ports.
        assert_eq!((chains("service"), chains("endpoint")), (4, 40));
        assert_eq!(
            text.matches("add element ip kube-proxy service-ips")
                .count(),
            4
        );
        assert_eq!(
            text.matches("add element ip kube-proxy cluster-ips")
                .count(),
            3
        );
    }
}
