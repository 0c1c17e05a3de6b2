//! TTL and hop limit: a service's node is a router for what it forwards, and nothing for what it does not.

use anyhow::{Context, Result, ensure};
use lb_tests::{
    client::{self, UdpMode},
    icmp::{self, Kind},
    link,
    netns::require_root,
    sniffer::{Direction, Sniffer},
    sockopts::set_hops,
    stage::{Backend, Client, Family, Stage, WITNESS},
    topology::POD_DEVICE,
};

use crate::{LIMIT, clients, cluster_ip, expect_all, two_nodes};

#[test]
fn a_packet_whose_hops_end_here_is_answered_by_the_node() {
    if !require_root() {
        return;
    }
    let stage = Stage::new(&two_nodes(), &[]).unwrap();
    // What the node itself sends takes no hop to reach it.
    let forwarded = clients().filter(|(_, client, _)| *client != Client::Host);
    expect_all(forwarded.flat_map(|(name, client, family)| {
        let stage = &stage;
        [Backend::LocalPod, Backend::RemotePod].map(|backend| {
            let answered = answered(stage, client, backend, family);
            (format!("{name} to {backend}"), answered)
        })
    }));
}

fn answered(stage: &Stage, client: Client, backend: Backend, family: Family) -> Result<()> {
    let cluster = stage.cluster();
    let namespace = client.namespace(cluster)?;
    link::set_tx_offload(namespace, client.device(), false)?;
    let sniffer = Sniffer::open(namespace, client.device())?;
    let address = cluster_ip(stage, backend, family, WITNESS);
    let socket = namespace.run(|| client::udp_socket(UdpMode::Connected, address))?;
    set_hops(&socket, address, 1)?;
    let word = b"one hop and no further";
    socket.send(word).context("send")?;
    let is_ours = |packet: &[u8]| packet.ends_with(word);
    let sent = sniffer.next(Direction::Out, LIMIT, "the datagram", is_ours)?;
    let what = "a time exceeded";
    let packet = sniffer.next(Direction::In, LIMIT, what, icmp::is_error)?;
    let error = icmp::read(&packet).with_context(|| format!("{packet:02x?}"))?;
    ensure!(error.kind == Kind::TimeExceeded, "{:?}", error.kind);
    let node = family.of(cluster.nodes[0].addresses.both());
    ensure!(error.from == node, "it comes from {}", error.from);
    ensure!(
        error.to == socket.local_addr()?.ip(),
        "it goes to {}",
        error.to
    );
    icmp::check_quote(&error, &sent)
}

#[test]
fn backends_see_one_hop_less_for_every_node_on_the_way() {
    if !require_root() {
        return;
    }
    let stage = Stage::new(&two_nodes(), &[]).unwrap();
    let forwarded = clients().filter(|(_, client, _)| *client != Client::Host);
    expect_all(forwarded.flat_map(|(name, client, family)| {
        let stage = &stage;
        [(Backend::LocalPod, 1), (Backend::RemotePod, 2)].map(|(backend, n_nodes)| {
            let less = hops_less(stage, client, backend, family, n_nodes);
            (format!("{name} to {backend}"), less)
        })
    }));
}

fn hops_less(
    stage: &Stage,
    client: Client,
    backend: Backend,
    family: Family,
    n_nodes: u8,
) -> Result<()> {
    /// An unusual number.
    const SENT: u8 = 33;
    let cluster = stage.cluster();
    let address = cluster_ip(stage, backend, family, WITNESS);
    let sniffer = Sniffer::open(backend.namespace(cluster), POD_DEVICE)?;
    let namespace = client.namespace(cluster)?;
    let socket = namespace.run(|| client::udp_socket(UdpMode::Connected, address))?;
    set_hops(&socket, address, SENT)?;
    let word = format!("{client} {backend} {family}");
    socket.send(word.as_bytes()).context("send")?;
    let is_ours = |packet: &[u8]| packet.ends_with(word.as_bytes());
    let packet = sniffer.next(Direction::In, LIMIT, "the datagram", is_ours)?;
    let hops = match family {
        Family::V4 => packet[8],
        Family::V6 => packet[7],
    };
    ensure!(hops == SENT - n_nodes, "{hops} of {SENT} hops are left");
    Ok(())
}
