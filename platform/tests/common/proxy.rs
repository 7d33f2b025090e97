//! A proxy in front of an HTTP service that does what networks and services do on bad days.
//!
//! **It forwards every request as it came, but those that a rule takes.** It speaks HTTP/1.1
//! without TLS, one request a connection, and remembers all that it saw, so that a test can also
//! look at what was sent.
//!
//! ```ignore
//! let proxy = Proxy::start(&service_url).await;
//! proxy.rule(1, |r| r.method == "PUT", Fault::DropAnswer);    // the next PUT takes effect, unheard
//! proxy.rule(3, |r| r.header("x-amz-target") == Some("DynamoDB_20120810.PutItem"), Fault::Answer(500, "{}".into()));
//! // use proxy.url as the service's address, then
//! assert_eq!(proxy.seen().iter().filter(|s| s.request.method == "PUT").count(), 2);
//! ```
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What happens to a request instead of being forwarded and answered.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It takes effect, and the connection ends without an answer.
    DropAnswer,
    /// The connection ends, and nothing took effect.
    DropRequest,
    /// It takes effect, and only so many bytes of the answer (head and body) come back.
    CutAnswer(usize),
    /// It takes effect, only so many bytes of the answer come back, and the connection stays open.
    StallAnswer(usize),
    /// It has no effect; the answer is this status with this body.
    Answer(u16, String),
    /// It takes effect after so long.
    Delay(Duration),
    /// It has no effect and no answer, and the connection stays open.
    Hang,
}

/// A request as the client sent it.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `PUT`, ...
    pub method: String,
    /// The path with its query, as it came.
    pub path: String,
    /// The headers in order, with lower-case names.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// A header by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// A request and what became of it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The request.
    pub request: Request,
    /// The status that the service answered; absent where it was not asked.
    pub status: Option<u16>,
    /// The fault that took it.
    pub fault: Option<Fault>,
}

struct Rule {
    times: usize,
    takes: Box<dyn Fn(&Request) -> bool + Send>,
    fault: Fault,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    seen: Vec<Seen>,
}

/// A running proxy; it ends when it is dropped.
pub struct Proxy {
    /// Its address, such as `http://127.0.0.1:40123`.
    pub url: String,
    state: Arc<Mutex<State>>,
    accepting: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Proxy {
    /// A proxy in front of `upstream`, such as `http://127.0.0.1:8000`.
    pub async fn start(upstream: &str) -> Self {
        let upstream = upstream.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (upstream, state) = (upstream.clone(), shared.clone());
                // A connection that breaks is what clients must live with.
                tokio::spawn(async move { drop(serve(client, &upstream, &state).await) });
            }
        });
        Self { url, state, accepting }
    }

    /// Lets `fault` happen to the next `times` requests that `takes` says yes to. Of several rules
    /// the first one counts.
    pub fn rule(&self, times: usize, takes: impl Fn(&Request) -> bool + Send + 'static, fault: Fault) {
        self.state.lock().unwrap().rules.push(Rule { times, takes: Box::new(takes), fault });
    }

    /// From now on every request is forwarded.
    pub fn heal(&self) {
        self.state.lock().unwrap().rules.clear();
    }

    /// All requests so far, in the order of their answers.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.state.lock().unwrap().seen.clear();
    }
}

async fn serve(client: TcpStream, upstream: &str, state: &Mutex<State>) -> io::Result<()> {
    let mut client = BufReader::new(client);
    let request = read_request(&mut client).await?;
    let fault = {
        let mut state = state.lock().unwrap();
        let rule = state.rules.iter_mut().find(|rule| rule.times > 0 && (rule.takes)(&request));
        rule.map(|rule| {
            rule.times -= 1;
            rule.fault.clone()
        })
    };
    let note = |status| {
        state.lock().unwrap().seen.push(Seen { request: request.clone(), status, fault: fault.clone() })
    };
    let answer = match &fault {
        Some(Fault::DropRequest) => {
            note(None);
            return Ok(());
        }
        Some(Fault::Hang) => {
            note(None);
            return until_closed(&mut client).await;
        }
        Some(Fault::Answer(status, body)) => {
            note(None);
            let kind = if body.starts_with('{') { "application/x-amz-json-1.0" } else { "application/xml" };
            let length = body.len();
            format!("HTTP/1.1 {status} Fault\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
                .into_bytes()
        }
        _ => {
            if let Some(Fault::Delay(time)) = fault {
                tokio::time::sleep(time).await;
            }
            let answer = forward(&request, upstream).await?;
            note(status_of(&answer));
            answer
        }
    };
    let sent = match fault {
        Some(Fault::DropAnswer) => return Ok(()),
        Some(Fault::CutAnswer(bytes) | Fault::StallAnswer(bytes)) => bytes.min(answer.len()),
        _ => answer.len(),
    };
    client.write_all(&answer[..sent]).await?;
    if let Some(Fault::StallAnswer(_)) = fault {
        return until_closed(&mut client).await;
    }
    client.shutdown().await
}

async fn until_closed(client: &mut BufReader<TcpStream>) -> io::Result<()> {
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.map(drop)
}

async fn read_request(client: &mut BufReader<TcpStream>) -> io::Result<Request> {
    let first = read_line(client).await?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = Vec::new();
    loop {
        let line = read_line(client).await?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut request = Request { method, path, headers, body: Vec::new() };
    if request.header("expect").is_some() {
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    assert_eq!(request.header("transfer-encoding"), None, "a request whose length is not told");
    let length = request.header("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
    request.body = vec![0; length];
    client.read_exact(&mut request.body).await?;
    Ok(request)
}

async fn read_line(client: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    match client.read_line(&mut line).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}

/// Sends the request on, and returns the whole answer as it came.
async fn forward(request: &Request, upstream: &str) -> io::Result<Vec<u8>> {
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.path);
    for (name, value) in &request.headers {
        if name != "connection" && name != "expect" {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    head.push_str("connection: close\r\n\r\n");
    let mut server = TcpStream::connect(upstream).await?;
    let (mut from, mut to) = server.split();
    let write = async {
        to.write_all(head.as_bytes()).await?;
        to.write_all(&request.body).await
    };
    let mut answer = Vec::new();
    // A service may answer before it has read everything, and not read the rest.
    let (_, read) = tokio::join!(write, from.read_to_end(&mut answer));
    read.map(|_| answer)
}

fn status_of(answer: &[u8]) -> Option<u16> {
    std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()
}
