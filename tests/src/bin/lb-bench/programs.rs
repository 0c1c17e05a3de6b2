//! Programs that do a part of a Service's work by the means that the kernel offers: what the project's own ones are held
//! against, on the same packets, of UDP over IPv4.
//!
//! * *stateless*: the service by a hash map, a slot by a hash of the packet's ends, the backend by two arrays, the
//!   destination exchanged. The packet leaves by the device that it came by; no neighbour is looked up, no hop is counted, and
//!   connections move when backends change.
//! * *LRU and FIB*: the connection by a hash map that forgets (keys of 16 bytes, values of 32), the destination exchanged, a
//!   hop taken, the next one by `bpf_fib_lookup`, the time and counters noted. That is what a connection in progress takes;
//!   no program here ever opens one. Once more the same *after the service* was found in a hash map, as programs do that look
//!   for connections only where there is a service.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use anyhow::Result;
use lb_tests::{
    asm::{
        Assembler, Context, EXIT, Helper, If, Insn, Label, Op, R0, R1, R2, R3, R4, R6, R7, R8, R9,
        Register, STACK, Size, alu, alu_imm, be16, call, load, map, mov, mov_imm, store, store_imm,
    },
    bench::Host,
    rawbpf::{self, Counters, Table},
};

/// Where things are in a frame.
const ETHER_TYPE: i16 = 12;
const VERSION: i16 = 14;
const TOTAL_LEN: i16 = 16;
const FRAGMENT: i16 = 20;
const TTL: i16 = 22;
const PROTOCOL: i16 = 23;
const IP_SUM: i16 = 24;
const SOURCE: i16 = 26;
const DESTINATION: i16 = 30;
const PORTS: i16 = 34;
const DESTINATION_PORT: i16 = 36;
const UDP_SUM: i16 = 40;
/// All of them are before this.
const LEN: i32 = 42;
/// UDP, of `linux/in.h`.
const UDP: i32 = 17;

/// A way to a backend, as both programs find it first in a value: the address and port as they stand in packets.
pub(crate) type To = [u8; 8];

/// Slots of the service, a prime as tables of consistent hashing have it.
const SLOTS: u32 = 65_537;

/// The program without any table of connections.
#[derive(Debug)]
pub(crate) struct Stateless {
    /// It can be run.
    pub(crate) program: OwnedFd,
    _maps: (Table<8, 4>, Table<4, 4>, Table<4, 8>),
}

impl Stateless {
    /// For one service, at this address and port as they stand in packets, and one backend.
    pub(crate) fn new(host: Host, service: [u8; 6], to: To) -> Result<Self> {
        let services = services(service)?;
        // Every slot is of backend 0.
        let slots = Table::<4, 4>::array(SLOTS)?;
        let backends = Table::<4, 8>::array(1)?;
        backends.insert(&[0; 4], &to)?;
        let program = stateless(host, [services.as_fd(), slots.as_fd(), backends.as_fd()])?;
        Ok(Self {
            program: rawbpf::load(host.kind(), &program)?,
            _maps: (services, slots, backends),
        })
    }
}

/// The programs with a table of connections and a look at the routes.
#[derive(Debug)]
pub(crate) struct LruFib {
    /// It can be run.
    pub(crate) program: OwnedFd,
    /// The one that looks for the service first.
    pub(crate) after_service: OwnedFd,
    _services: Table<8, 4>,
    connections: Table<16, 32>,
    counters: Counters,
    to: To,
}

impl LruFib {
    /// With room for so many connections of one service to one backend.
    pub(crate) fn new(host: Host, entries: u32, service: [u8; 6], to: To) -> Result<Self> {
        let connections = Table::lru_hash(entries)?;
        let counters = Counters::new(1)?;
        let services = services(service)?;
        let load = |services| {
            let program = lru_fib(host, services, connections.as_fd(), counters.as_fd())?;
            rawbpf::load(host.kind(), &program)
        };
        Ok(Self {
            program: load(None)?,
            after_service: load(Some(services.as_fd()))?,
            _services: services,
            connections,
            counters,
            to,
        })
    }

