//! The gateway fails over while the agent is dead: its address has another MAC from one moment to the next.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use lb_tests::{
    client,
    netns::require_root,
    stage::{Backend, Client, ECHO, Family, Frontend, Stage, frontend},
    topology::{Config, Outside},
};

use crate::{expect_all, two_nodes};

/// How long a connection may stand still.
const STANDSTILL: Duration = Duration::from_secs(3);
/// Gateways that take over one after the other.
const STANDBYS: [&str; 2] = ["02:fc:04:00:00:02", "02:fc:04:00:00:03"];
/// Connections whose packets, or the answers to them, go through the gateway.
const THROUGH_GATEWAY: [(Client, Backend); 6] = [
    (Client::Outside, Backend::LocalPod),
    (Client::Outside, Backend::RemotePod),
    (Client::Outside, Backend::HostHere),
    (Client::Outside, Backend::HostThere),
    (Client::Pod, Backend::Outside),
    (Client::Host, Backend::Outside),
];

#[test]
fn connections_go_on_within_three_seconds_when_the_gateway_fails_over_and_no_agent_lives() {
    failover(Frontend::ClusterIp);
}

/// What the kernel does by itself, which services must not fall behind.
#[test]
fn connections_without_services_go_on_when_the_gateway_fails_over() {
    failover(Frontend::Direct);
}

fn failover(what: Frontend) {
    if !require_root() {
        return;
    }
    let config = Config {
        outside: Outside::BehindGateway,
        ..two_nodes()
    };
    let mut stage = Stage::new(&config, &[]).unwrap();
    let mut connections = connect_all(&stage, what);
    let cluster = &stage.deployment.cluster;
    let gateway = cluster.gateway.as_ref().unwrap();
    let agents = stage.deployment.balancers.iter_mut();
    let _frozen: Vec<_> = agents.map(|agent| agent.freeze()).collect();
    for mac in STANDBYS {
        expect_all(ping_all(&mut connections, "before"));
        gateway.fail_over(mac).unwrap();
        expect_all(ping_all(&mut connections, "after"));
    }
}

fn connect_all(stage: &Stage, what: Frontend) -> Vec<(String, TcpStream)> {
    let cluster = stage.cluster();
    let mut connections = Vec::new();
    for (client, backend) in THROUGH_GATEWAY {
        for family in Family::ALL {
            let name = format!("{client}/{what}/{backend}/{family}");
            let address = frontend(cluster, what, backend, family, ECHO);
            let namespace = client.namespace(cluster).unwrap();
            let stream = namespace
                .run(|| connect(address))
                .with_context(|| name.clone());
            connections.push((name, stream.unwrap()));
        }
    }
    connections
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = client::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A word on all of them at once, there and back.
fn ping_all(connections: &mut [(String, TcpStream)], when: &str) -> Vec<(String, Result<()>)> {
    std::thread::scope(|scope| {
        let pings: Vec<_> = connections
            .iter_mut()
            .map(|(name, stream)| (&*name, scope.spawn(|| ping(stream))))
            .collect();
        pings
            .into_iter()
            .map(|(name, ping)| (format!("{when}: {name}"), ping.join().unwrap()))
            .collect()
    })
}

fn ping(stream: &mut TcpStream) -> Result<()> {
    let begin = Instant::now();
    stream.set_read_timeout(Some(STANDSTILL))?;
    stream.write_all(b"ping").context("send")?;
    let mut answer = [0; 4];
    stream
        .read_exact(&mut answer)
        .with_context(|| format!("no answer within {STANDSTILL:?}"))?;
    println!("answered after {:?}", begin.elapsed());
    anyhow::ensure!(&answer == b"ping", "{answer:?} came back");
    Ok(())
}
