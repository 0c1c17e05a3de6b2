//! Manifests for tests: the objects that a standalone agent needs, as YAML text, written so that no reader ever sees half
//! of a file.
//!
//! Plain text on purpose: it goes through the same reader as what people write, and a failing test can print it.

use std::{fmt, io::Write, net::IpAddr, path::Path};

use anyhow::{Context, Result};
use tempfile::NamedTempFile;

use crate::{
    addressing,
    topology::{self, Cluster},
};

/// The value of the label `app` that ties pods to the services that select them.
type App = String;

/// A Service of the namespace `default`.
#[derive(Clone, Debug)]
pub struct Service {
    /// `metadata.name`.
    pub name: String,
    /// `spec.clusterIPs`, the primary one first; none given: the agent allocates, of both families.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.ports`.
    pub ports: Vec<Port>,
    /// The label `app` that it selects by; none given: endpoints are given by slices.
    pub selector: Option<App>,
}

/// A Service of type `LoadBalancer`: with node ports, and with addresses that its status says it got.
#[derive(Clone, Debug)]
pub struct Exposed {
    /// What it is inside the cluster.
    pub service: Service,
    /// `nodePort` of each of its ports.
    pub node_ports: Vec<u16>,
    /// `status.loadBalancer.ingress`.
    pub ips: Vec<IpAddr>,
}

/// The same with further fields of its `spec`, each a line of YAML: policies, affinity.
#[derive(Clone, Debug)]
pub struct Governed {
    /// What it is without them.
    pub exposed: Exposed,
    /// `externalTrafficPolicy: Local` and the like.
    pub spec: Vec<&'static str>,
}

/// A port of a Service or an `EndpointSlice`.
#[derive(Clone, Debug)]
pub struct Port {
    /// `name`.
    pub name: String,
    /// `TCP` or `UDP`.
    pub protocol: &'static str,
    /// `port` of the service.
    pub port: u16,
    /// `targetPort`, the port of the endpoints.
    pub target: u16,
}

/// An `EndpointSlice`; its addresses are of one family.
#[derive(Clone, Debug)]
pub struct EndpointSlice {
    /// `metadata.name`.
    pub name: String,
    /// The service that it belongs to.
    pub service: String,
    /// The endpoints, all of one family.
    pub endpoints: Vec<Endpoint>,
    /// The ports, of which the targets count.
    pub ports: Vec<Port>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// `nodeName`.
    pub node_name: String,
    /// `conditions.ready`.
    pub ready: bool,
}

/// A Pod.
#[derive(Clone, Debug)]
pub struct Pod {
    /// `metadata.name`.
    pub name: String,
    /// The label `app`.
    pub app: App,
    /// `spec.nodeName`.
    pub node_name: String,
    /// `status.podIPs`, the primary one first.
    pub ips: Vec<IpAddr>,
    /// The condition `Ready`.
    pub ready: bool,
    /// `spec.hostNetwork`.
    pub host_network: bool,
}

/// A Node.
#[derive(Clone, Debug)]
pub struct Node {
    /// `metadata.name`.
    pub name: String,
    /// `status.addresses`, of type `InternalIP`.
    pub ips: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<String>,
}

/// The documents of one file.
#[derive(Clone, Debug, Default)]
pub struct Manifest(String);

impl Manifest {
    /// The Nodes of a cluster.
    pub fn nodes_of(cluster: &Cluster) -> Self {
        let nodes = cluster.nodes.iter().map(|node| Node {
            name: node.name.clone(),
            ips: node.addresses.both().into(),
            pod_cidrs: addressing::pod_cidrs(node.number).into(),
        });
        nodes.fold(Self::default(), |manifest, node| manifest.with(&node))
    }

    /// Adds the pods of these names, ready, with this label `app`.
    #[must_use]
    pub fn with_pods_of(self, cluster: &Cluster, names: &[&str], app: &str) -> Self {
        let pods = cluster.pods();
        let serving = pods.filter(|(_, pod)| names.contains(&pod.name.as_str()));
        serving.fold(self, |manifest, (node, pod)| {
            manifest.with(&Pod::of(node, pod, app))
        })
    }

