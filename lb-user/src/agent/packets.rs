//! What would become of a packet on this node now: the program `trace` on the agent's own tables.

use std::{
    path::Path,
    sync::{Mutex, MutexGuard},
};

use serde_json::Value;

use super::view::View;
use crate::{
    apply::{BpfMaps, LbMaps, MapError},
    causes::with_causes,
    loader::{Datapath, tracer::Tracer},
    trace::{Known, Question},
};

/// See the module. One question at a time: the program leaves its record where the next one does.
#[derive(Debug)]
pub struct Packets {
    asked: Mutex<Asked>,
}

/// What knows the answer.
#[derive(Debug)]
struct Asked {
    tracer: Tracer,
    maps: BpfMaps,
}

impl Packets {
    /// On the tables of a datapath, for the first who asks.
    pub fn of(datapath: &mut Datapath) -> Result<Option<Self>, MapError> {
        let Some(tracer) = datapath.take_tracer() else {
            return Ok(None);
        };
        Ok(Some(Self {
            asked: Mutex::new(Asked {
                tracer,
                maps: BpfMaps::open(datapath.maps())?,
            }),
        }))
    }

    /// Asks another program from now on.
    pub fn ask(&self, tracer: Tracer) {
        self.asked().tracer = tracer;
    }

    /// Looks into the tables that are pinned in a directory from now on.
    pub fn reopen(&self, pin_dir: &Path) -> Result<(), MapError> {
        self.asked().maps = BpfMaps::open(pin_dir)?;
        Ok(())
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        match self.asked.lock() {
            Ok(asked) => asked,
            // The record is cleared before each run.
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// The answer, or why there is none.
    pub fn trace(&self, question: &Question, view: &View) -> Result<Value, String> {
        if question.from.is_ipv4() != question.to.is_ipv4() {
            return Err("source and destination are of different families".to_owned());
        }
        let mut asked = self.asked();
        let Asked { tracer, maps } = &mut *asked;
        let backends = maps.backends().map_err(|error| with_causes(&error))?;
        let known = Known {
            maps,
            backends: &backends,
            ports: &view.ports,
            snapshot: &view.snapshot,
            addresses: &view.addresses,
            facts: &view.facts,
        };
        let is_own = known.is_own(question.to.ip());
        let record = tracer
            .run(question, is_own)
            .map_err(|error| with_causes(&error))?;
        let answer = known
            .explain(question, &record)
            .map_err(|error| with_causes(&error))?;
        serde_json::to_value(answer).map_err(|error| error.to_string())
    }
}
