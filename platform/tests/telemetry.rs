//! What a process tells of itself, over HTTP, from stages that run on a log.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use castwatch_core::event::{hex, trace_child, trace_root};
use castwatch_core::runner::{BOUNDS, Observer, Status};
use castwatch_platform::telemetry::trace::{Otlp, OtlpSettings};
use castwatch_platform::telemetry::{Observed, TelemetryError, health, metrics};
use line::{Line, STALL, shot, unreadable};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

#[expect(dead_code, reason = "its own `main`")]
#[path = "../examples/telemetry.rs"]
mod line;

/// The samples of a page: name and labels to value.
type Samples = BTreeMap<String, f64>;

/// Reads the text format, and holds it to what promtool and Prometheus' parser want.
fn parse(page: &str) -> Samples {
    let (mut types, mut helped) = (HashMap::new(), BTreeSet::new());
    let mut samples = Samples::new();
    for text in page.lines() {
        if let Some(rest) = text.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(types.insert(name, kind).is_none(), "{name} comes twice");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        } else if let Some(rest) = text.strip_prefix("# HELP ") {
            helped.insert(rest.split_once(' ').unwrap().0);
        } else {
            let (series, value) = text.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let parts = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s));
            let family = parts.filter(|f| types.get(f) == Some(&"histogram")).unwrap_or(name);
            assert!(types.contains_key(family) && helped.contains(family), "{name} has no type or no help");
            assert!(samples.insert(series.to_owned(), value.parse().unwrap()).is_none(), "{series} twice");
        }
    }
    samples
}

#[tokio::test]
async fn the_page_says_what_the_runners_counted() {
    let folder = tempfile::tempdir().unwrap();
    let line = Line::start(folder.path(), None);
    line.take((0..50).map(shot).chain([unreadable()])).await;
    line.explained(45).await;
    let samples = parse(&metrics::text(&line.observed, STALL));
    let value = |series: &str| *samples.get(series).unwrap_or_else(|| panic!("{series} in {samples:#?}"));
    for (outcome, count) in [("done", 45.0), ("duplicate", 5.0), ("dead_letter", 1.0), ("missed", 0.0)] {
        assert_eq!(
            value(&format!("castwatch_messages_total{{stage=\"scorer\",outcome=\"{outcome}\"}}")),
            count
        );
    }
    assert_eq!(value("castwatch_events_published_total{stage=\"explainer\"}"), 45.0);
    assert_eq!(value("castwatch_ready{stage=\"scorer\"}"), 1.0);
    let sum = |name: &str, with: &str| -> f64 {
        samples.iter().filter(|(s, _)| s.starts_with(name) && s.contains(with)).map(|(_, v)| v).sum()
    };
    let scorer = "stage=\"scorer\",topic=\"shots\"";
    assert_eq!(sum("castwatch_position{", scorer), sum("castwatch_saved_position{", scorer));
    assert_eq!(sum("castwatch_lag_messages{", ""), 0.0);
    assert_eq!(sum("castwatch_books_messages{", "\"taken\""), 51.0 + 45.0);
    assert_eq!(sum("castwatch_books_messages{", "\"done\""), 45.0 + 45.0);
    for name in ["handle", "publish", "save", "message_age"] {
        let of = |part: &str| format!("castwatch_{name}_seconds_{part}{{");
        let bucket = |le: String| value(&format!("{}le=\"{le}\",stage=\"scorer\"}}", of("bucket")));
        let mut below = 0.0;
        for bound in BOUNDS {
            let le = if bound < 1.0 { bound.to_string() } else { format!("{bound:.1}") };
            assert!(bucket(le.clone()) >= below, "the buckets of {name} rise");
            below = bucket(le);
        }
        assert_eq!(bucket("+Inf".to_owned()), value(&format!("{}stage=\"scorer\"}}", of("count"))), "{name}");
        assert!(value(&format!("{}stage=\"scorer\"}}", of("sum"))) > 0.0, "{name}");
    }
    assert_eq!(value("castwatch_message_age_seconds_count{stage=\"scorer\"}"), 51.0);
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!(value("process_cpu_seconds_total") >= 0.0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - value("process_start_time_seconds")).abs() < 600.0, "the process began just now");
    line.end().await;
}

