//! The harness of fulcrum's tests: clusters made of network namespaces, traffic through them, and the agent under test.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`netns`] | a network namespace: entered by threads and children, gone when dropped |
//! | [`link`], [`tun`] | veth pairs, and links without Ethernet header |
//! | [`topology`], [`addressing`] | nodes, pods and a client outside, with fixed addresses |
//! | [`server`], [`client`], [`tally`] | who answers, who asks, and what came of it |
//! | [`manifest`] | the objects that an agent is told about |
//! | [`balancer`] | `fulcrum run` on a node |
//! | [`poll`] | waiting with a deadline |
//!
//! Everything made lives in namespaces of its own and goes when its value is dropped, also while a test unwinds. The
//! machine itself gets nothing but blackhole routes for the tests' prefixes, while a cluster is up. What a killed run
//! leaves is removed by the next one.
//!
//! A test that makes a namespace begins with [`netns::require_root`]. Declare the cluster before the agents and servers
//! in it: they are dropped in reverse.

pub mod addressing;
pub mod balancer;
mod blackhole;
pub mod client;
mod ioctl;
pub mod link;
pub mod lone_node;
pub mod manifest;
pub mod netns;
pub mod packet;
pub mod poll;
pub mod progrun;
mod residue;
pub mod server;
pub mod tally;
pub mod topology;
pub mod tun;
