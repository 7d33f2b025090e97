//! A proxy that does what networks and services do on bad days, switched while connections are open.
//!
//! **What it forwards it forwards whole and in order**: faults delay, hold or end connections, and
//! never change a byte that passes. In front of an HTTP service a share of the requests can also
//! be answered by the proxy, as that service answers when it is overloaded, or take effect without
//! their answer coming back, which is the fault that idempotence is for.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::http;

/// The most bytes forwarded at once.
const CHUNK: usize = 16 * 1024;
/// So many chunks may wait in one direction of a connection.
const WAITING: usize = 64;

/// What the network does. By default it works.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Each chunk arrives so much later,
    pub latency: Duration,
    /// and by up to so much more.
    pub jitter: Duration,
    /// The most bytes a second in one direction of one connection; 0 is without limit.
    pub bandwidth: u32,
    /// Nothing arrives, and no connection ends: a cable is out.
    pub silent: bool,
    /// Connections are refused, and those there were are reset.
    pub down: bool,
    /// The share of HTTP requests that the service refuses as overloaded or broken.
    pub refused: f64,
    /// The share of HTTP requests that take effect and whose answer is lost.
    pub unheard: f64,
}

/// What is spoken behind the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speech {
    /// Anything over TCP.
    Bytes,
    /// HTTP/1.1, with the errors of this service.
    Http(http::Service),
}

#[derive(Clone, Copy, Default)]
struct Control {
    faults: Faults,
    /// Connections born before this number are dead and nobody said so.
    stranded_before: u64,
    /// Connections born before this number are reset.
    reset_before: u64,
}

struct Shared {
    target: SocketAddr,
    speech: Speech,
    control: watch::Sender<Control>,
    chance: Mutex<StdRng>,
    born: AtomicU64,
    injected: AtomicU64,
}

/// A running proxy.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.reset();
    }
}

impl Proxy {
    /// Listens on a free port in front of `target`; the seed decides which requests are hit.
    pub async fn start(target: SocketAddr, speech: Speech, seed: u64) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target,
            speech,
            control: watch::Sender::new(Control::default()),
            chance: Mutex::new(StdRng::seed_from_u64(seed)),
            born: AtomicU64::new(0),
            injected: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, Arc::clone(&accepting)));
            }
        });
        Ok(Self { address, shared, task })
    }

    /// From now on the network does this.
    pub fn set(&self, faults: Faults) {
        let born = self.shared.born.load(Ordering::SeqCst);
        self.shared.control.send_modify(|control| {
            control.faults = faults;
            if faults.down {
                control.reset_before = born;
            }
        });
    }

    /// Everything works again; connections that were stranded stay so.
    pub fn heal(&self) {
        self.set(Faults::default());
    }

    /// Resets every connection there is.
    pub fn reset(&self) {
        let born = self.shared.born.load(Ordering::SeqCst);
        self.shared.control.send_modify(|control| control.reset_before = born);
    }

    /// Every connection there is goes dead without a word; new ones work. It is what a firewall
    /// that forgets, or a machine that loses its power, leaves behind.
    pub fn strand(&self) {
        let born = self.shared.born.load(Ordering::SeqCst);
        self.shared.control.send_modify(|control| control.stranded_before = born);
    }

    /// HTTP requests hit so far.
    pub fn injected(&self) -> u64 {
        self.shared.injected.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn happens(&self, share: f64) -> bool {
        share > 0.0 && self.chance.lock().unwrap().random_bool(share)
    }

    fn pick(&self, below: u64) -> u64 {
        if below == 0 { 0 } else { self.chance.lock().unwrap().random_range(0..below) }
    }

    fn due(&self) -> Instant {
        let Faults { latency, jitter, .. } = self.control.borrow().faults;
        Instant::now() + latency + Duration::from_micros(self.pick(jitter.as_micros() as u64))
    }
}

/// Bytes on their way, and when they arrive; no bytes are the end.
type Lane = mpsc::Sender<(Instant, Bytes)>;

/// One connection.
struct Link {
    shared: Arc<Shared>,
    number: u64,
    /// The next answer is lost, and the connection with it.
    unheard: AtomicBool,
}

