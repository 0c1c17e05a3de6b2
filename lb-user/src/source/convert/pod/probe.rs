//! `readinessProbe` of a container.

use k8s_openapi::{api::core::v1 as core, apimachinery::pkg::util::intstr::IntOrString};

use super::super::{Remarks, name, port};
use crate::{
    model::{
        probe::{Grpc, HttpGet, Probe, ProbeAction, Scheme, TcpSocket},
        service::TargetPort,
    },
    shared_text::shared,
    source::spelling,
};

/// A probe; nothing if it asks for nothing that there is, which is told.
pub(super) fn probe(raw: &core::Probe, field: &str, remarks: &mut Remarks) -> Option<Probe> {
    // Zero counts as not given.
    let mut number = |name: &str, given: Option<i32>, default: u32| {
        let given = given.unwrap_or_default();
        match u32::try_from(given) {
            Ok(0) => default,
            Ok(number) => number,
            Err(_) => {
                let message = format!("{given} is negative; the default is {default}");
                remarks.error(&format!("{field}.{name}"), message);
                default
            }
        }
    };
    let initial_delay_s = number("initialDelaySeconds", raw.initial_delay_seconds, 0);
    let period_s = number("periodSeconds", raw.period_seconds, 10);
    let timeout_s = number("timeoutSeconds", raw.timeout_seconds, 1);
    let success_threshold = number("successThreshold", raw.success_threshold, 1);
    let failure_threshold = number("failureThreshold", raw.failure_threshold, 3);
    if raw.termination_grace_period_seconds.is_some() {
        let message = "a readiness probe ends nothing; leave the field out";
        remarks.error(&format!("{field}.terminationGracePeriodSeconds"), message);
    }
    Some(Probe {
        action: action(raw, field, remarks)?,
        initial_delay_s,
        period_s,
        timeout_s,
        success_threshold,
        failure_threshold,
    })
}

fn action(raw: &core::Probe, field: &str, remarks: &mut Remarks) -> Option<ProbeAction> {
    let given = [
        ("exec", raw.exec.is_some()),
        ("httpGet", raw.http_get.is_some()),
        ("tcpSocket", raw.tcp_socket.is_some()),
        ("grpc", raw.grpc.is_some()),
    ];
    let mut given = given.into_iter().filter(|(_, is_given)| *is_given);
    let Some((first, _)) = given.next() else {
        let message = "it asks for nothing; write one of httpGet, tcpSocket, grpc, exec";
        remarks.error(field, message);
        return None;
    };
    for (another, _) in given {
        let message =
            format!("there is `{first}` already, and a probe asks one thing; leave one out");
        remarks.error(&format!("{field}.{another}"), message);
    }
    let field = format!("{field}.{first}");
    if let Some(exec) = &raw.exec {
        if exec.command.as_ref().is_none_or(Vec::is_empty) {
            let message = "the field is missing; a probe needs a command to run";
            remarks.error(&format!("{field}.command"), message);
        }
        return Some(ProbeAction::Exec);
    }
    if let Some(raw) = &raw.http_get {
        return http_get(raw, &field, remarks).map(ProbeAction::HttpGet);
    }
    if let Some(raw) = &raw.tcp_socket {
        return Some(ProbeAction::TcpSocket(TcpSocket {
            host: given_text(raw.host.as_ref()),
            port: target_port(&raw.port, &format!("{field}.port"), remarks)?,
        }));
    }
    let raw = raw.grpc.as_ref()?;
    Some(ProbeAction::Grpc(Grpc {
        port: port(raw.port, &format!("{field}.port"), remarks)?,
        service: raw.service.clone().unwrap_or_default(),
    }))
}

fn http_get(raw: &core::HTTPGetAction, field: &str, remarks: &mut Remarks) -> Option<HttpGet> {
    let scheme = match raw.scheme.as_deref() {
        None | Some("" | "HTTP") => Scheme::Http,
        Some("HTTPS") => Scheme::Https,
        Some(other) => {
            let hint = spelling::hint(other, ["HTTP", "HTTPS"]);
            let message = format!("`{other}` is no scheme of a probe; use HTTP or HTTPS{hint}");
            remarks.error(&format!("{field}.scheme"), message);
            Scheme::Http
        }
    };
    let mut headers = Vec::new();
    for (index, header) in raw.http_headers.iter().flatten().enumerate() {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if header.name.is_empty() || !header.name.bytes().all(is_allowed) {
            let message = format!(
                "`{}` is no name for a header; use letters, digits and `-`",
                header.name
            );
            remarks.error(&format!("{field}.httpHeaders[{index}].name"), message);
        }
        headers.push((header.name.clone(), header.value.clone()));
    }
    Some(HttpGet {
        scheme,
        host: given_text(raw.host.as_ref()),
        port: target_port(&raw.port, &format!("{field}.port"), remarks)?,
        path: given_text(raw.path.as_ref()).unwrap_or_else(|| "/".to_owned()),
        headers,
    })
}

fn target_port(raw: &IntOrString, field: &str, remarks: &mut Remarks) -> Option<TargetPort> {
    match raw {
        IntOrString::Int(number) => port(*number, field, remarks).map(TargetPort::Number),
        IntOrString::String(text) => {
            name::want_port_name(text, field, remarks);
            Some(TargetPort::Name(shared(text)))
        }
    }
}

