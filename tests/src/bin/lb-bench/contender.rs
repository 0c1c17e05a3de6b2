//! One way to carry out Services, at work in a site of its own.

use std::time::Duration;

use anyhow::Result;
use lb_tests::cgroup::{Group, Stay};

use crate::{
    agent::Agent,
    peers::{self, iptables, nftables},
    scale::Scale,
    services::Services,
    setting::{SETTINGS, Setting, Worker},
    site::Site,
};

/// See the module. The agent goes before the namespace that it is in.
#[derive(Debug)]
pub(crate) struct Contender {
    /// What works here.
    pub(crate) setting: &'static Setting,
    /// How many services there are; 0 if that means nothing here.
    pub(crate) services: u32,
    /// How long it took to put rules in place, if that is what was done.
    pub(crate) loading: Option<Duration>,
    agent: Option<Agent>,
    /// Where clients are whose sockets are met; goes after the agent.
    group: Option<Group>,
    /// The network.
    pub(crate) site: Site,
}

impl Contender {
    /// All that are compared, each with one service and with many; tells of each as soon as it is up.
    pub(crate) fn all(
        scale: &Scale,
        mut said: impl FnMut(&Self) -> Result<()>,
    ) -> Result<Vec<Self>> {
        let mut contenders = Vec::new();
        for setting in &SETTINGS {
            let numbers: &[u32] = if setting.worker.has_services() {
                &[1, scale.services]
            } else {
                &[0]
            };
            for services in numbers {
                let contender = Self::start(setting, *services)?;
                said(&contender)?;
                contenders.push(contender);
            }
        }
        Ok(contenders)
    }

    fn start(setting: &'static Setting, services: u32) -> Result<Self> {
        let number = Services(services);
        let site = Site::new(setting, number)?;
        let (mut agent, mut loading, mut group) = (None, None, None);
        let node = &site.node;
        match setting.worker {
            Worker::Agent(flags) => agent = Some(Agent::start(node, number, flags)?),
            Worker::Sockets(device) => {
                let label = format!("bench-{}-{services}", setting.name);
                let flags = group.insert(Group::new(&label)?).flags();
                let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
                agent = Some(Agent::start(&site.machine(device), number, &flags)?);
            }
            Worker::Forwarding => {}
            Worker::Nftables => loading = Some(nftables::start(&node.namespace, number)?),
            Worker::Iptables => loading = Some(iptables::start(&node.namespace, number)?),
        }
        Ok(Self {
            setting,
            services,
            loading,
            agent,
            group,
            site,
        })
    }

    /// Makes this process a client here, as long as that matters.
    pub(crate) fn enter(&self) -> Result<Option<Stay>> {
        self.group.as_ref().map(Group::stay).transpose()
    }

    /// Forgets connections that nobody needs any more: each begins a round with a table that has room, as one has that is large
    /// enough for its node.
    pub(crate) fn forget(&self) -> Result<()> {
        match (self.setting.worker, &self.agent) {
            (Worker::Nftables | Worker::Iptables, _) => {
                peers::forget_connections(&self.site.node.namespace)
            }
            (Worker::Agent(_), Some(agent)) => agent.forget_connections(),
            _ => Ok(()),
        }
    }
}