    /// Makes a connection known, by source and destination as they stand in packets.
    pub(crate) fn open(&self, ends: [u8; 8], ports: [u8; 4]) -> Result<()> {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&ends);
        key[8..12].copy_from_slice(&ports);
        key[12] = 17;
        let mut value = [0; 32];
        value[..8].copy_from_slice(&self.to);
        self.connections.insert(&key, &value)
    }

    /// Packets that were sent on.
    pub(crate) fn found(&self) -> Result<u64> {
        self.counters.get(0)
    }
}

/// A table of one service.
fn services(service: [u8; 6]) -> Result<Table<8, 4>> {
    let services = Table::hash(1)?;
    let mut key = [0; 8];
    key[..6].copy_from_slice(&service);
    key[6] = 17;
    services.insert(&key, &[0; 4])?;
    Ok(services)
}

fn stateless(host: Host, [services, slots, backends]: [BorrowedFd<'_>; 3]) -> Result<Vec<Insn>> {
    let mut code = Assembler::default();
    let passes = code.label();
    parse(&mut code, host, passes);
    find_service(&mut code, services, passes);
    // The slot, at -12: a multiplicative hash of source and ports.
    code.add([
        load(Size::Word, R1, R7, SOURCE),
        load(Size::Word, R2, R7, PORTS),
        alu_imm(Op::Mul, R1, 0x1b87_3593),
        alu_imm(Op::Mul, R2, 0x2c1b_3c6d),
        alu(Op::Xor, R1, R2),
        mov(R2, R1),
        alu_imm(Op::ShiftRight, R2, 29),
        alu(Op::Xor, R1, R2),
        alu_imm(Op::ShiftLeft, R1, 32),
        alu_imm(Op::ShiftRight, R1, 32),
        alu_imm(Op::Mul, R1, SLOTS.cast_signed()),
        alu_imm(Op::ShiftRight, R1, 32),
        store(Size::Word, STACK, -12, R1),
    ]);
    code.add(lookup(slots, -12));
    code.jump_if_imm(If::Equal, R0, 0, passes);
    code.add([
        load(Size::Word, R1, R0, 0),
        store(Size::Word, STACK, -12, R1),
    ]);
    code.add(lookup(backends, -12));
    code.jump_if_imm(If::Equal, R0, 0, passes);
    code.add([mov(R9, R0)]);
    rewrite(&mut code, Hops::Keep);
    code.add([load(Size::Word, R1, R6, Context::of(host.kind()).ifindex)]);
    send(&mut code, host);
    code.place(passes);
    code.add([mov_imm(R0, host.verdicts().0), EXIT]);
    code.finish()
}

fn lru_fib(
    host: Host,
    services: Option<BorrowedFd<'_>>,
    connections: BorrowedFd<'_>,
    counters: BorrowedFd<'_>,
) -> Result<Vec<Insn>> {
    let mut code = Assembler::default();
    let passes = code.label();
    parse(&mut code, host, passes);
    if let Some(services) = services {
        find_service(&mut code, services, passes);
    }
    // The key, at -16.
    code.add([
        load(Size::Word, R1, R7, SOURCE),
        store(Size::Word, STACK, -16, R1),
        load(Size::Word, R1, R7, DESTINATION),
        store(Size::Word, STACK, -12, R1),
        load(Size::Word, R1, R7, PORTS),
        store(Size::Word, STACK, -8, R1),
        store_imm(Size::Word, STACK, -4, UDP),
    ]);
    code.add(lookup(connections, -16));
    code.jump_if_imm(If::Equal, R0, 0, passes);
    code.add([mov(R9, R0)]);
    note(&mut code);
    rewrite(&mut code, Hops::TakeOne);
    next_hop(&mut code, host, passes);
    code.add([store_imm(Size::Word, STACK, -4, 0)]);
    code.add(lookup(counters, -4));
    code.jump_if_imm(If::Equal, R0, 0, passes);
    code.add(raise(R0, 0, None));
    code.add([load(Size::Word, R1, STACK, FIB + FIB_IFINDEX)]);
    send(&mut code, host);
    code.place(passes);
    code.add([mov_imm(R0, host.verdicts().0), EXIT]);
    code.finish()
}

/// Leaves the context in [`R6`] and the packet in [`R7`], if it is one of UDP over IPv4 without options and whole.
fn parse(code: &mut Assembler, host: Host, passes: Label) {
    /// IPv4's type, as the processor reads it.
    const IPV4: i32 = u16::from_ne_bytes([8, 0]) as i32;
    /// Version 4, five words.
    const PLAIN: i32 = 0x45;
    /// All but "do not fragment", as the processor reads it.
    const PIECE: i32 = u16::from_ne_bytes([0x3f, 0xff]) as i32;
    code.add([mov(R6, R1)]);
    code.packet_or(host.kind(), R1, LEN, passes);
    let checks = [
        (Size::Half, ETHER_TYPE, IPV4),
        (Size::Byte, VERSION, PLAIN),
        (Size::Byte, PROTOCOL, UDP),
    ];
    for (size, at, wanted) in checks {
        code.add([load(size, R1, R7, at)]);
        code.jump_if_imm(If::Different, R1, wanted, passes);
    }
    code.add([
        load(Size::Half, R1, R7, FRAGMENT),
        alu_imm(Op::And, R1, PIECE),
    ]);
    code.jump_if_imm(If::Different, R1, 0, passes);
    code.add([load(Size::Byte, R1, R7, TTL), mov_imm(R2, 2)]);
    code.jump_if(If::Greater, R2, R1, passes);
}

/// Goes on only if the packet is to a service.
fn find_service(code: &mut Assembler, services: BorrowedFd<'_>, passes: Label) {
    // The key, at -8.
    code.add([
        load(Size::Word, R1, R7, DESTINATION),
        store(Size::Word, STACK, -8, R1),
        load(Size::Half, R1, R7, DESTINATION_PORT),
        store(Size::Half, STACK, -4, R1),
        store_imm(Size::Half, STACK, -2, UDP),
    ]);
    code.add(lookup(services, -8));
    code.jump_if_imm(If::Equal, R0, 0, passes);
}

/// Looks up a key that is on the stack.
fn lookup(table: BorrowedFd<'_>, at: i32) -> Vec<Insn> {
    let mut insns = map(R1, table).to_vec();
    insns.extend([
        mov(R2, STACK),
        alu_imm(Op::Add, R2, at),
        call(Helper::MapLookup),
    ]);
    insns
}

/// Notes the packet, its bytes and the time in the connection, whose value is in [`R9`].
fn note(code: &mut Assembler) {
    const PACKETS: i16 = 8;
    const BYTES: i16 = 16;
    const LAST: i16 = 24;
    code.add([call(Helper::CoarseTime), store(Size::Double, R9, LAST, R0)]);
    code.add(raise(R9, PACKETS, None));
    code.add([load(Size::Half, R2, R7, TOTAL_LEN), be16(R2)]);
    code.add(raise(R9, BYTES, Some(R2)));
}

/// Adds one, or what is in a register, to a number in memory.
fn raise(base: Register, at: i16, by: Option<Register>) -> [Insn; 3] {
    let add = by.map_or(alu_imm(Op::Add, R1, 1), |by| alu(Op::Add, R1, by));
    [
        load(Size::Double, R1, base, at),
        add,
        store(Size::Double, base, at, R1),
    ]
}

/// What becomes of the hop limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hops {
    Keep,
    TakeOne,
}

