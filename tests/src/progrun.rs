//! The real programs, run in the kernel on packets that tests make (`BPF_PROG_TEST_RUN`).
//!
//! [`Datapath`] is the object with its programs verified and its tables to be filled; nothing is attached to any device.
//! A run happens on the calling thread's CPU and in its network namespace. It tells what the program returned and what
//! it made of the packet; not where a redirect leads, which the kernel does not show.

use std::{collections::BTreeMap, fmt, fs::File, net::SocketAddr};

use anyhow::{Context, Result, anyhow, bail};
use aya::{
    Ebpf, EbpfLoader, TestRun, VerifierLogLevel,
    maps::{Array, DevMapHash, HashMap, MapData, PerCpuArray},
    programs::{
        CgroupAttachMode, CgroupSockAddr, Program, ProgramError, SchedClassifier, TcAttachType,
        TestRunOptions, TestRunResult, tc,
    },
};
use lb_common::{
    abi::{
        Backend, FlowSlot, HeldPiece, NextHop, NodeConfig, Plain, Reason, Service, ServiceKey,
        SlotRange, backend_flags, map, service_flags,
    },
    flow::clock::seconds,
    net::addr::{Addr, Family},
};
use lb_user::{
    agent::sockets::Sockets,
    apply::{BpfMaps, LbMaps, Raw},
    config,
    loader::object::OBJECT,
    plan::{BackendId, BackendRow, FrontendKey},
};

use crate::{cgroup::ControlGroup, netns::Namespace, packet::Frame};

/// The programs of the object.
pub const PROGRAMS: [&str; 9] = [
    "pod",
    "uplink",
    "uplink_l3",
    "host",
    "lo",
    "egress",
    "egress_l3",
    "xdp_uplink",
    "trace",
];
/// Those that meet sockets of a control group.
pub const SOCKET_PROGRAMS: [&str; 8] = [
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
];
/// Slots and backends that tests have room for.
pub const N_ROWS: u32 = 65_536;
/// Programs for sockets that are for no namespace's are nothing but that question; so they are for one also where nobody attaches
/// them.
const SOME_NETNS: u64 = 1;
/// Any secret will do, so long as it is the same in every run of a test.
pub const HASH_KEY: [u32; 12] = [
    0x9e37_79b9,
    0x7f4a_7c15,
    0xf39c_c060,
    0x5ced_c834,
    0x1082_276b,
    0xf3a2_7251,
    0xf86c_6a11,
    0xd0c1_8e95,
    0x2767_f0b1,
    0x53d2_7b7f,
    0x0347_045b,
    0x5bf1_827f,
];

/// The object in the kernel.
#[derive(Debug)]
pub struct Datapath {
    /// What can be run.
    pub programs: Programs,
    /// What the agent writes.
    pub tables: BpfMaps,
}

impl Datapath {
    /// Loads the object and these of its programs. Of `node`, tables' sizes are filled in, and the hash key
    /// if it has none.
    pub fn load(node: NodeConfig, flow_table_size: u32, programs: &[&str]) -> Result<Self> {
        Self::load_for(node, flow_table_size, programs, SOME_NETNS)
    }

    /// Loads the programs that meet sockets, for those of a network namespace, and attaches them to a control group for as long as
    /// they are loaded.
    pub fn meeting_sockets(namespace: &Namespace, group: &ControlGroup) -> Result<Self> {
        let asked = config::Sockets::OfNode(None);
        let netns = namespace.run(|| Sockets::new(&asked).netns());
        let mut datapath = Self::load_for(NodeConfig::default(), 64, &SOCKET_PROGRAMS, netns)?;
        for name in SOCKET_PROGRAMS {
            let found = datapath.programs.0.program_mut(name);
            let program: &mut CgroupSockAddr = found.context("just loaded")?.try_into()?;
            let dir = File::open(group.dir()).context("open the control group")?;
            // A link: others beside it are run as well.
            let attached = program.attach(dir, CgroupAttachMode::Single);
            attached.with_context(|| format!("attach {name}"))?;
        }
        Ok(datapath)
    }

