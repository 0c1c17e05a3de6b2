//! Bits of a TCP stream for each second of one CPU: client, node and server together.
//!
//! One thread writes until the kernel takes no more, and then reads what has arrived. Where the CPU is nobody else's, this is
//! the throughput.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use lb_tests::poll;

use crate::{
    contender::Contender, cpu::Cpu, measure::Measure, report::Samples, scale::Scale,
    services::TARGET,
};

/// Bytes of one call.
const PIECE: usize = 1 << 17;
/// How long nothing at all may arrive.
const LIMIT: Duration = Duration::from_secs(10);

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
    let to = contender.site.dialled;
    let work = || {
        cpu.pin()?;
        let client = TcpStream::connect(to).with_context(|| format!("connect to {to}"))?;
        let (accepted, _) = server.accept().context("accept")?;
        let mut stream = Stream::new(client, accepted)?;
        // Until windows are open.
        stream.pass(scale.stream_bytes / 8)?;
        cpu.measure(|| stream.pass(scale.stream_bytes))
    };
    let (bytes, took) = contender.site.client.run(work)?;
    let gbits = precise(bytes) * 8.0 / took.as_secs_f64() / 1e9;
    samples.add(
        Measure::Stream,
        contender.setting.name,
        contender.services,
        gbits,
    );
    Ok(())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "bytes of a stream are far fewer than 2^52"
)]
fn precise(bytes: u64) -> f64 {
    bytes as f64
}

/// Both ends of a connection.
struct Stream {
    client: TcpStream,
    server: TcpStream,
    buffer: Vec<u8>,
}

impl Stream {
    fn new(client: TcpStream, server: TcpStream) -> Result<Self> {
        for end in [&client, &server] {
            end.set_nonblocking(true)
                .context("an end that does not wait")?;
        }
        Ok(Self {
            client,
            server,
            buffer: vec![0; PIECE],
        })
    }

    /// Lets at least so many bytes arrive; how many it were.
    fn pass(&mut self, bytes: u64) -> Result<u64> {
        let mut arrived = 0;
        while arrived < bytes {
            arrived += poll::until(LIMIT, "bytes of a stream", || {
                self.fill()?;
                let some = self.drain()?;
                Ok((some > 0).then_some(some))
            })?;
        }
        Ok(arrived)
    }

    fn fill(&mut self) -> Result<()> {
        loop {
            match self.client.write(&self.buffer) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("write to a stream"),
            }
        }
    }

    fn drain(&mut self) -> Result<u64> {
        let mut arrived = 0;
        loop {
            match self.server.read(&mut self.buffer) {
                Ok(0) => bail!("the stream ended"),
                Ok(n) => arrived += n as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(arrived),
                Err(error) => return Err(error).context("read from a stream"),
            }
        }
    }
}
