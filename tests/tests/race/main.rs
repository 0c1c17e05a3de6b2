//! The real programs on two CPUs at once, on the same flows and beside an agent that changes the services.
//!
//! Runs are bounded by a number of rounds. Whatever the interleaving was, the table must be whole afterwards, and no
//! packet may ever have gone anywhere but to a backend of its own service.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

mod stage;

use std::{
    collections::HashMap,
    hint,
    net::SocketAddrV4,
    panic::resume_unwind,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread::{self, ScopedJoinHandle},
};

use lb_common::{
    abi::{FlowSlot, Reason, Service, SlotRange},
    flow::{
        Direction,
        slot::{SlotFlags, State, StateWord},
    },
    net::{addr::Addr4, ip::proto},
};
use lb_tests::progrun::N_ROWS;
use lb_user::apply::{BpfMaps, LbMaps};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use stage::{Call, N_BACKENDS, Name, Runner, Stage, call, call_of, scatter, socket};

/// Rounds of a race of flows; each CPU sends two packets in each.
const ROUNDS: u32 = 20_000;
/// How often the services' slots are replaced under a reader.
const PERMUTATIONS: u32 = 1_000_000;

#[test]
fn two_cpus_that_open_one_connection_agree_on_its_backend() {
    // Large enough that every connection finds a place.
    let Some(Stage { runner, cpus, .. }) = Stage::new(262_144) else {
        return;
    };
    let [mut one, other] = race(&runner, cpus, |caller, round| {
        let pair = [call(2 * round), call(2 * round + 1)];
        // Half of the rounds crosswise.
        let order = if caller == 1 && round.is_multiple_of(2) {
            [pair[1], pair[0]]
        } else {
            pair
        };
        order.map(|call| (call, runner.exchange(call))).to_vec()
    });
    for (call, backend) in &other {
        let same = one.get(call).copied().flatten();
        assert!(
            same.is_none() || backend.is_none() || same == *backend,
            "{call:?}: {same:?} and {backend:?}"
        );
        one.insert(*call, same.or(*backend));
    }
    check_table(&runner.flows());
    // What both CPUs gave up for the other is settled when the client asks again.
    let unanswered: Vec<Call> = one
        .iter()
        .filter(|(_, backend)| backend.is_none())
        .map(|(call, _)| *call)
        .collect();
    let again = runner.node.namespace().run(|| {
        unanswered
            .iter()
            .all(|call| runner.exchange(*call).is_some())
    });
    assert!(
        again,
        "a retransmit was dropped: {:?}",
        runner.programs.counters()
    );
    assert_eq!(runner.count(Reason::Open), u64::from(2 * ROUNDS));
}

#[test]
fn a_tiny_table_stays_whole_while_two_cpus_push_out_each_others_flows() {
    let Some(Stage { runner, cpus, .. }) = Stage::new(64) else {
        return;
    };
    let _ = race(&runner, cpus, |caller, round| {
        // The same call on both, then calls that seldom meet; each is made again many times.
        for number in [scatter(round), scatter(2 * round + caller)] {
            runner.dial(call(number % 512));
        }
        Vec::new()
    });
    let flows = runner.flows();
    check_table(&flows);
    let n_answered = runner.node.namespace().run(|| {
        let originals = flows
            .iter()
            .filter(|slot| is_published(slot) && direction(slot) == Direction::Original);
        originals
            .filter(|slot| runner.answer(call_of(slot), socket(slot.new_dst, slot.new_dport)))
            .count()
    });
    // Every flow in the table works: half of the slots in use belong to the replies.
    assert_eq!(
        2 * n_answered,
        flows.iter().filter(|slot| is_published(slot)).count()
    );
    assert!(n_answered > 0);
    let sent = runner.count(Reason::Open) + runner.count(Reason::HitOriginal);
    // "Port in use": the reply of a pair that is being taken apart on the other CPU is still there.
    let busy = [
        Reason::DropFlowBusy,
        Reason::DropFlowTableFull,
        Reason::DropPortInUse,
    ];
    let dropped: u64 = busy.map(|reason| runner.count(reason)).iter().sum();
    assert_eq!(
        sent + dropped,
        u64::from(4 * ROUNDS),
        "{:?}",
        runner.programs.counters()
    );
}

#[test]
fn a_reader_never_sees_another_services_backend_while_slots_are_permuted() {
    let Some(Stage {
        runner,
        mut tables,
        cpus,
    }) = Stage::new(256)
    else {
        return;
    };
    let done = AtomicBool::new(false);
    let n_calls = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            runner.node.namespace().run(|| {
                pin(cpus[1]);
                // Datagrams to service A; its flows are pushed out of the small table before the numbers come again.
                let calls = (0_u32..)
                    .map(|number| call(4 * number + 2))
                    .take_while(|_| !done.load(Ordering::Relaxed));
                calls.filter(|call| runner.dial(*call).is_some()).count()
            })
        });
        pin(cpus[0]);
        let permuted = permute(&mut tables, || reader.is_finished());
        done.store(true, Ordering::Relaxed);
        let n_calls = joined(reader);
        permuted.unwrap();
        n_calls
    });
    let counters = runner.programs.counters().unwrap();
    println!("{n_calls} connections were opened during {PERMUTATIONS} permutations: {counters:?}");
    assert!(n_calls > 10_000, "the reader had no time: {n_calls} calls");
    // There is a backend at any moment, and two changes within a packet's time are rare.
    assert_eq!(counters.get(Reason::RejectNoBackend), 0, "{counters:?}");
    assert!(
        counters.get(Reason::DropServiceChanged) < n_calls as u64 / 100,
        "{counters:?}"
    );
    assert!(
        counters.get(Reason::Open) > n_calls as u64 / 2,
        "{counters:?}"
    );
}