    /// Adds an object.
    #[must_use]
    pub fn with(mut self, object: &impl fmt::Display) -> Self {
        self.0.push_str("---\n");
        self.0.push_str(&object.to_string());
        self
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Writes the file, or replaces it in one step.
    pub fn write(&self, path: &Path) -> Result<()> {
        replace(path, &self.0)
    }
}

/// Writes a file, or replaces it in one step: readers see the old text or the new one, and no other file that ends like a
/// manifest appears beside it.
pub fn replace(path: &Path, text: &str) -> Result<()> {
    let write = || {
        let dir = path.parent().unwrap_or(Path::new("."));
        let mut file = NamedTempFile::new_in(dir)?;
        file.write_all(text.as_bytes())?;
        file.persist(path)?;
        Ok::<_, std::io::Error>(())
    };
    write().with_context(|| format!("write {}", path.display()))
}

impl Port {
    /// A port by its protocol, `TCP` or `UDP`, named after it.
    pub fn new(protocol: &'static str, port: u16, target: u16) -> Self {
        Self {
            name: protocol.to_lowercase(),
            protocol,
            port,
            target,
        }
    }
}

impl Pod {
    /// A pod of a cluster, ready, with this label `app`.
    pub fn of(node: &topology::Node, pod: &topology::Pod, app: &str) -> Self {
        Self {
            name: pod.name.clone(),
            app: app.to_owned(),
            node_name: node.name.clone(),
            ips: pod.addresses.both().into(),
            ready: true,
            host_network: false,
        }
    }

    /// A pod in the node's own namespace, which has the node's addresses; ready, with this label `app`.
    pub fn on(node: &topology::Node, app: &str) -> Self {
        Self {
            name: format!("{app}-{}", node.name),
            app: app.to_owned(),
            node_name: node.name.clone(),
            ips: node.addresses.both().into(),
            ready: true,
            host_network: true,
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {}}}",
            self.name
        )?;
        writeln!(f, "spec:\n  ipFamilyPolicy: PreferDualStack")?;
        if let Some(first) = self.cluster_ips.first() {
            writeln!(
                f,
                "  clusterIP: {:?}\n  clusterIPs: {}",
                first.to_string(),
                list(&self.cluster_ips)
            )?;
        }
        if let Some(app) = &self.selector {
            writeln!(f, "  selector: {{app: {app}}}")?;
        }
        writeln!(f, "  ports:")?;
        self.ports.iter().try_for_each(|port| writeln!(f, "{port}"))
    }
}

impl fmt::Display for Port {
    /// As an entry of a service's list.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            protocol,
            port,
            target,
        } = self;
        write!(
            f,
            "  - {{name: {name}, protocol: {protocol}, port: {port}, targetPort: {target}}}"
        )
    }
}

impl fmt::Display for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What comes last in a Service's text is its list of ports, so that lines can be added to it.
        let mut inner = self.service.clone();
        let ports = std::mem::take(&mut inner.ports);
        write!(f, "{inner}")?;
        for (port, node_port) in ports.iter().zip(&self.node_ports) {
            let port = port.to_string();
            let port = port.strip_suffix('}').unwrap_or(&port);
            writeln!(f, "{port}, nodePort: {node_port}}}")?;
        }
        writeln!(
            f,
            "  type: LoadBalancer\nstatus:\n  loadBalancer:\n    ingress:"
        )?;
        self.ips
            .iter()
            .try_for_each(|ip| writeln!(f, "    - ip: \"{ip}\""))
    }
}

impl fmt::Display for Governed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.spec.iter().map(|line| format!("  {line}\n")).collect();
        let spec = format!("spec:\n{}", lines.concat());
        f.write_str(&self.exposed.to_string().replacen("spec:\n", &spec, 1))
    }
}

