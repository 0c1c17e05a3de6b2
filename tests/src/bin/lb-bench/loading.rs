//! How long it takes to load services, and to follow the change of one endpoint or of a service; and the memory that services
//! take.

use std::time::{Duration, Instant};

use anyhow::Result;
use lb_tests::signals::Signals;

use crate::{
    agent::Agent,
    measure::Measure,
    report::Samples,
    scale::Scale,
    services::{ENDPOINTS, Form, Services},
    setting::{SETTINGS, Setting, Worker},
    site::Site,
};

/// Changes of one endpoint, there and back; and of a service.
const CHANGES: u32 = 6;

/// Measures the first of the settings that an agent carries out at TC, with each number of services.
pub(crate) fn sample(scale: &Scale, signals: &Signals, samples: &mut Samples) -> Result<()> {
    let is_agent =
        |setting: &&Setting| setting.name == "tc" && matches!(setting.worker, Worker::Agent(_));
    for setting in SETTINGS.iter().filter(is_agent) {
        let Worker::Agent(flags) = setting.worker else {
            continue;
        };
        for number in scale.loaded {
            // A site each: what an agent leaves in one is its own.
            for measured in [one, yaml] {
                signals.check()?;
                let site = Site::new(setting, Services(number))?;
                measured(&site, Services(number), flags, setting.name, samples)?;
            }
        }
    }
    Ok(())
}

fn one(
    site: &Site,
    services: Services,
    flags: &[&str],
    name: &str,
    samples: &mut Samples,
) -> Result<()> {
    let manifests = Agent::manifests_of(services, Form::Json)?;
    let start = Instant::now();
    let agent = Agent::serve(&site.node, services, manifests, flags)?;
    let ready = start.elapsed();
    let mut add = |measure, value| samples.add(measure, name, services.0, value);
    let [parsed, compiled, planned, written] = agent.parts().map(milliseconds);
    add(Measure::ParseJson, parsed);
    add(Measure::Compile, compiled);
    add(Measure::Plan, planned);
    add(Measure::Write, written);
    add(Measure::Load, milliseconds(agent.wait_for_change(1)?));
    add(Measure::Ready, milliseconds(ready));
    let [now, most] = agent.memory()?;
    add(Measure::Memory, mebibytes(now));
    add(Measure::MemoryEach, float(now / services.endpoints()));
    add(Measure::MemoryPeak, mebibytes(most));
    add(Measure::Tables, mebibytes(agent.tables()?));
    for change in 0..CHANGES {
        let before = agent.changes().len();
        let start = Instant::now();
        // One endpoint goes, and comes again.
        services.rewrite(agent.manifests(), ENDPOINTS - (change + 1) % 2)?;
        add(
            Measure::Change,
            milliseconds(agent.wait_for_change(before + 1)?),
        );
        add(Measure::Followed, milliseconds(start.elapsed()));
        let seen = agent.seen().last().copied().unwrap_or_default();
        add(Measure::Seen, milliseconds(seen));
    }
    for change in 0..CHANGES {
        let before = agent.changes().len();
        if change % 2 == 0 {
            Services::withdraw(agent.manifests())?;
        } else {
            services.rewrite(agent.manifests(), ENDPOINTS)?;
        }
        let took = agent.wait_for_change(before + 1)?;
        add(Measure::ServiceChange, milliseconds(took));
        let seen = agent.seen().last().copied().unwrap_or_default();
        add(Measure::ServiceSeen, milliseconds(seen));
    }
    Ok(())
}

/// The part of a start that differs where manifests are YAML.
fn yaml(
    site: &Site,
    services: Services,
    flags: &[&str],
    name: &str,
    samples: &mut Samples,
) -> Result<()> {
    let manifests = Agent::manifests_of(services, Form::Yaml)?;
    let agent = Agent::serve(&site.node, services, manifests, flags)?;
    let [parsed, ..] = agent.parts().map(milliseconds);
    samples.add(Measure::ParseYaml, name, services.0, parsed);
    Ok(())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[expect(
    clippy::cast_precision_loss,
    reason = "memory is far less than 2^52 bytes"
)]
fn float(number: u64) -> f64 {
    number as f64
}

fn mebibytes(bytes: u64) -> f64 {
    float(bytes) / f64::from(1 << 20)
}
