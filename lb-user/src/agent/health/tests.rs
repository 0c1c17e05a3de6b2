//! Health check ports, asked by HTTP.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, TcpStream as Client},
    time::Duration,
};

use tokio::{task, time};

use super::{sync::Moment, *};

const LIMIT: Duration = Duration::from_secs(20);

fn name() -> ObjectName {
    ObjectName::new("shop", "web")
}

fn health(port: u16, n_local: usize) -> Health {
    Health {
        is_leaving: false,
        checks: SharedMap::from([(name(), HealthCheck { port, n_local })]),
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("[::]:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}

/// Something has waited for a long time to be carried out.
fn late() -> Sync {
    let long_ago = Instant::now().checked_sub(Duration::from_mins(3));
    Sync::starting(Moment {
        steady: long_ago.expect("the machine is up for a while"),
        ..Moment::now()
    })
}

struct Stage {
    health: watch::Sender<Health>,
    sync: watch::Sender<Sync>,
    troubles: watch::Receiver<Troubles>,
}

impl Stage {
    fn new(health: Health) -> Self {
        Self::with_own(health, None)
    }

    /// With the agent's own port.
    fn with_own(health: Health, own: Option<SocketAddr>) -> Self {
        let (health, wanted) = watch::channel(health);
        let (sync, synced) = watch::channel(Sync::starting(Moment::now()));
        let (told, troubles) = watch::channel(Troubles::new());
        let state = State {
            health: wanted,
            sync: synced,
        };
        tokio::spawn(follow(state, own, told));
        Self {
            health,
            sync,
            troubles,
        }
    }

    async fn until_troubled(&mut self, is_troubled: bool) -> Troubles {
        let told = self.troubles.wait_for(|it| it.is_empty() != is_troubled);
        let told = time::timeout(LIMIT, told).await.expect("in time");
        told.expect("somebody tells").clone()
    }
}

/// What a server says to this request.
async fn said(address: SocketAddr, request: &'static str) -> io::Result<String> {
    let exchange = move || {
        let mut client = Client::connect(address)?;
        client.write_all(request.as_bytes())?;
        let mut text = String::new();
        client.read_to_string(&mut text)?;
        Ok(text)
    };
    task::spawn_blocking(exchange).await.expect("no panic")
}

/// Asks until somebody listens, or nobody does.
async fn until(address: SocketAddr, is_open: bool) {
    let asked = async {
        while said(address, GET).await.is_ok() != is_open {
            task::yield_now().await;
        }
    };
    time::timeout(LIMIT, asked).await.expect("in time");
}

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

fn at(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

#[tokio::test]
async fn the_answer_is_that_of_kube_proxy() {
    let port = free_port();
    let stage = Stage::new(health(port, 2));
    until(at(port), true).await;
    let ready = said(at(port), GET).await.expect("an answer");
    let lines: Vec<&str> = ready.lines().collect();
    assert_eq!(lines[0], "HTTP/1.1 200 OK");
    for line in [
        "content-type: application/json",
        "x-content-type-options: nosniff",
        "x-load-balancing-endpoint-weight: 2",
    ] {
        assert!(lines.contains(&line), "{ready}");
    }
    let body: serde_json::Value = serde_json::from_str(lines[lines.len() - 1]).expect("JSON");
    assert_eq!(
        body,
        serde_json::json!({"service": {"namespace": "shop", "name": "web"}, "localEndpoints": 2,
                           "serviceProxyHealthy": true})
    );

    stage.health.send_replace(health(port, 0));
    let none = said(at(port), GET).await.expect("an answer");
    assert!(none.starts_with("HTTP/1.1 503 "), "{none}");
    assert!(
        none.contains("x-load-balancing-endpoint-weight: 0\r\n"),
        "{none}"
    );

    stage.health.send_replace(health(port, 2));
    stage.sync.send_replace(late());
    let unhealthy = said(at(port), GET).await.expect("an answer");
    assert!(unhealthy.starts_with("HTTP/1.1 503 "), "{unhealthy}");
    assert!(
        unhealthy.contains("\"serviceProxyHealthy\":false"),
        "{unhealthy}"
    );
}

#[tokio::test]
async fn both_families_and_every_request_are_answered() {
    let port = free_port();
    let _stage = Stage::new(health(port, 1));
    until(at(port), true).await;
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    for address in [at(port), v6] {
        for request in [
            GET,
            "GET /healthz?a HTTP/1.0\r\n\r\n",
            "HEAD /x HTTP/1.1\r\nHost: h\r\n\r\n",
            "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx",
        ] {
            let answer = said(address, request).await.expect("an answer");
            assert!(answer.contains(" 200 OK\r\n"), "{request}: {answer}");
        }
    }
}

#[tokio::test]
async fn ports_open_and_close_with_their_services() {
    let (first, second) = (free_port(), free_port());
    let stage = Stage::new(health(first, 1));
    until(at(first), true).await;
    // Its connections end with it: this one is in the middle of its request.
    let mut half = Client::connect(at(first)).expect("open");
    half.write_all(b"GET / HT").expect("open");
    stage.health.send_replace(health(second, 1));
    until(at(second), true).await;
    until(at(first), false).await;
    let ended = task::spawn_blocking(move || half.read(&mut [0; 8]));
    let ended = time::timeout(LIMIT, ended).await.expect("in time");
    assert!(matches!(ended.expect("no panic"), Ok(0) | Err(_)));
    stage.health.send_replace(Health::default());
    until(at(second), false).await;
    stage.health.send_replace(health(first, 1));
    until(at(first), true).await;
}

#[tokio::test]
async fn a_port_passes_from_one_service_to_another() {
    let port = free_port();
    let mut stage = Stage::new(health(port, 1));
    until(at(port), true).await;
    let check = HealthCheck { port, n_local: 1 };
    let other = ObjectName::new("shop", "aaa");
    stage.health.send_replace(Health {
        is_leaving: false,
        checks: SharedMap::from([(other, check)]),
    });
    let passed = async {
        while !matches!(said(at(port), GET).await, Ok(text) if text.contains("\"aaa\"")) {
            task::yield_now().await;
        }
    };
    time::timeout(LIMIT, passed).await.expect("in time");
    assert!(
        !stage.troubles.has_changed().expect("somebody tells"),
        "no trouble on the way"
    );
    stage.until_troubled(false).await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_and_tried_again_while_others_are_served() {
    let taken = std::net::TcpListener::bind("0.0.0.0:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port();
    let other = free_port();
    let mut health = health(port, 1);
    let check = HealthCheck {
        port: other,
        n_local: 1,
    };
    health.checks.insert(ObjectName::new("shop", "zzz"), check);
    let mut stage = Stage::new(health);
    let troubles = stage.until_troubled(true).await;
    let text = texts(&troubles).pop_first().expect("one");
    let expected = format!(
        "Service shop/web: its health check port {port} cannot be served: Address already in use (os error 98); end \
         what listens there, or choose another `healthCheckNodePort`"
    );
    assert_eq!(text, expected);
    until(at(other), true).await;
    drop(taken);
    stage.until_troubled(false).await;
    until(at(port), true).await;
}

#[tokio::test]
async fn a_service_that_goes_takes_its_trouble_with_it() {
    let taken = std::net::TcpListener::bind("0.0.0.0:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port();
    let mut stage = Stage::new(health(port, 1));
    stage.until_troubled(true).await;
    stage.health.send_replace(Health::default());
    stage.until_troubled(false).await;
}

#[tokio::test]
async fn the_agents_own_port_tells_of_the_node_and_of_the_agent() {
    for any in [
        IpAddr::from(Ipv4Addr::UNSPECIFIED),
        Ipv6Addr::UNSPECIFIED.into(),
    ] {
        let port = free_port();
        let stage = Stage::with_own(Health::default(), Some((any, port).into()));
        until(at(port), true).await;
        let ask = async |path| {
            let request = match path {
                "/healthz" => "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n",
                "/livez" => "GET /livez?verbose HTTP/1.1\r\nHost: h\r\n\r\n",
                _ => GET,
            };
            let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
            let text = said(v6, request).await.expect("an answer");
            text.split(' ').nth(1).expect("a status").to_owned()
        };
        let answers = async || [ask("/healthz").await, ask("/livez").await, ask("/").await];
        assert_eq!(answers().await, ["200", "200", "404"]);
        stage.health.send_replace(Health {
            is_leaving: true,
            ..Health::default()
        });
        assert_eq!(answers().await, ["503", "200", "404"]);
        stage.health.send_replace(Health::default());
        stage.sync.send_replace(late());
        assert_eq!(answers().await, ["503", "503", "404"]);
    }
}

#[tokio::test]
async fn the_agents_own_port_is_on_the_address_that_is_given() {
    let port = free_port();
    let stage = Stage::with_own(Health::default(), Some(at(port)));
    until(at(port), true).await;
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    said(v6, GET).await.expect_err("nobody listens there");
    drop(stage);
}

#[tokio::test]
async fn the_agents_own_port_that_is_taken_is_told_and_tried_again() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let own = taken.local_addr().expect("bound");
    let mut stage = Stage::with_own(Health::default(), Some(own));
    let troubles = stage.until_troubled(true).await;
    let expected = format!(
        "/healthz and /livez cannot be served on {own}: Address already in use (os error 98); end what listens \
         there, or give another `--healthz-bind-address`, or none"
    );
    assert_eq!(texts(&troubles), BTreeSet::from([expected]));
    drop(taken);
    stage.until_troubled(false).await;
    until(own, true).await;
}
