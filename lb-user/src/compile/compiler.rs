//! What is compiled, from one snapshot to the next: what a difference does not concern stays as it is.
//!
//! Who dials a service follows from all services, since they may ask for the same addresses; who answers for it follows from its
//! own endpoints. So a change of slices, Endpoints or pods concerns those services alone that they are for, and of these
//! nothing but who answers. After any other change everything is compiled from the beginning.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use super::{
    Compiled, NodeFacts, balancing,
    endpoint::{self, Here},
    external::{self, Taken},
    findings::{Findings, Ground},
    frontend, health, places,
    slices::{Sources, orphan_endpoints, orphan_slice},
};
use crate::{
    alloc::{self, Addresses, Allocations, Pools},
    desired::{DesiredPort, PortName},
    model::{
        endpoint::EndpointSlice,
        finding::Finding,
        object::{Kind, Located, ObjectName, ObjectRef},
        service::{Service, ServicePort},
    },
    store::Snapshot,
};

/// See the module.
#[derive(Debug)]
pub struct Compiler {
    snapshot: Snapshot,
    facts: NodeFacts,
    sources: Sources,
    findings: Findings,
    compiled: Compiled,
}

/// What is different since the last snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    /// Maybe everything.
    Everything,
    /// The endpoints of these service ports, and nothing else that tables say.
    Endpoints(BTreeSet<PortName>),
}

impl Compiler {
    /// Compiles a first snapshot for a node. `previous`: what services were given before.
    pub fn new(snapshot: &Snapshot, facts: &NodeFacts, previous: &Allocations) -> Self {
        let pools = Pools {
            cidrs: &facts.service_cidrs,
            node_ports: facts.node_port_range,
            is_strict: facts.is_strict,
            gives_nothing: facts.gives_nothing,
        };
        let allocated = alloc::allocate(&snapshot.services, pools, previous);
        let mut compiler = Self {
            snapshot: snapshot.clone(),
            facts: facts.clone(),
            sources: Sources::new(snapshot),
            findings: Findings::default(),
            compiled: Compiled {
                addresses: allocated.addresses,
                allocations: Arc::new(allocated.allocations),
                ..Compiled::default()
            },
        };
        compiler.orphans();
        compiler.services(allocated.findings);
        compiler.compiled.findings = compiler.findings.sorted();
        compiler
    }

    /// What follows from the snapshot.
    pub fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    /// [`Self::compiled`], without going on.
    pub fn into_compiled(self) -> Compiled {
        self.compiled
    }

    /// Goes on to another snapshot, or to what else is known of the node.
    pub fn follow(&mut self, snapshot: &Snapshot, facts: &NodeFacts) -> Followed {
        let is_other = {
            let (was, is) = (&self.snapshot, snapshot);
            let mut services = was.services.differences(&is.services, PartialEq::eq);
            let mut nodes = was.nodes.differences(&is.nodes, PartialEq::eq);
            *facts != self.facts || services.next().is_some() || nodes.next().is_some()
        };
        if is_other {
            *self = Self::new(snapshot, facts, &self.compiled.allocations);
            return Followed::Everything;
        }
        let was = std::mem::replace(&mut self.snapshot, snapshot.clone());
        let mut is_found = false;
        let concerned = self.concerned(&was, &mut is_found);
        let mut changed = BTreeSet::new();
        for name in concerned {
            is_found |= self.answer(&name, &mut changed);
        }
        if is_found {
            self.compiled.findings = self.findings.sorted();
        }
        Followed::Endpoints(changed)
    }

    /// Slices and Endpoints without a service.
    fn orphans(&mut self) {
        let slices = self
            .snapshot
            .slices
            .keys()
            .map(|name| (Kind::EndpointSlice, name));
        let endpoints = self
            .snapshot
            .endpoints
            .keys()
            .map(|name| (Kind::Endpoints, name));
        for (kind, name) in slices.chain(endpoints) {
            orphan(&self.snapshot, &mut self.findings, kind, name);
        }
    }

    /// All services, of which these findings are known.
    fn services(&mut self, mut known: Vec<Finding>) {
        let (snapshot, facts) = (&self.snapshot, &self.facts);
        let compiled = &mut self.compiled;
        let here = Here::new(snapshot, facts);
        let mut taken = Taken::new(snapshot, &compiled.addresses);
        for (name, service) in &snapshot.services {
            let Some(addresses) = compiled.addresses.get(name) else {
                continue;
            };
            let mut answers = Answers::new(&self.sources, snapshot, (service, addresses), here);
            if frontend::is_served(&service.object) {
                let check = answers.check();
                compiled
                    .health_checks
                    .extend(check.map(|it| (name.clone(), it)));
                let algorithm = balancing::algorithm(service, facts, &mut answers.findings);
                let mut outside = taken.outside((name, service), addresses, facts);
                for (port, id, mut entry) in frontend::ports(&service.object, addresses) {
                    (entry.algorithm, entry.maglev_size) = algorithm;
                    entry.external_local = endpoint::external_local(&service.object);
                    entry.internal_local = endpoint::internal_local(&service.object);
                    let frontends = outside.frontends(port, id.family, &mut known);
                    entry.frontends.extend(frontends);
                    entry.source_ranges =
                        external::source_ranges(&service.object, id.family, facts);
                    answers.fill(port, &id, &mut entry);
                    compiled.desired.ports.insert(id, entry);
                }
            }
            let findings = answers.findings;
            self.findings.put(Ground::Endpoints(name.clone()), findings);
        }
        compiled.desired.places = places::places(snapshot, facts, &compiled.addresses);
        compiled.desired.sources = places::sources(&compiled.desired.ports, facts);
        self.findings.put(Ground::Addresses, known);
    }

