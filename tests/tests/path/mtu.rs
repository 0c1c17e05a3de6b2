//! A way between the nodes that takes smaller packets than the clients' devices.

use std::net::UdpSocket;

use anyhow::{Context, Result, ensure};
use lb_tests::{
    client::{self, UdpMode},
    icmp::{self, Kind},
    link,
    netns::require_root,
    server::measure,
    sniffer::{Direction, Sniffer},
    sockopts::{Fragmentation, set_fragmentation},
    stage::{Backend, Client, ECHO, Family, MEASURE, Stage},
    topology::{Config, Interconnect},
};
use nix::errno::Errno;

use crate::{LIMIT, clients, cluster_ip, expect_all, two_nodes};

/// What the way between the nodes takes, L3 bytes.
const NARROW: u32 = 1400;
/// Ways that can be narrower than the devices of the clients.
const NARROW_WAYS: [Interconnect; 2] = [Interconnect::Vxlan, Interconnect::Tun];
/// More than the windows and queues on the way hold at once.
const N_BYTES: usize = 2 << 20;

#[test]
fn large_transfers_cross_a_narrow_vxlan() {
    transfers(Interconnect::Vxlan);
}

#[test]
fn large_transfers_cross_a_narrow_device_without_ethernet_header() {
    transfers(Interconnect::Tun);
}

fn transfers(interconnect: Interconnect) {
    if !require_root() {
        return;
    }
    let stage = stage(interconnect);
    let sent: Vec<u8> = (0..251).cycle().take(N_BYTES).collect();
    expect_all(clients().map(|(name, client, family)| {
        let address = cluster_ip(&stage, Backend::RemotePod, family, ECHO);
        let transfer = || {
            let namespace = client.namespace(stage.cluster())?;
            let received = namespace.run(|| client::echoed(address, &sent))?;
            ensure!(received == sent, "{} bytes came back", received.len());
            Ok(())
        };
        (name, transfer())
    }));
}

#[test]
fn a_sender_is_told_the_mtu_by_the_address_that_it_dialled() {
    if !require_root() {
        return;
    }
    expect_all(NARROW_WAYS.into_iter().flat_map(|interconnect| {
        let stage = stage(interconnect);
        let told = clients().map(|(name, client, family)| {
            let told = told_the_mtu(&stage, client, family);
            (format!("{interconnect:?} {name}"), told)
        });
        told.collect::<Vec<_>>()
    }));
}

/// A datagram too large for the way: an error comes back, right in every byte, and the sender's stack believes it.
fn told_the_mtu(stage: &Stage, client: Client, family: Family) -> Result<()> {
    let cluster = stage.cluster();
    let namespace = client.namespace(cluster)?;
    // What is captured, and quoted, then has its checksum.
    link::set_tx_offload(namespace, client.device(), false)?;
    let sniffer = Sniffer::open(namespace, client.device())?;
    let address = cluster_ip(stage, Backend::RemotePod, family, MEASURE);
    let socket = namespace.run(|| client::udp_socket(UdpMode::Connected, address))?;
    set_fragmentation(&socket, address, Fragmentation::Probe)?;
    let own = socket.local_addr()?.ip();
    let datagram = largest(family);
    socket.send(&datagram).context("send")?;
    let is_ours = |packet: &[u8]| packet.ends_with(&datagram);
    let sent = sniffer.next(Direction::Out, LIMIT, "the datagram", is_ours)?;
    let packet = sniffer.next(Direction::In, LIMIT, "a Too Big", icmp::is_error)?;
    let error = icmp::read(&packet).with_context(|| format!("{packet:02x?}"))?;
    ensure!(error.kind == Kind::TooBig(NARROW), "{:?}", error.kind);
    ensure!(error.from == address.ip(), "it comes from {}", error.from);
    ensure!(error.to == own, "it goes to {}", error.to);
    icmp::check_quote(&error, &sent)?;
    socket.set_read_timeout(Some(LIMIT))?;
    let received = socket
        .recv(&mut [0; 64])
        .map_err(|error| error.raw_os_error());
    ensure!(
        received == Err(Some(Errno::EMSGSIZE as i32)),
        "the sender's stack says {received:?}"
    );
    Ok(())
}

#[test]
fn datagrams_that_may_be_fragmented_arrive_whole() {
    if !require_root() {
        return;
    }
    expect_all(NARROW_WAYS.into_iter().flat_map(|interconnect| {
        let stage = stage(interconnect);
        Client::ALL.map(|client| {
            let name = format!("{interconnect:?} {client}");
            (name, arrive_whole(&stage, client))
        })
    }));
}

fn arrive_whole(stage: &Stage, client: Client) -> Result<()> {
    let address = cluster_ip(stage, Backend::RemotePod, Family::V4, MEASURE);
    let namespace = client.namespace(stage.cluster())?;
    let socket = namespace.run(|| client::udp_socket(UdpMode::Connected, address))?;
    set_fragmentation(&socket, address, Fragmentation::Allowed)?;
    let largest = largest(Family::V4);
    // From the largest that needs no cutting; then the first that needs it, one of an odd length, and the largest.
    let whole = NARROW as usize - HEADERS_V4;
    for len in [whole, whole + 1, whole + 9, largest.len()] {
        arrives(&socket, &largest[..len]).with_context(|| format!("{len} bytes"))?;
    }
    Ok(())
}

fn arrives(socket: &UdpSocket, datagram: &[u8]) -> Result<()> {
    let answer = client::echoed_datagram(socket, datagram)?;
    let answer = String::from_utf8(answer)?;
    let wanted = measure(datagram);
    ensure!(
        answer.trim_end().ends_with(&wanted),
        "{answer:?} instead of {wanted}"
    );
    Ok(())
}

/// IPv4 and UDP headers.
const HEADERS_V4: usize = 28;
/// IPv6 and UDP headers.
const HEADERS_V6: usize = 48;

/// A datagram that fills a packet of the clients' MTU.
fn largest(family: Family) -> Vec<u8> {
    let headers = match family {
        Family::V4 => HEADERS_V4,
        Family::V6 => HEADERS_V6,
    };
    (0..251).cycle().take(1500 - headers).collect()
}

fn stage(interconnect: Interconnect) -> Stage {
    let config = Config {
        interconnect,
        tunnel_mtu: Some(NARROW),
        ..two_nodes()
    };
    Stage::new(&config, &[]).unwrap()
}
