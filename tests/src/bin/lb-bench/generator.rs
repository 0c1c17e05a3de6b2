//! A sender of UDP packets of 64 bytes, some millions a second: the kernel itself makes them ("live frames") and hands them
//! to the client's device as if a program of XDP had forwarded them there.
//!
//! A frame comes back from wherever it ended, as it was left there, and is used again. So the program below writes every
//! frame anew from the first byte to the last, with the source of the flow whose turn it is and with right checksums: what
//! is left of another's MAC, TTL or translation would be dropped silently somewhere on the way.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd, OwnedFd},
};

use anyhow::Result;
use lb_common::{
    fake::{PacketSpec, Transport},
    net::addr::Addr4,
};
use lb_tests::{
    asm::{
        Assembler, EXIT, If, Insn, Op, R0, R1, R2, R3, R4, R5, R6, R7, R8, Register, Size, alu,
        alu_imm, be16, load, map_value, mov, mov_imm, store,
    },
    packet::{Frame, Macs},
    rawbpf::{self, Kind, Value},
};

/// Bytes of a frame; Ethernet's own checksum is not counted.
const LEN: usize = 64;
/// Where things are in a frame.
const IP: usize = 14;
const IP_SUM: usize = IP + 10;
const SOURCE: usize = IP + 12;
/// The half of the source's address that flows differ by.
const SOURCE_LOW: usize = SOURCE + 2;
const UDP: usize = IP + 20;
const UDP_SUM: usize = UDP + 6;

/// Flows of one source address: so many bits of a flow's number are its port, behind [`FIRST_PORT`].
const PORT_BITS: u32 = 14;
/// Ports are from this one on.
const FIRST_PORT: u16 = 1 << PORT_BITS;

/// What the program keeps behind the frame.
const COUNTER: i16 = 64;
const FIRST: i16 = 72;
const MASK: i16 = 76;
const IP_REST: i16 = 80;
const UDP_REST: i16 = 84;

/// `XDP_TX`: out of the device that the run is told of.
const TRANSMIT: i32 = 3;

/// Flows by number: so many, from this one on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flows {
    /// The number of the first.
    pub(crate) first: u32,
    /// A power of two.
    pub(crate) n: u32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Generator {
    program: OwnedFd,
    state: Value,
    frame: Frame,
}

impl Generator {
    /// Packets from addresses from `source` on, to this address and port.
    pub(crate) fn new(macs: Macs, source: Ipv4Addr, to: SocketAddrV4) -> Result<Self> {
        let frame = template(macs, source, to);
        let state = Value::new(&vec![0; usize::try_from(UDP_REST)? + 4])?;
        Ok(Self {
            program: rawbpf::load(Kind::XDP, &program(&state)?)?,
            state,
            frame,
        })
    }

    /// Sends `n` packets out of a device of the calling thread's namespace, one of each flow in turn, the first flow first.
    pub(crate) fn send(&self, ifindex: u32, flows: Flows, n: u32) -> Result<()> {
        let mut state = self.frame.bytes().to_vec();
        state.extend(0_u64.to_ne_bytes());
        for word in [
            flows.first,
            flows.n - 1,
            rest_of_ip(self.frame.bytes()),
            rest_of_udp(self.frame.bytes()),
        ] {
            state.extend(word.to_ne_bytes());
        }
        self.state.set(&state)?;
        rawbpf::live(&self.program, self.frame.bytes(), ifindex, n)
    }
}

/// The sum of the IP header but for its checksum and the half of an address that differs.
fn rest_of_ip(frame: &[u8]) -> u32 {
    sum(&frame[IP..UDP]) - word(frame, IP_SUM) - word(frame, SOURCE_LOW)
}

/// The same of what UDP's checksum covers, the source port left out too, which is 0 in the template.
fn rest_of_udp(frame: &[u8]) -> u32 {
    const PROTOCOL: [u8; 2] = [0, 17];
    let len = u16::try_from(frame.len() - UDP).unwrap_or(u16::MAX);
    let pseudo = sum(&frame[SOURCE..UDP]) + sum(&PROTOCOL) + sum(&len.to_be_bytes());
    pseudo + sum(&frame[UDP..]) - word(frame, UDP_SUM) - word(frame, SOURCE_LOW)
}

fn template(macs: Macs, source: Ipv4Addr, to: SocketAddrV4) -> Frame {
    let spec = PacketSpec {
        payload: vec![0; LEN - UDP - 8],
        ..PacketSpec::new(
            (source.into(), 0),
            (Addr4::from(*to.ip()), to.port()),
            Transport::Udp,
        )
    };
    Frame::of(macs, &spec)
}

