//! Charts and snapshots on real S3 servers, and on their bad days.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common {
    pub mod proxy;
}

use std::time::{Duration, Instant};

use bytes::Bytes;
use castwatch_core::ports::{Generation, Snapshot, Tally, Token};
use castwatch_core::{Objects, Partition, PortError, Position, Snapshots, Topic, contract};
use castwatch_platform::aws::{AwsSettings, sdk_config};
use castwatch_platform::config::Secret;
use castwatch_platform::s3::{Encryption, S3, S3Settings};
use common::proxy::{Fault, Proxy, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The server to test with, if there is one.
fn server() -> Option<String> {
    let url = std::env::var("CASTWATCH_TEST_S3").ok();
    if url.is_none() {
        println!("skipped: no CASTWATCH_TEST_S3; tests/run brings one up");
    }
    url
}

fn aws(endpoint: &str) -> AwsSettings {
    // Some servers take links of their own keys alone.
    let of = |name| std::env::var(name).unwrap_or_else(|_| "castwatch".into());
    AwsSettings {
        region: Some("us-east-1".into()),
        endpoint: Some(endpoint.into()),
        access_key: Some(of("CASTWATCH_TEST_S3_KEY")),
        secret_key: Some(Secret::new(of("CASTWATCH_TEST_S3_SECRET"))),
    }
}

fn settings(endpoint: &str, bucket: &str) -> S3Settings {
    S3Settings {
        aws: aws(endpoint),
        bucket: bucket.into(),
        prefix: "plant 1/".into(),
        path_style: true,
        ..S3Settings::default()
    }
}

/// A bucket of this test's own.
struct Bucket {
    server: String,
    name: String,
}

impl Bucket {
    async fn new(test: &str) -> Option<Self> {
        let server = server()?;
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        let bucket = Self { server, name: format!("castwatch-{test}-{time}") };
        for _ in 0..2 {
            bucket.open().await.create_bucket().await.expect("a bucket, which may be there already");
        }
        Some(bucket)
    }

    async fn client(&self) -> aws_sdk_s3::Client {
        let config = sdk_config(&aws(&self.server)).await;
        aws_sdk_s3::Client::from_conf(
            aws_sdk_s3::config::Builder::from(&config).force_path_style(true).build(),
        )
    }

    async fn open(&self) -> S3 {
        S3::open(settings(&self.server, &self.name)).await
    }

    /// The bucket as a process sees it behind a network of its own.
    async fn behind(&self, proxy: &Proxy) -> S3 {
        S3::open(settings(&proxy.url, &self.name)).await
    }

    async fn keys(&self) -> Vec<String> {
        let list = self.client().await.list_objects_v2().bucket(&self.name).send().await.expect("a list");
        list.contents().iter().filter_map(|o| o.key()).map(str::to_owned).collect()
    }

    /// Keys of state objects, once there are as many as expected: removals take their time.
    async fn states(&self, expected: usize) -> Vec<String> {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let mut states = self.keys().await;
            states.retain(|key| key.starts_with("plant 1/snapshots/scorer/shots/0."));
            if states.len() == expected || Instant::now() > until {
                return states;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

const STAGE: &str = "scorer";

fn shots(index: u32) -> Partition {
    Partition::new(Topic::SHOTS, index)
}

fn snapshot(position: u64, state: impl Into<Bytes>) -> Snapshot {
    let tally = Tally { taken: position, done: position, ..Tally::default() };
    Snapshot { position: Position(position), tally, state: state.into() }
}

/// Bytes that no compression and no repetition makes smaller.
fn noise(length: usize, seed: u64) -> Bytes {
    let mut x = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(x ^ (x >> 29)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

async fn take(s3: &S3, generation: u64) -> (Token, Option<Snapshot>) {
    s3.take(STAGE, &shots(0), Generation(generation)).await.expect("take")
}

async fn save(s3: &S3, token: &Token, snapshot: &Snapshot) -> Result<(), PortError> {
    s3.save(STAGE, &shots(0), token, snapshot).await
}

#[track_caller]
fn fenced<T: std::fmt::Debug>(result: Result<T, PortError>) {
    assert!(matches!(result, Err(PortError::Fenced { .. })), "{result:?}");
}

/// The whole message of an outage.
#[track_caller]
fn outage<T: std::fmt::Debug>(result: Result<T, PortError>) -> String {
    let error = result.expect_err("an outage");
    assert!(matches!(error, PortError::Unavailable { .. }), "{error:?}");
    castwatch_core::runner::chain(&error)
}

fn puts_manifest(request: &Request) -> bool {
    request.method == "PUT" && request.path.split('?').next().is_some_and(|path| path.ends_with("/shots/0"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_contracts() {
    let Some(bucket) = Bucket::new("contract").await else { return };
    let s3 = bucket.open().await;
    contract::objects(&s3).await;
    contract::snapshots(&s3).await;
}

#[tokio::test]
async fn tells_what_bucket_it_is() {
    let Some(bucket) = Bucket::new("check").await else { return };
    let told = bucket.open().await.check().await.expect("a bucket that works");
    println!("{told}");
    assert!(told.contains(&bucket.name) && told.contains("conditional writes are honoured"), "{told}");
    assert_eq!(bucket.keys().await, Vec::<String>::new(), "nothing is left of the probe");
}

#[tokio::test]
async fn says_what_to_do_when_it_can_not_work() {
    let Some(server) = server() else { return };
    let s3 = S3::open(settings(&server, "castwatch-no-such-bucket")).await;
    let told = outage(s3.check().await);
    assert!(told.contains("NoSuchBucket") && told.contains("make the bucket"), "{told}");
    let told = outage(s3.get("charts/a.png").await);
    assert!(told.contains("make the bucket"), "{told}");

    let mut wrong = settings(&server, "castwatch-no-such-bucket");
    wrong.aws.secret_key = Some(Secret::new("wrong".into()));
    let told = outage(S3::open(wrong).await.put("charts/a.png", "image/png", Bytes::from_static(b"x")).await);
    println!("{told}");
    assert!(!told.contains("wrong"), "{told}");

    let nobody = S3::open(settings("http://127.0.0.1:1", "castwatch")).await;
    let told = outage(nobody.get("charts/a.png").await);
    println!("{told}");
    assert!(told.contains("could not be reached") && told.contains("endpoint"), "{told}");
}

/// Environments are a process's own, so this one asks another.
#[test]
fn says_that_region_or_credentials_are_missing() {
    let told = |region: Option<&str>| {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "a_process_of_its_own", "--ignored", "--nocapture"]).env_clear();
        child.env("AWS_EC2_METADATA_DISABLED", "true").env("HOME", "/nonexistent");
        region.map(|region| child.env("AWS_REGION", region));
        String::from_utf8(child.output().unwrap().stdout).unwrap()
    };
    for (missing, told) in [("region", told(None)), ("credentials", told(Some("ap-northeast-2")))] {
        println!("{told}");
        let line = told.lines().find(|line| line.contains("is not available")).expect("an error");
        assert!(line.contains("AWS_REGION") && line.contains("AWS_ACCESS_KEY_ID"), "{line}");
        assert!(line.rsplit(": ").any(|cause| cause.to_lowercase().contains(missing)), "{line}");
    }
}

#[tokio::test]
#[ignore = "run by says_that_region_or_credentials_are_missing"]
async fn a_process_of_its_own() {
    let s3 = S3::open(S3Settings { bucket: "castwatch".into(), ..S3Settings::default() }).await;
    println!("{}", outage(s3.get("charts/a.png").await));
}

/// A client without TLS would say "No HTTP client was available" before it tried (smithy-rs #4363).
#[tokio::test]
async fn speaks_tls() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let hello = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut first = [0; 6];
        client.read_exact(&mut first).await.unwrap();
        first
    });
    let told = outage(S3::open(settings(&url, "castwatch")).await.get("charts/a.png").await);
    let first = hello.await.unwrap();
    assert_eq!((first[0], first[1], first[5]), (22, 3, 1), "a TLS client hello, not {first:?}; {told}");
}

#[tokio::test]
async fn stores_with_type_cache_and_encryption() {
    let Some(bucket) = Bucket::new("headers").await else { return };
    let proxy = Proxy::start(&bucket.server).await;
    let encryptions = [
        (Encryption::None, None, None),
        (Encryption::S3, Some("AES256"), None),
        (Encryption::Kms(None), Some("aws:kms"), None),
        (Encryption::Kms(Some("alias/castwatch".into())), Some("aws:kms"), Some("alias/castwatch")),
    ];
    for (encryption, algorithm, key) in encryptions {
        let settings = S3Settings { encryption, cache_seconds: 600, ..settings(&proxy.url, &bucket.name) };
        let s3 = S3::open(settings).await;
        proxy.forget();
        // The servers of tests may not know of keys; what is asked of them counts.
        let _ = s3.put("charts/a.png", "image/png", Bytes::from_static(b"png")).await;
        let _ = s3.put("charts/large.png", "image/png", noise(9 << 20, 1)).await;
        let seen = proxy.seen();
        let put = &seen.first().expect("a request").request;
        assert_eq!((put.method.as_str(), put.header("content-type")), ("PUT", Some("image/png")));
        assert_eq!(put.header("cache-control"), Some("private, max-age=600, immutable"));
        let begun =
            &seen.iter().find(|s| s.request.path.contains("uploads")).expect("an upload in parts").request;
        for request in [put, begun] {
            assert_eq!(request.header("x-amz-server-side-encryption"), algorithm, "{}", request.path);
            assert_eq!(
                request.header("x-amz-server-side-encryption-aws-kms-key-id"),
                key,
                "{}",
                request.path
            );
            assert_eq!(request.header("cache-control"), Some("private, max-age=600, immutable"));
        }
    }
}

#[tokio::test]
async fn links_lead_to_the_bytes_for_a_while() {
    let Some(bucket) = Bucket::new("links").await else { return };
    let s3 = bucket.open().await;
    let (key, bytes) = ("charts/주조기%203/with space, = & +.png", Bytes::from_static(b"\x89PNG"));
    s3.put(key, "image/png", bytes.clone()).await.unwrap();
    let link = async |seconds| s3.link(key, Duration::from_secs(seconds)).await.map(Option::unwrap);
    let (short, long) = (link(1).await.unwrap(), link(600).await.unwrap());
    let (head, body) = fetch(&long).await;
    assert!(
        head.starts_with("HTTP/1.1 200") && head.to_lowercase().contains("content-type: image/png"),
        "{head}"
    );
    assert_eq!(body, bytes);
    let forged = [
        long.replace("X-Amz-Expires=600", "X-Amz-Expires=6000"),
        long.replace("with%20space", "with%20Space"),
    ];
    for forged in forged {
        let (head, _) = fetch(&forged).await;
        assert!(head.starts_with("HTTP/1.1 40"), "{forged}: {head}");
    }
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let (head, _) = fetch(&short).await;
    assert!(head.starts_with("HTTP/1.1 40"), "a link that expired: {head}");
    for seconds in [0, 7 * 24 * 3600 + 1] {
        assert!(matches!(link(seconds).await, Err(PortError::Refused { .. })), "{seconds} s");
    }
    assert!(link(7 * 24 * 3600).await.is_ok());
}

/// What a browser would get: the head and the body.
async fn fetch(url: &str) -> (String, Bytes) {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut server = tokio::net::TcpStream::connect(host).await.unwrap();
    let request = format!("GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    server.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
    (String::from_utf8_lossy(&answer[..end]).into_owned(), Bytes::copy_from_slice(&answer[end + 4..]))
}

#[tokio::test]
async fn a_lost_answer_is_not_a_lost_partition() {
    let Some(bucket) = Bucket::new("lost").await else { return };
    let proxy = Proxy::start(&bucket.server).await;
    let s3 = bucket.behind(&proxy).await;
    proxy.rule(1, puts_manifest, Fault::DropAnswer);
    let (token, before) = take(&s3, 1).await;
    assert_eq!(before, None);
    for (position, state) in [(10, noise(100, 1)), (20, noise(100_000, 2)), (30, noise(9 << 20, 3))] {
        proxy.rule(1, puts_manifest, Fault::DropAnswer);
        save(&s3, &token, &snapshot(position, state.clone()))
            .await
            .expect("our own write is no other owner's");
        // A second one after it, so that the entity tag is the right one.
        save(&s3, &token, &snapshot(position + 1, state.clone())).await.expect("and the next");
        let dropped = proxy.seen().iter().filter(|s| s.fault.is_some() && s.status == Some(200)).count();
        assert!(dropped > 0, "the answer of a write that took place was dropped");
        proxy.forget();
    }
    proxy.rule(1, |r| r.method == "POST" && r.path.contains("uploadId"), Fault::DropAnswer);
    let last = snapshot(40, noise(9 << 20, 4));
    // Whether the parts became an object is not known: another try must do.
    if save(&s3, &token, &last).await.is_err() {
        save(&s3, &token, &last).await.expect("the next try");
    }
    let (_, kept) = take(&s3, 2).await;
    assert!(kept == Some(last), "what was saved last is there");
    assert_eq!(bucket.states(1).await.len(), 1, "and nothing else");
}

#[tokio::test]
async fn a_save_that_came_late_is_ours_still() {
    let Some(bucket) = Bucket::new("late").await else { return };
    let proxy = Proxy::start(&bucket.server).await;
    let s3 = bucket.behind(&proxy).await;
    let (token, _) = take(&s3, 1).await;
    // It takes effect, all its answers are lost, and it is given up; the next one finds it there.
    proxy.rule(100, puts_manifest, Fault::DropAnswer);
    proxy.rule(100, |r| r.method == "GET", Fault::Answer(500, String::new()));
    outage(save(&s3, &token, &snapshot(10, noise(50_000, 1))).await);
    proxy.heal();
    save(&s3, &token, &snapshot(20, noise(50_000, 2))).await.expect("the next save");
    let (_, kept) = take(&s3, 1).await;
    assert!(kept == Some(snapshot(20, noise(50_000, 2))));
    assert_eq!(bucket.states(1).await.len(), 1, "the state of the save that was given up is gone");
}

#[tokio::test]
async fn the_undead_write_nothing() {
    let Some(bucket) = Bucket::new("undead").await else { return };
    let (old, new) = (bucket.open().await, bucket.open().await);
    let (first, _) = take(&old, 1).await;
    save(&old, &first, &snapshot(10, noise(30_000, 1))).await.unwrap();
    let (second, kept) = take(&new, 2).await;
    assert!(kept == Some(snapshot(10, noise(30_000, 1))));
    fenced(save(&old, &first, &snapshot(99, noise(30_000, 9))).await);
    fenced(save(&old, &first, &snapshot(99, "small")).await);
    fenced(old.take(STAGE, &shots(0), Generation(1)).await);
    let states = bucket.states(1).await;
    assert_eq!(states.len(), 1, "the state that was written before it was known is gone: {states:?}");
    save(&new, &second, &snapshot(11, noise(30_000, 2))).await.expect("the owner saves on");
    let (_, kept) = take(&new, 2).await;
    assert!(kept == Some(snapshot(11, noise(30_000, 2))), "and what it saved is there");

    // One whose write took place unheard, and whose partition was taken then: its state is the
    // snapshot of the next owner, and must stay.
    let proxy = Proxy::start(&bucket.server).await;
    let zombie = bucket.behind(&proxy).await;
    let (third, _) = take(&zombie, 3).await;
    proxy.rule(100, puts_manifest, Fault::DropAnswer);
    proxy.rule(100, |r| r.method == "GET", Fault::Answer(500, String::new()));
    outage(save(&zombie, &third, &snapshot(12, noise(30_000, 3))).await);
    let (fourth, kept) = take(&new, 4).await;
    assert!(kept == Some(snapshot(12, noise(30_000, 3))), "it took place");
    proxy.heal();
    fenced(save(&zombie, &third, &snapshot(13, noise(30_000, 4))).await);
    assert_eq!(bucket.states(1).await.len(), 1);
    let (_, kept) = take(&new, 4).await;
    assert!(kept == Some(snapshot(12, noise(30_000, 3))), "the state that the manifest names stays");
    fenced(save(&new, &fourth, &snapshot(14, "fourth")).await);
}

#[tokio::test]
async fn a_save_broken_off_leaves_the_snapshot_before() {
    let Some(bucket) = Bucket::new("broken").await else { return };
    let proxy = Proxy::start(&bucket.server).await;
    let s3 = bucket.behind(&proxy).await;
    let (token, _) = take(&s3, 1).await;
    let before = snapshot(10, noise(50_000, 1));
    save(&s3, &token, &before).await.unwrap();
    proxy.rule(100, puts_manifest, Fault::DropRequest);
    let after = snapshot(20, noise(50_000, 2));
    outage(save(&s3, &token, &after).await);
    outage(save(&s3, &token, &after).await);
    assert_eq!(bucket.states(2).await.len(), 2, "the same state is not written twice");
    // The process dies here; another one goes on.
    let other = bucket.open().await;
    let (token, kept) = take(&other, 1).await;
    assert!(kept == Some(before));
    assert_eq!(bucket.states(1).await.len(), 1, "what the dead one left is removed");
    save(&other, &token, &after).await.unwrap();
    let (token, kept) = take(&other, 1).await;
    assert!(kept == Some(after.clone()));

    proxy.heal();
    let count = |path: &'static str| move |r: &Request| r.method == "PUT" && r.path.contains(path);
    let s3 = bucket.behind(&proxy).await;
    proxy.forget();
    save(&s3, &token, &Snapshot { position: Position(21), ..after.clone() }).await.unwrap();
    let puts = proxy.seen().iter().filter(|s| count("shots/0")(&s.request)).count();
    assert_eq!(puts, 1, "a state that did not change is not written again");
}

#[tokio::test]
async fn outages_are_waited_for_and_then_told() {
    let Some(bucket) = Bucket::new("outage").await else { return };
    let proxy = Proxy::start(&bucket.server).await;
    let s3 = bucket.behind(&proxy).await;
    let (token, _) = take(&s3, 1).await;
    let slow = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
    for (status, body) in [(503, slow), (500, "<Error><Code>InternalError</Code></Error>"), (502, "")] {
        proxy.forget();
        proxy.rule(2, |_| true, Fault::Answer(status, body.into()));
        save(&s3, &token, &snapshot(1, "state")).await.unwrap_or_else(|e| panic!("{status}: {e:?}"));
        assert_eq!(proxy.seen().iter().filter(|s| s.request.method == "PUT").count(), 3, "two tries more");
    }
    proxy.rule(100, |_| true, Fault::Answer(503, slow.into()));
    proxy.forget();
    let told = outage(save(&s3, &token, &snapshot(2, "state")).await);
    assert!(told.contains("503 SlowDown: Please reduce your request rate."), "{told}");
    assert!(
        proxy.seen().len() <= 4,
        "a server that asks for less gets no more: {} requests",
        proxy.seen().len()
    );
    outage(s3.take(STAGE, &shots(0), Generation(1)).await);
    outage(s3.put("charts/a.png", "image/png", Bytes::from_static(b"x")).await);
    outage(s3.get("charts/a.png").await);
    proxy.heal();
    let denied = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>";
    proxy.rule(1, |_| true, Fault::Answer(403, denied.into()));
    let told = outage(s3.put("charts/a.png", "image/png", Bytes::from_static(b"x")).await);
    assert!(told.contains("AccessDenied") && told.contains("allow it in the policy"), "{told}");
    // A body that is cut is not taken for the whole.
    s3.put("charts/a.png", "image/png", noise(100_000, 1)).await.unwrap();
    proxy.rule(1, |r| r.method == "GET", Fault::CutAnswer(50_000));
    outage(s3.get("charts/a.png").await);
    assert!(s3.get("charts/a.png").await.unwrap() == Some(noise(100_000, 1)));
    // A conflict of two writes is decided anew.
    let conflict = "<Error><Code>ConditionalRequestConflict</Code></Error>";
    proxy.rule(2, puts_manifest, Fault::Answer(409, conflict.into()));
    save(&s3, &token, &snapshot(3, "state")).await.expect("the third try");
    let (_, kept) = take(&s3, 1).await;
    assert_eq!(kept, Some(snapshot(3, "state")));
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up() {
    let Some(bucket) = Bucket::new("hang").await else { return };
    let proxy = Proxy::start(&bucket.server).await;
    let s3 = bucket.behind(&proxy).await;
    let (token, _) = take(&s3, 1).await;
    proxy.rule(100, |_| true, Fault::Hang);
    let began = Instant::now();
    let state = snapshot(1, "state");
    let (saved, got) = tokio::join!(save(&s3, &token, &state), s3.get("charts/a.png"));
    let took = began.elapsed();
    assert!(took < Duration::from_secs(14), "{took:?}");
    for told in [outage(saved), outage(got)] {
        assert!(told.contains("did not answer in time"), "{told}");
    }
    proxy.heal();
    s3.put("charts/a.png", "image/png", noise(100_000, 1)).await.unwrap();
    proxy.rule(1, |r| r.method == "GET", Fault::StallAnswer(50_000));
    let began = Instant::now();
    let told = outage(s3.get("charts/a.png").await);
    println!("given up after {:.1?}: {told}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(14), "{:?}", began.elapsed());
    save(&s3, &token, &snapshot(1, "state")).await.expect("it is there again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_states_come_back_whole() {
    let Some(bucket) = Bucket::new("large").await else { return };
    let s3 = bucket.open().await;
    let (mut token, _) = take(&s3, 1).await;
    for megabytes in [8, 20, 150] {
        let state = noise(megabytes << 20, megabytes as u64);
        let began = Instant::now();
        save(&s3, &token, &snapshot(1, state.clone())).await.expect("save");
        let saved = began.elapsed();
        let (next, kept) = take(&s3, 1).await;
        println!("{megabytes} MiB: saved in {saved:.1?}, taken in {:.1?}", began.elapsed() - saved);
        assert!(kept.unwrap().state == state, "{megabytes} MiB come back as they were");
        token = next;
    }
    let chart = noise(20 << 20, 7);
    s3.put("charts/large.png", "image/png", chart.clone()).await.unwrap();
    assert!(s3.get("charts/large.png").await.unwrap() == Some(chart));
    assert_eq!(bucket.states(1).await.len(), 1, "the states before were removed");
}

#[tokio::test]
async fn a_damaged_state_is_told() {
    let Some(bucket) = Bucket::new("damage").await else { return };
    let (s3, client) = (bucket.open().await, bucket.client().await);
    let (token, _) = take(&s3, 1).await;
    save(&s3, &token, &snapshot(1, noise(50_000, 1))).await.unwrap();
    let key = bucket.states(1).await.remove(0);
    let told = async || match s3.take(STAGE, &shots(0), Generation(1)).await {
        Err(error @ PortError::Refused { .. }) => castwatch_core::runner::chain(&error),
        other => panic!("{other:?}"),
    };
    let put = async |key: &str, bytes: Bytes| {
        client.put_object().bucket(&bucket.name).key(key).body(bytes.into()).send().await.unwrap();
    };
    put(&key, noise(50_000, 2)).await;
    let damaged = told().await;
    assert!(damaged.contains(&key) && damaged.contains("not the one that was saved"), "{damaged}");
    put(&key, noise(50_000, 1)).await;
    assert!(take(&s3, 1).await.1 == Some(snapshot(1, noise(50_000, 1))), "and brought back it serves");
    client.delete_object().bucket(&bucket.name).key(&key).send().await.unwrap();
    let gone = told().await;
    assert!(gone.contains("is gone"), "{gone}");
    let manifest = "plant 1/snapshots/scorer/shots/0";
    put(manifest, Bytes::from_static(b"{}")).await;
    let foreign = told().await;
    assert!(foreign.contains("no snapshot of castwatch"), "{foreign}");
    client.delete_object().bucket(&bucket.name).key(manifest).send().await.unwrap();
    let (token, kept) = take(&s3, 1).await;
    assert_eq!(kept, None, "whoever removes the manifest begins anew");
    client.delete_object().bucket(&bucket.name).key(manifest).send().await.unwrap();
    fenced(save(&s3, &token, &snapshot(2, "late")).await);
}

#[tokio::test]
async fn lists_how_far_a_stage_came() {
    let Some(bucket) = Bucket::new("list").await else { return };
    let s3 = bucket.open().await;
    for index in [0, 2, 11] {
        let (token, _) = s3.take(STAGE, &shots(index), Generation(1)).await.unwrap();
        s3.save(STAGE, &shots(index), &token, &snapshot(u64::from(index) + 5, noise(20_000, 1)))
            .await
            .unwrap();
    }
    s3.take(STAGE, &shots(3), Generation(1)).await.unwrap();
    let (token, _) = s3.take("scorer-2", &shots(0), Generation(1)).await.unwrap();
    s3.save("scorer-2", &shots(0), &token, &snapshot(77, "other")).await.unwrap();
    let listed: Vec<_> = s3.snapshots_of(STAGE).await.unwrap();
    let expected: Vec<_> = [0, 2, 11].map(|n| (shots(n), snapshot(u64::from(n) + 5, Bytes::new()))).into();
    assert_eq!(listed, expected);
}