impl fmt::Display for EndpointSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_v6 = self
            .endpoints
            .first()
            .is_some_and(|endpoint| endpoint.address.is_ipv6());
        writeln!(
            f,
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {}",
            self.name
        )?;
        writeln!(
            f,
            "  labels: {{kubernetes.io/service-name: {}}}",
            self.service
        )?;
        writeln!(
            f,
            "addressType: {}\nports:",
            if is_v6 { "IPv6" } else { "IPv4" }
        )?;
        for Port {
            name,
            protocol,
            target,
            ..
        } in &self.ports
        {
            writeln!(
                f,
                "- {{name: {name}, protocol: {protocol}, port: {target}}}"
            )?;
        }
        writeln!(
            f,
            "endpoints:{}",
            if self.endpoints.is_empty() { " []" } else { "" }
        )?;
        for Endpoint {
            address,
            node_name,
            ready,
        } in &self.endpoints
        {
            writeln!(
                f,
                "- addresses: [\"{address}\"]\n  conditions: {{ready: {ready}}}\n  nodeName: {node_name}"
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            app,
            node_name,
            ips,
            ready,
            host_network,
        } = self;
        writeln!(
            f,
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {app}}}}}"
        )?;
        writeln!(
            f,
            "spec: {{nodeName: {node_name}, hostNetwork: {host_network}, containers: [{{name: server}}]}}"
        )?;
        writeln!(f, "status:\n  phase: Running\n  podIPs:")?;
        for ip in ips {
            writeln!(f, "  - ip: \"{ip}\"")?;
        }
        let status = if *ready { "True" } else { "False" };
        writeln!(f, "  conditions: [{{type: Ready, status: \"{status}\"}}]")
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            ips,
            pod_cidrs,
        } = self;
        writeln!(f, "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}")?;
        writeln!(
            f,
            "spec: {{podCIDRs: {}}}\nstatus:\n  addresses:",
            list(pod_cidrs)
        )?;
        for ip in ips {
            writeln!(f, "  - {{type: InternalIP, address: \"{ip}\"}}")?;
        }
        Ok(())
    }
}

/// A YAML list of quoted texts: an IPv6 address unquoted may read as something else.
fn list(values: &[impl fmt::Display]) -> String {
    let quoted: Vec<String> = values.iter().map(|value| format!("\"{value}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dual_stack_service_reads_as_people_write_it() {
        let service = Service {
            name: "web".to_owned(),
            cluster_ips: vec![
                "10.96.0.10".parse().unwrap(),
                "fd00:10:96::a".parse().unwrap(),
            ],
            ports: vec![Port::new("TCP", 80, 8080)],
            selector: Some("web".to_owned()),
        };
        let expected = "\
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  ipFamilyPolicy: PreferDualStack
  clusterIP: \"10.96.0.10\"
  clusterIPs: [\"10.96.0.10\", \"fd00:10:96::a\"]
  selector: {app: web}
  ports:
  - {name: tcp, protocol: TCP, port: 80, targetPort: 8080}
";
        assert_eq!(Manifest::default().with(&service).text(), expected);
    }

    #[test]
    fn an_exposed_service_is_a_service_with_more_lines() {
        let exposed = Exposed {
            service: Service {
                name: "web".to_owned(),
                cluster_ips: Vec::new(),
                ports: vec![Port::new("TCP", 80, 8080)],
                selector: None,
            },
            node_ports: vec![30123],
            ips: vec!["198.19.100.1".parse().unwrap()],
        };
        let text = exposed.to_string();
        let expected = "  ports:
  - {name: tcp, protocol: TCP, port: 80, targetPort: 8080, nodePort: 30123}
  type: LoadBalancer
status:
  loadBalancer:
    ingress:
    - ip: \"198.19.100.1\"
";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn a_governed_service_has_its_lines_first() {
        let governed = Governed {
            exposed: Exposed {
                service: Service {
                    name: "web".to_owned(),
                    cluster_ips: Vec::new(),
                    ports: vec![Port::new("TCP", 80, 8080)],
                    selector: None,
                },
                node_ports: vec![30123],
                ips: Vec::new(),
            },
            spec: vec!["externalTrafficPolicy: Local"],
        };
        let text = governed.to_string();
        let expected = "spec:\n  externalTrafficPolicy: Local\n  ipFamilyPolicy: PreferDualStack\n";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn a_slice_without_endpoints_has_an_empty_list() {
        let slice = EndpointSlice {
            name: "web-1".to_owned(),
            service: "web".to_owned(),
            endpoints: Vec::new(),
            ports: vec![Port::new("UDP", 53, 5353)],
        };
        let text = slice.to_string();
        assert!(
            text.ends_with("- {name: udp, protocol: UDP, port: 5353}\nendpoints: []\n"),
            "{text}"
        );
    }

    #[test]
    fn replacing_leaves_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        for text in ["old", "new"] {
            replace(&path, text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
