//! What `fulcrum trace` promises to programs: flags, keys, order, errors and exit codes. It asks the real programs in the
//! kernel, so it needs root.

use lb_tests::{
    netns::require_root,
    truth::{self, Case, Masquerade, traced::whole},
};
use serde_json::{Value, json};

use crate::{UPSTREAM, trace::Asked};

fn case(id: &str) -> Case {
    let cases = truth::load(UPSTREAM).unwrap();
    cases.into_iter().find(|case| case.id == id).unwrap()
}

fn asked(id: &str) -> Asked {
    Asked::new(&case(id), Masquerade::KubeProxy).unwrap()
}

/// The answer to one packet, asked about by flags.
fn json_of(asked: &Asked, packet: &[&str]) -> Value {
    let arguments = [packet, &["--output", "json"]].concat();
    serde_json::from_str(&asked.fulcrum(&arguments).unwrap()).unwrap()
}

/// One question of a batch.
fn question(name: &str, way_in: &str, from: &str, to: &str) -> String {
    let object = json!({"name": name, "in": way_in, "from": from, "to": to, "protocol": "tcp"});
    format!("{object}\n")
}

#[test]
fn every_verdict_has_every_key() {
    if !require_root() {
        return;
    }
    let asked = asked("TracePacket/six-services");
    let expected = [
        (
            "forward",
            question("forward", "pod", "10.0.0.2", "172.30.0.41:80"),
        ),
        (
            "reject",
            question("reject", "pod", "10.0.0.2", "172.30.0.46:80"),
        ),
        (
            "drop",
            question("drop", "uplink", "203.0.113.2", "192.168.99.22:80"),
        ),
        (
            "local",
            question("local", "uplink", "203.0.113.2", "192.168.0.2:22"),
        ),
        ("pass", question("pass", "pod", "10.0.0.2", "10.0.0.3:80")),
    ];
    let batch: String = expected
        .iter()
        .map(|(_, question)| question.as_str())
        .collect();
    let answers = asked.batch(&batch, &[]).unwrap();
    assert_eq!(answers.len(), expected.len());
    for ((verdict, _), answer) in expected.iter().zip(&answers) {
        whole(answer).unwrap_or_else(|error| panic!("{error:#}: {answer}"));
        assert_eq!(answer["name"], *verdict, "{answer}");
        assert_eq!(answer["verdict"], *verdict, "{answer}");
    }
}

#[test]
fn an_answer_says_what_was_dialled_and_what_becomes_of_it() {
    if !require_root() {
        return;
    }
    let asked = asked("ExternalTrafficPolicyLocal");
    let batch = [
        question("pod", "pod", "10.0.0.2:5000", "172.30.0.41:80"),
        question("outside", "uplink", "203.0.113.2:5000", "1.2.3.4:80"),
        question(
            "node port",
            "uplink",
            "203.0.113.2:5000",
            "192.168.0.2:3001",
        ),
        question(
            "external IP",
            "host",
            "192.168.0.2:5000",
            "192.168.99.11:80",
        ),
    ];
    let answers = asked.batch(&batch.concat(), &[]).unwrap();
    let both = json!(["10.180.0.1:80", "10.180.2.1:80"]);
    let local = json!(["10.180.2.1:80"]);
    let expected = [
        ("cluster-ip", "cluster", &both, false),
        ("load-balancer", "external-local", &local, false),
        ("node-port", "external-local", &local, false),
        ("external-ip", "cluster", &both, true),
    ];
    for ((frontend, list, candidates, masquerade), answer) in expected.into_iter().zip(&answers) {
        assert_eq!(answer["service"], "ns1/svc1:p80", "{answer}");
        assert_eq!(answer["frontend"], frontend, "{answer}");
        assert_eq!(answer["list"], list, "{answer}");
        assert_eq!(&answer["candidates"], candidates, "{answer}");
        assert_eq!(answer["masquerade"], masquerade, "{answer}");
    }
    assert_eq!(answers[1]["source"], "203.0.113.2:5000");
    assert_eq!(answers[1]["backend"], "10.180.2.1:80");
    assert_eq!(answers[1]["destination"], "10.180.2.1:80");
}

#[test]
fn a_reason_is_the_name_of_a_counter() {
    if !require_root() {
        return;
    }
    let asked = asked("TracePacket/six-services");
    let batch = [
        question("forward", "pod", "10.0.0.2", "172.30.0.41:80"),
        question("reject", "pod", "10.0.0.2", "172.30.0.46:80"),
        question("drop", "uplink", "203.0.113.2", "192.168.99.22:80"),
        question("pass", "pod", "10.0.0.2", "10.0.0.3:80"),
    ];
    for answer in asked.batch(&batch.concat(), &[]).unwrap() {
        let is_known = lb_common::abi::Reason::ALL
            .iter()
            .any(|reason| answer["reason"] == reason.name());
        assert!(is_known, "{answer}");
    }
}