    /// The services whose endpoints may be others than in the snapshot before.
    fn concerned(&mut self, was: &Snapshot, is_found: &mut bool) -> BTreeSet<ObjectName> {
        let Self {
            snapshot: is,
            sources,
            findings,
            ..
        } = self;
        let mut concerned = BTreeSet::new();
        for name in was.slices.differences(&is.slices, PartialEq::eq) {
            let [was, is_now] = [was, is].map(|it| it.slices.get(name).map(|it| &it.object));
            concerned.extend(sources.slice(name, was, is_now));
            *is_found |= orphan(is, findings, Kind::EndpointSlice, name);
        }
        for name in was.endpoints.differences(&is.endpoints, PartialEq::eq) {
            concerned.insert(name.clone());
            *is_found |= orphan(is, findings, Kind::Endpoints, name);
        }
        for name in was.pods.differences(&is.pods, PartialEq::eq) {
            let [was, is] = [was, is].map(|it| it.pods.get(name).map(|it| &it.object));
            concerned.extend(sources.pod(name, was, is));
        }
        concerned
    }

    /// Finds out anew who answers for a service, and notes the ports for which that are others. Says whether findings are others.
    fn answer(&mut self, name: &ObjectName, changed: &mut BTreeSet<PortName>) -> bool {
        let Some(service) = self.snapshot.services.get(name) else {
            return false;
        };
        let compiled = &mut self.compiled;
        let Some(addresses) = compiled.addresses.get(name) else {
            return false;
        };
        let here = Here::new(&self.snapshot, &self.facts);
        let mut answers = Answers::new(&self.sources, &self.snapshot, (service, addresses), here);
        if frontend::is_served(&service.object) {
            if let Some(check) = answers.check()
                && compiled.health_checks.get(name) != Some(&check)
            {
                compiled.health_checks.insert(name.clone(), check);
            }
            balancing::algorithm(service, &self.facts, &mut answers.findings);
            for (port, id, _) in frontend::ports(&service.object, addresses) {
                let ports = &mut compiled.desired.ports;
                let mut entry = ports.get(&id).cloned().unwrap_or_default();
                answers.fill(port, &id, &mut entry);
                if ports.get(&id) != Some(&entry) {
                    ports.insert(id.clone(), entry);
                    changed.insert(id);
                }
            }
        }
        let findings = answers.findings;
        self.findings.put(Ground::Endpoints(name.clone()), findings)
    }
}

/// Notes whether slices or Endpoints are without a service, and says whether that is news.
fn orphan(snapshot: &Snapshot, findings: &mut Findings, kind: Kind, name: &ObjectName) -> bool {
    let found = match kind {
        Kind::EndpointSlice => orphan_slice(snapshot, name),
        _ => orphan_endpoints(snapshot, name),
    };
    let name = name.clone();
    let ground = Ground::Orphan(ObjectRef { kind, name });
    findings.put(ground, found.into_iter().collect())
}

/// Who answers for one service.
struct Answers<'a> {
    service: &'a Located<Service>,
    addresses: &'a Addresses,
    slices: Vec<Cow<'a, EndpointSlice>>,
    here: Here<'a>,
    /// What is wrong with them.
    findings: Vec<Finding>,
}

impl<'a> Answers<'a> {
    fn new(
        sources: &Sources,
        snapshot: &'a Snapshot,
        (service, addresses): (&'a Located<Service>, &'a Addresses),
        here: Here<'a>,
    ) -> Self {
        let mut findings = Vec::new();
        let slices = sources.slices(snapshot, service, &addresses.families, &mut findings);
        Self {
            service,
            addresses,
            slices,
            here,
            findings,
        }
    }

    /// What the service says on its health check port.
    fn check(&self) -> Option<health::HealthCheck> {
        let (service, node) = (&self.service.object, self.here.node);
        health::check(service, self.addresses, &self.slices, node)
    }

    /// Puts the endpoints of a port into its entry.
    fn fill(&mut self, port: &ServicePort, id: &PortName, entry: &mut DesiredPort) {
        let endpoints = endpoint::merge(&self.slices, port, id.family);
        let n_endpoints = endpoints.len();
        balancing::want_room(
            self.service,
            entry.algorithm,
            n_endpoints,
            &mut self.findings,
        );
        entry.backends = endpoint::serving(&endpoints, &self.service.object, self.here);
    }
}
