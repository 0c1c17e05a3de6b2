//! Cases of the fact tables with real packets: pods, processes of the node and a client outside dial on a node made of network
//! namespaces that has the case's addresses, endpoints and objects.
//!
//! Each flow is dialled by real sockets, TCP and UDP: who answers and whom he sees, or that it is refused at once, or that
//! nothing at all comes back. Left out are packets that no socket can send: SCTP, and those from the address that they go to.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

mod flows;
mod site;

use lb_tests::{
    netns::require_root,
    truth::{self, Masquerade},
};

use self::site::{Hook, Site};

/// One test per case: the table, the case, the mode of masquerading, and where uplinks are met.
macro_rules! cases {
    ($($name:ident: $table:literal, $id:literal, $mode:ident $(, $hook:ident)?;)+) => {
        $(#[test]
        fn $name() {
            run($table, $id, Masquerade::$mode, [$(Hook::$hook,)? Hook::Tc][0]);
        })+
    };
}

cases! {
    six_services: "packetflow.yaml", "TracePacket/six-services", KubeProxy;
    node_port_of_ipv6: "packetflow.yaml", "TracePacketV6/nodeport", KubeProxy;
    without_endpoints: "packetflow.yaml", "NoEndpointsReject", KubeProxy;
    cluster_ips: "packetflow.yaml", "ClusterIPGeneral", KubeProxy;
    load_balancer: "packetflow.yaml", "LoadBalancer", KubeProxy;
    health_check_node_port: "packetflow.yaml", "HealthCheckNodePort", KubeProxy;
    health_check_node_port_gone: "packetflow.yaml", "HealthCheckNodePort/after-service-delete", KubeProxy;
    external_local: "packetflow.yaml", "ExternalTrafficPolicyLocal", KubeProxy;
    external_cluster: "packetflow.yaml", "ExternalTrafficPolicyCluster", KubeProxy;
    ip_mode_proxy: "packetflow.yaml", "LoadBalancerIPMode/Proxy", KubeProxy;
    ip_mode_vip: "packetflow.yaml", "LoadBalancerIPMode/VIP", KubeProxy;
    masquerade_as_kube_proxy: "truthtable.yaml", "InternalExternalMasquerade/base", KubeProxy;
    masquerade_as_needed: "truthtable.yaml", "InternalExternalMasquerade/base", AsNeeded;
    masquerade_all: "truthtable.yaml", "InternalExternalMasquerade/masquerade-all", All;
    masquerade_of_ipv6: "truthtable.yaml", "InternalExternalMasquerade/IPv6", KubeProxy;
    masquerade_of_ipv6_as_needed: "truthtable.yaml", "InternalExternalMasquerade/IPv6", AsNeeded;
    node_ports_of_all_addresses: "truthtable.yaml", "NodePorts/all-addresses", AsNeeded;
    node_ports_of_some_addresses: "truthtable.yaml", "NodePorts/narrow", AsNeeded;
    terminating_endpoints: "truthtable.yaml", "TerminatingEndpoints/Local/only-terminating", AsNeeded;
    ready_endpoints: "truthtable.yaml", "TerminatingEndpoints/Local/ready", AsNeeded;
    policies_without_local_endpoints: "truthtable.yaml", "TrafficPolicy/Local-Local/far", AsNeeded;
    policies_without_endpoints: "truthtable.yaml", "TrafficPolicy/Local-Local/none", AsNeeded;
    guards_of_cluster_ips: "truthtable.yaml", "ClusterIP/guards", AsNeeded;
    hairpin: "truthtable.yaml", "ClusterIP/hairpin", AsNeeded;
    rejected_protocols: "truthtable.yaml", "Protocols/rejected", AsNeeded;
    source_ranges: "truthtable.yaml", "SourceRanges/dual-stack", AsNeeded;
    masquerade_as_needed_with_xdp: "truthtable.yaml", "InternalExternalMasquerade/base", AsNeeded, Xdp;
    masquerade_as_kube_proxy_with_xdp: "truthtable.yaml", "InternalExternalMasquerade/IPv6", KubeProxy, Xdp;
    policies_with_xdp: "truthtable.yaml", "TrafficPolicy/Local-Local/far", AsNeeded, Xdp;
    rejected_protocols_with_xdp: "truthtable.yaml", "Protocols/rejected", AsNeeded, Xdp;
    guards_of_cluster_ips_with_xdp: "truthtable.yaml", "ClusterIP/guards", AsNeeded, Xdp;
    source_ranges_with_xdp: "truthtable.yaml", "SourceRanges/dual-stack", AsNeeded, Xdp;
}

#[track_caller]
fn run(table: &str, id: &str, mode: Masquerade, hook: Hook) {
    if !require_root() {
        return;
    }
    let cases = truth::load(table).unwrap();
    let case = cases.iter().find(|case| case.id == id).unwrap();
    let site = Site::new(case, mode, hook).unwrap();
    let failures = flows::run(&site, case, mode);
    if hook == Hook::Xdp {
        let counters = site.agent.counters().unwrap();
        let of_xdp = ["xdp_forward", "opened_for_tc", "pass_to_tc"].map(|reason| counters[reason]);
        assert!(
            of_xdp.iter().sum::<u64>() > 0,
            "nothing was met in the driver: {counters:?}"
        );
    }
    assert!(
        failures.is_empty(),
        "{id} ({mode}): {} flows differ:\n  {}",
        failures.len(),
        failures.join("\n  ")
    );
}
