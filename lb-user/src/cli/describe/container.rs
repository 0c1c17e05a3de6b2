//! Containers of a pod.

use serde_json::Value;

use super::text::{Text, capital, date, scalar};
use crate::cli::object::{NONE, is_true, list, number, text, texts};

/// The containers of `spec.FIELDs` with their states of `status.FIELDStatuses`.
pub(super) fn describe(pod: &Value, title: &str, field: &str, shown: &mut Text) {
    let containers = list(pod, &format!("/spec/{field}s"));
    let statuses = list(pod, &format!("/status/{field}Statuses"));
    if containers.is_empty() && field != "container" {
        return;
    }
    shown.line(0, format_args!("{title}:"));
    for container in containers {
        let name = text(container, "/name");
        let status = statuses.iter().find(|status| text(status, "/name") == name);
        shown.line(1, format_args!("{name}:"));
        basics(container, status, shown);
        command(container, shown);
        if let Some(status) = status {
            states(status, shown);
        }
        resources(container, shown);
        probes(container, shown);
        environment(pod, container, shown);
        mounts(container, shown);
    }
}

fn basics(container: &Value, status: Option<&Value>, shown: &mut Text) {
    if let Some(status) = status {
        shown.field(2, "Container ID", text(status, "/containerID"));
    }
    shown.field(2, "Image", text(container, "/image"));
    if let Some(status) = status {
        shown.field(2, "Image ID", text(status, "/imageID"));
    }
    let ports = list(container, "/ports");
    let plural = if ports.len() > 1 { "s" } else { "" };
    for (name, field) in [("Port", "/containerPort"), ("Host Port", "/hostPort")] {
        let port = |port: &Value| {
            let number = number(port, field).unwrap_or_default();
            format!("{number}/{}", text(port, "/protocol"))
        };
        let all: Vec<String> = ports.iter().map(port).collect();
        match all.as_slice() {
            [] => shown.field(2, name, NONE),
            all => shown.field(2, &format!("{name}{plural}"), all.join(", ")),
        }
    }
}

fn command(container: &Value, shown: &mut Text) {
    for (title, field) in [("Command", "/command"), ("Args", "/args")] {
        let words = texts(container, field);
        if words.is_empty() {
            continue;
        }
        shown.line(2, format_args!("{title}:"));
        for line in words.iter().flat_map(|word| word.split('\n')) {
            shown.line(3, line);
        }
    }
}

fn states(status: &Value, shown: &mut Text) {
    state("State", status.get("state").unwrap_or(&Value::Null), shown);
    if let Some(last) = status
        .get("lastState")
        .filter(|it| it.get("terminated").is_some())
    {
        state("Last State", last, shown);
    }
    shown.field(2, "Ready", capital(is_true(status, "/ready")));
    shown.field(
        2,
        "Restart Count",
        number(status, "/restartCount").unwrap_or_default(),
    );
}

fn state(name: &str, state: &Value, shown: &mut Text) {
    if state.get("running").is_some() {
        shown.field(2, name, "Running");
        shown.field(3, "Started", date(state, "/running/startedAt"));
    } else if let Some(end) = state.get("terminated") {
        shown.field(2, name, "Terminated");
        shown.given(3, "Reason", text(end, "/reason"));
        shown.given(3, "Message", text(end, "/message"));
        shown.field(3, "Exit Code", number(end, "/exitCode").unwrap_or_default());
        if let Some(signal) = number(end, "/signal").filter(|it| *it > 0) {
            shown.field(3, "Signal", signal);
        }
        shown.field(3, "Started", date(end, "/startedAt"));
        shown.field(3, "Finished", date(end, "/finishedAt"));
    } else {
        shown.field(2, name, "Waiting");
        shown.given(3, "Reason", text(state, "/waiting/reason"));
    }
}

fn resources(container: &Value, shown: &mut Text) {
    for (title, field) in [("Limits", "limits"), ("Requests", "requests")] {
        let quantities = container.pointer(&format!("/resources/{field}"));
        let Some(quantities) = quantities
            .and_then(Value::as_object)
            .filter(|it| !it.is_empty())
        else {
            continue;
        };
        shown.line(2, format_args!("{title}:"));
        for (name, quantity) in quantities {
            shown.field(3, name, scalar(quantity, ""));
        }
    }
}

fn probes(container: &Value, shown: &mut Text) {
    for (title, field) in [
        ("Liveness", "livenessProbe"),
        ("Readiness", "readinessProbe"),
        ("Startup", "startupProbe"),
    ] {
        if let Some(probe) = container.get(field) {
            shown.field(2, title, self::probe(probe));
        }
    }
}

