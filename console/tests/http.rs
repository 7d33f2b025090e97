//! The routes over a real connection.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use castwatch_console::{Feed, FeedSettings, check_address, router, serve};
use castwatch_core::payload::Score;
use castwatch_core::stage::{Handler as _, Outbox, Stage as _};
use castwatch_core::{Objects, Partition, Records, Topic, Verdict};
use common::{Memory, alert, explanation, feed_one, message, score};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

struct Server {
    address: SocketAddr,
    feed: Feed,
    memory: Memory,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

async fn server(settings: FeedSettings, ready: fn() -> Result<(), String>) -> Server {
    let (feed, memory) = (Feed::new(settings), Memory::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = router(feed.clone(), memory.clone(), memory.clone(), ready);
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(serve(listener, router, feed.clone(), async {
        let _ = stopped.await;
    }));
    Server { address, feed, memory, stop, task }
}

async fn quiet() -> Server {
    server(FeedSettings::default(), || Ok(())).await
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Server {
    /// HTTP/1.0, so that the body comes without framing; the path goes out as it is.
    async fn open(&self, path: &str, headers: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.0\r\n{headers}\r\n").as_bytes()).await.unwrap();
        stream
    }

    async fn get(&self, path: &str) -> Answer {
        let mut bytes = Vec::new();
        let mut stream = self.open(path, "").await;
        timeout(Duration::from_secs(5), stream.read_to_end(&mut bytes)).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    async fn json(&self, path: &str) -> serde_json::Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        serde_json::from_str(&answer.body).unwrap()
    }

    async fn shot(&self, cycle: u64) {
        let _ = feed_one(&self.feed, &score("DCM-01", "8722", cycle, Verdict::Ok, 0.02)).await;
    }

    async fn events(&self, path: &str, headers: &str) -> Events {
        Events { stream: self.open(path, headers).await, text: String::new() }
    }
}

/// An open stream of events.
struct Events {
    stream: TcpStream,
    text: String,
}

impl Events {
    /// The next event that is not a ping: its id, kind and data; none at the end of the stream.
    async fn next(&mut self) -> Option<(String, String, serde_json::Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let event = event.rsplit("\r\n\r\n").next().unwrap().to_owned();
                self.text = rest.to_owned();
                let field = |name: &str| {
                    event
                        .lines()
                        .find_map(|l| l.strip_prefix(name))
                        .unwrap_or_default()
                        .trim_start_matches(": ")
                        .to_owned()
                };
                if field("event") != "ping" {
                    return Some((
                        field("id"),
                        field("event"),
                        serde_json::from_str(&field("data")).unwrap(),
                    ));
                }
                continue;
            }
            let mut bytes = vec![0; 65_536];
            let n = timeout(Duration::from_secs(5), self.stream.read(&mut bytes)).await.unwrap().unwrap_or(0);
            if n == 0 {
                return None;
            }
            self.text += std::str::from_utf8(&bytes[..n]).unwrap();
        }
    }

    async fn cycles(&mut self, n: usize) -> Vec<u64> {
        let mut cycles = Vec::new();
        for _ in 0..n {
            cycles.push(self.next().await.unwrap().2["cycle"].as_u64().unwrap());
        }
        cycles
    }
}

#[tokio::test]
async fn serves_the_page_and_nothing_else() {
    let server = quiet().await;
    let page = server.get("/").await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("castwatch"));
    assert!(!page.body.contains("<style") && !page.body.contains("style=") && !page.body.contains("onclick"));
    for expected in ["script-src 'self'", "x-content-type-options: nosniff", "text/html; charset=utf-8"] {
        assert!(page.head.contains(expected), "{}", page.head);
    }
    // Whatever the page names is there.
    for name in page.body.split('"').filter(|part| part.starts_with("/assets/")) {
        assert_eq!(server.get(name.split('#').next().unwrap()).await.status, 200, "{name}");
    }
    assert!(server.get("/assets/castwatch-sans.woff2").await.head.contains("font/woff2"));
    for path in [
        "/nowhere",
        "/assets/",
        "/assets/x.js",
        "/assets/..%2fCargo.toml",
        "/assets/../Cargo.toml",
        "/api",
        "//",
    ] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.head.contains("x-content-type-options"), "{path}");
    }
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"POST /api/state HTTP/1.0\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.0 405"), "{text}");
}

