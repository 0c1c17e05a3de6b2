//! ICMP errors of others about what services have translated: their receivers know the packets that these quote.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::{Context, Result, bail, ensure};
use lb_tests::{
    client::{self, UdpMode},
    icmp::{self, Kind},
    link,
    netns::{Namespace, require_root},
    sniffer::{Direction, Sniffer},
    sockopts::set_hops,
    stage::{Backend, CLOSED, Client, ECHO, Family, Frontend, Stage, WITNESS, frontend, grown},
    topology::{Config, Outside},
};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, recv, send,
        setsockopt, socket, sockopt,
    },
    sys::time::{TimeVal, TimeValLike},
};

use crate::{LIMIT, clients, cluster_ip, expect_all, two_nodes};

/// The smallest way that IPv6 knows, L3 bytes.
const NARROW: u32 = 1280;
/// More than the windows and queues on the way hold at once.
const N_BYTES: usize = 1 << 20;

/// A router between the client outside and the cluster; nobody's ICMP is limited in rate.
fn behind_a_gateway() -> Stage {
    let config = Config {
        outside: Outside::BehindGateway,
        ..two_nodes()
    };
    let stage = Stage::new(&config, &[]).unwrap();
    let cluster = stage.cluster();
    let pods = cluster.pods().map(|(_, pod)| &pod.namespace);
    let nodes = cluster.nodes.iter().map(|node| &node.namespace);
    let gateway = cluster.gateway.iter().map(|gateway| &gateway.namespace);
    for namespace in pods.chain(nodes).chain(gateway) {
        let unlimited = [
            ("net/ipv4/icmp_ratelimit", "0"),
            ("net/ipv6/icmp/ratelimit", "0"),
        ];
        namespace.sysctls(&unlimited).unwrap();
    }
    stage
}

/// Lets the ways from a namespace to these addresses take small packets only.
fn narrow(namespace: &Namespace, device: &str, addresses: [IpAddr; 2]) -> Result<()> {
    namespace.ip(&addresses.map(|to| format!("route replace {to} dev {device} mtu {NARROW}")))
}

/// A large transfer there and back, whose sender was told of the narrow way.
fn crosses(stage: &Stage, client: Client, address: SocketAddr) -> Result<()> {
    let cluster = stage.cluster();
    let namespace = client.namespace(cluster)?;
    // What was learnt of the way before counts no more.
    let pods = cluster.pods().map(|(_, pod)| &pod.namespace);
    for learnt in pods.chain([namespace, &cluster.nodes[0].namespace]) {
        forget(learnt)?;
    }
    let before = stage.counters()?;
    let sent: Vec<u8> = (0..251).cycle().take(N_BYTES).collect();
    let received = namespace.run(|| client::echoed(address, &sent));
    let counted = grown(&before, &stage.counters()?);
    let received = received.with_context(|| format!("counted meanwhile: {counted}"))?;
    ensure!(received == sent, "{} bytes came back", received.len());
    // A node that has heard of the way itself tells of it, and does not wait for a router to do so.
    let is_told = counted.contains(" hit_error ") || counted.contains(" answered ");
    ensure!(
        is_told,
        "nobody was told of the narrow way; counted meanwhile: {counted}"
    );
    Ok(())
}

fn forget(namespace: &Namespace) -> Result<()> {
    namespace.sysctls(&[("net/ipv4/route/flush", "1")])?;
    let mut command = namespace.command("ip");
    let status = command.args(["-6", "route", "flush", "cache"]).status()?;
    ensure!(status.success(), "ip -6 route flush cache: {status}");
    Ok(())
}