fn probe(probe: &Value) -> String {
    let seconds = |field: &str, default: i64| number(probe, field).unwrap_or(default);
    let times = format!(
        "delay={}s timeout={}s period={}s #success={} #failure={}",
        seconds("/initialDelaySeconds", 0),
        seconds("/timeoutSeconds", 1),
        seconds("/periodSeconds", 10),
        seconds("/successThreshold", 1),
        seconds("/failureThreshold", 3),
    );
    let what = if probe.get("exec").is_some() {
        format!("exec [{}]", texts(probe, "/exec/command").join(" "))
    } else if let Some(http) = probe.get("httpGet") {
        let scheme = match text(http, "/scheme") {
            "" => "http".to_owned(),
            scheme => scheme.to_lowercase(),
        };
        let (host, path) = (text(http, "/host"), text(http, "/path"));
        let stroke = if path.starts_with('/') { "" } else { "/" };
        format!(
            "http-get {scheme}://{host}:{}{stroke}{path}",
            scalar(http, "/port")
        )
    } else if let Some(tcp) = probe.get("tcpSocket") {
        format!("tcp-socket {}:{}", text(tcp, "/host"), scalar(tcp, "/port"))
    } else if let Some(grpc) = probe.get("grpc") {
        format!(
            "grpc <pod>:{} {}",
            scalar(grpc, "/port"),
            text(grpc, "/service")
        )
    } else {
        "unknown".to_owned()
    };
    format!("{what} {times}")
}

fn environment(pod: &Value, container: &Value, shown: &mut Text) {
    let sources = list(container, "/envFrom");
    if !sources.is_empty() {
        shown.line(2, "Environment Variables from:");
        for source in sources {
            let (kind, reference) = match source.get("configMapRef") {
                Some(reference) => ("ConfigMap", reference),
                None => ("Secret", source.get("secretRef").unwrap_or(&Value::Null)),
            };
            let prefix = match text(source, "/prefix") {
                "" => String::new(),
                prefix => format!(" with prefix '{prefix}'"),
            };
            let (name, optional) = (text(reference, "/name"), is_true(reference, "/optional"));
            shown.line(
                3,
                format_args!("{name}\t{kind}{prefix}\tOptional: {optional}"),
            );
        }
    }
    let variables = list(container, "/env");
    if variables.is_empty() {
        return shown.field(2, "Environment", NONE);
    }
    shown.line(2, "Environment:");
    for variable in variables {
        shown.field(3, text(variable, "/name"), value(pod, variable));
    }
}

fn value(pod: &Value, variable: &Value) -> String {
    let from = variable.get("valueFrom").unwrap_or(&Value::Null);
    if let Some(field) = from.get("fieldRef") {
        let (version, path) = (text(field, "/apiVersion"), text(field, "/fieldPath"));
        let known = match path {
            "metadata.name" | "metadata.namespace" | "metadata.uid" => {
                text(pod, &format!("/{}", path.replace('.', "/")))
            }
            _ => "",
        };
        let version = if version.is_empty() { "v1" } else { version };
        return format!("{known} ({version}:{path})");
    }
    if let Some(resource) = from.get("resourceFieldRef") {
        return format!(" ({})", text(resource, "/resource"));
    }
    for (field, what) in [
        ("secretKeyRef", "secret"),
        ("configMapKeyRef", "config map"),
    ] {
        if let Some(reference) = from.get(field) {
            let (key, name) = (text(reference, "/key"), text(reference, "/name"));
            let optional = is_true(reference, "/optional");
            return format!("<set to the key '{key}' in {what} '{name}'>\tOptional: {optional}")
                .replace("in config map", "of config map");
        }
    }
    // A text of several lines stands in the same column.
    text(variable, "/value").replace('\n', "\n\t")
}

fn mounts(container: &Value, shown: &mut Text) {
    let mut mounts: Vec<&Value> = list(container, "/volumeMounts").iter().collect();
    if mounts.is_empty() {
        return shown.field(2, "Mounts", NONE);
    }
    mounts.sort_by_key(|mount| text(mount, "/mountPath"));
    shown.line(2, "Mounts:");
    for mount in mounts {
        let mode = if is_true(mount, "/readOnly") {
            "ro"
        } else {
            "rw"
        };
        let how = match text(mount, "/subPath") {
            "" => mode.to_owned(),
            sub_path => format!("{mode},path={sub_path:?}"),
        };
        let (path, name) = (text(mount, "/mountPath"), text(mount, "/name"));
        shown.line(3, format_args!("{path} from {name} ({how})"));
    }
}