/// Exchanges the destination for the one that is in the value at [`R9`], and mends the checksums (RFC 1624).
fn rewrite(code: &mut Assembler, hops: Hops) {
    let no_checksum = code.label();
    // R8: what the addresses add to a sum.
    code.add([
        load(Size::Word, R1, R7, DESTINATION),
        load(Size::Word, R2, R9, 0),
        store(Size::Word, R7, DESTINATION, R2),
        alu_imm(Op::Xor, R1, -1),
        alu_imm(Op::ShiftLeft, R1, 32),
        alu_imm(Op::ShiftRight, R1, 32),
        alu(Op::Add, R1, R2),
    ]);
    code.add(fold(R1, R3));
    code.add([mov(R8, R1), load(Size::Half, R1, R7, IP_SUM)]);
    code.add([alu_imm(Op::Xor, R1, 0xffff), alu(Op::Add, R1, R8)]);
    if hops == Hops::TakeOne {
        /// What one hop fewer adds to a sum, as the processor reads it.
        const ONE_FEWER: i32 = u16::from_ne_bytes([0xfe, 0xff]) as i32;
        code.add([
            load(Size::Byte, R2, R7, TTL),
            alu_imm(Op::Add, R2, -1),
            store(Size::Byte, R7, TTL, R2),
            alu_imm(Op::Add, R1, ONE_FEWER),
        ]);
    }
    code.add(fold(R1, R3));
    code.add([
        alu_imm(Op::Xor, R1, 0xffff),
        store(Size::Half, R7, IP_SUM, R1),
    ]);
    // The port, and the checksum that covers it.
    code.add([
        load(Size::Half, R2, R7, DESTINATION_PORT),
        load(Size::Half, R4, R9, 4),
        store(Size::Half, R7, DESTINATION_PORT, R4),
        load(Size::Half, R1, R7, UDP_SUM),
    ]);
    code.jump_if_imm(If::Equal, R1, 0, no_checksum);
    code.add([
        alu_imm(Op::Xor, R1, 0xffff),
        alu(Op::Add, R1, R8),
        alu_imm(Op::Xor, R2, 0xffff),
        alu(Op::Add, R1, R2),
        alu(Op::Add, R1, R4),
    ]);
    code.add(fold(R1, R3));
    code.add([alu_imm(Op::Xor, R1, 0xffff)]);
    let is_there = code.label();
    code.jump_if_imm(If::Different, R1, 0, is_there);
    code.add([mov_imm(R1, 0xffff)]);
    code.place(is_there);
    code.add([store(Size::Half, R7, UDP_SUM, R1)]);
    code.place(no_checksum);
}

