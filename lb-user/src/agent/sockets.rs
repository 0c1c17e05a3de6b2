//! The node's own sockets: whether programs meet them, where, and why not.

use super::devices::{DeliveryView, DeviceView};
use crate::{
    causes::with_causes,
    config,
    loader::{Datapath, cgroup::ControlGroup, device::Role, sockets::SocketPrograms},
    sys,
};

/// What status says that the programs do there.
const HOOKS: &str = "connect-time";

/// See the module.
#[derive(Debug, Default)]
pub struct Sockets {
    asked: config::Sockets,
    /// The cookie of the network namespace whose sockets are met; 0: there is none.
    netns: u64,
    found: Option<ControlGroup>,
    programs: Option<SocketPrograms>,
    trouble: Option<String>,
}

impl Sockets {
    /// Nothing is met yet.
    pub fn new(asked: &config::Sockets) -> Self {
        let mut sockets = Self {
            asked: asked.clone(),
            ..Self::default()
        };
        if *asked == config::Sockets::None {
            return sockets;
        }
        match sys::netns_cookie() {
            Ok(cookie) => sockets.netns = cookie,
            Err(error) => {
                let error = format!("the kernel does not tell network namespaces apart: {error}");
                sockets.tell(Some(error));
            }
        }
        sockets
    }

    /// The cookie of the network namespace whose sockets are met; 0: none are.
    pub fn netns(&self) -> u64 {
        self.netns
    }

    /// The programs, where they are.
    pub fn programs(&self) -> Option<&SocketPrograms> {
        self.programs.as_ref()
    }

    /// Sees to it that the programs are where they shall be; `is_check`: also if nobody has said that they are not.
    pub fn look(&mut self, datapath: &mut Datapath, is_check: bool) {
        let config::Sockets::OfNode(group) = &self.asked else {
            return;
        };
        if self.netns == 0 || self.programs.is_some() && !is_check {
            return;
        }
        match ControlGroup::open(group.as_deref()) {
            Ok(found) => self.put(datapath, found),
            Err(error) => self.tell(Some(with_causes(&error))),
        }
    }

    fn put(&mut self, datapath: &mut Datapath, group: ControlGroup) {
        let is_new = self.programs.is_none();
        match datapath.meet_sockets(&group, self.programs.take()) {
            Ok(programs) => {
                if is_new {
                    let group = group.dir().display();
                    tracing::info!(%group, "sockets of the node are met when they dial");
                }
                self.programs = Some(programs);
                self.tell(None);
            }
            Err(error) => self.tell(Some(with_causes(&error))),
        }
        self.found = Some(group);
    }

    /// Notes what is wrong, and says so if it is news.
    fn tell(&mut self, trouble: Option<String>) {
        if let Some(error) = trouble.as_ref().filter(|_| trouble != self.trouble) {
            tracing::warn!(
                error,
                "sockets are not met when they dial; their packets are served as ever"
            );
        }
        self.trouble = trouble;
    }

    fn is_met(&self) -> bool {
        self.programs.is_some() && self.trouble.is_none()
    }

    /// A line for those who ask, if anything is asked for.
    pub fn view(&self) -> Option<DeviceView> {
        let config::Sockets::OfNode(group) = &self.asked else {
            return None;
        };
        let dir = self.found.as_ref().map(ControlGroup::dir);
        let dir = dir.or(group.as_deref());
        Some(DeviceView {
            name: dir.map_or("cgroup2".to_owned(), |dir| dir.display().to_string()),
            role: Role::Sockets,
            hooks: self.is_met().then_some(HOOKS),
            no_xdp: None,
            delivery: DeliveryView::default(),
            error: self.trouble.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_shown_unless_it_is_asked_for() {
        assert!(Sockets::new(&config::Sockets::None).view().is_none());
        let asked = config::Sockets::OfNode(Some("/group".into()));
        let sockets = Sockets::new(&asked);
        assert_ne!(sockets.netns(), 0);
        let view = sockets.view().expect("it is asked for");
        assert_eq!((view.name.as_str(), view.hooks), ("/group", None));
        let all = Sockets::new(&config::Sockets::OfNode(None));
        assert_eq!(all.view().expect("asked for").name, "cgroup2");
    }
}