#[test]
fn answers_find_the_mtu_of_a_narrow_way_to_the_client() {
    if !require_root() {
        return;
    }
    let stage = behind_a_gateway();
    let cluster = stage.cluster();
    let gateway = cluster.gateway.as_ref().unwrap();
    let client = cluster.client.addresses.both();
    narrow(&gateway.namespace, "inner0", client).unwrap();
    let fronts = [
        Frontend::ClusterIp,
        Frontend::OwnNodePort,
        Frontend::LoadBalancer,
    ];
    // The answers of the node's own servers leave by the node's stack, those of remote ones come by source NAT.
    let backends = [Backend::LocalPod, Backend::RemotePod, Backend::HostHere];
    expect_all(cases(&fronts, &backends).map(|(front, backend, family)| {
        let address = frontend(stage.cluster(), front, backend, family, ECHO);
        let crossed = crosses(&stage, Client::Outside, address);
        (format!("{front} {backend} {family}"), crossed)
    }));
    assert!(stage.counters().unwrap()["node-1 hit_error"] > 0);
}

#[test]
fn requests_find_the_mtu_of_a_narrow_way_to_the_backend() {
    if !require_root() {
        return;
    }
    let stage = behind_a_gateway();
    let there = &stage.cluster().nodes[1];
    let backend = there.pods[0].addresses.both();
    narrow(&there.namespace, "lxc1", backend).unwrap();
    let fronts = [Frontend::ClusterIp, Frontend::OwnNodePort];
    let backends = [Backend::RemotePod];
    expect_all(Client::ALL.into_iter().flat_map(|client| {
        let stage = &stage;
        cases(&fronts, &backends)
            // The IPv4 stack learns nothing of ways to addresses of its own, with or without services.
            .filter(move |(front, _, family)| {
                let own = (Client::Host, Frontend::OwnNodePort, Family::V4);
                (client, *front, *family) != own
            })
            .map(move |(front, backend, family)| {
                let address = frontend(stage.cluster(), front, backend, family, ECHO);
                let crossed = crosses(stage, client, address);
                (format!("{client} {front} {family}"), crossed)
            })
            .collect::<Vec<_>>()
    }));
    assert!(stage.counters().unwrap()["node-1 hit_error"] > 0);
}

fn cases<'a>(
    fronts: &'a [Frontend],
    backends: &'a [Backend],
) -> impl Iterator<Item = (Frontend, Backend, Family)> + 'a {
    fronts.iter().flat_map(move |front| {
        backends
            .iter()
            .flat_map(move |backend| Family::ALL.map(|family| (*front, *backend, family)))
    })
}

/// The second node on the way, behind the one that translates, ends the datagram's hops.
#[test]
fn a_trace_through_a_service_shows_the_routers_behind_it() {
    if !require_root() {
        return;
    }
    let stage = behind_a_gateway();
    expect_all(clients().map(|(name, client, family)| {
        // The gateway and the first node take one each, but for what the node itself sends.
        let hops = match client {
            Client::Host => 1,
            Client::Pod => 2,
            Client::Outside => 3,
        };
        (name, traced(&stage, client, family, hops))
    }));
}

fn traced(stage: &Stage, client: Client, family: Family, hops: u8) -> Result<()> {
    let cluster = stage.cluster();
    let namespace = client.namespace(cluster)?;
    link::set_tx_offload(namespace, client.device(), false)?;
    let sniffer = Sniffer::open(namespace, client.device())?;
    let address = cluster_ip(stage, Backend::RemotePod, family, WITNESS);
    let socket = namespace.run(|| client::udp_socket(UdpMode::Connected, address))?;
    set_hops(&socket, address, hops)?;
    let word = b"so far and no further";
    socket.send(word).context("send")?;
    let is_ours = |packet: &[u8]| packet.ends_with(word);
    let mut sent = sniffer.next(Direction::Out, LIMIT, "the datagram", is_ours)?;
    let packet = sniffer.next(Direction::In, LIMIT, "an error", icmp::is_error)?;
    let error = icmp::read(&packet).with_context(|| format!("{packet:02x?}"))?;
    ensure!(error.kind == Kind::TimeExceeded, "{:?}", error.kind);
    let router = family.of(cluster.nodes[1].addresses.both());
    ensure!(error.from == router, "it comes from {}", error.from);
    // It was quoted with its last hop.
    match family {
        Family::V4 => {
            let taken = u16::from(sent[8] - 1) << 8;
            let check = u32::from(u16::from_be_bytes([sent[10], sent[11]])) + u32::from(taken);
            let check = u16::try_from((check & 0xffff) + (check >> 16))?;
            sent[8] = 1;
            sent[10..12].copy_from_slice(&check.to_be_bytes());
        }
        Family::V6 => sent[7] = 1,
    }
    icmp::check_quote(&error, &sent)
}

