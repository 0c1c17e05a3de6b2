//! The agent: takes one node's datapath up, keeps it true to the manifests, and takes it down.
//!
//! The only module that owns tasks. The datapath outlives it, however it ends: tables, programs, devices and routes stay for the
//! next agent, or for `fulcrum cleanup`. Tables are filled before the first program is attached or takes the place of an earlier
//! agent's: no packet ever meets a half-filled table.

pub mod choice;
pub mod controller;
pub mod devices;
pub mod flows;
pub mod forward;
pub mod growth;
pub mod health;
mod memory;
pub mod node;
pub mod packets;
pub mod probe;
pub mod reload;
pub mod room;
pub mod run_dir;
pub mod sockets;
mod supervisor;
pub mod view;
mod wires;

use std::{
    collections::BTreeSet,
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    task, time,
};

use crate::{
    apply::{BpfMaps, MapError},
    compile::NodeFacts,
    config::{Config, EphemeralOverlap, Manifests, log::Log, reload::Given},
    control::{
        self,
        server::{Answer, ListenError, Server},
    },
    loader::{
        Datapath, LoaderError,
        netlink::{Netlink, NetlinkError},
        object::Facts,
        pair::{HostPair, PairError},
        uplink::NodeAddresses,
    },
    plan::Capacity,
    source::{self, ScanResult, touch::WatchError},
    sys::give_memory_back,
    takeover::{Takeover, TakeoverError},
};
use controller::Controller;
use devices::Devices;
use flows::Walk;
use forward::Forwarding;
use growth::{Growth, Swap};
use health::sync::Moment;
use node::{Node, Own};
use packets::Packets;
use reload::Reload;
use room::Room;
use run_dir::{RunDir, RunDirError};
use sockets::Sockets;
use view::View;
use wires::{Arrival, News, Shown, Told, Wires};

/// Time until what the kernel refused is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Looks of a source that may wait to be taken.
const PENDING_LOOKS: usize = 4;

/// What those who ask are told; nothing before the first listing is complete.
type Published = Option<Arc<View>>;

/// What an agent is started with.
#[derive(Debug)]
pub struct Settings {
    /// What to serve and how.
    pub config: Config,
    /// Where its lock, socket and allocations are.
    pub run_dir: PathBuf,
    /// Where the tables are pinned.
    pub bpffs: PathBuf,
    /// What the configuration was made of, to be read again.
    pub given: Given,
    /// The log, whose level may change.
    pub log: Log,
}

