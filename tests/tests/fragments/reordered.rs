//! Fragments in other orders than they were made in: the first last, the first lost, and too many.

use std::{net::UdpSocket, time::Duration};

use anyhow::{Context, Result, ensure};
use lb_tests::{
    client::{self, UdpMode},
    netns::require_root,
    stage::{Backend, Client, ECHO, Family, Frontend, Stage, frontend},
};

use crate::{expect_all, sender::Sender, stage, ways};

/// Datagrams on each of fourteen ways: a thousand in all.
const ROUNDS: u32 = 72;
const LEN: usize = 8_000;
const LIMIT: Duration = Duration::from_secs(5);
/// More than the shelf and the records have room for.
const FLOOD: u32 = 40_000;

#[test]
fn the_order_of_fragments_does_not_matter() {
    if !require_root() {
        return;
    }
    let stage = stage();
    let mut next = 1;
    expect_all(ways().map(|(name, way, family)| {
        // A sender's datagrams to one address have numbers of their own, whatever their ports.
        let first = next;
        next += ROUNDS;
        let talk = Talk::new(&stage, way, family);
        (name, talk.and_then(|talk| talk.many(first, ROUNDS)))
    }));
    let counters = stage.counters().unwrap();
    assert!(counters["node-1 fragments_released"] > 0, "{counters:?}");
    stage.deployment.expect_no_drops().unwrap();
}

#[test]
fn a_first_fragment_that_is_lost_keeps_nothing_from_others() {
    if !require_root() {
        return;
    }
    expect_all(Family::ALL.map(|family| {
        // The families share the room, so each has agents of its own.
        let stage = stage();
        let way = (Client::Pod, Frontend::ClusterIp, Backend::RemotePod);
        (family.to_string(), lose_firsts(&stage, way, family))
    }));
}

fn lose_firsts(stage: &Stage, way: (Client, Frontend, Backend), family: Family) -> Result<()> {
    let talk = Talk::new(stage, way, family)?;
    let before = stage.counters()?;
    for id in 0..20 {
        for piece in &talk.sender.cut(talk.port, id, &payload(id))?[1..] {
            talk.sender.send(piece)?;
        }
    }
    let after = stage.counters()?;
    // More than there is room for are not kept, unless those before them have been given up: these count twice.
    let by = |reason: &str| after[reason] - before[reason];
    let [held, dropped] = ["node-1 fragment_held", "node-1 drop_fragment"].map(by);
    ensure!(
        (60..=100).contains(&held) && (100 - held..=100).contains(&dropped),
        "{held} held, {dropped} dropped"
    );
    // Nobody has room beside them until they are given up; in order they need none.
    talk.in_order(1000, 20)
}

#[test]
fn a_flood_from_one_source_leaves_others_alone() {
    if !require_root() {
        return;
    }
    let stage = stage();
    // Not the same backend: its own stack has room for so many unfinished datagrams only.
    let way = |client, backend| (client, Frontend::ClusterIp, backend);
    expect_all(Family::ALL.map(|family| {
        let flooded = || {
            let flood = Talk::new(&stage, way(Client::Pod, Backend::LocalPod), family)?;
            let victim = Talk::new(&stage, way(Client::Outside, Backend::RemotePod), family)?;
            let pieces = flood.sender.cut(flood.port, 0, &payload(0))?;
            for id in 0..FLOOD {
                let which = (id % 2) as usize;
                flood.sender.send(&renumbered(&pieces[which], id))?;
                if id % 400 == 399 {
                    victim.many(id, 1)?;
                }
            }
            Ok(())
        };
        (family.to_string(), flooded())
    }));
}

/// The same fragment of another datagram.
fn renumbered(piece: &lb_common::fake::FakePacket, id: u32) -> lb_common::fake::FakePacket {
    let mut bytes = piece.bytes().to_vec();
    if bytes[0] >> 4 == 4 {
        // The raw socket makes the checksum anew.
        bytes[4..6].copy_from_slice(&id.to_be_bytes()[2..]);
    } else {
        bytes[44..48].copy_from_slice(&id.to_be_bytes());
    }
    lb_common::fake::FakePacket::new(bytes)
}

/// A client of an echo server whose datagrams are cut here.
struct Talk {
    sender: Sender,
    socket: UdpSocket,
    port: u16,
}

impl Talk {
    fn new(
        stage: &Stage,
        (client, dialled, backend): (Client, Frontend, Backend),
        family: Family,
    ) -> Result<Self> {
        let to = frontend(stage.cluster(), dialled, backend, family, ECHO);
        let namespace = client.namespace(stage.cluster())?;
        let socket = namespace.run(|| client::udp_socket(UdpMode::Connected, to))?;
        socket.set_read_timeout(Some(LIMIT))?;
        Ok(Self {
            sender: Sender::new(namespace, to)?,
            port: socket.local_addr()?.port(),
            socket,
        })
    }

    /// Datagrams numbered from `first`, whose fragments are sent in ever other orders.
    fn many(&self, first: u32, count: u32) -> Result<()> {
        for id in first..first + count {
            let mut pieces = self.sender.cut(self.port, id, &payload(id))?;
            match id % 3 {
                0 => pieces.reverse(),
                1 => {
                    let by = id as usize % pieces.len();
                    pieces.rotate_left(by);
                }
                _ => pieces.swap(0, 3),
            }
            for piece in &pieces {
                self.sender.send(piece)?;
            }
            self.answered(id)?;
        }
        Ok(())
    }

    fn in_order(&self, first: u32, count: u32) -> Result<()> {
        for id in first..first + count {
            for piece in &self.sender.cut(self.port, id, &payload(id))? {
                self.sender.send(piece)?;
            }
            self.answered(id)?;
        }
        Ok(())
    }

    fn answered(&self, id: u32) -> Result<()> {
        let mut answer = vec![0; LEN + 1];
        let len = self
            .socket
            .recv(&mut answer)
            .with_context(|| format!("answer {id}"))?;
        ensure!(
            answer[..len] == payload(id),
            "answer {id} is wrong: {len} bytes"
        );
        Ok(())
    }
}

/// What datagram `id` carries.
fn payload(id: u32) -> Vec<u8> {
    (0..251).cycle().skip(id as usize % 251).take(LEN).collect()
}
