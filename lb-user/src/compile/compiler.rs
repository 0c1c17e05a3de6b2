//! What is compiled, from one snapshot to the next: what a difference does not concern stays as it is.
//!
//! Who answers for a service follows from its own endpoints: a change of slices, Endpoints or pods concerns those services
//! alone that they are for, and of these nothing but who answers. Who dials a service follows from what it asks for and
//! from what others do, as they may ask for the same: a change of services concerns these, and those that get or lose
//! something by it. After any other change everything is compiled from the beginning.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use super::{
    Compiled, NodeFacts, balancing,
    dialled::Dialled,
    endpoint::{self, Here},
    external::{self, Asking, Claims},
    findings::{Findings, Ground},
    frontend, health,
    places::{self, Exceptions},
    slices::{Sources, orphan_endpoints, orphan_slice},
};
use crate::{
    alloc::{self, Addresses, Allocated, Allocations, Pools},
    desired::{DesiredPort, PortName},
    model::{
        endpoint::EndpointSlice,
        finding::Finding,
        object::{Kind, Located, ObjectName, ObjectRef},
        service::{Service, ServicePort},
    },
    shared_map::SharedMap,
    store::Snapshot,
};

/// See the module.
#[derive(Debug)]
pub struct Compiler {
    snapshot: Snapshot,
    facts: NodeFacts,
    sources: Sources,
    allocated: Allocated,
    claims: Claims,
    exceptions: Exceptions,
    dialled: Dialled,
    findings: Findings,
    compiled: Compiled,
}

/// What is different since the last snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    /// Maybe everything.
    Everything,
    /// These service ports, some of which may be new or gone, and nothing else that tables say.
    Ports(BTreeSet<PortName>),
    /// The endpoints of these service ports, and nothing else that tables say.
    Endpoints(BTreeSet<PortName>),
}

impl Compiler {
    /// Compiles a first snapshot for a node. `previous`: what services were given before.
    pub fn new(snapshot: &Snapshot, facts: &NodeFacts, previous: &Allocations) -> Self {
        let mut compiler = Self {
            snapshot: snapshot.clone(),
            facts: facts.clone(),
            sources: Sources::new(snapshot),
            allocated: alloc::allocate(&snapshot.services, pools(facts), previous),
            claims: Claims::default(),
            exceptions: Exceptions::default(),
            dialled: Dialled::default(),
            findings: Findings::default(),
            compiled: Compiled::default(),
        };
        let names: Vec<ObjectName> = snapshot.services.keys().cloned().collect();
        compiler.orphans();
        compiler.take_addresses(&BTreeSet::new());
        for name in &names {
            compiler.claim(name, &mut BTreeSet::new());
        }
        for name in &names {
            compiler.serve(name, &mut |_| {});
        }
        compiler.node();
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
        let nodes = &self.snapshot.nodes;
        let is_other = nodes
            .differences(&snapshot.nodes, PartialEq::eq)
            .next()
            .is_some();
        if is_other || *facts != self.facts {
            *self = Self::new(snapshot, facts, &self.compiled.allocations);
            return Followed::Everything;
        }
        let was = std::mem::replace(&mut self.snapshot, snapshot.clone());
        let mut is_found = false;
        let concerned = self.concerned(&was, &mut is_found);
        let services = was.services.differences(&snapshot.services, PartialEq::eq);
        let services: BTreeSet<ObjectName> = services.cloned().collect();
        if !services.is_empty() {
            return self.follow_services(&was, services, concerned);
        }
        let mut changed = BTreeSet::new();
        for name in concerned {
            is_found |= self.answer(&name, &mut changed);
        }
        if is_found {
            self.compiled.findings = self.findings.sorted();
        }
        Followed::Endpoints(changed)
    }

    /// The same where these services are others, and what answers for those that are `concerned`.
    fn follow_services(
        &mut self,
        was: &Snapshot,
        services: BTreeSet<ObjectName>,
        mut concerned: BTreeSet<ObjectName>,
    ) -> Followed {
        for name in &services {
            self.sources.service(name, was, &self.snapshot);
            self.orphans_of(name);
        }
        let had_findings: BTreeSet<_> = self.allocated.findings.keys().cloned().collect();
        let had = self.compiled.addresses.clone();
        let is = self.snapshot.clone();
        let mut others = self
            .allocated
            .follow(&is.services, pools(&self.facts), &services);
        others.extend(services);
        self.take_addresses(&had_findings);

        for name in &others {
            if let Some(asking) = asking(was, &had, &self.facts, name) {
                self.claims.remove(&asking, &mut concerned);
            }
        }
        for name in &others {
            self.claim(name, &mut concerned);
        }
        concerned.extend(others);

        let mut changed = BTreeSet::new();
        for name in &concerned {
            let now = ports_of(&is, &self.compiled.addresses, name);
            for id in ports_of(was, &had, name).difference(&now) {
                let gone = self.compiled.desired.ports.remove(id);
                let addresses = &mut self.compiled.dialled;
                self.dialled.replace(gone.as_ref(), None, addresses);
                changed.insert(id.clone());
            }
            self.serve(name, &mut |id| {
                changed.insert(id.clone());
            });
        }
        let is_same_node = !self.node();
        self.compiled.findings = self.findings.sorted();
        if is_same_node {
            Followed::Ports(changed)
        } else {
            Followed::Everything
        }
    }

