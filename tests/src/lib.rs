//! The harness of fulcrum's tests: clusters made of network namespaces, traffic through them, and the agent under test.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`netns`] | a network namespace: entered by threads and children, gone when dropped |
//! | [`link`], [`tun`], [`xdp_pass`] | veth pairs, links without Ethernet header, and what XDP needs of a peer |
//! | [`topology`], [`addressing`] | nodes, pods and a client outside, with fixed addresses |
//! | [`server`], [`client`], [`dial`], [`tally`] | who answers, who asks, and what came of it |
//! | [`sniffer`], [`raw_sender`], [`icmp`], [`sockopts`] | packets as they pass a device, or are made, and what is said about them |
//! | [`manifest`] | the objects that an agent is told about |
//! | [`balancer`], [`place`] | `fulcrum run` on a node, and its directories |
//! | [`deployment`] | a cluster whose nodes all run it |
//! | [`stage`] | every place that a connection comes from, and every place that it ends at |
//! | [`progrun`], [`packet`], [`lone_node`] | the programs, run in the kernel on frames that a test makes |
//! | [`hooks`] | programs on devices, whatever keeps them there |
//! | [`asm`], [`rawbpf`] | programs without a compiler, and what else aya does not offer |
//! | [`verify`], [`listing`] | what the verifier says about them, and what their instructions say |
//! | [`bench`] | the time that a packet takes |
//! | [`truth`] | flows of packets with their expected outcomes, read from fact tables |
//! | [`cgroup`] | a control group of the test's own, for programs that meet sockets |
//! | [`kernel`], [`limits`] | what this kernel lacks, and what this process may use |
//! | [`poll`] | waiting with a deadline |
//! | [`residue`], [`signals`] | what killed runs left, and how a run ends without leaving anything |
//!
//! Everything made lives in namespaces of its own and goes when its value is dropped, also while a test unwinds. The
//! machine itself gets nothing but blackhole routes for the tests' prefixes, while a cluster is up. What a killed run
//! leaves is removed by the next one.
//!
//! A test that makes a namespace begins with [`netns::require_root`]. Declare the cluster before the agents and servers
//! in it: they are dropped in reverse.

pub mod addressing;
pub mod asm;
pub mod backlog;
pub mod balancer;
pub mod bench;
mod blackhole;
pub mod cgroup;
pub mod client;
mod datagram;
pub mod deployment;
pub mod dial;
pub mod firewall;
pub mod hooks;
pub mod icmp;
mod ioctl;
pub mod kernel;
pub mod kube_proxy;
pub mod limits;
pub mod link;
pub mod listing;
pub mod lone_backend;
pub mod lone_node;
pub mod manifest;
pub mod netns;
pub mod packet;
pub mod place;
pub mod poll;
pub mod progrun;
pub mod raw_sender;
pub mod rawbpf;
pub mod residue;
mod restorer;
pub mod server;
pub mod signals;
pub mod sniffer;
pub mod sockopts;
pub mod stage;
pub mod tally;
pub mod tap;
pub mod topology;
pub mod truth;
pub mod tun;
pub mod verify;
pub mod xdp_pass;
