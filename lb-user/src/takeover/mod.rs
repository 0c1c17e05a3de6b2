//! Connections change hands with another proxy: from it when we start, and back to it when we go.
//!
//! | who is here | what is new | what the other proxy has translated | what we have |
//! | --- | --- | --- | --- |
//! | it, and we start | is its | is its | |
//! | both | is ours | is its: connection tracking goes on | is ours |
//! | we alone | is ours | goes on as long as it lasts: [`bypass`] holds what that needs | is ours |
//! | it, and we go | is its | is its | becomes its: [`handover`] |
//!
//! The datapath is told by one word ([`lb_common::abi::takeover`]), and by flows that are marked as another's ([`adopt`]).
//! The node's own processes meet the other proxy's rules before they meet our programs; they are led past them ([`bypass`]).

mod abandoned;
mod adopt;
mod bypass;
mod conntrack;
mod entry;
mod given;
pub mod handover;
pub mod proxy;
mod services;
mod word;

use std::{
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use lb_common::abi::takeover::{FROM, TO, UP};
use tokio::{task, time};

use crate::{
    alloc::PortRange,
    apply::{MapError, TableError},
    causes::with_causes,
};
use abandoned::Abandoned;
use adopt::{Adopted, Walk, adopt};
use bypass::{Bypass, Place, Purpose};
use proxy::Proxy;
use word::Word;

/// Time between two looks at the other proxy's rules and connections.
const LOOK: Duration = Duration::from_secs(1);
/// Connections are looked at after so many times as long as that took, so that it takes no more than a fiftieth of a CPU.
const LOOK_FACTOR: u32 = 50;
/// Every so many looks what connection tracking has forgotten is looked for.
const LOOKS_PER_WALK: u32 = 10;

/// Why connections do not change hands.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// The tables cannot be opened.
    #[error(transparent)]
    Maps(#[from] MapError),
    /// The tables cannot be read.
    #[error(transparent)]
    Tables(#[from] TableError),
    /// Nobody says how the flow tables are made.
    #[error("cannot read the facts that are pinned beside the tables")]
    Facts(#[source] io::Error),
    /// The clock cannot be read.
    #[error("cannot read the clock")]
    Clock(#[source] io::Error),
    /// Nobody says whose rules there are.
    #[error("cannot look for another proxy's rules in nftables")]
    Rules(#[source] io::Error),
    /// Connections cannot be listed, added or taken out.
    #[error(
        "cannot use the table of connection tracking; it takes CONFIG_NF_CT_NETLINK and CAP_NET_ADMIN"
    )]
    Conntrack(#[source] io::Error),
    /// Connections would end that connection tracking has no room for.
    #[error(
        "{n} connections are to be handed over, and connection tracking has room for {room}: raise net.netfilter.nf_conntrack_max"
    )]
    NoRoom {
        /// How many there are.
        n: usize,
        /// How many more entries it takes.
        room: usize,
    },
    /// The node's own connections cannot be led past the other proxy's rules.
    #[error("cannot lead the node's own connections past another proxy's rules by nftables")]
    Bypass(#[source] io::Error),
}

impl TakeoverError {
    fn conntrack(source: io::Error) -> Self {
        Self::Conntrack(source)
    }
}

/// The agent's part of it.
#[derive(Debug)]
pub struct Takeover {
    pins: PathBuf,
    bypass: Bypass,
    place: Place,
    word: Word,
    proxy: Option<Proxy>,
    /// The table is one that this agent has made.
    is_led: bool,
    abandoned: Abandoned,
    n_looks: u32,
    /// When the connections are looked at again.
    next: Instant,
    /// What did not work, said once.
    trouble: Option<String>,
    /// Why nobody knows whose rules there are, said once.
    doubt: Option<String>,
}

impl Takeover {
    /// Before any program is on a device, and any takes the place of an earlier agent's: what is new stays the other
    /// proxy's, if one is here, until [`Self::up`].
    pub fn begin(
        pins: &Path,
        run_dir: &Path,
        near: String,
        node_ports: PortRange,
    ) -> Result<Self, TakeoverError> {
        let mut takeover = Self {
            pins: pins.to_owned(),
            bypass: Bypass::of(run_dir),
            place: Place { near, node_ports },
            word: Word::open(pins)?,
            proxy: None,
            is_led: false,
            abandoned: Abandoned::default(),
            n_looks: 0,
            next: Instant::now(),
            trouble: None,
            doubt: None,
        };
        takeover.proxy = takeover.find();
        let before = takeover.word.get()?;
        let after = match takeover.proxy {
            Some(_) if before & UP == 0 => FROM | TO,
            Some(_) => FROM | UP,
            None => before & (FROM | UP),
        };
        takeover.word.set(after)?;
        if let Some(proxy) = takeover.proxy {
            tracing::info!(%proxy, "another proxy's rules are here; its connections go on, new ones are ours");
        }
        Ok(takeover)
    }

    /// All devices have their programs: what is new is ours from now on.
    pub async fn up(self) -> Self {
        self.work(|takeover| {
            let word = takeover.word.get()?;
            let known = takeover.adopt_if(word);
            // Whatever else fails: what is new would be nobody's once the other proxy has gone.
            takeover.word.set(word & FROM | UP)?;
            let led = takeover.lead_past(word);
            // What was begun before that, and after the first look.
            let late = takeover.adopt_if(word);
            known.and(led).and(late)
        })
        .await
    }

    /// Connections of another proxy's become known, if there may be any.
    fn adopt_if(&mut self, word: u32) -> Result<(), TakeoverError> {
        if word & FROM == 0 {
            return Ok(());
        }
        self.adopt(Walk::No).map(drop)
    }

    fn adopt(&mut self, walk: Walk) -> Result<Adopted, TakeoverError> {
        adopt(&self.pins, walk, &mut self.abandoned)
    }

    /// Follows the other proxy's rules and connections for ever.
    pub async fn follow(mut self) -> Infallible {
        loop {
            time::sleep(LOOK).await;
            self = self.work(Self::look).await;
        }
    }

    /// Does something that takes its time on a thread of its own; what does not work is told, and tried again later.
    async fn work(
        mut self,
        step: impl FnOnce(&mut Self) -> Result<(), TakeoverError> + Send + 'static,
    ) -> Self {
        let work = task::spawn_blocking(move || {
            let trouble = step(&mut self).err().map(|error| with_causes(&error));
            if let Some(error) = &trouble
                && self.trouble != trouble
            {
                tracing::warn!(error, "connections do not change hands with another proxy");
            }
            self.trouble = trouble;
            self
        });
        match work.await {
            Ok(takeover) => takeover,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down, and this future with it.
                Err(_) => std::future::pending().await,
            },
        }
    }

    fn look(&mut self) -> Result<(), TakeoverError> {
        let before = self.proxy;
        self.proxy = self.find();
        match (before, self.proxy) {
            (None, Some(proxy)) => {
                tracing::info!(%proxy, "another proxy's rules have come");
            }
            (Some(proxy), None) => tracing::info!(%proxy, "another proxy's rules have gone"),
            _ => {}
        }
        let mut word = self.word.get()?;
        if self.proxy.is_some() {
            word |= FROM;
            self.word.set(word)?;
        }
        if word & FROM == 0 {
            return Ok(());
        }
        let led = self.lead_past(word);
        let adopted = self.look_at_connections(word);
        led.and(adopted)
    }

    fn look_at_connections(&mut self, word: u32) -> Result<(), TakeoverError> {
        if Instant::now() < self.next {
            return Ok(());
        }
        let start = Instant::now();
        // Where there is no other proxy any more, what is taken for its own and is not goes nowhere.
        let is_walk = self.proxy.is_none() || self.n_looks.is_multiple_of(LOOKS_PER_WALK);
        let walk = if is_walk { Walk::Forgotten } else { Walk::No };
        self.n_looks = self.n_looks.wrapping_add(1);
        let Adopted { n_left, .. } = self.adopt(walk)?;
        self.next = Instant::now() + start.elapsed() * LOOK_FACTOR;
        if self.proxy.is_none() && n_left == 0 && self.adopt(Walk::All)?.is_done {
            self.word.set(word & !FROM)?;
            tracing::info!("the last connection of another proxy has ended");
        }
        Ok(())
    }

    /// Makes sure that the node's own connections go past the other proxy's rules, and that connection tracking goes on
    /// with what it has translated. The table stays when the rules have gone: they may come back, and find connections
    /// of the node's own. One that somebody else has left, an agent or a cleanup that was stopped, may lead elsewhere.
    fn lead_past(&mut self, word: u32) -> Result<(), TakeoverError> {
        let is_there = self.bypass.exists().map_err(TakeoverError::Bypass)?;
        let is_needed = is_there || self.proxy.is_some() || word & FROM != 0;
        if is_there && self.is_led || !is_needed {
            return Ok(());
        }
        self.is_led = true;
        let installed = self.bypass.install(Purpose::Take, &self.place);
        installed.map_err(TakeoverError::Bypass)
    }

    fn find(&mut self) -> Option<Proxy> {
        match Proxy::find() {
            Ok(proxy) => {
                self.doubt = None;
                proxy
            }
            Err(error) => {
                let doubt = with_causes(&TakeoverError::Rules(error));
                if self.doubt.as_ref() != Some(&doubt) {
                    tracing::warn!("{doubt}");
                }
                self.doubt = Some(doubt);
                self.proxy
            }
        }
    }
}

/// The table of an agent's that leads the node's own connections past another proxy's rules.
pub fn table_left(run_dir: &Path) -> io::Result<Option<String>> {
    let bypass = Bypass::of(run_dir);
    Ok(bypass.exists()?.then(|| bypass.name().to_owned()))
}

/// Removes it, if it is there.
pub fn remove_table(run_dir: &Path) -> io::Result<bool> {
    Bypass::of(run_dir).remove()
}
