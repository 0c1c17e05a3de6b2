//! The end of the way: a program that counts the packets which arrive as they should, by the host number of their backend, and
//! drops them, or sends them back as their backend would.
//!
//! As it should be is a packet of UDP to the backends' port at one of the backends' addresses; and an answer, whose source port
//! is the one that was dialled. Everything else is passed on uncounted.

use std::{
    net::Ipv4Addr,
    os::fd::{AsFd, OwnedFd},
};

use anyhow::Result;
use lb_tests::{
    asm::{
        Assembler, Context, EXIT, Helper, If, Insn, Op, R0, R1, R2, R3, R4, R6, R7, R8, R9, STACK,
        Size, alu_imm, call, load, map, map_value, mov, mov_imm, store,
    },
    rawbpf::{self, Counters, Hook, Value},
};

use crate::services;

/// Where things are in a frame.
const ETHER_TYPE: i16 = 12;
const PROTOCOL: i16 = 23;
const SOURCE: i16 = 26;
const DESTINATION: i16 = 30;
const SOURCE_PORT: i16 = 34;
const DESTINATION_PORT: i16 = 36;
/// All of them are before this.
const LEN: i32 = 42;
/// UDP, of `linux/in.h`.
const UDP: i32 = 17;
/// Backends have one network of 256 addresses, of which the last byte is their number.
const N_COUNTERS: u32 = 256;
/// The number of answers: no backend has it.
const ANSWERS: i32 = 0;

/// What becomes of a packet that was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// It ends here.
    Drop = 0,
    /// It goes back.
    Answer = 1,
}

/// See the module. The program leaves its device when this is dropped.
#[derive(Debug)]
pub(crate) struct Sink {
    state: Value,
    counters: Counters,
    dialled_port: u16,
    _link: OwnedFd,
}

impl Sink {
    /// On a device of the calling thread's namespace; clients have dialled this port.
    pub(crate) fn attach(hook: Hook, ifindex: u32, dialled_port: u16) -> Result<Self> {
        let state = Value::new(&state(dialled_port, Then::Drop))?;
        let counters = Counters::new(N_COUNTERS)?;
        let program = rawbpf::load(hook.kind(), &program(hook, &state, &counters)?)?;
        Ok(Self {
            _link: rawbpf::link(&program, ifindex, hook)?,
            state,
            counters,
            dialled_port,
        })
    }

    /// Says what becomes of packets from now on.
    pub(crate) fn set(&self, then: Then) -> Result<()> {
        self.state.set(&state(self.dialled_port, then))
    }

    /// Packets that have arrived at all backends so far.
    pub(crate) fn arrived(&self) -> Result<u64> {
        let hosts = services::backends().map(|backend| backend.octets()[3]);
        hosts.map(|host| self.counters.get(host.into())).sum()
    }

    /// Backends at which some have arrived.
    pub(crate) fn used(&self) -> Result<usize> {
        let hosts = services::backends().map(|backend| backend.octets()[3]);
        let counts: Vec<u64> = hosts
            .map(|host| self.counters.get(host.into()))
            .collect::<Result<_>>()?;
        Ok(counts.iter().filter(|count| **count > 0).count())
    }

    /// Answers that have arrived so far.
    pub(crate) fn answers(&self) -> Result<u64> {
        self.counters.get(ANSWERS.cast_unsigned())
    }
}

/// What the program reads: the backends' network, their port and the one that was dialled, and what becomes of packets.
fn state(dialled_port: u16, then: Then) -> Vec<u8> {
    let any = services::backends().next().unwrap_or(Ipv4Addr::UNSPECIFIED);
    let [a, b, c, _] = any.octets();
    let ports = [services::TARGET, dialled_port]
        .map(u16::to_be_bytes)
        .concat();
    [
        [a, b, c, 0].as_slice(),
        &ports,
        &(then as u32).to_ne_bytes(),
    ]
    .concat()
}

