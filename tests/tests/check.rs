//! `fulcrum check` in a namespace of its own: what it finds of firewalls, other programs and other sockets, read from
//! the kernel.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

use lb_tests::{
    balancer::{self, Balancer, Manifests},
    netns::{Namespace, require_root},
    place::Place,
    server::Server,
    topology::{Cluster, Config, UPLINK},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

/// Families of `linux/netfilter.h`.
const INET: u8 = 1;
const IPV4: u8 = 2;

#[test]
fn firewalls_and_engines_are_found_by_their_rules() {
    if !require_root() {
        return;
    }
    let node = Node::new();
    assert_eq!(
        node.complaints(),
        [""; 0],
        "a namespace without any rule or program"
    );
    let rules = [
        Rules::table(INET, "filter"),
        Rules::base_chain(INET, "filter", "forward", Some(DROP)),
        Rules::table(IPV4, "raw"),
        Rules::base_chain(IPV4, "raw", "FORWARD", None),
        Rules::chain(IPV4, "raw", "cali-FORWARD"),
        Rules::chain(IPV4, "raw", "KUBE-SERVICES"),
        Rules::rule(IPV4, "raw", "FORWARD", JUMP, Some("cali-FORWARD")),
        Rules::rule(IPV4, "raw", "cali-FORWARD", DROP, None),
        Rules::rule(IPV4, "raw", "KUBE-SERVICES", DROP, None),
        // Loses nothing.
        Rules::table(IPV4, "idle"),
        Rules::base_chain(IPV4, "idle", "forward", None),
        Rules::rule(IPV4, "idle", "forward", ACCEPT, None),
    ];
    node.put(&rules);
    let complaints = node.complaints();
    let begins = [
        "warn  firewall: traffic to services is redirected past FORWARD: table inet filter chain forward \
         (policy drop) no longer sees it; ",
        "warn  firewall: traffic to services is redirected past FORWARD: table ip raw chain FORWARD (drop) of Calico no \
         longer sees it; ",
        "warn  kube-proxy: its rules are here (ip table raw); ",
    ];
    assert_eq!(complaints.len(), begins.len(), "{complaints:#?}");
    for (complaint, begin) in complaints.iter().zip(begins) {
        assert!(complaint.starts_with(begin), "{complaint}");
    }
}

#[test]
fn filters_of_others_are_found_on_uplinks() {
    if !require_root() {
        return;
    }
    let node = Node::new();
    node.tc("qdisc add dev up0 clsact");
    node.tc("filter add dev up0 ingress prio 7 u32 match u32 0 0 flowid 1:1");
    let complaints = node.complaints();
    assert_eq!(complaints.len(), 1, "{complaints:#?}");
    let begin =
        "warn  other programs: a filter of kind u32 at the ingress of up0 runs behind fulcrum";
    assert!(complaints[0].starts_with(begin), "{complaints:#?}");
}

#[test]
fn a_device_that_does_not_forward_is_found() {
    if !require_root() {
        return;
    }
    let node = Node::new();
    node.namespace
        .sysctl("net/ipv4/conf/up0/forwarding", "0")
        .unwrap();
    let complaints = node.complaints();
    assert_eq!(complaints.len(), 1, "{complaints:#?}");
    assert!(
        complaints[0].starts_with("warn  device forwarding: IPv4 is not forwarded from up0")
            && complaints[0].ends_with("sysctl -w net.ipv4.conf.up0.forwarding=1"),
        "{complaints:#?}"
    );
}

/// A service with a node port of TCP alone.
const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  clusterIP: 10.96.0.10
  ports: [{name: http, port: 80, nodePort: 30080}]
";

#[test]
fn a_listener_on_a_node_port_is_found_while_it_listens() {
    if !require_root() {
        return;
    }
    let cluster = Cluster::new(&Config {
        pods: vec![1],
        ..Config::default()
    });
    let cluster = cluster.unwrap();
    let node = &cluster.nodes[0];
    let place = Place::new().unwrap();
    let balancer = Balancer::start_at(&place, node, Manifests::Stdin(WEB), &[]).unwrap();
    let about = |namespace: &Namespace| {
        let lines = lines_of_check(namespace, &place, UPLINK);
        let lines = lines.into_iter();
        lines
            .filter(|line| line.contains("  node ports: "))
            .collect::<Vec<_>>()
    };
    let quiet = "ok    node ports: one is served, and no other socket waits on it";
    assert_eq!(about(&node.namespace), [quiet]);
    let server = Server::hostname(&node.namespace, "web", 30080).unwrap();
    // The sockets are those of the agent's namespace, wherever the question is asked.
    let elsewhere = &node.pods[0].namespace;
    let [v4, _] = node.addresses.both();
    for namespace in [&node.namespace, elsewhere] {
        let lines = about(namespace);
        let whose = format!("(process {}) on ::; what is sent to ", std::process::id());
        assert_eq!(lines.len(), 1, "{lines:#?}");
        assert!(
            lines[0]
                .starts_with("warn  node ports: 30080/TCP is the node port of default/web:http, ")
                && lines[0].contains(&whose)
                && lines[0].contains(&v4.to_string()),
            "{lines:#?}"
        );
    }
    drop(server);
    node.namespace
        .sysctl("net/ipv4/ip_local_port_range", "30000 40000")
        .unwrap();
    let lines = about(&node.namespace);
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert_eq!(lines[0], quiet);
    assert!(
        lines[1].starts_with("note  node ports: 30080 is in the range 30000-40000, ")
            && lines[1].ends_with("ip_local_reserved_ports=30080"),
        "{lines:#?}"
    );
    drop(balancer);
    assert_eq!(
        about(&node.namespace),
        ["ok    node ports: no agent runs here that would say which"]
    );
}

/// What `check` says in a namespace about the agent of a place.
fn lines_of_check(namespace: &Namespace, place: &Place, uplink: &str) -> Vec<String> {
    let mut command = namespace.command(balancer::binary().unwrap());
    command
        .args(place.flags())
        .args(["check", "--uplink", uplink]);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// A node with one uplink, where everything is as it should be.
struct Node {
    namespace: Namespace,
    place: Place,
}

impl Node {
    fn new() -> Self {
        let namespace = Namespace::anonymous("checked-node").unwrap();
        namespace
            .ip(&["link add up0 type veth peer name up1".to_owned()])
            .unwrap();
        namespace
            .sysctls(&[
                ("net/ipv4/ip_forward", "1"),
                ("net/ipv6/conf/all/forwarding", "1"),
                ("net/ipv4/conf/all/rp_filter", "0"),
                ("net/ipv4/conf/up0/rp_filter", "0"),
            ])
            .unwrap();
        Self {
            namespace,
            place: Place::new().unwrap(),
        }
    }

    /// What `check` warns of, but for native XDP, which a veth never does well.
    fn complaints(&self) -> Vec<String> {
        let lines = lines_of_check(&self.namespace, &self.place, "up0").into_iter();
        let lines = lines.filter(|line| !line.starts_with("ok "));
        lines
            .filter(|line| !line.starts_with("warn  native XDP"))
            .collect()
    }

    fn tc(&self, arguments: &str) {
        let mut command = self.namespace.command("tc");
        let output = command.args(arguments.split_whitespace()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tc {arguments}: {error}");
    }

    /// Makes rules of nftables, all or none of them.
    fn put(&self, rules: &[Rules]) {
        let mut batch = message(BATCH_BEGIN, 0, &batch_header(0));
        for Rules { kind, body } in rules {
            // Made if need be, behind what is there.
            batch.extend(message(NFTABLES << 8 | kind, 0x0c00, body));
        }
        batch.extend(message(BATCH_END, 0, &batch_header(0)));
        self.namespace.run(|| {
            let mut socket = Socket::new(NETLINK_NETFILTER).unwrap();
            socket.bind_auto().unwrap();
            socket.connect(&SocketAddr::new(0, 0)).unwrap();
            socket.send(&batch, 0).unwrap();
            // One answer for each rule; an error is a negative number behind the header.
            let mut n_answers = 0;
            while n_answers < rules.len() {
                let (buffer, _) = socket.recv_from_full().unwrap();
                let mut rest = buffer.as_slice();
                while rest.len() >= 20 {
                    let word = |at: usize| <[u8; 4]>::try_from(&rest[at..at + 4]).unwrap();
                    let error = i32::from_ne_bytes(word(16));
                    assert_eq!(error, 0, "answer {n_answers}");
                    n_answers += 1;
                    let length = u32::from_ne_bytes(word(0)) as usize;
                    rest = &rest[length.next_multiple_of(4).min(rest.len())..];
                }
            }
        });
    }
}

/// Subsystem and messages of `linux/netfilter/nfnetlink.h` and `nf_tables.h`.
const NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = 0;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
/// Verdicts.
const DROP: i32 = 0;
const ACCEPT: i32 = 1;
const JUMP: i32 = -3;
/// `NF_INET_FORWARD`.
const FORWARD: u32 = 2;

/// One table, chain or rule to be made.
struct Rules {
    kind: u16,
    body: Vec<u8>,
}

impl Rules {
    fn table(family: u8, table: &str) -> Self {
        Self::new(NEW_TABLE, family, &[text(1, table)])
    }

    fn chain(family: u8, table: &str, chain: &str) -> Self {
        Self::new(NEW_CHAIN, family, &[text(1, table), text(3, chain)])
    }

    /// A chain of the forward hook; without a policy it accepts.
    fn base_chain(family: u8, table: &str, chain: &str, policy: Option<i32>) -> Self {
        let hook = [
            attribute(1, &FORWARD.to_be_bytes()),
            attribute(2, &0_i32.to_be_bytes()),
        ];
        let policy = attribute(5, &policy.unwrap_or(ACCEPT).to_be_bytes());
        let attributes = [
            text(1, table),
            text(3, chain),
            attribute(NESTED | 4, &hook.concat()),
            policy,
            text(7, "filter"),
        ];
        Self::new(NEW_CHAIN, family, &attributes)
    }

    /// A rule that is nothing but a verdict.
    fn rule(family: u8, table: &str, chain: &str, verdict: i32, to: Option<&str>) -> Self {
        let mut code = attribute(1, &verdict.to_be_bytes());
        code.extend(to.iter().flat_map(|to| text(2, to)));
        let register = attribute(1, &0_u32.to_be_bytes());
        let data = attribute(NESTED | 2, &attribute(NESTED | 2, &code));
        let expression = [
            text(1, "immediate"),
            attribute(NESTED | 2, &[register, data].concat()),
        ];
        let list = attribute(NESTED | 1, &expression.concat());
        let attributes = [text(1, table), text(2, chain), attribute(NESTED | 4, &list)];
        Self::new(NEW_RULE, family, &attributes)
    }

    fn new(kind: u16, family: u8, attributes: &[Vec<u8>]) -> Self {
        let mut body = vec![family, 0, 0, 0];
        body.extend(attributes.concat());
        Self { kind, body }
    }
}

/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;

/// `struct nfgenmsg` of a batch: the subsystem, in network byte order.
fn batch_header(family: u8) -> Vec<u8> {
    [&[family, 0][..], &NFTABLES.to_be_bytes()].concat()
}

/// A message with `NLM_F_REQUEST`, and inside of a batch `NLM_F_ACK`.
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 16).unwrap();
    let flags = if flags == 0 { 1 } else { flags | 5 };
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message.resize(message.len().next_multiple_of(4), 0);
    message
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap();
    let mut attribute = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, format!("{value}\0").as_bytes())
}
