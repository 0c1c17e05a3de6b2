//! The health check port: how a balancer learns which nodes have a pod.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use lb_tests::{client, poll, topology::Node};
use serde_json::Value;

use crate::{
    scene::Demo,
    served::{HEALTH_CHECK_PORT, LOCAL},
    show::LIMIT,
};

/// What a node says: the status, and how many endpoints it has.
type Health = (u16, u64);

impl Demo {
    /// Asks each node until it says what is expected of it, which follows a change of the manifests, and prints that.
    pub(crate) fn show_health(&self, expected: [Health; 2]) -> Result<()> {
        let what = format!("the health checks of {} to say {expected:?}", LOCAL.0);
        let mut last = Vec::new();
        let agreed = poll::until(LIMIT, &what, || {
            let nodes = self.nodes().iter();
            last = nodes.map(|node| self.health(node)).collect::<Result<_>>()?;
            Ok((last == expected).then_some(()))
        });
        agreed.with_context(|| format!("the last answers are {last:?}"))?;
        let nodes = self.nodes().iter().zip(expected);
        let said = nodes.map(|(node, (status, n_endpoints))| {
            format!("{} {status} (endpoints here: {n_endpoints})", node.name)
        });
        let said: Vec<String> = said.collect();
        println!(
            "  health checks, port {HEALTH_CHECK_PORT}: {}",
            said.join(", ")
        );
        Ok(())
    }

    fn health(&self, node: &Node) -> Result<Health> {
        let address = SocketAddr::new(node.addresses.v4.into(), HEALTH_CHECK_PORT);
        let response = self.outside().run(|| client::http(address));
        let response = response.with_context(|| format!("ask {address} for its health"))?;
        match health(&response) {
            Some(health) => Ok(health),
            None => bail!("{address} says {response:?}"),
        }
    }
}

fn health(response: &str) -> Option<Health> {
    let (head, body) = response.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let body: Value = serde_json::from_str(body).ok()?;
    Some((status, body.get("localEndpoints")?.as_u64()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_health_check_is_read_by_its_status_and_its_endpoints() {
        let answer =
            |status: &str, body: &str| health(&format!("HTTP/1.1 {status}\r\nA: b\r\n\r\n{body}"));
        assert_eq!(answer("200 OK", r#"{"localEndpoints": 2}"#), Some((200, 2)));
        let none = r#"{"localEndpoints": 0}"#;
        assert_eq!(answer("503 Service Unavailable", none), Some((503, 0)));
        assert_eq!(answer("200 OK", "fine"), None);
    }
}