fn program(hook: Hook, state: &Value, counters: &Counters) -> Result<Vec<Insn>> {
    /// The first three bytes of an address, as the processor reads it.
    const NETWORK: i32 = i32::from_ne_bytes([255, 255, 255, 0]);
    /// IPv4's type, as the processor reads it.
    const IPV4: i32 = u16::from_ne_bytes([8, 0]) as i32;
    let (pass, drop) = match hook {
        Hook::Xdp => (2, 1),
        Hook::Tc | Hook::TcEgress => (-1, 2),
    };
    let mut code = Assembler::default();
    let [passes, is_answer, counts, drops] = [(); 4].map(|()| code.label());
    code.add([mov(R6, R1)]);
    code.packet_or(hook.kind(), R1, LEN, passes);
    code.add([load(Size::Half, R1, R7, ETHER_TYPE)]);
    code.jump_if_imm(If::Different, R1, IPV4, passes);
    code.add([load(Size::Byte, R1, R7, PROTOCOL)]);
    code.jump_if_imm(If::Different, R1, UDP, passes);
    code.add(map_value(R9, state.as_fd()));
    code.add([
        load(Size::Word, R8, R7, DESTINATION),
        mov(R1, R8),
        alu_imm(Op::And, R1, NETWORK),
        load(Size::Word, R2, R9, 0),
    ]);
    code.jump_if(If::Different, R1, R2, is_answer);
    code.add([
        load(Size::Half, R1, R7, DESTINATION_PORT),
        load(Size::Half, R2, R9, 4),
    ]);
    code.jump_if(If::Different, R1, R2, passes);
    // The last byte of an address: the machine's own order is little-endian.
    code.add([alu_imm(Op::ShiftRight, R8, 24)]);
    code.place(counts);
    code.add([store(Size::Word, STACK, -4, R8)]);
    code.add(map(R1, counters.as_fd()));
    code.add([
        mov(R2, STACK),
        alu_imm(Op::Add, R2, -4),
        call(Helper::MapLookup),
    ]);
    code.jump_if_imm(If::Equal, R0, 0, passes);
    code.add([
        load(Size::Double, R1, R0, 0),
        alu_imm(Op::Add, R1, 1),
        store(Size::Double, R0, 0, R1),
    ]);
    code.jump_if_imm(If::Equal, R8, ANSWERS, drops);
    code.add([load(Size::Word, R1, R9, 8)]);
    code.jump_if_imm(If::Equal, R1, Then::Drop as i32, drops);
    code.add(turn_round());
    code.add(send_back(hook));
    code.place(is_answer);
    code.add([
        load(Size::Half, R1, R7, SOURCE_PORT),
        load(Size::Half, R2, R9, 6),
        mov_imm(R8, ANSWERS),
    ]);
    code.jump_if(If::Equal, R1, R2, counts);
    code.place(passes);
    code.add([mov_imm(R0, pass), EXIT]);
    code.place(drops);
    code.add([mov_imm(R0, drop), EXIT]);
    code.finish()
}

/// Exchanges source and destination: MACs, addresses and ports. No checksum changes by that.
fn turn_round() -> Vec<Insn> {
    [
        swap(Size::Word, 0, 6),
        swap(Size::Half, 4, 10),
        swap(Size::Word, SOURCE, DESTINATION),
        swap(Size::Half, SOURCE_PORT, DESTINATION_PORT),
    ]
    .concat()
}

fn swap(size: Size, a: i16, b: i16) -> [Insn; 4] {
    [
        load(size, R3, R7, a),
        load(size, R4, R7, b),
        store(size, R7, a, R4),
        store(size, R7, b, R3),
    ]
}

/// Ends the program, and sends the packet out of the device that it came by.
fn send_back(hook: Hook) -> Vec<Insn> {
    /// `XDP_TX`.
    const TRANSMIT: i32 = 3;
    match hook {
        Hook::Xdp => vec![mov_imm(R0, TRANSMIT), EXIT],
        Hook::Tc | Hook::TcEgress => vec![
            load(Size::Word, R1, R6, Context::of(hook.kind()).ifindex),
            mov_imm(R2, 0),
            call(Helper::Redirect),
            EXIT,
        ],
    }
}
