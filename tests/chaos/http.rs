//! Just enough HTTP/1.1 to stand in front of S3, DynamoDB and a webhook, and to ask for a page.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;

/// Whose errors a proxy imitates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Amazon S3.
    S3,
    /// Amazon DynamoDB.
    DynamoDb,
    /// Whoever receives alerts.
    Webhook,
}

impl Service {
    /// One of the service's errors that pass by themselves, by chance.
    pub fn error(self, chance: u64) -> Bytes {
        let xml = |code: &str| {
            format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>by the test</Message></Error>"
            )
        };
        let json = |code: &str| {
            format!("{{\"__type\":\"com.amazonaws.dynamodb.v20120810#{code}\",\"message\":\"by the test\"}}")
        };
        let (status, kind, body) = match (self, chance % 3) {
            (Self::S3, 0) => ("500 Internal Server Error", "application/xml", xml("InternalError")),
            (Self::S3, _) => ("503 Slow Down", "application/xml", xml("SlowDown")),
            (Self::DynamoDb, 0) => {
                ("500 Internal Server Error", "application/x-amz-json-1.0", json("InternalServerError"))
            }
            (Self::DynamoDb, 1) => {
                ("400 Bad Request", "application/x-amz-json-1.0", json("ThrottlingException"))
            }
            (Self::DynamoDb, _) => (
                "400 Bad Request",
                "application/x-amz-json-1.0",
                json("ProvisionedThroughputExceededException"),
            ),
            (Self::Webhook, 0) => ("500 Internal Server Error", "text/plain", "by the test".to_owned()),
            (Self::Webhook, _) => ("503 Service Unavailable", "text/plain", "by the test".to_owned()),
        };
        format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            .into()
    }
}

/// The requests of one connection, as they came.
pub struct Requests<'a> {
    from: BufReader<ReadHalf<'a>>,
    /// Bytes of the present body that were not taken yet; `None`: its end is the connection's.
    left: Option<usize>,
}

impl<'a> Requests<'a> {
    /// Reads from a client.
    pub fn new(from: ReadHalf<'a>) -> Self {
        Self { from: BufReader::new(from), left: Some(0) }
    }

    /// The head of the next request with its empty line; `None` at the end.
    pub async fn head(&mut self) -> io::Result<Option<Bytes>> {
        let mut head = Vec::new();
        self.left = Some(0);
        loop {
            let start = head.len();
            if self.from.read_until(b'\n', &mut head).await? == 0 {
                return Ok(None);
            }
            let line = String::from_utf8_lossy(&head[start..]).trim().to_ascii_lowercase();
            if line.is_empty() {
                return Ok(Some(head.into()));
            }
            match line.split_once(':') {
                Some(("content-length", length)) => self.left = Some(length.trim().parse().unwrap_or(0)),
                // Chunks are not counted: all that follows is one body.
                Some(("transfer-encoding", _)) => self.left = None,
                _ => {}
            }
        }
    }

    /// The next part of the body; `None` at its end.
    pub async fn body(&mut self, most: usize) -> io::Result<Option<Bytes>> {
        let most = self.left.map_or(most, |left| left.min(most));
        let mut part = vec![0; most];
        let n = if most == 0 { 0 } else { self.from.read(&mut part).await? };
        if n == 0 {
            return Ok(None);
        }
        part.truncate(n);
        self.left = self.left.map(|left| left - n);
        Ok(Some(part.into()))
    }
}

/// Gets a page of a server on this machine: its status and its text.
pub async fn get(port: u16, path: &str) -> io::Result<(u16, String)> {
    let asking = async {
        let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n");
        server.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Ok((status, answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned()))
    };
    tokio::time::timeout(Duration::from_secs(5), asking).await.unwrap_or_else(|e| Err(e.into()))
}
