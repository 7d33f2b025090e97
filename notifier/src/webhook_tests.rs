use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::routing::post;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::stage::tests::explanation;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEWER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD5fL3cTQzR1E=";

fn settings(url: &str) -> WebhookSettings {
    WebhookSettings {
        name: "webhook".into(),
        url: url.into(),
        secrets: vec![SECRET.parse().unwrap(), NEWER.parse().unwrap()],
        timeout: Duration::from_millis(400),
        longest_wait: Duration::from_millis(300),
    }
}

fn alert(machine: &str) -> Alert {
    crate::alert(&explanation(machine, 258), &["webhook".into()])
}

fn full(error: &SendError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(e) = source {
        text += &format!(": {e}");
        source = e.source();
    }
    text
}

type Seen = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

/// Status, headers and body of an answer.
type Planned = (u16, &'static [(&'static str, &'static str)], &'static str);

/// A receiver that answers with each of `answers` in turn and then with 204.
async fn receiver(answers: Vec<Planned>) -> (String, Seen) {
    let seen = Seen::default();
    let (kept, turn, answers) = (Arc::clone(&seen), Arc::new(AtomicUsize::new(0)), Arc::new(answers));
    let handler = move |headers: HeaderMap, body: Bytes| async move {
        kept.lock().unwrap().push((headers, body));
        let at = turn.fetch_add(1, Ordering::SeqCst);
        let (status, headers, body) = answers.get(at).copied().unwrap_or((204, &[], ""));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        (StatusCode::from_u16(status).unwrap(), map, body).into_response()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook?token=hidden", listener.local_addr().unwrap());
    let app = axum::Router::new().route("/hook", post(handler));
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, seen)
}

/// A server that reads a request's head and then does `then` with the connection.
async fn raw<F>(then: fn(TcpStream) -> F) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 65_536]).await;
            tokio::spawn(then(stream));
        }
    });
    url
}