fn given_text(text: Option<&String>) -> Option<String> {
    text.filter(|text| !text.is_empty()).cloned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn probe_of(raw: &Value) -> (Option<Probe>, Vec<String>) {
        let mut remarks = Remarks::default();
        let raw = serde_json::from_value(raw.clone()).expect("a probe by type");
        let probe = probe(&raw, "probe", &mut remarks);
        (probe, remarks.texts())
    }

    #[test]
    fn what_is_left_out_is_what_the_api_fills_in() {
        let defaults = |action| Probe {
            action,
            initial_delay_s: 0,
            period_s: 10,
            timeout_s: 1,
            success_threshold: 1,
            failure_threshold: 3,
        };
        let http = defaults(ProbeAction::HttpGet(HttpGet {
            scheme: Scheme::Http,
            host: None,
            port: TargetPort::Name("web".into()),
            path: "/".to_owned(),
            headers: Vec::new(),
        }));
        let tcp = defaults(ProbeAction::TcpSocket(TcpSocket {
            host: None,
            port: TargetPort::Number(9),
        }));
        let grpc = defaults(ProbeAction::Grpc(Grpc {
            port: 9,
            service: String::new(),
        }));
        let cases = [
            (json!({"httpGet": {"port": "web"}}), http.clone()),
            (
                json!({"httpGet": {"port": "web", "path": "", "scheme": "", "host": ""}, "periodSeconds": 0,
                       "timeoutSeconds": 0, "successThreshold": 0, "failureThreshold": 0}),
                http,
            ),
            (json!({"tcpSocket": {"port": 9}}), tcp),
            (json!({"grpc": {"port": 9}}), grpc),
            (
                json!({"exec": {"command": ["true"]}}),
                defaults(ProbeAction::Exec),
            ),
        ];
        for (raw, expected) in cases {
            assert_eq!(probe_of(&raw), (Some(expected), Vec::new()), "{raw}");
        }
    }

    #[test]
    fn what_is_given_is_kept() {
        let headers = json!([{"name": "Host", "value": "a"}, {"name": "X-1", "value": ""}]);
        let raw = json!({
            "initialDelaySeconds": 1, "periodSeconds": 2, "timeoutSeconds": 3, "successThreshold": 4,
            "failureThreshold": 5,
            "httpGet": {"path": "/a?b", "port": 1, "host": "h", "scheme": "HTTPS", "httpHeaders": headers}});
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = Probe {
            action: ProbeAction::HttpGet(HttpGet {
                scheme: Scheme::Https,
                host: Some("h".to_owned()),
                port: TargetPort::Number(1),
                path: "/a?b".to_owned(),
                headers: vec![pair("Host", "a"), pair("X-1", "")],
            }),
            initial_delay_s: 1,
            period_s: 2,
            timeout_s: 3,
            success_threshold: 4,
            failure_threshold: 5,
        };
        assert_eq!(probe_of(&raw), (Some(expected), Vec::new()));
    }

    #[test]
    fn faulty_probes_are_refused() {
        let http = |more: &str, value: Value| {
            let mut raw = json!({"httpGet": {"port": 1}});
            raw["httpGet"][more] = value;
            raw
        };
        let cases = [
            (
                json!({}),
                "probe: it asks for nothing; write one of httpGet, tcpSocket, grpc, exec",
            ),
            (
                json!({"grpc": {"port": 1}, "tcpSocket": {"port": 1}}),
                "probe.grpc: there is `tcpSocket` already, and a probe asks one thing; leave one out",
            ),
            (
                json!({"exec": {}}),
                "probe.exec.command: the field is missing; a probe needs a command to run",
            ),
            (
                json!({"tcpSocket": {"port": 0}}),
                "probe.tcpSocket.port: the field is missing or 0; use 1 to 65535",
            ),
            (
                json!({"grpc": {"port": 65_536}}),
                "probe.grpc.port: 65536 is no port; use 1 to 65535",
            ),
            (
                http("port", json!("Web")),
                "probe.httpGet.port: `Web` is no name for a container port; ",
            ),
            (
                http("scheme", json!("https")),
                "probe.httpGet.scheme: `https` is no scheme of a probe; use HTTP or HTTPS (did you mean `HTTPS`?)",
            ),
            (
                http("httpHeaders", json!([{"name": "a b", "value": ""}])),
                "probe.httpGet.httpHeaders[0].name: `a b` is no name for a header; use letters, digits and `-`",
            ),
            (
                json!({"grpc": {"port": 1}, "terminationGracePeriodSeconds": 1}),
                "probe.terminationGracePeriodSeconds: a readiness probe ends nothing; leave the field out",
            ),
        ];
        for (raw, expected) in cases {
            expect_refusal(&raw, expected);
        }
    }

    #[test]
    fn negative_numbers_are_refused() {
        for (name, default) in [
            ("initialDelaySeconds", 0),
            ("periodSeconds", 10),
            ("timeoutSeconds", 1),
            ("successThreshold", 1),
            ("failureThreshold", 3),
        ] {
            let mut raw = json!({"grpc": {"port": 1}});
            raw[name] = json!(-1);
            let expected = format!("probe.{name}: -1 is negative; the default is {default}");
            expect_refusal(&raw, &expected);
        }
    }

    fn expect_refusal(raw: &Value, expected: &str) {
        let said = probe_of(raw).1;
        assert_eq!(said.len(), 1, "{said:?}");
        let expected = format!("error {expected}");
        assert!(said[0].starts_with(&expected), "{said:?}");
    }
}