    fn load_for(
        node: NodeConfig,
        flow_table_size: u32,
        programs: &[&str],
        netns: u64,
    ) -> Result<Self> {
        let hash_key = match node.hash_key {
            [0, ..] => HASH_KEY,
            given => given,
        };
        let node = NodeConfig {
            hash_key,
            flow_mask4: flow_table_size - 1,
            flow_mask6: flow_table_size - 1,
            ..node
        };
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(map::FLOWS4, flow_table_size)
            .map_max_entries(map::FLOWS6, flow_table_size)
            .map_max_entries(map::SLOTS, N_ROWS)
            .map_max_entries(map::BACKENDS4, N_ROWS)
            .map_max_entries(map::BACKENDS6, N_ROWS)
            .map_max_entries(map::CONNECTIONS4, N_ROWS)
            .map_max_entries(map::CONNECTIONS6, N_ROWS)
            .override_global("NODE", &Raw(node), true)
            .override_global("NETNS", &netns, true)
            .verifier_log_level(VerifierLogLevel::STATS)
            .load(OBJECT)
            .context("load the BPF object")?;
        for name in programs {
            let program = ebpf
                .program_mut(name)
                .with_context(|| format!("the object has no program {name}"))?;
            verify(program).with_context(|| format!("load the program {name}"))?;
        }
        let tables = BpfMaps::take(&mut ebpf)?;
        Ok(Self {
            programs: Programs(ebpf),
            tables,
        })
    }

    /// Makes a service port known, in the order in which a plan does it: no lookup ever finds less than all of it.
    pub fn install(&mut self, port: &ServicePort) -> Result<()> {
        for (id, row) in &port.backends {
            let id = BackendId {
                family: family_of(row),
                id: *id,
            };
            self.tables.put_backend(
                id,
                &BackendRow {
                    service: port.id,
                    ..*row
                },
            )?;
        }
        let ids: Vec<u32> = port.backends.iter().map(|(id, _)| *id).collect();
        self.tables.write_slots(port.base, &ids)?;
        for key in &port.frontends {
            self.tables.put_service(key, &port.entry(1))?;
        }
        Ok(())
    }
}

/// One port of a service: where clients dial it, and who answers.
#[derive(Clone, Debug)]
pub struct ServicePort {
    /// [`Service::id`].
    pub id: u32,
    /// The addresses that clients dial.
    pub frontends: Vec<FrontendKey>,
    /// First of as many slots as there are backends.
    pub base: u32,
    /// Backends by id; the service is filled in.
    pub backends: Vec<(u32, BackendRow)>,
    /// How one of them is chosen: one of [`service_flags`], or 0.
    pub algorithm: u32,
}

impl ServicePort {
    /// The entry in `services`.
    pub fn entry(&self, version: u32) -> Service {
        let count = u32::try_from(self.backends.len()).unwrap_or(u32::MAX);
        Service {
            id: self.id,
            version,
            cluster: SlotRange {
                base: self.base,
                count,
            },
            flags: service_flags::CLUSTER_IP | self.algorithm,
            ..Service::default()
        }
    }
}

/// The key of a frontend.
pub fn frontend(addr: SocketAddr, proto: u8) -> FrontendKey {
    ServiceKey {
        addr: addr.ip(),
        port: addr.port(),
        proto,
        pad: 0,
    }
}

/// A backend that serves; `flags` come in addition.
pub fn backend(addr: SocketAddr, flags: u32) -> BackendRow {
    let flags = flags | backend_flags::SERVING | backend_flags::IN_CLUSTER;
    Backend {
        addr: addr.ip(),
        service: 0,
        port: addr.port(),
        generation: 0,
        flags,
    }
}

/// Programs that passed the verifier.
#[derive(Debug)]
pub struct Programs(Ebpf);

impl Programs {
    /// Runs a program once.
    pub fn run(&self, program: &str, input: &Frame, arrival: Arrival) -> Result<Outcome> {
        let run = match self.program(program)? {
            Program::SchedClassifier(classifier) => Run::tc(classifier, input, arrival),
            Program::Xdp(xdp) => Run::xdp(xdp, input, arrival),
            other => bail!(
                "{program} is a program of type {:?}, which no test runs",
                other.prog_type()
            ),
        };
        let Run {
            result,
            action,
            mut output,
        } = run;
        let TestRunResult {
            return_value,
            data_size_out,
            ..
        } = result.with_context(|| format!("run {program}"))?;
        output.truncate(data_size_out as usize);
        let action = action(return_value)
            .with_context(|| format!("{program} returned {return_value:#x}"))?;
        Ok(Outcome {
            action,
            frame: Frame(output),
        })
    }