    /// What lies where, and which addresses may stand in for clients'. Says whether that is news.
    fn node(&mut self) -> bool {
        let places = places::places(&self.snapshot, &self.facts, &self.exceptions);
        let sources = places::sources(&self.compiled.dialled, &self.facts);
        let desired = &mut self.compiled.desired;
        let is_news = desired.places != places || desired.sources != sources;
        desired.places = places;
        desired.sources = sources;
        is_news
    }

    /// Whether what names a service, or has its name, is without one.
    fn orphans_of(&mut self, service: &ObjectName) {
        for slice in self.sources.slices_of(service) {
            orphan(
                &self.snapshot,
                &mut self.findings,
                Kind::EndpointSlice,
                slice,
            );
        }
        orphan(&self.snapshot, &mut self.findings, Kind::Endpoints, service);
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

    /// Takes over what services were given. `had_findings`: of whom something was said before.
    fn take_addresses(&mut self, had_findings: &BTreeSet<ObjectName>) {
        let Self {
            allocated,
            compiled,
            ..
        } = self;
        compiled.addresses = allocated.addresses.clone();
        if *compiled.allocations != allocated.allocations {
            compiled.allocations = Arc::new(allocated.allocations.clone());
        }
        for name in had_findings.iter().chain(allocated.findings.keys()) {
            let found = allocated.findings.get(name).cloned();
            let ground = Ground::Given(name.clone());
            self.findings.put(ground, found.unwrap_or_default());
        }
    }

    /// Takes notice of what a service asks for, and adds who is affected by that.
    fn claim(&mut self, name: &ObjectName, affected: &mut BTreeSet<ObjectName>) {
        self.exceptions.remove(name);
        let addresses = &self.compiled.addresses;
        if let Some(asking) = asking(&self.snapshot, addresses, &self.facts, name) {
            self.claims.put(&asking, affected);
            let exceptions = places::exceptions(&asking);
            if !exceptions.is_empty() {
                self.exceptions.insert(name.clone(), exceptions);
            }
        }
    }

    /// Who dials a service and who answers; tells of ports that are others than they were.
    fn serve(&mut self, name: &ObjectName, changed: &mut impl FnMut(&PortName)) {
        let (snapshot, facts) = (&self.snapshot, &self.facts);
        let compiled = &mut self.compiled;
        let mut check = None;
        let [mut outside, mut endpoints] = [Vec::new(), Vec::new()];
        if let Some(asking) = asking(snapshot, &compiled.addresses, facts, name) {
            let Asking {
                service, addresses, ..
            } = asking;
            let here = Here::new(snapshot, facts);
            let mut answers = Answers::new(&self.sources, snapshot, (service, addresses), here);
            if frontend::is_served(&service.object) {
                check = answers.check();
                let algorithm = balancing::algorithm(service, facts, &mut answers.findings);
                for (port, id, mut entry) in frontend::ports(&service.object, addresses) {
                    (entry.algorithm, entry.maglev_size) = algorithm;
                    entry.external_local = endpoint::external_local(&service.object);
                    entry.internal_local = endpoint::internal_local(&service.object);
                    let frontends = asking.frontends(&self.claims, port, id.family, &mut outside);
                    entry.frontends.extend(frontends);
                    entry.source_ranges =
                        external::source_ranges(&service.object, id.family, facts);
                    answers.fill(port, &id, &mut entry);
                    let there = compiled.desired.ports.get(&id);
                    if there != Some(&entry) {
                        self.dialled
                            .replace(there, Some(&entry), &mut compiled.dialled);
                        changed(&id);
                        compiled.desired.ports.insert(id, entry);
                    }
                }
            }
            endpoints = answers.findings;
        }
        match check {
            Some(check) if compiled.health_checks.get(name) != Some(&check) => {
                compiled.health_checks.insert(name.clone(), check);
            }
            Some(_) => {}
            None => {
                compiled.health_checks.remove(name);
            }
        }
        self.findings.put(Ground::Outside(name.clone()), outside);
        self.findings
            .put(Ground::Endpoints(name.clone()), endpoints);
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

/// What there is to be given.
fn pools(facts: &NodeFacts) -> Pools<'_> {
    Pools {
        cidrs: &facts.service_cidrs,
        node_ports: facts.node_port_range,
        is_strict: facts.is_strict,
        gives_nothing: facts.gives_nothing,
    }
}

/// A service of a snapshot that has addresses.
fn asking<'a>(
    snapshot: &'a Snapshot,
    addresses: &'a SharedMap<ObjectName, Addresses>,
    facts: &'a NodeFacts,
    name: &ObjectName,
) -> Option<Asking<'a>> {
    Some(Asking {
        service: snapshot.services.get(name)?,
        addresses: addresses.get(name)?,
        facts,
    })
}

/// The ports of a service of a snapshot that are served.
fn ports_of(
    snapshot: &Snapshot,
    addresses: &SharedMap<ObjectName, Addresses>,
    name: &ObjectName,
) -> BTreeSet<PortName> {
    let service = snapshot.services.get(name).map(|it| &it.object);
    let service = service.filter(|service| frontend::is_served(service));
    let both = service.zip(addresses.get(name));
    let ports = both.map(|(service, addresses)| frontend::ports(service, addresses));
    ports.into_iter().flatten().map(|(_, id, _)| id).collect()
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
