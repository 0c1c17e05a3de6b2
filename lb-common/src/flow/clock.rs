//! Time as flows count it: ticks of 2^24 ns (16.8 ms) of the coarse monotonic clock.
//!
//! A 32-bit tick wraps after 2.3 years, far beyond every lifetime, and changes seldom enough that a
//! busy flow's `last seen` is written 60 times a second, not with every packet. The coarse clock
//! costs 4 ns where the fine one costs 28.

use super::slot::{SlotFlags, StateWord};
use crate::net::ip::proto;

/// A moment, in ticks; compared modulo 2^32.
pub type Tick = u32;

/// Binary logarithm of a tick's length in nanoseconds.
const TICK_SHIFT: u32 = 24;

/// The tick of a moment of the monotonic clock, nanoseconds.
#[inline(always)]
pub const fn tick(ns: u64) -> Tick {
    (ns >> TICK_SHIFT) as Tick
}

/// Seconds as ticks, rounded up.
pub const fn seconds(s: u32) -> Tick {
    ((s as u64 * 1_000_000_000).div_ceil(1 << TICK_SHIFT)) as Tick
}

/// How long ago `then` was; 0 for a moment ahead of `now` (another CPU was a tick further).
#[inline(always)]
pub fn age(now: Tick, then: Tick) -> Tick {
    let age = now.wrapping_sub(then);
    // Without a branch: in the BPF object each would double what the verifier has to follow.
    age & !((age.cast_signed() >> 31).cast_unsigned())
}

/// A slot of another connection is reused this long after its end, so that no reader is inside.
pub const REUSE_AFTER: Tick = seconds(1);
/// A next hop is believed for this long: TCP's fourth attempt, 1.4 s after the first, finds a gateway that has
/// failed over (RFC 6298 with Linux's least timeout of 200 ms); the fifth would come after 3 s.
pub const NEXT_HOP_VALID: Tick = seconds(1);
/// A next hop that nobody asked for this long gives its place to another.
pub const NEXT_HOP_IDLE: Tick = seconds(60);

/// Answers that go on for this long are a stream, however little its client says (`nf_conntrack_proto_udp.c`).
pub const STREAM: Tick = seconds(2);
/// A RST cannot make a connection give way sooner than this: it may be forged, since windows are not tracked.
pub const RESET_HOLDS: Tick = seconds(10);

/// How long a flow lives after its last packet, by [`row`].
pub type Lifetimes = [Tick; 16];

/// Rows of [`Lifetimes`], four a protocol: half open, established, closing, closed.
const UDP_ROWS: usize = 4;
/// See [`UDP_ROWS`].
const SCTP_ROWS: usize = 8;
/// Of either protocol.
const ORPHAN_ROWS: usize = 12;

/// How long flows live, in seconds: what an operator may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP: not yet acknowledged by the client.
    pub tcp_half_open: u32,
    /// TCP: open. RFC 5382 REQ-5 asks for 2 h 4 min at least.
    pub tcp_established: u32,
    /// TCP: one side has finished, the other may go on sending for long.
    pub tcp_close_wait: u32,
    /// UDP: the client has not gone on after an answer.
    pub udp: u32,
    /// UDP: both have gone on. RFC 4787 REQ-5 asks for 2 min at least.
    pub udp_stream: u32,
    /// SCTP: open; longer than several heartbeats, which come every 30 s (RFC 9260 section 16).
    pub sctp_established: u32,
}

impl Timeouts {
    /// Those of kube-proxy (`KubeProxyConntrackConfiguration`) and of `nf_conntrack`.
    pub const DEFAULT: Self = Self {
        tcp_half_open: 60,
        tcp_established: 24 * 3600,
        tcp_close_wait: 3600,
        udp: 30,
        udp_stream: 180,
        sctp_established: 210,
    };
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The client's TIME-WAIT on Linux, and the backend's: ports rest until it is over.
const CLOSED_S: u32 = 60;
/// A reply slot whose connection was opened anew still translates what is under way.
const ORPHAN_S: u32 = 10;

impl Timeouts {
    /// As the datapath looks them up.
    pub const fn lifetimes(&self) -> Lifetimes {
        let tcp_half_open = seconds(self.tcp_half_open);
        let udp_stream = seconds(self.udp_stream);
        let sctp_established = seconds(self.sctp_established);
        let [closed, orphan] = [seconds(CLOSED_S), seconds(ORPHAN_S)];
        [
            tcp_half_open,
            seconds(self.tcp_established),
            seconds(self.tcp_close_wait),
            closed,
            seconds(self.udp),
            udp_stream,
            udp_stream,
            udp_stream,
            tcp_half_open,
            sctp_established,
            sctp_established,
            closed,
            orphan,
            orphan,
            orphan,
            orphan,
        ]
    }
}

/// The row of a slot: its protocol and published state (the low two bits of it), orphans apart.
#[inline(always)]
pub fn row(protocol: u8, state: StateWord, flags: SlotFlags) -> usize {
    let first = match protocol {
        _ if flags.orphan() => ORPHAN_ROWS,
        proto::TCP => 0,
        proto::SCTP => SCTP_ROWS,
        _ => UDP_ROWS,
    };
    first | (state.0 & 3) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::slot::State;

    #[test]
    fn a_second_is_sixty_ticks() {
        assert_eq!(seconds(1), 60);
        assert_eq!(tick(1_000_000_000), 59);
    }

    #[test]
    fn lifetimes_follow_protocol_and_state() {
        let lifetimes = Timeouts::DEFAULT.lifetimes();
        let lifetime = |proto, state, flags| lifetimes[row(proto, state, flags)];
        let alive = SlotFlags::default();
        let word = |state| StateWord(8).with(state);
        assert_eq!(lifetime(6, word(State::HalfOpen), alive), seconds(60));
        assert_eq!(
            lifetime(6, word(State::Established), alive),
            seconds(86_400)
        );
        assert_eq!(lifetime(6, word(State::Closing), alive), seconds(3600));
        assert_eq!(lifetime(6, word(State::Closed), alive), seconds(60));
        assert_eq!(lifetime(17, word(State::HalfOpen), alive), seconds(30));
        assert_eq!(lifetime(17, word(State::Established), alive), seconds(180));
        assert_eq!(lifetime(132, word(State::HalfOpen), alive), seconds(60));
        assert_eq!(lifetime(132, word(State::Established), alive), seconds(210));
        assert_eq!(lifetime(132, word(State::Closing), alive), seconds(210));
        assert_eq!(lifetime(132, word(State::Closed), alive), seconds(60));
        assert_eq!(
            lifetime(6, word(State::Established), SlotFlags::ORPHAN),
            seconds(10)
        );
        assert_eq!(
            lifetime(17, word(State::Established), SlotFlags::ORPHAN),
            seconds(10)
        );
    }

    #[test]
    fn ages_survive_the_wrap_and_a_clock_that_is_ahead() {
        assert_eq!(age(5, u32::MAX - 4), 10);
        assert_eq!(age(5, 6), 0);
    }
}
