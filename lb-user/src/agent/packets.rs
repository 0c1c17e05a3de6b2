//! What would become of a packet on this node now: the program `trace` on the agent's own tables.

use std::sync::{Mutex, MutexGuard};

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
    tracer: Mutex<Tracer>,
    maps: BpfMaps,
}

impl Packets {
    /// On the tables of a datapath, for the first who asks.
    pub fn of(datapath: &mut Datapath) -> Result<Option<Self>, MapError> {
        let Some(tracer) = datapath.take_tracer() else {
            return Ok(None);
        };
        Ok(Some(Self {
            tracer: Mutex::new(tracer),
            maps: BpfMaps::open(datapath.maps())?,
        }))
    }

    /// Asks another program from now on.
    pub fn ask(&self, tracer: Tracer) {
        *self.tracer() = tracer;
    }

    fn tracer(&self) -> MutexGuard<'_, Tracer> {
        match self.tracer.lock() {
            Ok(tracer) => tracer,
            // The record is cleared before each run.
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// The answer, or why there is none.
    pub fn trace(&self, question: &Question, view: &View) -> Result<Value, String> {
        if question.from.is_ipv4() != question.to.is_ipv4() {
            return Err("source and destination are of different families".to_owned());
        }
        let mut tracer = self.tracer();
        let backends = self.maps.backends().map_err(|error| with_causes(&error))?;
        let known = Known {
            maps: &self.maps,
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
