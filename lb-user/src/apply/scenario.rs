//! Desired states, one after the other, on tables in memory: what golden tests and dry runs need.
//!
//! Goes the way of the agent (plan, apply, ledger), with the kernel left out.

use super::{FakeMaps, LbMaps, Outcome, Retry, dump::dump, lbmaps::TableError, reconcile};
use crate::{
    desired::{Desired, PortName},
    plan::{Capacity, Ledger},
};

/// Tables and their ledger.
#[derive(Clone, Debug)]
pub struct Scenario<M = FakeMaps> {
    ledger: Ledger,
    maps: M,
}

impl Scenario {
    /// Empty tables in memory.
    pub fn new(capacity: Capacity) -> Self {
        Self {
            ledger: Ledger::new(capacity),
            maps: FakeMaps::new(capacity),
        }
    }
}

impl<M: LbMaps> Scenario<M> {
    /// These tables, which are empty or those of this ledger.
    pub fn on(maps: M, ledger: Ledger) -> Self {
        Self { ledger, maps }
    }

    /// Makes the tables say what is desired.
    pub fn reconcile(&mut self, desired: &Desired) -> Outcome {
        reconcile(desired, &mut self.ledger, &mut self.maps, &Retry::default())
    }

    /// The tables as text, with the names of service ports.
    pub fn dump(&self) -> Result<String, TableError> {
        dump(&self.maps, &|service| {
            self.ledger.name(service).map(short_name)
        })
    }

    /// The picture of the tables.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The tables.
    pub fn maps(&self) -> &M {
        &self.maps
    }
}

/// A service port without protocol and family, which stand beside it in most places.
pub fn short_name(name: &PortName) -> String {
    let PortName {
        namespace,
        service,
        port,
        ..
    } = name;
    if port.is_empty() {
        format!("{namespace}/{service}")
    } else {
        format!("{namespace}/{service}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        apply::testing::{desired, endpoint, port},
        desired::Place,
    };

    #[test]
    fn a_service_is_dumped_with_its_names_and_addresses() {
        let mut scenario = Scenario::new(Capacity::default());
        let hostname = port(
            "hostname",
            &["10.96.0.10:80"],
            &[
                ("10.244.2.2:8080", endpoint("serving,cluster")),
                (
                    "10.244.1.2:8080",
                    endpoint("serving,cluster,internal_local,local"),
                ),
            ],
        );
        let mut desired = desired([hostname]);
        desired
            .places
            .insert("10.244.0.0/16".parse().expect("literal"), Place::Pods);
        assert!(scenario.reconcile(&desired).is_complete());
        let expected = "\
SVC default/hostname:http 10.96.0.10:80/TCP id=1 cluster=[10.244.1.2:8080 10.244.2.2:8080] internal_local=[10.244.1.2:8080]
BACKEND default/hostname:http 10.244.1.2:8080 id=1 generation=1 serving,cluster,internal_local,local
BACKEND default/hostname:http 10.244.2.2:8080 id=2 generation=1 serving,cluster
PLACE 10.244.0.0/16 pods
";
        assert_eq!(scenario.dump().expect("tables in memory"), expected);
    }

    #[test]
    fn nothing_is_left_in_the_tables_when_nothing_is_desired() {
        let mut scenario = Scenario::new(Capacity::default());
        let web = port(
            "web",
            &["[fd00:96::1]:80"],
            &[("[fd00:244::2]:80", endpoint("serving,cluster"))],
        );
        assert!(scenario.reconcile(&desired([web])).is_complete());
        assert!(
            scenario
                .dump()
                .expect("tables in memory")
                .contains("SVC default/web:http [fd00:96::1]:80/TCP")
        );
        assert!(scenario.reconcile(&Desired::default()).is_complete());
        assert_eq!(scenario.dump().expect("tables in memory"), "");
    }
}