    /// Attaches a program of TC to the ingress of a device of the calling thread's namespace, for as long as it is loaded.
    pub fn attach(&mut self, program: &str, device: &str) -> Result<()> {
        let classifier: &mut SchedClassifier = self
            .0
            .program_mut(program)
            .with_context(|| format!("the object has no program {program}"))?
            .try_into()?;
        // Where there is no tcx the program is a filter of this qdisc.
        tc::qdisc_add_clsact(device).with_context(|| format!("add clsact to {device}"))?;
        let attached = classifier.attach(device, TcAttachType::Ingress);
        attached.with_context(|| format!("attach {program} to {device}"))?;
        Ok(())
    }

    /// A loaded program.
    pub fn program(&self, name: &str) -> Result<&Program> {
        self.0
            .program(name)
            .with_context(|| format!("the object has no program {name}"))
    }

    /// All counts so far, those of all CPUs together; a reason that never occurred is left out.
    pub fn counters(&self) -> Result<Counts> {
        let counters = PerCpuArray::<_, u64>::try_from(self.map(map::COUNTERS)?)?;
        let mut counts = BTreeMap::new();
        for reason in Reason::ALL {
            let count: u64 = counters.get(&(*reason as u32), 0)?.iter().sum();
            if count > 0 {
                counts.insert(*reason, count);
            }
        }
        Ok(Counts(counts))
    }

    /// The flow table of one family.
    pub fn flows<A: Addr>(&self) -> Result<Vec<FlowSlot<A>>>
    where
        FlowSlot<A>: Plain,
    {
        let name = match size_of::<A>() {
            4 => map::FLOWS4,
            _ => map::FLOWS6,
        };
        let flows = Array::<&MapData, Raw<FlowSlot<A>>>::try_from(self.map(name)?)?;
        let slots: Result<Vec<_>, _> = flows
            .iter()
            .map(|slot| slot.map(|Raw(slot)| slot))
            .collect();
        slots.with_context(|| format!("read {name}"))
    }

    /// The flow table of one family as the words that it is made of.
    pub fn flow_words<A: Addr>(&self) -> Result<Vec<u32>> {
        match size_of::<A>() {
            4 => self.words::<16>(map::FLOWS4),
            _ => self.words::<32>(map::FLOWS6),
        }
    }

    /// An array whose values are so many words.
    fn words<const N: usize>(&self, name: &str) -> Result<Vec<u32>> {
        let array = Array::<&MapData, [u32; N]>::try_from(self.map(name)?)?;
        let values: Result<Vec<_>, _> = array.iter().collect();
        Ok(values.with_context(|| format!("read {name}"))?.concat())
    }

    /// Empties the tables that the programs themselves write, as far as one family's runs read them again.
    pub fn forget<A: Addr>(&mut self) -> Result<()>
    where
        FlowSlot<A>: Plain + Default,
    {
        let name = match size_of::<A>() {
            4 => map::FLOWS4,
            _ => map::FLOWS6,
        };
        self.blank::<FlowSlot<A>>(name)?;
        self.blank::<NextHop>(map::NEXT_HOPS)?;
        self.blank_words::<{ size_of::<HeldPiece>() / 4 }>(map::PIECES)
    }

    /// Has the next hops that are known believed for an hour, so that no test has to be quick.
    pub fn believe(&mut self) -> Result<()> {
        let found = self.0.map_mut(map::NEXT_HOPS);
        let map = found.context("the object has no such map")?;
        let mut hops = Array::<_, Raw<NextHop>>::try_from(map)?;
        for index in 0..hops.len() {
            let Raw(mut hop) = hops.get(&index, 0)?;
            if hop.ifindex != 0 {
                hop.valid_until = hop.valid_until.wrapping_add(seconds(3600));
                hops.set(index, Raw(hop), 0)?;
            }
        }
        Ok(())
    }

    /// Lets XDP send by a device of this thread's namespace.
    pub fn redirect_by(&mut self, ifindex: u32) -> Result<()> {
        let found = self.0.map_mut(map::XDP_DEVICES);
        let map = found.context("the object has no such map")?;
        let mut devices = DevMapHash::try_from(map)?;
        devices
            .insert(ifindex, ifindex, None, 0)
            .context("note the device")
    }

