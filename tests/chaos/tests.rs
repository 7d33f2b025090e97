//! The harness can fail: each fault of the proxy shows, and an audit finds what is planted.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::audit::{Audit, told};
use crate::http::Service;
use crate::proxy::{Faults, Proxy, Speech};
use crate::receiver::{Accepted, Inbox, Receiver};
use crate::site::Disturbance;

const SOON: Duration = Duration::from_millis(200);

/// A server that says everything again.
async fn echo() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

async fn says(stream: &mut TcpStream, word: &[u8]) -> std::io::Result<bool> {
    stream.write_all(word).await?;
    let mut heard = vec![0; word.len()];
    match timeout(SOON, stream.read_exact(&mut heard)).await {
        Ok(read) => read.map(|_| heard == word),
        Err(_) => Ok(false),
    }
}

#[tokio::test]
async fn networks_are_slow_silent_dead_and_gone() {
    let proxy = Proxy::start(echo().await, Speech::Bytes, 1).await.unwrap();
    let connect = || TcpStream::connect(proxy.address);
    let mut first = connect().await.unwrap();
    assert!(says(&mut first, b"one").await.unwrap());

    let latency = Duration::from_millis(60);
    proxy.set(Faults { latency, ..Faults::default() });
    let began = Instant::now();
    assert!(says(&mut first, b"two").await.unwrap());
    assert!(began.elapsed() >= 2 * latency, "once in each direction");

    proxy.set(Faults { bandwidth: 64 * 1024, ..Faults::default() });
    let began = Instant::now();
    let long = vec![b'x'; 96 * 1024];
    let mut heard = vec![0; long.len()];
    let (mut from, mut to) = first.split();
    let (sent, read) = tokio::join!(to.write_all(&long), from.read_exact(&mut heard));
    sent.and(read.map(|_| ())).unwrap();
    assert!(heard == long && began.elapsed() > Duration::from_secs(1));

    proxy.set(Faults { silent: true, ..Faults::default() });
    assert!(!says(&mut first, b"three").await.unwrap(), "nothing arrives");
    proxy.heal();
    let mut late = [0; 5];
    first.read_exact(&mut late).await.unwrap();
    assert_eq!(&late, b"three", "and nothing is lost");

    proxy.strand();
    assert!(!says(&mut first, b"four").await.unwrap(), "old connections are dead");
    let mut second = connect().await.unwrap();
    assert!(says(&mut second, b"five").await.unwrap(), "new ones are not");

    proxy.reset();
    assert!(second.read_u8().await.is_err(), "reset");
    proxy.set(Faults { down: true, ..Faults::default() });
    let mut third = connect().await.unwrap();
    assert!(third.read_u8().await.is_err(), "refused");
    proxy.heal();
    assert!(says(&mut connect().await.unwrap(), b"six").await.unwrap());
}

/// Posts an alert over `stream`; the status, or why there is none.
async fn post(stream: &mut TcpStream, alert: &str) -> std::io::Result<String> {
    let body = format!("{{\"data\":{{\"id\":\"{alert}\"}}}}");
    let request = format!(
        "POST /alerts HTTP/1.1\r\nhost: test\r\nwebhook-id: {alert}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = vec![0; 1024];
    let n = stream.read(&mut answer).await?;
    if n == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&answer[9..12]).into_owned())
}

#[tokio::test]
async fn services_refuse_and_are_not_heard() {
    let receiver = Receiver::start().await.unwrap();
    let speech = Speech::Http(Service::Webhook);
    let proxy = Proxy::start(receiver.address, speech, 1).await.unwrap();
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    assert_eq!(post(&mut stream, "a").await.unwrap(), "204");
    proxy.set(Faults { refused: 1.0, ..Faults::default() });
    assert!(post(&mut stream, "b").await.unwrap().starts_with('5'));
    proxy.heal();
    assert_eq!(post(&mut stream, "c").await.unwrap(), "204", "the connection goes on");
    proxy.set(Faults { unheard: 1.0, ..Faults::default() });
    assert!(post(&mut stream, "d").await.is_err());
    let accepted: Vec<String> = receiver.inbox.all().into_iter().map(|a| a.alert).collect();
    assert_eq!(accepted, ["a", "c", "d"], "what was not heard took effect, what was refused did not");
    assert_eq!(proxy.injected(), 2);
}

#[test]
fn repeats_are_found_and_told_from_those_that_a_fault_explains() {
    let start = Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let inbox = Inbox::default();
    let accept = |alert: &str, webhook_id: &str, seconds: u64| {
        inbox.push(Accepted { alert: alert.into(), webhook_id: webhook_id.into(), at: at(seconds) });
    };
    accept("once", "1", 1);
    accept("killed", "2", 10);
    accept("killed", "2", 13);
    accept("calm", "3", 20);
    accept("calm", "3", 21);
    accept("two ids", "4", 10);
    accept("two ids", "5", 11);
    let kill = Disturbance { from: at(10), to: Some(at(10)) };
    let mut found = Audit::default();
    told(&inbox, &[kill], &mut found);
    assert_eq!(found.repeats, 3);
    assert_eq!(found.told_twice, ["calm", "two ids"]);
}