#[tokio::test]
async fn ready_says_each_stage_and_why() {
    let folder = tempfile::tempdir().unwrap();
    let line = Line::start(folder.path(), None);
    line.take((0..3).map(shot)).await;
    line.explained(3).await;
    let stages = Arc::new(Mutex::new(line.observed.clone()));
    let (told, (end, ending)) = (Arc::clone(&stages), oneshot::channel::<()>());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let router = health::router(Arc::new(move || told.lock().unwrap().clone()), STALL);
    let serving = tokio::spawn(health::serve(listener, router, async { ending.await.unwrap_or(()) }));
    // Another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let get = async |path: &str| {
        let answer = reqwest::Client::new().get(format!("{base}{path}")).send().await.unwrap();
        (answer.status().as_u16(), answer.headers().clone(), answer.text().await.unwrap())
    };
    assert_eq!(get("/health/live").await.0, 200);
    let (status, _, body) = get("/health/ready").await;
    assert_eq!(
        (status, body.as_str()),
        (
            200,
            concat!(
                r#"{"ready":true,"stages":[{"stage":"scorer","ready":true,"reasons":[]},"#,
                r#"{"stage":"explainer","ready":true,"reasons":[]}]}"#
            )
        )
    );
    let (status, headers, page) = get("/metrics").await;
    assert_eq!((status, headers["content-type"].to_str().unwrap()), (200, metrics::CONTENT_TYPE));
    assert!(parse(&page).len() > 100);
    // A stage whose log has not answered yet.
    stages.lock().unwrap().push(Observed { stage: "notifier".to_owned(), status: Status::default() });
    let (status, _, body) = get("/health/ready").await;
    assert_eq!(status, 503);
    assert!(body.starts_with(r#"{"ready":false"#), "{body}");
    let why = r#"{"stage":"notifier","ready":false,"reasons":["the log has not answered yet"]}"#;
    assert!(body.contains(why), "{body}");
    assert_eq!(parse(&get("/metrics").await.2)["castwatch_ready{stage=\"notifier\"}"], 0.0);
    stages.lock().unwrap().clear();
    assert_eq!(get("/health/ready").await.0, 503, "a process without a stage does nothing");
    assert_eq!(get("/health/live").await.0, 200);
    end.send(()).unwrap();
    serving.await.unwrap().unwrap();
    line.end().await;
}

/// A collector that keeps what it is sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(HeaderMap, ExportTraceServiceRequest)>>>);

impl Collector {
    async fn listen(&self, listener: TcpListener) {
        let take = async |State(it): State<Self>, headers: HeaderMap, body: Bytes| {
            it.0.lock().unwrap().push((headers, ExportTraceServiceRequest::decode(body).unwrap()));
        };
        axum::serve(listener, Router::new().route("/v1/traces", post(take)).with_state(self.clone()))
            .await
            .unwrap();
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.0.lock().unwrap();
        let resources = requests.iter().flat_map(|(_, r)| &r.resource_spans);
        resources.flat_map(|r| &r.scope_spans).flat_map(|s| s.spans.clone()).collect()
    }
}

fn settings(endpoint: String, sample: f64) -> OtlpSettings {
    let headers = vec![("x-plant".to_owned(), "gwangju".to_owned())];
    OtlpSettings { endpoint, sample, headers, service: "castwatch".to_owned() }
}

fn attribute(span: &Span, name: &str) -> String {
    let found =
        span.attributes.iter().find(|a| a.key == name).unwrap_or_else(|| panic!("{name} in {span:?}"));
    match found.value.clone().unwrap().value.unwrap() {
        Value::StringValue(text) => text,
        other => format!("{other:?}"),
    }
}

/// Runs events through both stages and gives the spans that came of them.
async fn spans_of(events: Vec<castwatch_core::Event>, done: u64, sample: f64) -> (Collector, Vec<Span>) {
    let collector = Collector::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let otlp = Otlp::start(&settings(format!("http://{}", listener.local_addr().unwrap()), sample)).unwrap();
    let (folder, it) = (tempfile::tempdir().unwrap(), collector.clone());
    let listening = tokio::spawn(async move { it.listen(listener).await });
    let line = Line::start(folder.path(), Some(Arc::clone(&otlp) as Arc<dyn Observer>));
    line.take(events).await;
    line.explained(done).await;
    line.end().await;
    otlp.shutdown().await;
    listening.abort();
    let spans = collector.spans();
    (collector, spans)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_follow_a_shot_across_topics() {
    // One that is done, one that is known already, one that can't be read.
    let (one, known, mut bad) = (shot(2), shot(7), unreadable());
    bad.traceparent = Some(trace_root("nonsense"));
    let (collector, spans) = spans_of(vec![one.clone(), known.clone(), bad], 1, 1.0).await;
    let of = |trace: &str| -> Vec<&Span> {
        let mut all: Vec<&Span> = spans.iter().filter(|s| hex(&s.trace_id) == trace).collect();
        all.sort_by_key(|s| s.start_time_unix_nano);
        all
    };
    let id = |span: &Span| hex(&span.span_id);
    let [root, judged, explained] = of(one.trace().unwrap())[..] else { panic!("{spans:#?}") };
    assert_eq!((root.name.as_str(), root.kind), ("shot", SpanKind::Producer as i32));
    assert_eq!(id(root), one.traceparent.as_deref().unwrap()[36..52], "the span that the shot itself names");
    assert!(root.parent_span_id.is_empty());
    assert_eq!((judged.name.as_str(), judged.kind), ("scorer defects", SpanKind::Consumer as i32));
    assert_eq!(judged.parent_span_id, root.span_id);
    let below = trace_child(one.traceparent.as_deref(), &one.id, &format!("defect:{}", one.id));
    assert_eq!(id(judged), below[36..52], "the span that the event on the topic names");
    assert_eq!(
        (explained.name.as_str(), &explained.parent_span_id),
        ("explainer explanations", &judged.span_id)
    );
    assert!(judged.start_time_unix_nano <= judged.end_time_unix_nano);
    assert!(judged.end_time_unix_nano <= explained.end_time_unix_nano);
    for (name, value) in [
        ("messaging.destination.name", "shots"),
        ("messaging.message.id", one.id.as_str()),
        ("castwatch.machine", "DCM-02"),
        ("castwatch.die", "8722"),
        ("castwatch.verdict", "defect"),
    ] {
        assert_eq!(attribute(judged, name), value);
    }
    let [root, nothing] = of(known.trace().unwrap())[..] else { panic!("{spans:#?}") };
    assert_eq!((nothing.name.as_str(), &nothing.parent_span_id), ("scorer shots", &root.span_id));
    let [root, aside] = of(&trace_root("nonsense")[3..35])[..] else { panic!("{spans:#?}") };
    assert_eq!((aside.name.as_str(), &aside.parent_span_id), ("scorer shots.dlq", &root.span_id));
    let status = aside.status.clone().unwrap();
    assert_eq!(status.code, StatusCode::Error as i32);
    assert!(status.message.contains("EOF"), "{}", status.message);
    let requests = collector.0.lock().unwrap();
    assert_eq!(requests[0].0["x-plant"], "gwangju");
    let resource = requests[0].1.resource_spans[0].resource.clone().unwrap();
    assert!(resource.attributes.iter().any(|a| a.key == "service.name"), "{resource:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shot_without_a_trace_context_is_in_one_trace_all_the_same() {
    let mut foreign = shot(2);
    foreign.traceparent = None;
    let (_, spans) = spans_of(vec![foreign], 1, 1.0).await;
    assert_eq!(spans.len(), 3, "{spans:#?}");
    assert!(spans.iter().all(|s| hex(&s.trace_id) == shot(2).trace().unwrap()), "{spans:#?}");
    let known: BTreeSet<_> = spans.iter().map(|s| s.span_id.clone()).collect();
    let parents = spans.iter().filter(|s| known.contains(&s.parent_span_id)).count();
    assert_eq!(parents, 2, "all but the root hang below another one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shot_is_followed_in_all_stages_or_in_none() {
    let shots: Vec<_> = (0..400).filter(|cycle| cycle % 10 != 7).map(shot).collect();
    let (_, spans) = spans_of(shots, 360, 0.25).await;
    let mut traces: HashMap<Vec<u8>, usize> = HashMap::new();
    for span in &spans {
        *traces.entry(span.trace_id.clone()).or_default() += 1;
    }
    assert!(traces.values().all(|n| *n == 3), "{traces:?}");
    assert!((50..130).contains(&traces.len()), "a quarter of 360, more or less: {}", traces.len());
}

/// Log lines of the whole process.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_is_said_once_and_stops_nothing() {
    let lines = Lines::default();
    let to = lines.clone();
    tracing_subscriber::fmt().with_writer(move || to.clone()).with_ansi(false).init();
    let (folder, listener) = (tempfile::tempdir().unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.local_addr().unwrap();
    drop(listener);
    let otlp = Otlp::start(&settings(format!("http://{address}/"), 1.0)).unwrap();
    let line = Line::start(folder.path(), Some(Arc::clone(&otlp) as Arc<dyn Observer>));
    for round in 0..3_u64 {
        line.take((round * 10..round * 10 + 7).map(shot)).await;
        line.explained(round * 7 + 7).await;
        tokio::time::sleep(Duration::from_millis(1_100)).await;
    }
    let said = |words: &str| {
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|l| l.contains(words) && l.contains(&address.to_string())).count()
    };
    let collector = Collector::default();
    let mut waited = 0;
    while said("spans are lost") == 0 {
        assert!(waited < 100, "nobody said that the collector is away");
        waited += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let it = collector.clone();
    let listener = TcpListener::bind(address).await.unwrap();
    let listening = tokio::spawn(async move { it.listen(listener).await });
    line.take((100..107).map(shot)).await;
    line.explained(28).await;
    line.end().await;
    otlp.shutdown().await;
    listening.abort();
    assert_eq!((said("spans are lost"), said("spans are taken again")), (1, 1));
    assert!(collector.spans().len() >= 21, "what came after it was back is there");
}

#[tokio::test]
async fn an_address_that_can_not_be_one_is_refused() {
    for endpoint in ["collector:4318", "", "ftp://collector"] {
        let error = Otlp::start(&settings(endpoint.to_owned(), 1.0)).unwrap_err();
        assert!(matches!(error, TelemetryError::Endpoint { .. }), "{error}");
    }
}