    /// Lets packets go past a device to the pod at its other end.
    pub fn go_past(&mut self, ifindex: u32) -> Result<()> {
        let found = self.0.map_mut(map::PEER_DEVICES);
        let map = found.context("the object has no such map")?;
        let mut devices = HashMap::<_, u32, u32>::try_from(map)?;
        devices.insert(ifindex, 1, 0).context("note the device")
    }

    /// How many connections a backend has, as the programs count them.
    pub fn connections(&mut self, id: BackendId) -> Result<u32> {
        Ok(self.counts(id.family)?.get(&id.id, 0)?)
    }

    /// Writes the same.
    pub fn set_connections(&mut self, id: BackendId, count: u32) -> Result<()> {
        Ok(self.counts(id.family)?.set(id.id, count, 0)?)
    }

    fn counts(&mut self, family: Family) -> Result<Array<&mut MapData, u32>> {
        let name = match family {
            Family::V4 => map::CONNECTIONS4,
            Family::V6 => map::CONNECTIONS6,
        };
        let found = self.0.map_mut(name);
        Ok(Array::try_from(found.with_context(|| {
            format!("the object has no map {name}")
        })?)?)
    }

    /// Says which proxy has what: [`lb_common::abi::takeover`].
    pub fn set_takeover(&mut self, word: u32) -> Result<()> {
        let found = self.0.map_mut(map::TAKEOVER);
        let map = found.context("the object has no such map")?;
        let mut array = Array::<_, u32>::try_from(map)?;
        array.set(0, word, 0).context("write the word")
    }

    /// Writes zeros over an array whose values are only known as so many words.
    fn blank_words<const N: usize>(&mut self, name: &str) -> Result<()> {
        let found = self.0.map_mut(name);
        let map = found.with_context(|| format!("the object has no map {name}"))?;
        let mut array = Array::<_, [u32; N]>::try_from(map)?;
        for index in 0..array.len() {
            array
                .set(index, [0; N], 0)
                .with_context(|| format!("blank {name}"))?;
        }
        Ok(())
    }

    /// Writes zeros over an array.
    fn blank<T: Plain + Default>(&mut self, name: &str) -> Result<()> {
        let found = self.0.map_mut(name);
        let map = found.with_context(|| format!("the object has no map {name}"))?;
        let mut array = Array::<_, Raw<T>>::try_from(map)?;
        for index in 0..array.len() {
            array
                .set(index, Raw(T::default()), 0)
                .with_context(|| format!("blank {name}"))?;
        }
        Ok(())
    }

    fn map(&self, name: &str) -> Result<&aya::maps::Map> {
        self.0
            .map(name)
            .with_context(|| format!("the object has no map {name}"))
    }
}

/// How a packet came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// The device.
    pub ifindex: u32,
    /// The device by which it came into the node; 0: the node's own processes sent it.
    pub ingress_ifindex: u32,
    /// Bytes of payload of each segment that the packet was put together from; 0: it came whole.
    pub gso_size: u32,
}

impl Arrival {
    /// A packet that came whole by a device.
    pub fn by(ifindex: u32) -> Self {
        Self {
            ifindex,
            ingress_ifindex: ifindex,
            gso_size: 0,
        }
    }

    /// A packet of the node's own that leaves by a device.
    pub fn leaving(ifindex: u32) -> Self {
        Self {
            ingress_ifindex: 0,
            ..Self::by(ifindex)
        }
    }
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What the kernel shall do with it.
    pub action: Action,
    /// The packet when the program had ended.
    pub frame: Frame,
}

/// What a program tells the kernel to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `TCX_NEXT`, `XDP_PASS`.
    Pass,
    /// `TC_ACT_OK`: it goes on as it is now.
    Stack,
    /// `TC_ACT_SHOT`, `XDP_DROP`.
    Drop,
    /// `TC_ACT_REDIRECT`, `XDP_REDIRECT`.
    Redirect,
    /// `XDP_TX`.
    Transmit,
}

/// Counts by reason.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Counts(pub BTreeMap<Reason, u64>);