/// Folds a sum of up to 34 bits to 16.
fn fold(value: Register, spare: Register) -> Vec<Insn> {
    let once = [
        mov(spare, value),
        alu_imm(Op::ShiftRight, spare, 16),
        alu_imm(Op::And, value, 0xffff),
        alu(Op::Add, value, spare),
    ];
    [once, once, once].concat()
}

/// `struct bpf_fib_lookup` of `linux/bpf.h`: where it is on the stack, and what is where in it.
const FIB: i16 = -80;
const FIB_LEN: i16 = 64;
const FIB_PROTOCOL: i16 = 1;
const FIB_TOTAL_LEN: i16 = 6;
const FIB_IFINDEX: i16 = 8;
const FIB_SOURCE: i16 = 16;
const FIB_DESTINATION: i16 = 32;
const FIB_MACS: i16 = 52;

/// Asks for the way to the packet's new destination, and writes its MACs.
fn next_hop(code: &mut Assembler, host: Host, passes: Label) {
    const AF_INET: i32 = 2;
    for at in (FIB..FIB + FIB_LEN).step_by(8) {
        code.add([store_imm(Size::Double, STACK, at, 0)]);
    }
    code.add([
        store_imm(Size::Byte, STACK, FIB, AF_INET),
        store_imm(Size::Byte, STACK, FIB + FIB_PROTOCOL, UDP),
        load(Size::Half, R1, R7, TOTAL_LEN),
        be16(R1),
        store(Size::Half, STACK, FIB + FIB_TOTAL_LEN, R1),
        load(Size::Word, R1, R6, Context::of(host.kind()).ifindex),
        store(Size::Word, STACK, FIB + FIB_IFINDEX, R1),
        load(Size::Word, R1, R7, SOURCE),
        store(Size::Word, STACK, FIB + FIB_SOURCE, R1),
        load(Size::Word, R1, R7, DESTINATION),
        store(Size::Word, STACK, FIB + FIB_DESTINATION, R1),
        mov(R1, R6),
        mov(R2, STACK),
        alu_imm(Op::Add, R2, FIB.into()),
        mov_imm(R3, FIB_LEN.into()),
        mov_imm(R4, 0),
        call(Helper::FibLookup),
    ]);
    code.jump_if_imm(If::Different, R0, 0, passes);
    // The source's MAC comes first there, and last in a frame.
    for (from, to) in (0..12).step_by(2).zip([6, 8, 10, 0, 2, 4]) {
        code.add([
            load(Size::Half, R1, STACK, FIB + FIB_MACS + from),
            store(Size::Half, R7, to, R1),
        ]);
    }
}

/// Ends the program and sends the packet on, by the device in [`R1`].
fn send(code: &mut Assembler, host: Host) {
    match host {
        Host::Xdp => code.add([mov_imm(R0, host.verdicts().1), EXIT]),
        Host::Tc => code.add([mov_imm(R2, 0), call(Helper::Redirect), EXIT]),
    }
}