/// The sum of words as the processor reads them: a sum of ones' complements does not depend on the order of bytes.
fn sum(bytes: &[u8]) -> u32 {
    (0..bytes.len() / 2).map(|at| word(bytes, 2 * at)).sum()
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]]).into()
}

fn program(state: &Value) -> Result<Vec<Insn>> {
    let mut code = Assembler::default();
    let (too_short, is_there) = (code.label(), code.label());
    code.add([mov(R6, R1)]);
    code.packet_or(Kind::XDP, R1, LEN.try_into()?, too_short);
    code.add(map_value(R8, state.as_fd()));
    for at in (0..LEN).step_by(8) {
        let at = i16::try_from(at)?;
        code.add([
            load(Size::Double, R1, R8, at),
            store(Size::Double, R7, at, R1),
        ]);
    }
    // R1: the number of the flow. R3: its port. R5: the half of its address. Both as they stand in the packet.
    code.add([
        load(Size::Double, R1, R8, COUNTER),
        mov(R2, R1),
        alu_imm(Op::Add, R2, 1),
        store(Size::Double, R8, COUNTER, R2),
        load(Size::Word, R2, R8, MASK),
        alu(Op::And, R1, R2),
        load(Size::Word, R2, R8, FIRST),
        alu(Op::Add, R1, R2),
        mov(R3, R1),
        alu_imm(Op::And, R3, (1 << PORT_BITS) - 1),
        alu_imm(Op::Or, R3, FIRST_PORT.into()),
        be16(R3),
        mov(R4, R1),
        alu_imm(Op::ShiftRight, R4, PORT_BITS.try_into()?),
        load(Size::Half, R5, R8, SOURCE_LOW.try_into()?),
        be16(R5),
        alu(Op::Add, R5, R4),
        be16(R5),
        store(Size::Half, R7, SOURCE_LOW.try_into()?, R5),
        store(Size::Half, R7, UDP.try_into()?, R3),
        load(Size::Word, R1, R8, IP_REST),
        alu(Op::Add, R1, R5),
    ]);
    code.add(checksum(R1, R2));
    code.add([
        store(Size::Half, R7, IP_SUM.try_into()?, R1),
        load(Size::Word, R1, R8, UDP_REST),
        alu(Op::Add, R1, R5),
        alu(Op::Add, R1, R3),
    ]);
    code.add(checksum(R1, R2));
    // Zero would mean that there is none.
    code.jump_if_imm(If::Different, R1, 0, is_there);
    code.add([mov_imm(R1, 0xffff)]);
    code.place(is_there);
    code.add([
        store(Size::Half, R7, UDP_SUM.try_into()?, R1),
        mov_imm(R0, TRANSMIT),
        EXIT,
    ]);
    code.place(too_short);
    code.add([mov_imm(R0, 0), EXIT]);
    code.finish()
}

/// Folds a sum to two bytes and turns it into a checksum.
fn checksum(value: Register, spare: Register) -> Vec<Insn> {
    let fold = [
        mov(spare, value),
        alu_imm(Op::ShiftRight, spare, 16),
        alu_imm(Op::And, value, 0xffff),
        alu(Op::Add, value, spare),
    ];
    let turn = [
        alu_imm(Op::Xor, value, 0xffff),
        alu_imm(Op::And, value, 0xffff),
    ];
    [fold.as_slice(), &fold, &turn].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACS: Macs = Macs {
        dst: [2, 0, 0, 0, 0, 1],
        src: [2, 0, 0, 0, 0, 2],
    };

    #[test]
    fn the_sums_are_those_of_whole_packets() {
        let source = Ipv4Addr::new(10, 244, 1, 10);
        let to = SocketAddrV4::new(Ipv4Addr::new(10, 97, 0, 5), 80);
        let frame = template(MACS, source, to);
        assert_eq!(frame.bytes().len(), LEN);
        // What the program adds for a flow whose port is 0 and whose address is the first one.
        let bytes = frame.bytes();
        let low = word(bytes, SOURCE_LOW);
        let folded = |mut sum: u32| {
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            sum ^ 0xffff
        };
        assert_eq!(folded(rest_of_ip(bytes) + low), word(bytes, IP_SUM));
        assert_eq!(folded(rest_of_udp(bytes) + low), word(bytes, UDP_SUM));
    }
}