#[test]
fn answers_come_in_order_and_bad_lines_have_their_place() {
    if !require_root() {
        return;
    }
    let asked = asked("ExternalTrafficPolicyCluster");
    let good = question("good", "pod", "10.0.0.2", "172.30.0.41:80");
    let batch = [
        good.clone(),
        question("bad address", "pod", "10.0.0.256", "172.30.0.41:80"),
        question("no port", "pod", "10.0.0.2", "172.30.0.41"),
        question("bad way in", "door", "10.0.0.2", "172.30.0.41:80"),
        question("two families", "pod", "10.0.0.2", "[fd00::1]:80"),
        "{\"name\": \"bad protocol\", \"in\": \"pod\", \"from\": \"10.0.0.2\", \"to\": \"172.30.0.41:80\", \
         \"protocol\": \"gre\"}\n"
            .to_owned(),
        "{\"name\": \"no addresses\"}\n".to_owned(),
        good,
    ];
    let answers = asked.batch(&batch.concat(), &[]).unwrap();
    let names: Vec<&Value> = answers.iter().map(|answer| &answer["name"]).collect();
    let expected = [
        "good",
        "bad address",
        "no port",
        "bad way in",
        "two families",
        "bad protocol",
        "no addresses",
        "good",
    ];
    assert_eq!(names, expected);
    for (index, answer) in answers.iter().enumerate() {
        let is_bad = index != 0 && index != answers.len() - 1;
        let error = answer["error"].as_str().unwrap_or_default();
        assert_eq!(!error.is_empty(), is_bad, "{answer}");
        if is_bad {
            let keys: Vec<&String> = answer.as_object().unwrap().keys().collect();
            assert_eq!(keys, ["error", "name"], "{answer}");
        }
    }
}

#[test]
fn a_line_that_is_no_json_is_answered_too() {
    if !require_root() {
        return;
    }
    let asked = asked("ExternalTrafficPolicyCluster");
    let batch = format!(
        "not json\n[]\n{}",
        question("good", "pod", "10.0.0.2", "172.30.0.41:80")
    );
    let answers = asked.batch(&batch, &[]).unwrap();
    assert_eq!(answers.len(), 3, "{answers:?}");
    for answer in &answers[..2] {
        assert!(
            answer["error"].is_string() && answer["name"].is_null(),
            "{answer}"
        );
    }
    whole(&answers[2]).unwrap();
}

#[test]
fn an_empty_batch_has_no_answers_and_succeeds() {
    if !require_root() {
        return;
    }
    let answers = asked("ExternalTrafficPolicyCluster")
        .batch("", &[])
        .unwrap();
    assert_eq!(answers, [] as [Value; 0]);
}

#[test]
fn a_batch_that_is_not_there_is_an_error_that_names_it() {
    if !require_root() {
        return;
    }
    let asked = asked("ExternalTrafficPolicyCluster");
    let missing = asked.path("missing.jsonl");
    let missing = missing.to_str().unwrap();
    let output = asked
        .command(&["--batch", missing, "--output", "json"])
        .unwrap()
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(missing), "{said}");
}

#[test]
fn a_source_without_a_port_has_port_40000() {
    if !require_root() {
        return;
    }
    let asked = asked("ExternalTrafficPolicyCluster");
    let batch = [
        question("none", "pod", "10.0.0.2", "172.30.0.41:80"),
        question("one", "pod", "10.0.0.2:5000", "172.30.0.41:80"),
    ];
    let answers = asked.batch(&batch.concat(), &[]).unwrap();
    assert_eq!(answers[0]["source"], "10.0.0.2:40000");
    assert_eq!(answers[1]["source"], "10.0.0.2:5000");
}

#[test]
fn addresses_of_ipv6_stand_in_brackets_where_a_port_follows() {
    if !require_root() {
        return;
    }
    let asked = asked("TracePacketV6/nodeport");
    let batch = [
        question("port", "pod", "[fd00:10::2]:5000", "[fd00:172:30::41]:80"),
        question("no port", "pod", "fd00:10::2", "[fd00:172:30::41]:80"),
    ];
    let answers = asked.batch(&batch.concat(), &[]).unwrap();
    for (answer, port) in answers.iter().zip([5000, 40_000]) {
        assert_eq!(answer["source"], format!("[fd00:10::2]:{port}"), "{answer}");
        let candidates = json!(["[fd00:10:180::1]:80", "[fd00:10:180::2:1]:80"]);
        assert_eq!(answer["candidates"], candidates, "{answer}");
        let backend = &answer["backend"];
        assert!(candidates.as_array().unwrap().contains(backend), "{answer}");
    }
}

