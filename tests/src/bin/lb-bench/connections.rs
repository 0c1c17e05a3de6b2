//! CPU time per TCP connection, and how long a client waits for one.
//!
//! One thread is client and server: it connects, takes the connection, and closes it at both ends. The kernel does all that
//! is in between while the thread connects, on the same CPU, so nobody waits for anybody to be scheduled.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    contender::Contender,
    cpu::Cpu,
    measure::Measure,
    report::Samples,
    scale::Scale,
    services::TARGET,
    stats::{quantile, sorted},
};

/// Takes a sample, if the contender's client and its backends are two.
pub(crate) fn sample(
    contender: &Contender,
    cpu: &Cpu,
    scale: &Scale,
    samples: &mut Samples,
) -> Result<()> {
    let Some(backend) = contender.site.backend() else {
        return Ok(());
    };
    let server = backend.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, TARGET)));
    let server = server.context("listen at the backends")?;
    let to = contender.site.dialled.into();
    let work = || {
        // What is only done once is not what is measured.
        exchange(&server, to)?;
        cpu.measure(|| {
            (0..scale.connections)
                .map(|_| exchange(&server, to))
                .collect::<Result<Vec<_>>>()
        })
    };
    let (waits, took) = contender.site.client.run(work)?;
    let waits: Vec<f64> = waits.iter().map(|wait| wait.as_secs_f64() * 1e6).collect();
    let waits = sorted(&waits);
    let (name, services) = (contender.setting.name, contender.services);
    let each = took.as_secs_f64() * 1e6 / f64::from(scale.connections);
    samples.add(Measure::Connection, name, services, each);
    for (measure, share) in [(Measure::ConnectMiddle, 0.5), (Measure::ConnectTail, 0.99)] {
        let wait = quantile(&waits, share).context("a connection")?;
        samples.add(measure, name, services, wait);
    }
    Ok(())
}

/// One connection; how long it took the client to have it. The server closes first, so the client's port is free at once.
fn exchange(server: &TcpListener, to: SocketAddr) -> Result<Duration> {
    let start = Instant::now();
    let client = TcpStream::connect(to).with_context(|| format!("connect to {to}"))?;
    let wait = start.elapsed();
    let (accepted, _) = server.accept().context("accept")?;
    drop(accepted);
    drop(client);
    Ok(wait)
}