/// Replaces the slots of both services in turn, as a plan does: first slots that nobody reads, then the entry. Slots are
/// written again only when the readers that may have known them are gone.
fn permute(tables: &mut BpfMaps, stop: impl Fn() -> bool) -> anyhow::Result<()> {
    const FIRST: u32 = 1024;
    // An odd number, so that a range is one service's and then the other's.
    let n_ranges = (N_ROWS - FIRST) / u32::from(N_BACKENDS) - 1;
    assert_eq!(n_ranges % 2, 1);
    let ports = [Name::A, Name::B].map(|name| name.port(proto::UDP));
    for turn in 0..PERMUTATIONS {
        if turn % n_ranges == 0 {
            tables.grace()?;
            // It has failed; there is nothing to wait for.
            if stop() {
                break;
            }
        }
        let port = &ports[usize::from(turn % 2 == 1)];
        let base = FIRST + turn % n_ranges * u32::from(N_BACKENDS);
        let mut ids: Vec<u32> = port.backends.iter().map(|(id, _)| *id).collect();
        let len = ids.len();
        ids.rotate_left(turn as usize / 2 % len);
        ids.truncate(1 + turn as usize / 8 % len);
        tables.write_slots(base, &ids)?;
        let cluster = SlotRange {
            base,
            count: u32::try_from(ids.len())?,
        };
        let entry = Service {
            cluster,
            version: turn + 2,
            ..port.entry(0)
        };
        tables.put_service(&port.frontends[0], &entry)?;
    }
    Ok(())
}

/// What callers found out: the backend that answered, if the call was not dropped.
type Answers = HashMap<Call, Option<SocketAddrV4>>;

/// Runs `round` on two CPUs, each round at the same time.
fn race(
    runner: &Runner,
    cpus: [usize; 2],
    round: impl Fn(u32, u32) -> Vec<(Call, Option<SocketAddrV4>)> + Sync,
) -> [Answers; 2] {
    let at = [AtomicU32::new(0), AtomicU32::new(0)];
    let run = |caller: usize| {
        pin(cpus[caller]);
        let _gone = Leave(&at[caller]);
        let number = u32::try_from(caller).unwrap();
        let rounds = (0..ROUNDS).flat_map(|turn| {
            at[caller].store(turn, Ordering::SeqCst);
            while at[1 - caller].load(Ordering::SeqCst) < turn {
                hint::spin_loop();
            }
            round(number, turn)
        });
        rounds.collect()
    };
    thread::scope(|scope| {
        let run = &run;
        [0, 1]
            .map(|caller| scope.spawn(move || runner.node.namespace().run(|| run(caller))))
            .map(joined)
    })
}

/// Lets the other CPU go on when this one has ended, also by a panic.
struct Leave<'a>(&'a AtomicU32);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.store(u32::MAX, Ordering::SeqCst);
    }
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// Keeps the calling thread on one CPU.
fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

/// Whatever happened: no slot is left half made, no key is there twice, and each direction knows the other.
fn check_table(flows: &[FlowSlot<Addr4>]) {
    let mut seen = HashMap::new();
    for (position, slot) in flows.iter().enumerate() {
        if !is_published(slot) {
            assert_eq!(
                StateWord(slot.state).state(),
                State::Empty,
                "slot {position} was left: {slot:?}"
            );
            continue;
        }
        let key = (slot.src, slot.dst, slot.sport, slot.dport, slot.proto);
        let before = seen.insert(key, position);
        assert_eq!(before, None, "one key in two slots: {slot:?} at {position}");
        let twin = &flows[slot.twin as usize];
        assert!(
            is_published(twin),
            "half a pair: {slot:?} at {position}, its twin is {twin:?}"
        );
        assert_eq!(twin.twin as usize, position, "{slot:?}, {twin:?}");
        assert_ne!(direction(slot), direction(twin), "{slot:?}, {twin:?}");
        let back = (
            twin.new_dst,
            twin.new_src,
            twin.new_dport,
            twin.new_sport,
            twin.proto,
        );
        assert_eq!(
            back, key,
            "the reply does not lead back: {slot:?}, {twin:?}"
        );
    }
}

fn is_published(slot: &FlowSlot<Addr4>) -> bool {
    StateWord(slot.state).published()
}

fn direction(slot: &FlowSlot<Addr4>) -> Direction {
    SlotFlags(slot.flags).direction()
}
