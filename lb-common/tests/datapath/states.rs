//! What makes a flow more than half open, what a reset does to it, and what becomes of it without its backend.

use lb_common::{
    abi::{
        NodeConfig,
        Reason::{self, DropNotSyn, RejectBackendGone},
        node::features,
    },
    datapath::{Route, Verdict},
    fake::{PacketSpec, Transport},
    flow::{
        clock::seconds,
        slot::State::{self, Closed, Closing, Established, HalfOpen},
    },
    net::addr::Addr,
};

use crate::world::{
    ACK, CLIENT_PORT, FIN, NOW, RST, SERVICE_PORT, SYN, SYN_ACK, UDP, World, answer,
    for_both_families, forwarded, local_pod, request, to_gateway, vip,
};

for_both_families!(
    only_a_client_that_goes_on_establishes,
    a_stream_is_one_without_a_word_from_its_client,
    a_flood_that_is_answered_takes_no_place_for_good,
    a_connection_that_both_go_on_with_was_not_reset,
    a_refused_connection_is_tried_elsewhere,
    a_syn_that_nobody_answered_moves_on_with_its_backend_gone,
    a_syn_that_was_answered_stays,
    a_gone_backend_is_told_to_both_sides_on_request,
    while_a_table_grows_nothing_is_reset,
);

/// One client's flow to the one backend.
struct Flow<A: Addr> {
    world: World<A>,
}

impl<A: Addr> Flow<A> {
    fn new(config: NodeConfig) -> Self {
        let world = World::<A>::with_config(config).and_backends(2, local_pod, 0);
        world.node.set_now(NOW);
        world.serve(&[1]);
        Self { world }
    }

    fn there(&self, transport: Transport) -> Verdict {
        let mut packet = request::<A>(local_pod(9), transport).packet();
        self.world.pod().run(&mut packet).verdict
    }

    fn back(&self, transport: Transport) -> Verdict {
        let syn = request::<A>(local_pod(9), SYN);
        let mut packet = answer(&forwarded(&syn, local_pod(1)), transport).packet();
        self.world.pod().run(&mut packet).verdict
    }

    /// Both halves' states, which are always the same.
    #[track_caller]
    fn is(&self, state: State, proto: u8) {
        assert_eq!(self.world.states(proto), [state; 2]);
    }
}

fn only_a_client_that_goes_on_establishes<A: Addr>() {
    let flow = Flow::<A>::new(World::<A>::config());
    flow.there(SYN);
    flow.there(ACK);
    flow.there(FIN);
    flow.is(HalfOpen, 6);
    flow.back(SYN_ACK);
    flow.back(SYN_ACK);
    flow.back(FIN);
    flow.there(SYN);
    flow.is(HalfOpen, 6);
    // Both have finished, as it turns out.
    flow.there(ACK);
    flow.is(Closed, 6);
    let flow = Flow::<A>::new(World::<A>::config());
    flow.there(SYN);
    flow.back(SYN_ACK);
    flow.there(ACK);
    flow.is(Established, 6);
    flow.there(FIN);
    flow.is(Closing, 6);
    flow.back(FIN);
    flow.is(Closed, 6);
    let flow = Flow::<A>::new(World::<A>::config());
    flow.there(UDP);
    flow.back(UDP);
    flow.back(UDP);
    flow.is(HalfOpen, 17);
    flow.there(UDP);
    flow.is(Established, 17);
}

fn a_stream_is_one_without_a_word_from_its_client<A: Addr>() {
    let flow = Flow::<A>::new(World::<A>::config());
    flow.there(UDP);
    flow.back(UDP);
    flow.world.wait(seconds(2));
    flow.back(UDP);
    flow.is(HalfOpen, 17);
    flow.world.wait(1);
    flow.back(UDP);
    flow.is(Established, 17);
    // TCP has its acknowledgements.
    let flow = Flow::<A>::new(World::<A>::config());
    flow.there(SYN);
    flow.back(SYN_ACK);
    flow.world.wait(seconds(20));
    flow.back(SYN_ACK);
    flow.is(HalfOpen, 6);
}

/// Forged sources do not hear what they are answered.
fn a_flood_that_is_answered_takes_no_place_for_good<A: Addr>() {
    const FLOWS: u32 = 1_024;
    for (first, reply) in [(SYN, SYN_ACK), (SYN, RST), (UDP, UDP)] {
        let world = World::<A>::with_local_backends(1);
        let kept: Vec<_> = (0..100_u16)
            .map(|n| PacketSpec {
                sport: 1_000 + n,
                ..request::<A>(local_pod(9), SYN)
            })
            .collect();
        for syn in &kept {
            let there = forwarded(syn, local_pod(1));
            world.pod().run(&mut syn.packet());
            world.pod().run(&mut answer(&there, SYN_ACK).packet());
            let ack = PacketSpec {
                transport: ACK,
                ..syn.clone()
            };
            world.pod().run(&mut ack.packet());
        }
        world.node.take_counts();
        for n in 0..10 * FLOWS {
            let [_, _, net, host] = n.to_be_bytes();
            let client: A = crate::world::addr(100 + net, host);
            world.node.set_route(client, Route::Neighbour, to_gateway());
            let forged = PacketSpec::new((client, CLIENT_PORT), (vip(1), SERVICE_PORT), first);
            let sent = world.uplink().run(&mut forged.packet()).verdict;
            assert!(matches!(sent, Verdict::Send(_)), "{n}: {sent:?}");
            let there = forwarded(&forged, local_pod(1));
            let answered = world.pod().run(&mut answer(&there, reply).packet());
            assert!(matches!(answered.verdict, Verdict::Send(_)));
        }
        let counts = world.node.take_counts();
        assert_eq!(counts[&Reason::Open], u64::from(10 * FLOWS));
        assert!(
            counts[&Reason::FlowDisplaced] > u64::from(5 * FLOWS),
            "{counts:?}"
        );
        for syn in &kept {
            let ack = PacketSpec {
                transport: ACK,
                ..syn.clone()
            };
            let sent = world.pod().run(&mut ack.packet()).verdict;
            assert!(matches!(sent, Verdict::Send(_)), "an open one was lost");
        }
        let counts = world.node.take_counts();
        assert_eq!(counts[&Reason::HitOriginal], 100);
    }
}

