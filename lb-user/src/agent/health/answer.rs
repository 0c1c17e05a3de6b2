//! What a health check port answers: kube-proxy's answer, since load balancers know that one.

use http_body_util::Full;
use hyper::{Response, StatusCode, body::Bytes, header, http::Error};
use serde_json::json;

use super::Health;
use crate::model::object::ObjectName;

/// The header that says how many endpoints this node has.
const WEIGHT: &str = "x-load-balancing-endpoint-weight";

/// 200 if the service has a ready endpoint on this node and the agent is healthy, else 503.
pub(super) fn answer(
    name: &ObjectName,
    health: &Health,
    is_healthy: bool,
) -> Result<Response<Full<Bytes>>, Error> {
    let n_local = health.checks.get(name).map_or(0, |check| check.n_local);
    let status = if is_healthy && n_local > 0 {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = json!({
        "service": {"namespace": &*name.namespace, "name": &*name.name},
        "localEndpoints": n_local,
        "serviceProxyHealthy": is_healthy,
    });
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(WEIGHT, n_local)
        .body(Full::new(Bytes::from(body.to_string())))
}