#[test]
fn a_line_says_itself_where_its_packet_comes_in() {
    if !require_root() {
        return;
    }
    let asked = asked("ExternalTrafficPolicyLocal");
    let own = question("own", "pod", "10.0.0.2", "1.2.3.4:80");
    let without =
        json!({"name": "flag", "from": "203.0.113.2", "to": "1.2.3.4:80", "protocol": "tcp"});
    let batch = format!("{own}{without}\n");
    let answers = asked.batch(&batch, &["--in", "uplink"]).unwrap();
    assert_eq!(answers[0]["list"], "cluster", "{}", answers[0]);
    assert_eq!(answers[1]["list"], "external-local", "{}", answers[1]);
}

#[test]
fn one_packet_is_asked_about_by_flags() {
    if !require_root() {
        return;
    }
    let asked = asked("ExternalTrafficPolicyLocal");
    let packet = [
        "--in",
        "uplink",
        "--from",
        "203.0.113.2",
        "--to",
        "1.2.3.4:80",
        "--protocol",
        "tcp",
    ];
    let answer = json_of(&asked, &packet);
    whole(&answer).unwrap_or_else(|error| panic!("{error:#}: {answer}"));
    assert_eq!(answer["name"], Value::Null);
    assert_eq!(answer["backend"], "10.180.2.1:80");
    assert_eq!(answer["source"], "203.0.113.2:40000");
}

#[test]
fn people_are_told_each_step_in_words() {
    if !require_root() {
        return;
    }
    let asked = asked("ExternalTrafficPolicyLocal");
    let mut packet = vec![
        "--in",
        "uplink",
        "--from",
        "203.0.113.2",
        "--to",
        "1.2.3.4:80",
    ];
    packet.extend(["--protocol", "tcp", "--output", "table"]);
    let text = asked.fulcrum(&packet).unwrap();
    // The service, the policy, the endpoint that is used, and the one that is not.
    for word in ["ns1/svc1:p80", "Local", "10.180.2.1:80", "10.180.0.1:80"] {
        assert!(text.contains(word), "{word:?} is missing in:\n{text}");
    }
    assert!(serde_json::from_str::<Value>(&text).is_err(), "{text}");
}

#[test]
fn flags_that_take_many_values_take_them_one_after_the_other() {
    if !require_root() {
        return;
    }
    let case = case("LoadBalancer");
    let asked = Asked::new(&case, Masquerade::KubeProxy).unwrap();
    let (first, second) = (asked.path("services.yaml"), asked.path("slices.yaml"));
    let manifest = case.manifest().unwrap();
    let slices = manifest.find("---\napiVersion: discovery").unwrap();
    std::fs::write(&first, &manifest[..slices]).unwrap();
    std::fs::write(&second, &manifest[slices..]).unwrap();
    let mut command = std::process::Command::new(lb_tests::balancer::binary().unwrap());
    command
        .arg("trace")
        .arg("--manifests")
        .args([&first, &second]);
    command.args([
        "--node",
        "test-node",
        "--node-ip",
        "192.168.0.2",
        "2001:db8::1",
    ]);
    command.args(["--local-ip", "192.168.0.2", "192.168.1.2", "127.0.0.1"]);
    command.args([
        "--pod-cidr",
        "10.0.0.0/8",
        "--service-cidr",
        "172.30.0.0/16",
        "fd00:10:96::/112",
    ]);
    command.args([
        "--masquerade",
        "kube-proxy",
        "--in",
        "uplink",
        "--protocol",
        "tcp",
        "-o",
        "json",
    ]);
    command.args(["--from", "203.0.113.2", "--to", "192.168.1.2:3001"]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["backend"], "10.180.0.1:80", "{answer}");
}

#[test]
fn private_tables_leave_nothing_behind() {
    if !require_root() {
        return;
    }
    let asked = asked("ExternalTrafficPolicyLocal");
    asked
        .batch(&question("one", "pod", "10.0.0.2", "1.2.3.4:80"), &[])
        .unwrap();
    assert!(!asked.path("no-agent").exists(), "no run directory is made");
    // Asked again, the answer is the same: no flow was opened and no address allocated.
    let packet = [
        "--in",
        "uplink",
        "--from",
        "203.0.113.2",
        "--to",
        "1.2.3.4:80",
        "--protocol",
        "tcp",
    ];
    let first = json_of(&asked, &packet);
    let again = json_of(&asked, &packet);
    assert_eq!(first["existing_flow"], again["existing_flow"]);
    assert_eq!(first["verdict"], again["verdict"]);
}
