//! Every outcome of a packet by name: one list that the datapath, the command line and the tests share.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $index:literal, $name:literal, $kind:ident;)+) => {
        /// Why a packet went the way it went; the index into `counters`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant = $index,)+
        }

        impl Reason {
            /// All reasons, in the order of their indices.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name that `fulcrum counters` prints; stable between releases.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// Whether the packet was passed, forwarded, rejected or dropped.
            pub fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)+ }
            }

            /// What it means, in a sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+),)+ }
            }
        }
    };
}

/// What became of the packet; `Note` is an event beside the packet's own outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Left untouched to whatever comes next.
    Pass,
    /// Rewritten and sent on.
    Forward,
    /// Dropped, and its sender told so at once.
    Reject,
    /// Dropped.
    Drop,
    /// Something that happened on the way; the packet is counted under another reason too.
    Note,
}

reasons! {
    /// Not IPv4 or IPv6: ARP, VLAN tags, other types of frames.
    PassNotIp = 0, "pass_not_ip", Pass;
    /// An IP packet whose header does not parse: wrong version, length or header length.
    PassMalformed = 1, "pass_malformed", Pass;
    /// A later fragment without a flow: not ours, or its first one went another way.
    PassFragment = 2, "pass_fragment", Pass;
    /// A protocol other than TCP, UDP and SCTP, or more IPv6 extension headers than are read.
    PassProtocol = 3, "pass_protocol", Pass;
    /// No flow and no service: traffic that is not ours.
    PassNoService = 4, "pass_no_service", Pass;
    /// At XDP: a flow, but its backend is on this node or its next hop unknown; left to TC.
    PassToTc = 5, "pass_to_tc", Pass;
    /// First packet of a connection: flow opened, packet sent to its backend.
    Open = 6, "open", Forward;
    /// A packet of a known flow, client to backend.
    HitOriginal = 7, "hit_original", Forward;
    /// A packet of a known flow, backend to client.
    HitReply = 8, "hit_reply", Forward;
    /// The service has no endpoint anywhere.
    RejectNoBackend = 9, "reject_no_backend", Reject;
    /// In the middle of a connection that is not known here yet: the flow table is growing.
    DropNotSyn = 10, "drop_not_syn", Drop;
    /// No place in the flow table: raise --flow-table-size.
    DropFlowTableFull = 11, "drop_flow_table_full", Drop;
    /// The same connection was being opened on another CPU; the retransmit finds the flow.
    DropFlowBusy = 12, "drop_flow_busy", Drop;
    /// The backend already has a live flow with the client's address and port, and no other port was free.
    DropPortInUse = 13, "drop_port_in_use", Drop;
    /// The service changed twice while the flow was being opened; the retransmit finds it settled.
    DropServiceChanged = 14, "drop_service_changed", Drop;
    /// The kernel has no route to where the packet must go.
    DropNoRoute = 15, "drop_no_route", Drop;
    /// Larger than the route to where the packet must go takes.
    DropTooBig = 16, "drop_too_big", Drop;
    /// The TTL or hop limit would reach zero here.
    DropTtl = 17, "drop_ttl", Drop;
    /// A packet could not be edited after the decision was made: out of memory in the kernel.
    DropEdit = 18, "drop_edit", Drop;
    /// A flow was opened anew: a new TCP connection on old ports, or UDP whose backend no longer serves.
    Reopened = 19, "reopened", Note;
    /// The next hop was asked from the FIB and the packet sent through the kernel's neighbour table.
    Resolved = 20, "resolved", Note;
    /// A flow took another source port because the client's own was in use towards that backend.
    PortRemapped = 21, "port_remapped", Note;
    /// XDP forwarded the packet without the stack.
    XdpForward = 22, "xdp_forward", Note;
    /// A frame for another station, or with a VLAN tag: it belongs to another device.
    PassNotForUs = 23, "pass_not_for_us", Pass;
    /// At XDP: a flow was opened, and its first packet left to TC.
    OpenedForTc = 24, "opened_for_tc", Note;
    /// On its way out of the node, and not sent by the node itself: all was done when it came in.
    PassForwarded = 25, "pass_forwarded", Pass;
    /// It was routed to the services' own device, and nothing is served there.
    DropNotService = 26, "drop_not_service", Drop;
    /// Larger than the route takes, and allowed to be cut: rewritten and left to the stack, which fragments it.
    Fragmented = 27, "fragmented", Note;
    /// An ICMP error, RST or ABORT went back to the sender of a dropped packet.
    Answered = 28, "answered", Note;
    /// No answer went back: there were too many of them.
    AnswerLimited = 29, "answer_limited", Note;
    /// To a port or protocol of a ClusterIP that its service does not have.
    RejectNotServed = 30, "reject_not_served", Reject;
    /// To an address inside a service CIDR that no service has.
    DropUnallocated = 31, "drop_unallocated", Drop;
    /// The policy Local keeps this client to endpoints of this node, and it has none; others have.
    DropNoLocalBackend = 32, "drop_no_local_backend", Drop;
    /// The client is in none of the load balancer's source ranges.
    DropSourceRange = 33, "drop_source_range", Drop;
    /// To a connected socket of the node's own whose port is also a node port.
    PassOwnSocket = 34, "pass_own_socket", Pass;
    /// No room to remember a client's backend: its next connection may get another.
    AffinityFull = 35, "affinity_full", Note;
    /// An ICMP error about a packet of a known flow: translated, and what it quotes too.
    HitError = 36, "hit_error", Forward;
    /// An echo request to a service address: answered here.
    EchoAnswered = 37, "echo_answered", Forward;
    /// In the middle of a connection that is not known here; its sender is told to end it.
    RejectNoFlow = 38, "reject_no_flow", Reject;
    /// The connection's backend serves no more, and --tcp-after-removal says to end such connections.
    RejectBackendGone = 39, "reject_backend_gone", Reject;
    /// A source port was taken again before its rest was over, since no other was free.
    PortUnrested = 40, "port_unrested", Note;
    /// A later fragment came before the first one: kept until that comes.
    FragmentHeld = 41, "fragment_held", Forward;
    /// A first fragment came after later ones, which follow it now.
    FragmentsReleased = 42, "fragments_released", Note;
    /// A later fragment whose first one was not seen, and that could not be kept.
    DropFragment = 43, "drop_fragment", Drop;
    /// A connection that was never established, or has ended, gave its place in the flow table to a new one.
    FlowDisplaced = 44, "flow_displaced", Note;
    /// A connection of another proxy's, or a new one that is left to it: connections are changing hands.
    PassTakeover = 45, "pass_takeover", Pass;
    /// In the middle of a connection that was not known here: its Maglev service's table says who has it.
    Resumed = 46, "resumed", Note;
    /// A process of the node dialled a service, and its socket was given a backend there and then; also the first datagram of
    /// a socket to a service.
    DialGiven = 47, "dial_given", Note;
    /// A further datagram of such a socket went to the backend that it has.
    DialKept = 48, "dial_kept", Note;
    /// A further datagram of such a socket went to another backend, since the one that it had serves no more.
    DialMoved = 49, "dial_moved", Note;
    /// A process of the node dialled a service, which its packets decide about: affinity, source ranges, least connections,
    /// nobody who serves, a connected UDP socket, a source or device that the socket was bound to.
    DialLeft = 50, "dial_left", Note;
}

impl Reason {
    /// Number of reasons.
    pub const COUNT: u32 = Self::ALL.len() as u32;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_of_a_reason_is_its_place_in_the_list() {
        for (place, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place, "{}", reason.name());
        }
    }

    #[test]
    fn names_are_unique_and_say_their_kind() {
        for reason in Reason::ALL {
            let same = Reason::ALL
                .iter()
                .filter(|other| other.name() == reason.name())
                .count();
            assert_eq!(same, 1, "{}", reason.name());
            assert_eq!(
                reason.kind() == Kind::Drop,
                reason.name().starts_with("drop_")
            );
            assert_eq!(
                reason.kind() == Kind::Reject,
                reason.name().starts_with("reject_")
            );
            assert_eq!(
                reason.kind() == Kind::Pass,
                reason.name().starts_with("pass_")
            );
        }
    }
}
