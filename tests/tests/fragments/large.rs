//! The stack cuts: large datagrams there and back.

use anyhow::{Result, ensure};
use lb_tests::{
    client::{self, UdpMode},
    netns::require_root,
    sockopts::{Fragmentation, set_fragmentation},
    stage::{Backend, Client, ECHO, Family, Frontend, Stage, frontend},
};

use crate::{expect_all, stage, ways};

/// Datagrams of every size on each way.
const ROUNDS: usize = 20;

#[test]
fn large_datagrams_are_echoed_whole() {
    if !require_root() {
        return;
    }
    let stage = stage();
    expect_all(ways().map(|(name, way, family)| (name, echoed(&stage, way, family))));
}

fn echoed(
    stage: &Stage,
    (client, dialled, backend): (Client, Frontend, Backend),
    family: Family,
) -> Result<()> {
    let address = frontend(stage.cluster(), dialled, backend, family, ECHO);
    let namespace = client.namespace(stage.cluster())?;
    let socket = namespace.run(|| client::udp_socket(UdpMode::Connected, address))?;
    set_fragmentation(&socket, address, Fragmentation::Allowed)?;
    // The node's own packets come to the datapath whole; of IPv6 the sender is told what the way takes, and one is lost.
    if client == Client::Host && family == Family::V6 {
        let _ = client::echoed_datagram(&socket, &vec![0; 65_000]);
    }
    for round in 0..ROUNDS {
        for len in [1473, 8_000, 65_000] {
            let sent: Vec<u8> = (0..251).cycle().skip(round).take(len).collect();
            let received = client::echoed_datagram(&socket, &sent)?;
            ensure!(received == sent, "{} of {len} bytes", received.len());
        }
    }
    Ok(())
}