impl Counts {
    /// These counts.
    pub fn of(counts: &[(Reason, u64)]) -> Self {
        Self(counts.iter().copied().collect())
    }

    /// One count.
    pub fn get(&self, reason: Reason) -> u64 {
        self.0.get(&reason).copied().unwrap_or(0)
    }

    /// What came in addition to `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let more = |(reason, count): (&Reason, &u64)| (*reason, count - before.get(*reason));
        Self(
            self.0
                .iter()
                .map(more)
                .filter(|(_, count)| *count > 0)
                .collect(),
        )
    }
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.0.iter().map(|(reason, count)| (reason.name(), count)))
            .finish()
    }
}

/// A run that has ended, before its result was looked at.
struct Run {
    result: Result<TestRunResult, ProgramError>,
    action: fn(u32) -> Result<Action>,
    output: Vec<u8>,
}

impl Run {
    /// The program may make the packet longer by a header.
    const ROOM: usize = 64;

    fn tc(
        program: &impl for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
        input: &Frame,
        arrival: Arrival,
    ) -> Self {
        let context = skb_context(arrival);
        Self::of(program, input, &context, |value| {
            match value.cast_signed() {
                -1 => Ok(Action::Pass),
                0 => Ok(Action::Stack),
                2 => Ok(Action::Drop),
                7 => Ok(Action::Redirect),
                _ => Err(anyhow!("not an action of tc")),
            }
        })
    }

    fn xdp(
        program: &impl for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
        input: &Frame,
        arrival: Arrival,
    ) -> Self {
        let context = xdp_context(input, arrival);
        Self::of(program, input, &context, |value| match value {
            1 => Ok(Action::Drop),
            2 => Ok(Action::Pass),
            3 => Ok(Action::Transmit),
            4 => Ok(Action::Redirect),
            _ => Err(anyhow!("not an action of XDP")),
        })
    }

    fn of(
        program: &impl for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
        input: &Frame,
        context: &[u32],
        action: fn(u32) -> Result<Action>,
    ) -> Self {
        let mut output = vec![0; input.bytes().len() + Self::ROOM];
        let result = program.test_run(TestRunOptions {
            data_in: Some(input.bytes()),
            data_out: Some(&mut output),
            ctx_in: Some(bytemuck::cast_slice(context)),
            repeat: 1,
            ..TestRunOptions::default()
        });
        Self {
            result,
            action,
            output,
        }
    }
}

/// `struct __sk_buff` of `linux/bpf.h` as words, as long as Linux 6.1 knows it.
pub(crate) fn skb_context(arrival: Arrival) -> [u32; 46] {
    const INGRESS_IFINDEX: usize = 9;
    const IFINDEX: usize = 10;
    const GSO_SIZE: usize = 44;
    let mut context = [0; 46];
    context[INGRESS_IFINDEX] = arrival.ingress_ifindex;
    context[IFINDEX] = arrival.ifindex;
    context[GSO_SIZE] = arrival.gso_size;
    context
}

/// `struct xdp_md` of `linux/bpf.h`.
pub(crate) fn xdp_context(input: &Frame, arrival: Arrival) -> [u32; 6] {
    const DATA_END: usize = 1;
    const INGRESS_IFINDEX: usize = 3;
    let mut context = [0; 6];
    context[DATA_END] = u32::try_from(input.bytes().len()).unwrap_or(u32::MAX);
    context[INGRESS_IFINDEX] = arrival.ifindex;
    context
}

fn verify(program: &mut Program) -> Result<()> {
    match program {
        Program::SchedClassifier(program) => program.load()?,
        Program::Xdp(program) => program.load()?,
        Program::CgroupSockAddr(program) => program.load()?,
        other => bail!(
            "it is of type {:?}, none that the object has",
            other.prog_type()
        ),
    }
    Ok(())
}

fn family_of(row: &BackendRow) -> Family {
    if row.addr.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_told_apart_from_those_before() {
        let before = Counts::of(&[(Reason::Open, 3), (Reason::Resolved, 1)]);
        let after = Counts::of(&[
            (Reason::Open, 5),
            (Reason::Resolved, 1),
            (Reason::HitReply, 1),
        ]);
        assert_eq!(
            after.since(&before),
            Counts::of(&[(Reason::Open, 2), (Reason::HitReply, 1)])
        );
    }
}
