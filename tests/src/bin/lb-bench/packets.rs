//! CPU time per packet of UDP: of established flows, few and many, and of flows that begin.
//!
//! The time is that of generator, node and receiver together, on one CPU; all of it but the node's is the same for all who
//! have the same receiver.

use std::time::Duration;

use anyhow::{Result, ensure};
use lb_tests::poll;

use crate::{
    contender::Contender,
    cpu::Cpu,
    generator::Flows,
    measure::Measure,
    report::Samples,
    scale::Scale,
    services::ENDPOINTS,
    sink::{Sink, Then},
};

/// How long packets may be on their way.
const LIMIT: Duration = Duration::from_secs(2);
/// As many times as this are packets of few flows sent before they are measured.
const WARM: u32 = 16;

/// Packets of a call that is made to know what a call costs: one turn of the generator.
const CALL: u32 = 64;

/// Takes one sample of each kind.
pub(crate) fn sample(
    contender: &Contender,
    cpu: &Cpu,
    scale: &Scale,
    round: u32,
    samples: &mut Samples,
) -> Result<()> {
    contender.forget()?;
    let [few, many] = scale.flows.map(|n| Flows { first: 0, n });
    let new = Flows {
        first: many.n + round * scale.new_flows,
        n: scale.new_flows,
    };
    let mut take = |measure, flows: Flows, frames: u32| -> Result<()> {
        // A call has a cost of its own, which is that of ten thousand packets.
        let call = send(contender, cpu, few, CALL)?;
        let trip = send(contender, cpu, flows, frames)?;
        let (name, services) = (contender.setting.name, contender.services);
        let sent = u64::from(CALL) + u64::from(frames);
        samples.count(measure, name, services, sent, call.arrived + trip.arrived);
        let took = trip.took.saturating_sub(call.took);
        samples.add(measure, name, services, per(took, frames - CALL));
        Ok(())
    };
    establish(contender, cpu, few)?;
    take(Measure::EstablishedFew, few, scale.frames)?;
    establish(contender, cpu, many)?;
    take(Measure::EstablishedMany, many, scale.frames.max(2 * many.n))?;
    take(Measure::FirstPacket, new, new.n)?;
    Ok(())
}

/// Nanoseconds of each.
fn per(took: Duration, n: u32) -> f64 {
    took.as_secs_f64() * 1e9 / f64::from(n)
}

/// Sends a packet of each flow to and fro, and one more after the answer; then few flows go on, until caches are warm.
fn establish(contender: &Contender, cpu: &Cpu, flows: Flows) -> Result<()> {
    let (receiver, returned) = (contender.site.receiver()?, contender.site.returned()?);
    receiver.set(Then::Answer)?;
    let before = returned.answers()?;
    let there = send(contender, cpu, flows, flows.n)?.arrived;
    receiver.set(Then::Drop)?;
    let wanted = u64::from(flows.n);
    let back = arrived(returned, Sink::answers, before, wanted)?;
    let (name, services) = (contender.setting.name, contender.services);
    ensure!(
        there == wanted && back == wanted,
        "{name} with {services} services: of {wanted} flows {there} packets reached backends, {back} answers clients"
    );
    if contender.setting.worker.has_services() && wanted > 100 {
        let used = receiver.used()?;
        ensure!(
            used == ENDPOINTS as usize,
            "{name} with {services} services: {wanted} flows reached {used} backends of {ENDPOINTS}"
        );
    }
    send(
        contender,
        cpu,
        flows,
        flows.n.max(WARM * 1024).min(flows.n * WARM),
    )?;
    Ok(())
}

/// What became of packets.
#[derive(Clone, Copy, Debug)]
struct Trip {
    arrived: u64,
    took: Duration,
}

fn send(contender: &Contender, cpu: &Cpu, flows: Flows, n: u32) -> Result<Trip> {
    let site = &contender.site;
    let receiver = site.receiver()?;
    let before = receiver.arrived()?;
    let trip = || {
        site.generator.send(site.ifindex, flows, n)?;
        arrived(receiver, Sink::arrived, before, n.into())
    };
    let (arrived, took) = site.client.run(|| cpu.measure(trip))?;
    Ok(Trip { arrived, took })
}

/// Waits for so many packets, as long as any may come; how many it were.
fn arrived(sink: &Sink, count: fn(&Sink) -> Result<u64>, before: u64, wanted: u64) -> Result<u64> {
    let so_far = || Ok::<_, anyhow::Error>(count(sink)? - before);
    let are_all_there = || Ok((so_far()? >= wanted).then_some(()));
    // What is missing then is for the caller to judge.
    let _ = poll::until(LIMIT, "packets to arrive", are_all_there);
    so_far()
}
