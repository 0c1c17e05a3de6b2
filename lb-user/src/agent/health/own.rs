//! What the agent says of itself and of its node: `/healthz` and `/livez`, with kube-proxy's answers.
//!
//! Load balancers outside ask `/healthz` of each node to learn where to send what any node may take (services with
//! `externalTrafficPolicy: Cluster`), so a node that is about to go says no, though it still serves (KEP-3836).
//! `/livez` is for who would restart the agent, which helps no node that goes.

use std::{io, net::SocketAddr, time::SystemTime};

use http_body_util::Full;
use hyper::{Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{
    State, listener,
    port::{Answer, Asked, Owner},
    sync::{Moment, Sync},
};

/// The port of the agent itself.
#[derive(Clone, Debug)]
pub(super) struct OwnPort {
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// What it tells.
    pub(super) state: State,
}

impl Asked for OwnPort {
    fn owner(&self) -> Owner {
        Owner::Agent
    }

    fn open(&self) -> io::Result<TcpListener> {
        listener::open(self.address)
    }

    fn complaint(&self, error: &io::Error) -> String {
        let address = self.address;
        format!(
            "/healthz and /livez cannot be served on {address}: {error}; end what listens there, or give another \
             `--healthz-bind-address`, or none"
        )
    }

    fn answer(&self, path: &str) -> Answer {
        let sync = *self.state.sync.borrow();
        let is_leaving = self.state.health.borrow().is_leaving;
        let Some((status, body)) = said(path, &sync, is_leaving, Moment::now()) else {
            return Response::builder()
                .status(StatusCode::NOT_FOUND)
                .body(Full::default());
        };
        Response::builder()
            .status(status)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
            .body(Full::new(body.to_string().into()))
    }
}

/// Status and body for a path; nothing for one that nobody knows.
fn said(path: &str, sync: &Sync, is_leaving: bool, now: Moment) -> Option<(StatusCode, Value)> {
    let is_healthy = sync.is_healthy(now.steady);
    let mut body = json!({
        "lastUpdated": written(sync.last_updated(now)),
        "currentTime": written(now.wall),
    });
    let is_well = match path {
        "/healthz" => {
            body["nodeEligible"] = json!(!is_leaving);
            is_healthy && !is_leaving
        }
        "/livez" => is_healthy,
        _ => return None,
    };
    let status = if is_well {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Some((status, body))
}

fn written(time: SystemTime) -> String {
    humantime::format_rfc3339_micros(time).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn healthz_is_for_the_node_and_livez_for_the_agent() {
        let start = Moment {
            wall: SystemTime::UNIX_EPOCH,
            ..Moment::now()
        };
        let late = Moment {
            steady: start.steady + Duration::from_secs(121),
            wall: start.wall + Duration::from_secs(121),
        };
        let sync = Sync::starting(start);
        let (old, new) = ("1970-01-01T00:00:00.000000Z", "1970-01-01T00:02:01.000000Z");
        let healthz = |updated, now, is_eligible: bool| json!({"lastUpdated": updated, "currentTime": now, "nodeEligible": is_eligible});
        let livez = |updated, now| json!({"lastUpdated": updated, "currentTime": now});
        let (good, bad) = (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE);
        for (path, is_leaving, now, expected) in [
            ("/healthz", false, start, (good, healthz(old, old, true))),
            ("/healthz", true, start, (bad, healthz(old, old, false))),
            ("/healthz", false, late, (bad, healthz(old, new, true))),
            ("/livez", true, start, (good, livez(old, old))),
            ("/livez", false, late, (bad, livez(old, new))),
        ] {
            assert_eq!(said(path, &sync, is_leaving, now), Some(expected), "{path}");
        }
        for path in ["/", "/healthz/", "/metrics"] {
            assert_eq!(said(path, &sync, false, start), None, "{path}");
        }
    }
}