#[test]
fn a_closed_port_of_a_backend_is_told_to_a_connected_socket() {
    if !require_root() {
        return;
    }
    let stage = behind_a_gateway();
    expect_all(clients().flat_map(|(name, client, family)| {
        let stage = &stage;
        Backend::OF_NODES.map(|backend| {
            let refused = refused(stage, client, backend, family);
            (format!("{name} to {backend}"), refused)
        })
    }));
}

fn refused(stage: &Stage, client: Client, backend: Backend, family: Family) -> Result<()> {
    let address = cluster_ip(stage, backend, family, CLOSED);
    let namespace = client.namespace(stage.cluster())?;
    let socket = namespace.run(|| client::udp_socket(UdpMode::Connected, address))?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.send(b"anybody there?").context("send")?;
    let received = socket.recv(&mut [0; 64]).map_err(|e| e.raw_os_error());
    ensure!(
        received == Err(Some(Errno::ECONNREFUSED as i32)),
        "the sender's stack says {received:?}"
    );
    Ok(())
}

#[test]
fn service_addresses_answer_pings() {
    if !require_root() {
        return;
    }
    let stage = behind_a_gateway();
    for client in Client::ALL {
        let namespace = client.namespace(stage.cluster()).unwrap();
        let everybody = ("net/ipv4/ping_group_range", "0 2147483647");
        namespace.sysctls(&[everybody]).unwrap();
    }
    expect_all(clients().flat_map(|(name, client, family)| {
        let stage = &stage;
        [Frontend::ClusterIp, Frontend::LoadBalancer].map(|front| {
            let address = frontend(stage.cluster(), front, Backend::RemotePod, family, WITNESS);
            let answered = pinged(stage, client, address);
            (format!("{name} {front}"), answered)
        })
    }));
}

/// One echo request, by a socket whose kernel writes identifier and checksum.
fn pinged(stage: &Stage, client: Client, address: SocketAddr) -> Result<()> {
    let (family, protocol, ask, answer) = match address {
        SocketAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8, 0),
        SocketAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, 129),
    };
    let namespace = client.namespace(stage.cluster())?;
    let socket: OwnedFd = namespace
        .run(|| socket(family, SockType::Datagram, SockFlag::empty(), protocol))
        .context("make a socket for pings")?;
    let limit = TimeVal::seconds(LIMIT.as_secs().try_into()?);
    setsockopt(&socket, sockopt::ReceiveTimeout, &limit)?;
    let to = SocketAddr::new(address.ip(), 0);
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
    for len in [0, 1, 56, 1_400] {
        let payload = vec![0x5a; len];
        let request = [&[ask, 0, 0, 0, 0, 0, 0, 9], &payload[..]].concat();
        send(
            socket.as_raw_fd(),
            &request,
            nix::sys::socket::MsgFlags::empty(),
        )
        .context("ask")?;
        let mut reply = [0; 2_000];
        let got = recv(
            socket.as_raw_fd(),
            &mut reply,
            nix::sys::socket::MsgFlags::empty(),
        )
        .with_context(|| format!("no answer to {len} bytes"))?;
        let [kind, 0, _, _, _, _, 0, 9, body @ ..] = &reply[..got] else {
            bail!("{:02x?}", &reply[..got.min(16)]);
        };
        ensure!(
            *kind == answer && body == payload,
            "{got} bytes of type {kind}"
        );
    }
    Ok(())
}
