//! What a segment does to the state of its flow.
//!
//! Windows are not tracked: a flow only has to outlive its connection, so a forged FIN or RST may
//! shorten its lifetime but never ends its translation (closed flows translate until they expire).

use super::{Direction, slot::State};
use crate::net::tcp::Flags;

/// The state after a segment with `flags` in `direction`; `other_fin`: the other side has sent a FIN.
#[inline(always)]
pub fn next(state: State, direction: Direction, flags: Flags, other_fin: bool) -> State {
    if flags.rst() {
        return State::Closed;
    }
    match state {
        State::Closed => State::Closed,
        _ if flags.fin() && other_fin => State::Closed,
        _ if flags.fin() => State::Closing,
        // Only an answer shows that the backend is there: a flood of SYNs stays half open.
        State::HalfOpen if direction == Direction::Reply => State::Established,
        _ => state,
    }
}

/// The same for protocols without connections: answered or not.
#[inline(always)]
pub fn next_datagram(state: State, direction: Direction) -> State {
    match (state, direction) {
        (State::HalfOpen, Direction::Reply) => State::Established,
        _ => state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN: Flags = flags(0x02);
    const SYN_ACK: Flags = flags(0x12);
    const ACK: Flags = flags(0x10);
    const FIN: Flags = flags(0x11);
    const RST: Flags = flags(0x04);

    const fn flags(bits: u8) -> Flags {
        Flags::from_bits(bits)
    }

    #[test]
    fn only_an_answer_establishes() {
        assert_eq!(
            next(State::HalfOpen, Direction::Original, SYN, false),
            State::HalfOpen
        );
        assert_eq!(
            next(State::HalfOpen, Direction::Original, ACK, false),
            State::HalfOpen
        );
        assert_eq!(
            next(State::HalfOpen, Direction::Reply, SYN_ACK, false),
            State::Established
        );
    }

    #[test]
    fn a_connection_closes_when_both_sides_have_finished() {
        assert_eq!(
            next(State::Established, Direction::Original, FIN, false),
            State::Closing
        );
        assert_eq!(
            next(State::Closing, Direction::Reply, ACK, true),
            State::Closing
        );
        assert_eq!(
            next(State::Closing, Direction::Reply, FIN, true),
            State::Closed
        );
        assert_eq!(
            next(State::Closed, Direction::Original, ACK, true),
            State::Closed
        );
    }

    #[test]
    fn a_reset_closes_from_every_state() {
        for state in [
            State::HalfOpen,
            State::Established,
            State::Closing,
            State::Closed,
        ] {
            assert_eq!(next(state, Direction::Reply, RST, false), State::Closed);
        }
    }
}
