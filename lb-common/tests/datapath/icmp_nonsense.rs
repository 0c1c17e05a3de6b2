//! ICMP messages that are no errors about known flows, or nonsense: they pass untouched.

use lb_common::{
    abi::Reason::{self, PassNoService},
    fake::{FakePacket, PacketSpec},
    net::addr::{Addr, Family},
};

use crate::{
    icmp_errors::{Case, OUT, a_router, is_left, one},
    icmp_made::{header, message, unreachable, with_options},
    world::{SYN, UDP, for_both_families, local_pod},
};

for_both_families!(
    a_quote_that_is_too_short_passes_untouched,
    a_quote_of_something_else_passes_untouched,
    an_error_about_nobodys_flow_passes_untouched,
    messages_that_are_no_errors_pass_untouched,
);

/// Asserts that an error with such a quote is passed untouched, which the right quote would not be.
#[track_caller]
fn quote_is_left<A: Addr>(case: &Case<A>, quote: &[u8], what: &str) {
    println!("{what}");
    let error = message(a_router(), case.seen, unreachable::<A>(), quote);
    is_left(case, OUT, &error, PassNoService);
}

fn a_quote_that_is_too_short_passes_untouched<A: Addr>() {
    let (case, error, _) = one::<A>(UDP);
    let (kind, l4) = (unreachable::<A>(), header::<A>());
    let arrived = case.arrived(UDP).packet();
    // Cut anywhere before the eighth byte of the transport header.
    for len in 0..l4 + 8 {
        quote_is_left(&case, &arrived.bytes()[..len], "too short a quote");
    }
    // What pads the frame is no part of the quote, whatever it looks like.
    let short = message(a_router(), case.seen, kind, &arrived.bytes()[..l4 + 7]);
    let padded = [short.bytes(), &arrived.bytes()[l4 + 7..]].concat();
    is_left(&case, OUT, &FakePacket::new(padded), PassNoService);
    // Its own length ends before its ports.
    let mut short = arrived.bytes().to_vec();
    let (at, len) = if l4 == 20 { (2, 27) } else { (4, 7) };
    short[at..at + 2].copy_from_slice(&[0, len]);
    quote_is_left(&case, &short, "a length that lies");
    // The message ends before its own header does.
    for len in 0..8 {
        let mut bytes = error.bytes()[..l4 + len].to_vec();
        let (at, len) = if l4 == 20 { (2, l4 + len) } else { (4, len) };
        let len = u16::try_from(len).expect("short").to_be_bytes();
        bytes[at..at + 2].copy_from_slice(&len);
        let reason = if bytes.len() < l4 + 2 {
            Reason::PassProtocol
        } else {
            PassNoService
        };
        is_left(&case, OUT, &FakePacket::new(bytes), reason);
    }
}

fn a_quote_of_something_else_passes_untouched<A: Addr>() {
    let (case, error, _) = one::<A>(UDP);
    let l4 = header::<A>();
    let arrived = case.arrived(UDP).packet();
    let changed = |at: usize, byte: u8, what: &str| {
        let mut bytes = arrived.bytes().to_vec();
        bytes[at] = byte;
        quote_is_left(&case, &bytes, what);
    };
    changed(0, arrived.bytes()[0] ^ 0x20, "the other family");
    changed(0, 0, "no family");
    changed(if l4 == 20 { 9 } else { 6 }, 47, "no ports");
    let (at, icmp) = if l4 == 20 { (9, 1) } else { (6, 58) };
    changed(at, icmp, "an error about an error");
    quote_is_left(&case, error.bytes(), "an error that quotes an error");
    if l4 == 20 {
        changed(0, 0x44, "a header shorter than a header");
        changed(0, 0x4f, "a header longer than the packet");
        return;
    }
    changed(6, 0, "options that are not there");
    let long = with_options(&arrived, 240);
    quote_is_left(&case, long.bytes(), "headers beyond reach");
    let mut many = arrived.bytes().to_vec();
    for _ in 0..5 {
        let next = many[6];
        many[6] = 60;
        many.splice(40..40, [next, 0, 1, 4, 0, 0, 0, 0]);
    }
    quote_is_left(&case, &many, "too many headers");
}

fn an_error_about_nobodys_flow_passes_untouched<A: Addr>() {
    let (case, ..) = one::<A>(UDP);
    let kind = unreachable::<A>();
    let arrived = case.arrived(UDP);
    let other = PacketSpec {
        sport: 1,
        ..arrived.clone()
    };
    quote_is_left(&case, other.packet().bytes(), "other ports");
    let other = case.arrived(SYN).packet();
    quote_is_left(&case, other.bytes(), "another protocol");
    // It is not sent to whom it quotes.
    let arrived = arrived.packet();
    let stolen = message(a_router(), local_pod::<A>(3), kind, arrived.bytes());
    is_left(&case, OUT, &stolen, PassNoService);
    // As the client has sent it: it came before the service's node.
    let early = case.request(UDP).packet();
    let early = message(a_router(), case.client, kind, early.bytes());
    is_left(&case, OUT, &early, PassNoService);
}

fn messages_that_are_no_errors_pass_untouched<A: Addr>() {
    let (case, ..) = one::<A>(UDP);
    let arrived = case.arrived(UDP).packet();
    for kind in [4, 5, 9, 13, 130, 135, 0, 129] {
        if A::FAMILY == Family::V6 && kind == 4 {
            continue;
        }
        let error = message(a_router(), case.seen, ([kind, 0], 0), arrived.bytes());
        is_left(&case, OUT, &error, Reason::PassProtocol);
    }
}