#[tokio::test]
async fn the_state_is_what_was_fed_and_what_came_twice_shows_once() {
    let server = server(FeedSettings { shots: 3, ..FeedSettings::default() }, || Ok(())).await;
    for cycle in [1, 2, 2, 3, 4, 1] {
        server.shot(cycle).await;
    }
    let bad = explanation(score("DCM-02", "9001", 7, Verdict::Defect, 0.97), Some("c/7.svg".into()));
    let none = score("DCM-02", "9001", 8, Verdict::Unscorable, 0.0);
    assert_eq!(feed_one(&server.feed, &bad.score).await.1, 0);
    assert_eq!(feed_one(&server.feed, &bad.score).await.1, 1);
    for _ in 0..2 {
        let _ = feed_one(&server.feed, &bad).await;
        let _ = feed_one(&server.feed, &alert(&bad)).await;
        let _ = feed_one(&server.feed, &none).await;
    }
    let state = server.json("/api/state").await;
    let counts = serde_json::json!({"shots": 6, "ok": 4, "suspect": 0, "defect": 1, "unscorable": 1});
    assert_eq!(state["totals"], counts);
    let first: Vec<_> =
        state["machines"][0]["shots"].as_array().unwrap().iter().map(|s| s["cycle"].as_u64()).collect();
    assert_eq!(first, [Some(2), Some(3), Some(4)]);
    assert_eq!(state["machines"][1]["shots"][1]["reason"], "12 of 21 readings are missing");
    assert_eq!(state["defects"].as_array().unwrap().len(), 1);
    assert_eq!(state["defects"][0]["cause"]["ko"], "주조 압력");
    assert_eq!(state["defects"][0]["chart"], "c/7.svg");
    assert_eq!(state["alerts"][0]["id"], "alert:DCM-02~9001~7");
}

#[tokio::test]
async fn what_can_not_be_read_is_left_out_and_stops_nothing() {
    let (feed, mut out) = (Feed::default(), Outbox::default());
    for topic in [Topic::SCORES, Topic::EXPLANATIONS, Topic::ALERTS] {
        let mut bad = message(&score("DCM-01", "8722", 1, Verdict::Ok, 0.1));
        bad.event.data = Bytes::from_static(b"{}");
        let mut handler = feed.open(&Partition::new(topic, 0), &Bytes::new()).unwrap();
        let outcome = handler.handle(&vec![bad; 200], &mut out).await;
        assert!(outcome.done == 200 && outcome.stop.is_none());
    }
    let mut bad = message(&score("DCM-01", "8722", 1, Verdict::Ok, 0.1));
    bad.event.data = Bytes::from_static(b"not json");
    let good = message(&score("DCM-01", "8722", 2, Verdict::Ok, 0.1));
    let mut handler = feed.open(&Partition::new(Topic::SCORES, 0), &Bytes::new()).unwrap();
    assert_eq!(handler.handle(&[bad, good], &mut out).await.done, 2);
    assert_eq!((out.events().len(), out.duplicates()), (0, 0));
    let state: serde_json::Value = serde_json::from_slice(&feed.snapshot().unwrap()).unwrap();
    assert_eq!(
        (&state["totals"]["shots"], &state["machines"][0]["shots"][0]["cycle"]),
        (&1.into(), &2.into())
    );
}

