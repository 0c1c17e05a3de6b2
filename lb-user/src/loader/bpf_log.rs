//! Debug messages of the programs, in builds with the feature `bpf-log`: from their ring to our log.
//!
//! Release builds carry none of it: the ring is a legacy map, which stops other loaders from reading the
//! object.

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};
use tracing::warn;

/// Starts forwarding the programs' messages for as long as the runtime lives; without them the
/// datapath works all the same, so a failure is only logged.
pub(super) fn forward(ebpf: &mut Ebpf) {
    let logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => {
            warn!("the programs' debug messages are not shown: {error}");
            return;
        }
    };
    match AsyncFd::register_with_interest(logger, Interest::READABLE) {
        Ok(logger) => drop(tokio::spawn(drain(logger))),
        Err(error) => warn!("the programs' debug messages are not shown: {error}"),
    }
}

async fn drain(mut logger: AsyncFd<EbpfLogger<&'static dyn log::Log>>) {
    while let Ok(mut ring) = logger.readable_mut().await {
        ring.get_inner_mut().flush();
        ring.clear_ready();
    }
}