#[test]
fn signs_as_the_published_test_vector() {
    let secret: Secret = SECRET.parse().unwrap();
    let signature = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
    assert_eq!(signature.unwrap(), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

#[test]
fn shows_no_secret_and_takes_no_weak_one() {
    let hook = Webhook::new(settings("https://hooks.example/T0KEN?key=S3CRET")).unwrap();
    let shown = format!("{hook:?} {:?}", settings("http://x").secrets);
    assert_eq!(
        shown,
        "Webhook { name: \"webhook\", host: Some(\"hooks.example\"), .. } [Secret(..), Secret(..)]"
    );
    for text in ["", "whsec_", "whsec_AAAA", "whsec_not base64", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
        assert_eq!(text.parse::<Secret>().unwrap_err(), SecretError);
    }
    for url in ["", "hooks.example", "ftp://hooks.example/S3CRET", "https://"] {
        let error = Webhook::new(settings(url)).unwrap_err().to_string();
        assert_eq!(error, "webhook `webhook`: the address is not an http or https URL");
    }
    let none = WebhookSettings { secrets: Vec::new(), ..settings("http://x") };
    assert!(matches!(Webhook::new(none), Err(WebhookError::NoSecret { .. })));
}

#[test]
fn ids_fit_a_header_and_stay_different() {
    assert_eq!(
        header_id("alert:DCM-03~8722~20260115T074506.25Z~1"),
        "alert:DCM-03~8722~20260115T074506%2E25Z~1"
    );
    assert_eq!(header_id("alert:주~1"), "alert:%EC%A3%BC~1");
    assert_ne!(header_id("alert:a.b"), header_id("alert:a%252Eb"));
}

#[tokio::test]
async fn sends_what_its_receiver_can_verify() {
    let (url, seen) = receiver(vec![]).await;
    Webhook::new(settings(&url)).unwrap().send(&alert("주조기 3")).await.unwrap();
    let (headers, body) = seen.lock().unwrap()[0].clone();
    let header = |name: &str| headers.get(name).unwrap().to_str().unwrap().to_owned();
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(json["type"], "castwatch.alert.v1");
    assert_eq!(json["timestamp"], "2026-01-15T07:45:06Z");
    assert_eq!(json["data"]["machine"], "주조기 3");
    assert_eq!(header("content-type"), "application/json");
    let age = Timestamp::now().as_second() - header("webhook-timestamp").parse::<i64>().unwrap();
    assert!((0..5).contains(&age));
    // Another implementation of HMAC says the same.
    let script = "import sys,hmac,hashlib,base64\nsecrets=sys.argv[3:]\nbody=sys.stdin.buffer.read()\n\
        signed=(sys.argv[1]+'.'+sys.argv[2]+'.').encode()+body\n\
        print(' '.join('v1,'+base64.b64encode(hmac.new(base64.b64decode(s[6:]),signed,hashlib.sha256).digest()).decode() for s in secrets))";
    let mut python = tokio::process::Command::new("python3")
        .args(["-c", script, &header("webhook-id"), &header("webhook-timestamp"), SECRET, NEWER])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(&body).await.unwrap();
    let said = String::from_utf8(python.wait_with_output().await.unwrap().stdout).unwrap();
    assert_eq!(said.trim(), header("webhook-signature"));
}

#[tokio::test]
async fn sorts_answers_into_passing_and_final_and_shows_no_address() {
    let answers = vec![
        (500, [].as_slice(), "oops\nline two"),
        (503, &[], ""),
        (408, &[], ""),
        (425, &[], ""),
        (429, &[], ""),
        (400, &[], "no such\u{7} field"),
        (401, &[], ""),
        (410, &[], ""),
        (302, &[("location", "/elsewhere")], ""),
    ];
    let (url, seen) = receiver(answers).await;
    let hook = Webhook::new(settings(&url)).unwrap();
    let mut said = Vec::new();
    for _ in 0..9 {
        let error = hook.send(&alert("m")).await.unwrap_err();
        said.push((matches!(error, SendError::Transient(_)), full(&error)));
    }
    assert_eq!(
        said.iter().map(|s| s.0).collect::<Vec<_>>(),
        [true, true, true, true, true, false, false, false, false]
    );
    assert_eq!(
        said[0].1,
        "the channel is not available: it answered 500 Internal Server Error: oops line two"
    );
    assert_eq!(said[5].1, "the channel refused the alert: it answered 400 Bad Request: no such  field");
    assert!(said.iter().all(|s| !s.1.contains("hidden")), "{said:?}");
    hook.send(&alert("m")).await.unwrap();
    let ids: std::collections::HashSet<_> =
        seen.lock().unwrap().iter().map(|(h, _)| h.get("webhook-id").unwrap().clone()).collect();
    assert_eq!((ids.len(), seen.lock().unwrap().len()), (1, 10));
}

#[tokio::test]
async fn waits_as_the_receiver_asks_within_a_bound() {
    let (url, _) = receiver(vec![(429, &[("retry-after", "3600")], "")]).await;
    let hook = Webhook::new(settings(&url)).unwrap();
    assert!(hook.send(&alert("m")).await.is_err());
    let begun = Instant::now();
    hook.send(&alert("m")).await.unwrap();
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_millis(290) && waited < Duration::from_secs(2), "{waited:?}");
    let begun = Instant::now();
    hook.send(&alert("m")).await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(200), "asked once, waited once");

    let now: Timestamp = "1994-11-06T08:49:07Z".parse().unwrap();
    assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now), Some(Duration::from_secs(30)));
    assert_eq!(retry_after("Sun, 06 Nov 1994 08:40:00 GMT", now), Some(Duration::ZERO));
    assert_eq!(retry_after("soon", now), None);
}

#[tokio::test]
async fn a_connection_that_fails_may_pass() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = format!("http://{}/?token=hidden", listener.local_addr().unwrap());
    drop(listener);
    let reset = raw(|stream: TcpStream| async move { drop(stream) }).await;
    let slow = raw(|stream: TcpStream| async move {
        tokio::time::sleep(Duration::from_secs(5)).await;
        drop(stream);
    })
    .await;
    let no_tls = slow.replace("http:", "https:");
    let garbage = raw(|mut stream: TcpStream| async move {
        let _ = stream.write_all(b"220 mail.example ESMTP\r\n").await;
    })
    .await;
    for url in [refused, reset, slow, no_tls, garbage] {
        let error = Webhook::new(settings(&url)).unwrap().send(&alert("m")).await.unwrap_err();
        assert!(matches!(error, SendError::Transient(_)), "{url}: {}", full(&error));
        assert!(!full(&error).contains("hidden"), "{}", full(&error));
    }
}

#[tokio::test]
async fn reads_a_bounded_part_of_an_endless_answer() {
    let endless = raw(|mut stream: TcpStream| async move {
        let head = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 1000000000\r\n\r\n";
        let _ = stream.write_all(head).await;
        while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
    })
    .await;
    let begun = Instant::now();
    let error = Webhook::new(settings(&endless)).unwrap().send(&alert("m")).await.unwrap_err();
    assert!(matches!(error, SendError::Refused(_)));
    assert!(full(&error).len() < 700 && begun.elapsed() < Duration::from_millis(390));
}