#[tokio::test]
async fn a_stream_goes_on_without_a_gap() {
    let server = quiet().await;
    server.shot(1).await;
    let cursor = server.json("/api/state").await["cursor"].as_str().unwrap().to_owned();
    server.shot(2).await;
    let mut events = server.events(&format!("/api/events?after={cursor}"), "").await;
    assert_eq!(events.cycles(1).await, [2]);
    server.shot(3).await;
    let (id, kind, data) = events.next().await.unwrap();
    assert_eq!(
        (kind.as_str(), data["cycle"].as_u64(), data["verdict"].as_str()),
        ("shot", Some(3), Some("ok"))
    );
    drop(events);
    for cycle in 4..=6 {
        server.shot(cycle).await;
    }
    // What the browser saw last counts more than what the page was opened with.
    let mut events =
        server.events(&format!("/api/events?after={cursor}"), &format!("last-event-id: {id}\r\n")).await;
    let (feed, task) = (server.feed.clone(), 7..60);
    let feeding = tokio::spawn(async move {
        for cycle in task {
            let _ = feed_one(&feed, &score("DCM-01", "8722", cycle, Verdict::Ok, 0.02)).await;
        }
    });
    assert_eq!(events.cycles(56).await, (4..60).collect::<Vec<_>>());
    feeding.await.unwrap();
    // Without a cursor it begins now.
    let mut fresh = server.events("/api/events", "").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.shot(100).await;
    assert_eq!(fresh.cycles(1).await, [100]);
}

#[tokio::test]
async fn a_page_that_missed_too_much_or_knows_another_process_starts_over() {
    let server = server(FeedSettings { events: 8, ..FeedSettings::default() }, || Ok(())).await;
    let cursor = server.json("/api/state").await["cursor"].as_str().unwrap().to_owned();
    for cycle in 1..=8 {
        server.shot(cycle).await;
    }
    let path = format!("/api/events?after={cursor}");
    assert_eq!(server.events(&path, "").await.cycles(8).await, (1..=8).collect::<Vec<_>>());
    server.shot(9).await;
    let ahead = cursor.replace("-0", "-99");
    for last in [cursor.as_str(), &ahead, "18c0ffee-3", "3", "", "x-y", "%00"] {
        let mut events = server.events("/api/events", &format!("last-event-id: {last}\r\n")).await;
        assert_eq!(events.next().await.unwrap().1, "reset", "{last}");
        assert!(events.next().await.is_none());
    }
}

#[tokio::test]
async fn a_page_that_does_not_read_is_cut_off_and_holds_up_nobody() {
    let server = server(FeedSettings { events: 64, pages: 2, ..FeedSettings::default() }, || Ok(())).await;
    let mut slow = server.events("/api/events", "").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut long = score("DCM-01", "8722", 0, Verdict::Unscorable, 0.0);
    long.reason = Some("x".repeat(100_000));
    let fed = timeout(Duration::from_secs(5), async {
        for cycle in 1..=300 {
            let one =
                Score { shot: castwatch_core::ShotId::from_text(cycle.to_string()), cycle, ..long.clone() };
            let _ = feed_one(&server.feed, &one).await;
            tokio::task::yield_now().await;
        }
    });
    fed.await.expect("the feed waits for nobody");
    let mut last = String::new();
    let mut n = 0;
    while let Some((id, _, data)) = slow.next().await {
        n += 1;
        assert_eq!(data["cycle"], n, "in order and without a gap until it was cut off");
        last = id;
    }
    assert!(n < 300 && !last.is_empty(), "{n}");
    let mut again = server.events("/api/events", &format!("last-event-id: {last}\r\n")).await;
    assert_eq!(again.next().await.unwrap().1, "reset");
}

#[tokio::test]
async fn only_so_many_pages_are_open_at_a_time() {
    let server = server(FeedSettings { pages: 2, ..FeedSettings::default() }, || Ok(())).await;
    let mut one = server.events("/api/events", "").await;
    let _two = server.events("/api/events", "").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answer = server.get("/api/events").await;
    assert_eq!(answer.status, 503);
    assert!(answer.head.contains("retry-after: 5"));
    server.shot(1).await;
    assert_eq!(one.cycles(1).await, [1]);
}

