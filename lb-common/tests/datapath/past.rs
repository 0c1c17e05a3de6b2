//! Two connections between the same ends, of which one goes past this node: what it answers is its own.

use lb_common::{
    abi::Reason::PassNoService,
    datapath::Verdict,
    fake::{PacketSpec, Transport},
    flow::clock::seconds,
    net::addr::Addr,
};

use crate::world::{
    ACK, BACKEND_PORT, CLIENT_PORT, FIN, RST, SYN, SYN_ACK, World, answer, delivered,
    for_both_families, forwarded, is_reset, leaves, local_pod, node_addr, outsider, remote_pod,
    renamed, request,
};

for_both_families!(
    what_a_backend_accepts_past_an_ended_connection_goes_on_untouched,
    what_it_accepts_past_one_that_was_reset_too,
    what_it_accepts_past_one_that_it_has_finished_itself_too,
    what_a_remote_backend_accepts_goes_on_before_the_stack_too,
    what_it_accepts_anew_here_is_translated,
    what_it_accepts_for_want_of_others_is_translated,
    what_it_accepts_once_more_is_translated_until_it_has_finished,
    an_ended_connection_makes_room_at_once,
);

/// A connection by this node, from outside to backend 1.
struct Ended<A: Addr> {
    world: World<A>,
    backend: A,
}

impl<A: Addr> Ended<A> {
    /// One to a local pod that has taken its course: these segments, each the client's (true) or the backend's.
    fn after(segments: &[(bool, Transport)]) -> Self {
        let world = World::<A>::with_local_backends(1);
        let ended = Self {
            world,
            backend: local_pod(1),
        };
        for (is_clients, transport) in [(true, SYN), (false, SYN_ACK), (true, ACK)]
            .iter()
            .chain(segments)
        {
            if *is_clients {
                ended.arrives(*transport);
            } else {
                ended.answers(*transport);
            }
        }
        ended
    }

    fn there(&self, transport: Transport) -> PacketSpec<A> {
        forwarded(&request(outsider(1), transport), self.backend)
    }

    /// The client's segment comes and is sent to the backend.
    #[track_caller]
    fn arrives(&self, transport: Transport) {
        let mut packet = request::<A>(outsider(1), transport).packet();
        let verdict = self.world.uplink().run(&mut packet).verdict;
        assert!(matches!(verdict, Verdict::Send(_)), "{verdict:?}");
        assert_eq!(packet, self.there(transport).packet());
        self.world.node.take_counts();
    }

    /// The backend's segment comes and is sent to the client under the service's address.
    #[track_caller]
    fn answers(&self, transport: Transport) {
        let mut packet = self.back(transport).packet();
        let verdict = self.world.pod().run(&mut packet).verdict;
        assert!(matches!(verdict, Verdict::Send(_)), "{verdict:?}");
        let home = delivered(&request::<A>(outsider(1), SYN), transport);
        assert_eq!(packet, home.packet());
        self.world.node.take_counts();
    }

    fn back(&self, transport: Transport) -> PacketSpec<A> {
        answer(&self.there(SYN), transport)
    }

    /// The backend's segment comes and goes on as it is.
    #[track_caller]
    fn is_left_alone(&self, transport: Transport) {
        leaves(
            &self.world.node,
            self.world.pod(),
            &self.back(transport).packet(),
            Verdict::Pass,
            &[PassNoService],
        );
    }

    /// Slots of the flow table in use.
    fn n_slots(&self) -> usize {
        let slots = self.world.node.flows();
        (0..slots.positions())
            .filter(|position| slots.slot(*position).state().published())
            .count()
    }

    /// A whole connection past this node, which hears only the backend.
    #[track_caller]
    fn is_past(&self) {
        for transport in [SYN_ACK, SYN_ACK, ACK, FIN, RST] {
            self.is_left_alone(transport);
        }
    }
}

const BOTH_FINISHED: [(bool, Transport); 3] = [(true, FIN), (false, FIN), (true, ACK)];

fn what_a_backend_accepts_past_an_ended_connection_goes_on_untouched<A: Addr>() {
    let ended = Ended::<A>::after(&BOTH_FINISHED);
    // What is under way of the ended one is still its own.
    ended.answers(ACK);
    ended.is_past();
    // So it is forgotten here, and begins like any other.
    let late = request(outsider(1), ACK);
    is_reset(&ended.world, ended.world.uplink(), &late);
    ended.arrives(SYN);
    ended.answers(SYN_ACK);
}

fn what_it_accepts_past_one_that_was_reset_too<A: Addr>() {
    Ended::<A>::after(&[(true, RST)]).is_past();
    Ended::<A>::after(&[(false, RST)]).is_past();
}

/// The client never said that it has; the backend gave up waiting.
fn what_it_accepts_past_one_that_it_has_finished_itself_too<A: Addr>() {
    let ended = Ended::<A>::after(&[(false, FIN)]);
    ended.world.wait(seconds(600));
    ended.is_past();
}

fn what_a_remote_backend_accepts_goes_on_before_the_stack_too<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    let syn = request::<A>(outsider(1), SYN);
    let there = renamed(
        &forwarded(&syn, remote_pod(1)),
        (node_addr(), CLIENT_PORT),
        (remote_pod(1), BACKEND_PORT),
    );
    let mut packet = syn.packet();
    world.uplink().run(&mut packet);
    assert_eq!(packet, there.packet());
    world.uplink().run(&mut answer(&there, RST).packet());
    world.node.take_counts();
    for transport in [SYN_ACK, ACK] {
        leaves(
            &world.node,
            world.xdp(),
            &answer(&there, transport).packet(),
            Verdict::Pass,
            &[PassNoService],
        );
    }
}

fn what_it_accepts_anew_here_is_translated<A: Addr>() {
    let ended = Ended::<A>::after(&BOTH_FINISHED);
    ended.arrives(SYN);
    ended.answers(SYN_ACK);
    ended.answers(SYN_ACK);
    ended.arrives(ACK);
}

/// The SYN was sent on as the ended flow's.
fn what_it_accepts_for_want_of_others_is_translated<A: Addr>() {
    let ended = Ended::<A>::after(&BOTH_FINISHED);
    ended.world.leave(1, &[]);
    ended.arrives(SYN);
    ended.answers(SYN_ACK);
    ended.arrives(ACK);
    ended.answers(ACK);
}

/// Neither the acknowledgement nor the FIN has come to it.
fn what_it_accepts_once_more_is_translated_until_it_has_finished<A: Addr>() {
    let ended = Ended::<A>::after(&[(true, ACK)]);
    ended.answers(SYN_ACK);
    ended.arrives(FIN);
    ended.answers(SYN_ACK);
    ended.answers(FIN);
    ended.is_past();
}

/// Both its slots are free; nothing waits for its time to be up.
fn an_ended_connection_makes_room_at_once<A: Addr>() {
    let ended = Ended::<A>::after(&BOTH_FINISHED);
    assert_eq!(ended.n_slots(), 2);
    ended.is_left_alone(SYN_ACK);
    assert_eq!(ended.n_slots(), 0);
}
