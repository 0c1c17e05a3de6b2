//! What a segment does to the state of its flow, and a datagram.
//!
//! Windows are not tracked: a flow only has to outlive its connection, so a forged FIN or RST may
//! shorten its lifetime but never ends its translation (closed flows translate until they expire).
//!
//! A flow is established by its *client*, who goes on after an answer: that is what a forged source cannot do. Until then
//! nothing that is sent makes it more than half open, and half-open flows give way when there is no room.

use super::slot::State;
use crate::net::tcp::Flags;

/// What is known of the flow besides its state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// This side had sent a FIN before the flow was more than half open, and goes on now.
    pub own_fin: bool,
    /// The other side has sent a FIN.
    pub other_fin: bool,
    /// With this packet the client goes on after an answer.
    pub goes_on: bool,
}

/// The state after a segment with `flags`.
#[inline(always)]
pub fn next(state: State, flags: Flags, heard: Heard) -> State {
    match state {
        State::HalfOpen if !heard.goes_on => State::HalfOpen,
        State::Closed => State::Closed,
        _ if flags.rst() => State::Closed,
        _ if (flags.fin() || heard.own_fin) && heard.other_fin => State::Closed,
        _ if flags.fin() || heard.own_fin => State::Closing,
        State::HalfOpen => State::Established,
        _ => state,
    }
}

/// The same for protocols without connections.
#[inline(always)]
pub fn next_datagram(state: State, heard: Heard) -> State {
    match state {
        State::HalfOpen if heard.goes_on => State::Established,
        _ => state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN: Flags = flags(0x02);
    const ACK: Flags = flags(0x10);
    const FIN: Flags = flags(0x11);
    const RST: Flags = flags(0x04);

    const NOTHING: Heard = Heard {
        own_fin: false,
        other_fin: false,
        goes_on: false,
    };
    const GOES_ON: Heard = Heard {
        goes_on: true,
        ..NOTHING
    };
    const OTHER_FIN: Heard = Heard {
        other_fin: true,
        ..NOTHING
    };

    const fn flags(bits: u8) -> Flags {
        Flags::from_bits(bits)
    }

    #[test]
    fn only_a_client_that_goes_on_establishes() {
        for segment in [SYN, ACK, FIN, RST] {
            assert_eq!(next(State::HalfOpen, segment, NOTHING), State::HalfOpen);
            assert_eq!(next(State::HalfOpen, segment, OTHER_FIN), State::HalfOpen);
        }
        assert_eq!(next(State::HalfOpen, ACK, GOES_ON), State::Established);
        assert_eq!(next(State::HalfOpen, FIN, GOES_ON), State::Closing);
        assert_eq!(next(State::HalfOpen, RST, GOES_ON), State::Closed);
        // A connection that came here in its last moments, after the FIN of one side or both.
        let own_fin = Heard {
            own_fin: true,
            ..GOES_ON
        };
        let both = Heard {
            other_fin: true,
            ..own_fin
        };
        assert_eq!(next(State::HalfOpen, ACK, own_fin), State::Closing);
        assert_eq!(next(State::HalfOpen, ACK, both), State::Closed);
        assert_eq!(next_datagram(State::HalfOpen, NOTHING), State::HalfOpen);
        assert_eq!(next_datagram(State::HalfOpen, GOES_ON), State::Established);
    }

    #[test]
    fn a_connection_closes_when_both_sides_have_finished() {
        assert_eq!(next(State::Established, FIN, NOTHING), State::Closing);
        assert_eq!(next(State::Closing, ACK, OTHER_FIN), State::Closing);
        assert_eq!(next(State::Closing, FIN, OTHER_FIN), State::Closed);
        assert_eq!(next(State::Closed, ACK, OTHER_FIN), State::Closed);
    }

    #[test]
    fn a_reset_closes_what_was_open() {
        for state in [State::Established, State::Closing, State::Closed] {
            assert_eq!(next(state, RST, NOTHING), State::Closed);
        }
        // The other side may not have heard of it yet.
        assert_eq!(next(State::Closed, FIN, NOTHING), State::Closed);
    }
}