#[tokio::test]
async fn defects_come_in_pages_newest_first() {
    let server = quiet().await;
    for cycle in 0..45 {
        let machine = if cycle % 3 == 0 { "DCM-01" } else { "주조기 2" };
        let record = explanation(score(machine, "8722", cycle, Verdict::Defect, 0.9), None);
        Records::put(&server.memory, &record).await.unwrap();
    }
    let mut cycles = Vec::new();
    let mut path = "/api/defects?limit=20".to_owned();
    loop {
        let page = server.json(&path).await;
        cycles.extend(page["defects"].as_array().unwrap().iter().map(|d| d["cycle"].as_u64().unwrap()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/defects?limit=20&before={next}");
    }
    assert_eq!(cycles, (0..45).rev().collect::<Vec<_>>());
    let one = server.json("/api/defects?limit=100&machine=DCM-01&die=8722").await;
    assert_eq!(one["defects"].as_array().unwrap().len(), 15);
    assert_eq!(
        one["defects"][0]["summary"]["en"],
        "Casting pressure is 251 bar, below its usual 331 ± 2 bar."
    );
    let korean = "/api/defects?limit=100&machine=%EC%A3%BC%EC%A1%B0%EA%B8%B0%202";
    assert_eq!(server.json(korean).await["defects"].as_array().unwrap().len(), 30);
    for query in ["limit=0", "limit=101", "limit=-1", "limit=many", "before=nonsense"] {
        let answer = server.get(&format!("/api/defects?{query}")).await;
        assert_eq!(answer.status, 400, "{query}: {}", answer.body);
        assert!(answer.body.starts_with("{\"error\":"), "{}", answer.body);
    }
}

#[tokio::test]
async fn charts_come_with_their_type_and_bad_keys_are_not_looked_up() {
    let server = quiet().await;
    for key in [
        "charts/DCM~1.svg",
        "charts/DCM~1.png",
        "charts/주조기%203~1.svg",
        "../secret.svg",
        "charts/notes.txt",
    ] {
        Objects::put(&server.memory, key, "", Bytes::from_static(b"<svg/>")).await.unwrap();
    }
    let svg = server.get("/charts/charts/DCM~1.svg").await;
    assert_eq!((svg.status, svg.body.as_str()), (200, "<svg/>"));
    assert!(svg.head.contains("content-type: image/svg+xml") && svg.head.contains("sandbox"), "{}", svg.head);
    assert!(server.get("/charts/charts/DCM~1.png").await.head.contains("content-type: image/png"));
    assert_eq!(server.get("/charts/charts/%EC%A3%BC%EC%A1%B0%EA%B8%B0%25203~1.svg").await.status, 200);
    let bad = [
        "/charts/../secret.svg",
        "/charts/..%2fsecret.svg",
        "/charts/%2e%2e/secret.svg",
        "/charts/x/..%5c..%5csecret.svg",
        "/charts//etc/x.svg",
        "/charts/%2fetc/x.svg",
        "/charts/a%00.svg",
        "/charts/charts/notes.txt",
        "/charts/charts/none.svg",
        "/charts/",
        "/charts",
        "/charts/%ff.svg",
    ];
    for path in bad {
        let answer = server.get(path).await;
        assert!(matches!(answer.status, 400 | 404), "{path}: {}", answer.status);
        assert!(!answer.body.contains("<svg"), "{path}");
    }
}

#[tokio::test]
async fn tells_its_health_and_ends_with_pages_open() {
    let server = server(FeedSettings::default(), || Err("scores/0 stands still: disk full".into())).await;
    assert_eq!(server.get("/health/live").await.status, 200);
    let ready = server.get("/health/ready").await;
    assert_eq!((ready.status, ready.body.as_str()), (503, "scores/0 stands still: disk full\n"));
    assert_eq!(quiet().await.get("/health/ready").await.status, 200);
    let mut events = server.events("/api/events", "").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.stop.send(()).unwrap();
    assert!(events.next().await.is_none());
    timeout(Duration::from_secs(1), server.task).await.expect("ends at once").unwrap().unwrap();
}

#[test]
fn listens_on_loopback_unless_told_otherwise() {
    for (text, open, fine) in [
        ("127.0.0.1:8080", false, true),
        ("127.9.9.9:0", false, true),
        ("[::1]:8080", false, true),
        ("0.0.0.0:8080", false, false),
        ("192.168.0.7:80", false, false),
        ("[::]:80", false, false),
        ("0.0.0.0:8080", true, true),
    ] {
        assert_eq!(check_address(text.parse().unwrap(), open).is_ok(), fine, "{text}");
    }
}