async fn serve(mut client: TcpStream, shared: Arc<Shared>) {
    let number = shared.born.fetch_add(1, Ordering::SeqCst);
    let mut control = shared.control.subscribe();
    let server =
        if control.borrow().faults.down { None } else { TcpStream::connect(shared.target).await.ok() };
    let Some(mut server) = server else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let (up, upward) = mpsc::channel(WAITING);
    let (down, downward) = mpsc::channel(WAITING);
    let link = Link { shared, number, unheard: AtomicBool::new(false) };
    let orderly = tokio::select! {
        () = link.requests(from_client, &up, &down) => false,
        () = link.answers(from_server, &down) => false,
        ended = link.deliver(upward, to_server) => ended,
        ended = link.deliver(downward, to_client) => ended,
        _ = control.wait_for(|control| control.reset_before > number) => false,
    };
    if !orderly {
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

impl Link {
    async fn requests(&self, from: ReadHalf<'_>, up: &Lane, down: &Lane) {
        match self.shared.speech {
            Speech::Bytes => self.carry(from, up, false).await,
            Speech::Http(service) => self.http_requests(from, service, up, down).await,
        }
    }

    async fn answers(&self, from: ReadHalf<'_>, down: &Lane) {
        self.carry(from, down, true).await;
    }

    /// Forwards until the sender ends; returns where an answer has to be lost.
    async fn carry(&self, mut from: ReadHalf<'_>, lane: &Lane, answers: bool) {
        let mut buffer = vec![0; CHUNK];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            if answers && self.unheard.load(Ordering::SeqCst) {
                return;
            }
            self.pass(lane, Bytes::copy_from_slice(&buffer[..n])).await;
        }
        self.end(lane).await;
    }

    async fn pass(&self, lane: &Lane, chunk: Bytes) {
        // Who should take it is gone only when the whole connection is about to go.
        let _ = lane.send((self.shared.due(), chunk)).await;
    }

    /// Lets the end arrive after all that was sent.
    async fn end(&self, lane: &Lane) {
        self.pass(lane, Bytes::new()).await;
        std::future::pending().await
    }

    /// Forwards HTTP requests, but for those that are hit.
    async fn http_requests(&self, from: ReadHalf<'_>, service: http::Service, up: &Lane, down: &Lane) {
        let mut requests = http::Requests::new(from);
        while let Ok(Some(head)) = requests.head().await {
            let Faults { refused, unheard, .. } = self.shared.control.borrow().faults;
            if self.shared.happens(refused) {
                self.shared.injected.fetch_add(1, Ordering::Relaxed);
                // Its body is read to the end, so that the connection can go on.
                while matches!(requests.body(CHUNK).await, Ok(Some(_))) {}
                self.pass(down, service.error(self.shared.pick(1000))).await;
                continue;
            }
            if self.shared.happens(unheard) {
                self.shared.injected.fetch_add(1, Ordering::Relaxed);
                self.unheard.store(true, Ordering::SeqCst);
            }
            self.pass(up, head).await;
            while let Ok(Some(chunk)) = requests.body(CHUNK).await {
                self.pass(up, chunk).await;
            }
        }
        self.end(up).await;
    }

    /// Writes what is due, at the speed and at the time that the network has now; `true` when the
    /// end came in order.
    async fn deliver(&self, mut lane: mpsc::Receiver<(Instant, Bytes)>, mut to: WriteHalf<'_>) -> bool {
        let mut control = self.shared.control.subscribe();
        while let Some((due, chunk)) = lane.recv().await {
            tokio::time::sleep_until(due).await;
            let passes = |c: &Control| !c.faults.silent && c.stranded_before <= self.number;
            let Ok(bandwidth) = control.wait_for(passes).await.map(|c| c.faults.bandwidth) else { break };
            if chunk.is_empty() {
                return true;
            }
            if to.write_all(&chunk).await.is_err() {
                break;
            }
            if bandwidth > 0 {
                tokio::time::sleep(Duration::from_secs_f64(chunk.len() as f64 / f64::from(bandwidth))).await;
            }
        }
        false
    }
}
