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

const TCP_HALF_OPEN: Tick = seconds(60);
/// kube-proxy's `conntrack.tcpEstablishedTimeout`; RFC 5382 REQ-5 asks for 2 h 4 min at least.
const TCP_ESTABLISHED: Tick = seconds(24 * 3600);
/// kube-proxy's `conntrack.tcpCloseWaitTimeout`: one side may go on sending for long.
const TCP_CLOSING: Tick = seconds(3600);
/// The client's TIME-WAIT on Linux.
const TCP_CLOSED: Tick = seconds(60);
/// `nf_conntrack_udp_timeout`.
const UDP_UNANSWERED: Tick = seconds(30);
/// `nf_conntrack_udp_timeout_stream`; RFC 4787 REQ-5 asks for 2 min at least.
const UDP_ANSWERED: Tick = seconds(180);
/// A reply slot whose connection was opened anew still translates what is under way.
const ORPHAN: Tick = seconds(10);

/// Lifetimes by published state (its low two bits): TCP, then datagrams, then orphans of either.
static LIFETIMES: [Tick; 16] = [
    TCP_HALF_OPEN,
    TCP_ESTABLISHED,
    TCP_CLOSING,
    TCP_CLOSED,
    UDP_UNANSWERED,
    UDP_ANSWERED,
    UDP_ANSWERED,
    UDP_ANSWERED,
    ORPHAN,
    ORPHAN,
    ORPHAN,
    ORPHAN,
    ORPHAN,
    ORPHAN,
    ORPHAN,
    ORPHAN,
];

/// How long a slot lives after its last packet.
#[inline(always)]
pub fn lifetime(protocol: u8, state: StateWord, flags: SlotFlags) -> Tick {
    let datagram = u32::from(protocol != proto::TCP) << 2;
    let orphan = u32::from(flags.orphan()) << 3;
    let row = (state.0 & 3 | datagram | orphan) & 15;
    LIFETIMES[row as usize]
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