/// Windows are not tracked: who has sent the RST, and whether anybody heeds it, shows by what comes after.
fn a_connection_that_both_go_on_with_was_not_reset<A: Addr>() {
    let flow = Flow::<A>::new(World::<A>::config());
    flow.there(SYN);
    flow.back(SYN_ACK);
    flow.there(ACK);
    flow.back(RST);
    flow.is(Closed, 6);
    for _ in 0..20 {
        flow.world.wait(seconds(50));
        assert!(matches!(flow.there(ACK), Verdict::Send(_)));
        assert!(matches!(flow.back(ACK), Verdict::Send(_)));
    }
    // One that nobody goes on with ends.
    flow.world.wait(seconds(62));
    assert_eq!(flow.there(ACK), Verdict::Back);
}

fn a_refused_connection_is_tried_elsewhere<A: Addr>() {
    let flow = Flow::<A>::new(World::<A>::config());
    flow.there(SYN);
    flow.back(RST);
    flow.is(HalfOpen, 6);
    flow.world.serve(&[2]);
    let syn = request::<A>(local_pod(9), SYN);
    let mut packet = syn.packet();
    assert!(matches!(
        flow.world.pod().run(&mut packet).verdict,
        Verdict::Send(_)
    ));
    assert_eq!(packet, forwarded(&syn, local_pod(2)).packet());
}

fn a_syn_that_nobody_answered_moves_on_with_its_backend_gone<A: Addr>() {
    let flow = Flow::<A>::new(World::<A>::config());
    flow.there(SYN);
    flow.world.leave(1, &[2]);
    let syn = request::<A>(local_pod(9), SYN);
    let mut packet = syn.packet();
    flow.world.pod().run(&mut packet);
    assert_eq!(packet, forwarded(&syn, local_pod(2)).packet());
}

fn a_syn_that_was_answered_stays<A: Addr>() {
    let flow = Flow::<A>::new(World::<A>::config());
    flow.there(SYN);
    flow.back(SYN_ACK);
    flow.world.leave(1, &[2]);
    let syn = request::<A>(local_pod(9), SYN);
    let mut packet = syn.packet();
    flow.world.pod().run(&mut packet);
    assert_eq!(packet, forwarded(&syn, local_pod(1)).packet());
}

fn a_gone_backend_is_told_to_both_sides_on_request<A: Addr>() {
    for (on_request, state) in [(false, Established), (true, Closed)] {
        let flow = Flow::<A>::new(NodeConfig {
            features: if on_request { features::RESET_GONE } else { 0 },
            ..World::<A>::config()
        });
        flow.there(SYN);
        flow.back(SYN_ACK);
        assert!(matches!(flow.there(ACK), Verdict::Send(_)));
        flow.world.leave(1, &[2]);
        flow.world.node.take_counts();
        for packet in [flow.there(ACK), flow.back(ACK)] {
            if on_request {
                assert_eq!(packet, Verdict::Back);
            } else {
                assert!(matches!(packet, Verdict::Send(_)));
            }
        }
        let counts = flow.world.node.take_counts();
        let told = counts.get(&RejectBackendGone).copied().unwrap_or_default();
        assert_eq!(told, if on_request { 2 } else { 0 });
        flow.is(state, 6);
        // A RST is never answered by another.
        let ended = flow.there(RST);
        assert_eq!(ended == Verdict::Drop, on_request, "{ended:?}");
        // And what the client begins anew goes elsewhere.
        if on_request {
            let syn = request::<A>(local_pod(9), SYN);
            let mut packet = syn.packet();
            flow.world.pod().run(&mut packet);
            assert_eq!(packet, forwarded(&syn, local_pod(2)).packet());
        }
    }
}

fn while_a_table_grows_nothing_is_reset<A: Addr>() {
    let flow = Flow::<A>::new(NodeConfig {
        features: features::SETTLING,
        ..World::<A>::config()
    });
    assert_eq!(flow.there(ACK), Verdict::Drop);
    let counts = flow.world.node.take_counts();
    assert_eq!(counts, [(DropNotSyn, 1)].into());
    assert!(matches!(flow.there(SYN), Verdict::Send(_)));
}