/// Why an agent does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The run directory cannot be used.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// Devices cannot be listed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The node's own processes could not be served.
    #[error(transparent)]
    Pair(#[from] PairError),
    /// There is no datapath.
    #[error(transparent)]
    Loader(#[from] LoaderError),
    /// The tables cannot be opened.
    #[error(transparent)]
    Maps(#[from] MapError),
    /// Connections cannot be taken over from another proxy.
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    /// Nobody could ask.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// There are no manifests.
    #[error("cannot read the manifests {path}")]
    Manifests {
        /// The path, or `-`.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Changes of the manifests or of the configuration file cannot be followed.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// Masqueraded connections may collide with the node's own.
    #[error(transparent)]
    Ephemeral(#[from] EphemeralOverlap),
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] io::Error),
}

/// Runs until SIGTERM or SIGINT, or until it cannot go on. `ready` is called once, when the programs are
/// on the devices and the tables are full.
pub async fn run(settings: Settings, ready: impl FnOnce()) -> Result<(), AgentError> {
    let mut signals = Signals::new().map_err(AgentError::Signals)?;
    // From now on it ends nobody.
    let hangups = signal(SignalKind::hangup()).map_err(AgentError::Signals)?;
    settings.config.flows.check_ephemeral()?;
    let ready = || {
        supervisor::ready();
        ready();
    };
    tokio::select! {
        ended = work(settings, hangups, ready) => match ended? {},
        name = signals.next() => {
            tracing::info!(signal = name, "stopping");
            supervisor::stopping();
            Ok(())
        }
    }
}

/// Takes the datapath up and keeps it true; when the future is dropped, it goes on as it is.
async fn work(
    settings: Settings,
    mut hangups: Signal,
    ready: impl FnOnce(),
) -> Result<Infallible, AgentError> {
    let Settings {
        config,
        run_dir,
        bpffs,
        given,
        log,
    } = settings;
    let run_dir = Arc::new(RunDir::open(&run_dir)?);
    let allocations = run_dir.allocations()?;
    let netlink = Netlink::open()?;
    let (looks_in, mut looks) = mpsc::channel(PENDING_LOOKS);
    let (source_name, source) = open_source(&config.manifests, looks_in)?;
    let server = Server::bind(&control::socket(run_dir.path()))?;
    let mut source = Box::pin(source);
    let first = first_look(&mut source, &mut looks).await?;
    let survey = netlink.survey().await?;
    let node = Node::find(&config, &survey);
    let mut pair = HostPair::make(config.host_device.clone(), run_dir.path(), config.hairpin)?;
    let own = node.own(&survey);
    let Forwarding { by_stack, modes } = Forwarding::choose(&config);
    let sockets = Sockets::new(&config.sockets);
    let of_node = node_facts(&config, &node, own.clone());
    let mut controller =
        Controller::waiting(source_name, of_node, Arc::clone(&run_dir), allocations);
    controller.begin(first, config.probe);
    let tables = controller.capacity();
    let facts = facts(&config, &node, &pair, (by_stack, &sockets), tables);
    let mut datapath = Datapath::load(&bpffs, run_dir.path(), facts, modes)?;
    pair.keep();
    let takeover = takeover(&config, &datapath, &run_dir)?;
    let packets = Packets::of(&mut datapath)?.map(Arc::new);
    let walk = Walk::new(&datapath, &config);
    let controller = controller.fill(BpfMaps::open(datapath.maps())?);
    let Wires {
        channels,
        told,
        mut news,
        shown,
        probing,
        checking,
        reports,
        growing,
        telling,
    } = Wires::new(looks, own, config.live());
    let reload = Reload::new(given, log, telling)?;
    let growth = growth(&config, &mut datapath, growing, packets.clone());
    let mut devices = Devices::new(netlink, datapath, pair, node, channels).with(sockets);
    let parts = (controller, takeover, growth);
    let up = up(&mut devices, parts, &mut news, &told, ready);
    tokio::select! {
        ended = up => ended,
        never = serve(&server, shown, packets) => match never {},
        never = probe::follow(probing.targets, probing.readiness) => match never {},
        never = health::follow(checking.state, config.healthz, checking.troubles) => match never {},
        never = walk.follow(reports) => match never {},
        never = reload.follow(&mut hangups) => match never {},
        ended = source => ended,
    }
}

/// What a source has to say at first: tables are made as large as what there is asks for.
async fn first_look(
    source: &mut (impl Future<Output = Result<Infallible, AgentError>> + Unpin),
    looks: &mut mpsc::Receiver<ScanResult>,
) -> Result<ScanResult, AgentError> {
    tokio::select! {
        ended = source => match ended? {},
        Some(look) = looks.recv() => Ok(look),
    }
}

/// Fills the tables, then attaches the programs, then keeps both true.
async fn up(
    devices: &mut Devices,
    (controller, takeover, growth): (Controller<BpfMaps>, Takeover, Growth),
    news: &mut News,
    told: &Told,
    ready: impl FnOnce(),
) -> Result<Infallible, AgentError> {
    let controller = first_listing(controller, news, told).await;
    let n_devices = devices.look().await?;
    let takeover = takeover.up().await;
    tracing::info!(devices = n_devices, pid = std::process::id(), "ready");
    ready();
    tokio::select! {
        never = devices.follow() => match never {},
        never = keep_true(controller, news, told) => match never {},
        never = growth.follow() => match never {},
        never = takeover.follow() => match never {},
    }
}

/// What is done about another proxy, before any program is on a device.
fn takeover(
    config: &Config,
    datapath: &Datapath,
    run_dir: &RunDir,
) -> Result<Takeover, TakeoverError> {
    let near = config.host_device.near();
    let node_ports = config.services.pools.service_node_port_range;
    Takeover::begin(datapath.maps(), run_dir.path(), near, node_ports)
}

/// What lets tables grow, and finishes what an earlier agent has begun.
fn growth(
    config: &Config,
    datapath: &mut Datapath,
    (swaps, room): (mpsc::Sender<Swap>, Room),
    packets: Option<Arc<Packets>>,
) -> Growth {
    let origin = datapath.origin().clone();
    let unfinished = datapath.take_unfinished();
    let sizes = config.flow_table;
    Growth::new(origin, unfinished, sizes, swaps, packets, room)
}

/// What is fixed when the programs are loaded.
fn facts(
    config: &Config,
    node: &Node,
    pair: &HostPair,
    (by_stack, sockets): (bool, &Sockets),
    tables: Capacity,
) -> Facts {
    Facts {
        flow_table: config.flow_table,
        addresses: node.addresses,
        host: pair.facts(),
        masquerade: config.services.masquerade,
        by_stack,
        flows: config.flows,
        maglev_seed: config.services.maglev_seed,
        netns: sockets.netns(),
        tables,
    }
}

/// What the flags say of this node, and what was found out.
fn node_facts(config: &Config, node: &Node, own: Own) -> NodeFacts {
    let NodeAddresses { v4, v6 } = node.addresses;
    let (v4, v6) = (v4.map(IpAddr::V4), v6.map(IpAddr::V6));
    let mut facts = NodeFacts {
        name: config.node_name.clone(),
        service_cidrs: config.service_cidrs.clone(),
        pod_cidrs: config.pod_cidrs.clone(),
        addresses: with_loopback(own.addresses),
        stand_ins: own.stand_ins,
        primary: v4.into_iter().chain(v6).collect(),
        ..NodeFacts::default()
    };
    config.services.tell(&mut facts);
    facts
}

/// The node's own addresses and that of its loopback, where its processes reach node ports too.
fn with_loopback(mut own: BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    own.insert(Ipv4Addr::LOCALHOST.into());
    own
}

/// The source's name, and the future that drives it.
fn open_source(
    manifests: &Manifests,
    looks: mpsc::Sender<ScanResult>,
) -> Result<(String, impl Future<Output = Result<Infallible, AgentError>>), AgentError> {
    let path = match manifests {
        Manifests::Stdin => None,
        Manifests::Path(path) => {
            // Later it may vanish for a while; at the start that is more likely a slip of the pen.
            readable(path).map_err(|source| AgentError::Manifests {
                path: path.clone(),
                source,
            })?;
            Some(path.clone())
        }
    };
    let name = match &path {
        Some(path) => source::dir::Directory::new(path).name(),
        None => source::stdin::NAME.to_owned(),
    };
    let drive = async move {
        match path {
            Some(path) => source::dir::watch(path, looks).await?,
            None => read_stdin(looks).await?,
        }
        // Everything is told; what was told stays.
        std::future::pending().await
    };
    Ok((name, drive))
}

fn readable(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        std::fs::read_dir(path).map(drop)
    } else {
        std::fs::File::open(path).map(drop)
    }
}

async fn read_stdin(looks: mpsc::Sender<ScanResult>) -> Result<(), AgentError> {
    let (done_in, done) = tokio::sync::oneshot::channel();
    // A thread of its own: the runtime would wait for one of its own to end, and a terminal may never end.
    std::thread::spawn(move || {
        // Refused when the agent is gone.
        let _ = done_in.send(source::stdin::read());
    });
    let Ok(read) = done.await else { return Ok(()) };
    let look = read.map_err(|source| AgentError::Manifests {
        path: PathBuf::from(source::stdin::NAME),
        source,
    })?;
    // Refused when the agent is going down.
    let _ = looks.send(look).await;
    Ok(())
}

/// Takes looks until every source has told everything once, and fills the tables.
async fn first_listing(mut controller: Controller<BpfMaps>, news: &mut News, told: &Told) -> Turn {
    loop {
        let turn = reconcile(controller, told).await;
        if turn.controller.is_synced() {
            return turn;
        }
        controller = turn.controller;
        controller.absorb(news.look().await);
    }
}

/// Follows all news for ever, and tries again what failed.
async fn keep_true(mut turn: Turn, news: &mut News, told: &Told) -> Infallible {
    loop {
        let Turn {
            mut controller,
            is_incomplete,
        } = turn;
        let arrival = news.arrive(&mut controller);
        let arrival = if is_incomplete {
            // The pause ends early with news; without any, the same is tried again.
            time::timeout(RETRY, arrival).await.unwrap_or(Arrival::News)
        } else {
            arrival.await
        };
        let controller = match arrival {
            Arrival::News => {
                told.sync.send_modify(|sync| sync.queue(Moment::now()));
                turn = reconcile(controller, told).await;
                continue;
            }
            Arrival::Larger(larger) => {
                let controller = room::go_over(controller, larger, &mut news.watchdog).await;
                turn = reconcile(controller, told).await;
                continue;
            }
            Arrival::Sweep => sweep(controller).await,
            Arrival::Audit => {
                let start = Instant::now();
                let controller = audit(controller).await;
                news.audited(start.elapsed());
                controller
            }
        };
        turn = Turn {
            controller,
            is_incomplete,
        };
    }
}

/// Clears the tables of what nobody goes by any more, on a thread of its own: there may be many entries.
async fn sweep(mut controller: Controller<BpfMaps>) -> Controller<BpfMaps> {
    let work = task::spawn_blocking(move || {
        match crate::clock::now() {
            Ok(now) => controller.sweep(now),
            Err(error) => tracing::warn!(%error, "cannot read the clock"),
        }
        controller
    });
    joined(work.await).await
}

/// Looks whether the tables are what they should be, on a thread of its own for the same reason.
async fn audit(mut controller: Controller<BpfMaps>) -> Controller<BpfMaps> {
    let work = task::spawn_blocking(move || {
        controller.audit();
        // It has read a whole table.
        give_memory_back();
        controller
    });
    joined(work.await).await
}

/// What a task on a thread of its own comes to; its panic is ours.
async fn joined<T>(result: Result<T, task::JoinError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and this future with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// A controller between two reconciliations.
struct Turn {
    controller: Controller<BpfMaps>,
    is_incomplete: bool,
}

/// Reconciles on a thread of its own: it waits for readers in the kernel, and devices must not wait with it.
async fn reconcile(mut controller: Controller<BpfMaps>, told: &Told) -> Turn {
    let work = task::spawn_blocking(move || {
        let outcome = controller.reconcile(SystemTime::now());
        (controller, outcome)
    });
    let (controller, outcome) = joined(work.await).await;
    if controller.is_synced() {
        told.view.send_replace(Some(Arc::new(outcome.view)));
        replace(&told.demand, outcome.demand);
        replace(&told.targets, outcome.targets);
        replace(&told.health, outcome.health);
        replace(&told.wanted, outcome.wanted);
        if !outcome.is_incomplete {
            told.sync.send_modify(|sync| sync.finish(Moment::now()));
        }
    }
    if outcome.is_whole {
        // What was published before is gone now. Nobody waits for it.
        drop(task::spawn_blocking(give_memory_back));
    }
    Turn {
        controller,
        is_incomplete: outcome.is_incomplete,
    }
}

/// Publishes a value, if it is another one.
fn replace<T: PartialEq>(channel: &watch::Sender<T>, value: T) {
    channel.send_if_modified(|known| {
        let is_news = *known != value;
        *known = value;
        is_news
    });
}

/// Tells how the agent fares: those who ask, and the service manager.
async fn serve(
    server: &Server,
    Shown {
        view,
        devices,
        flows,
        configuration,
    }: Shown,
    packets: Option<Arc<Packets>>,
) -> Infallible {
    let changes = view.clone();
    let status = supervisor::follow(view.clone(), devices.clone());
    let answer = move |request: &control::Request| {
        let view = view
            .borrow()
            .clone()
            .ok_or("it is still starting; ask again")?;
        match (request, &packets) {
            (control::Request::Trace(question), Some(packets)) => {
                packets.trace(question, &view).map(Answer::Value)
            }
            _ => Ok(view::answer(
                request,
                &view,
                &devices.borrow(),
                &flows.borrow(),
                &configuration.borrow(),
            )),
        }
    };
    tokio::select! {
        never = server.serve(answer, changes) => never,
        never = status => never,
    }
}

/// The signals that end the agent.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
