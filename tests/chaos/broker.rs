//! A Kafka broker of the test's own, to be killed and started again on the same data.

use std::fs::{File, OpenOptions};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use castwatch_sim::binary::root;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaErrorCode;

/// The id of the cluster: 16 bytes, in base64.
const CLUSTER: &str = "Y2FzdHdhdGNodGVzdHMwMQ";
/// How long a broker may take to come up, also after a kill.
const UP: Duration = Duration::from_secs(60);

/// The broker. It listens twice: for the test, and for clients that come through a proxy.
pub struct Broker {
    /// Where the test reaches it.
    pub address: String,
    jars: String,
    folder: PathBuf,
    process: Option<Child>,
}

/// Ports of this machine that are free now.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

impl Broker {
    /// Lays a broker out in `folder`. Clients that come to `behind` are sent on to `proxied`.
    pub fn new(jars: &Path, folder: &Path, behind: SocketAddr, proxied: SocketAddr) -> Self {
        let [port, controller] = free_ports();
        let template = root().join("tests/services/kafka/server.properties");
        let template = std::fs::read_to_string(template).unwrap();
        let plain = template
            .replace("@PORT@", &port.to_string())
            .replace("@CONTROLLER_PORT@", &controller.to_string())
            .replace("@DATA@", folder.join("data").to_str().unwrap());
        // Later lines win.
        let properties = format!(
            "{plain}
listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://{behind},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://{proxied}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
group.consumer.session.timeout.ms=3000
group.consumer.heartbeat.interval.ms=500
"
        );
        std::fs::write(folder.join("server.properties"), properties).unwrap();
        let jars = jars.join("lib/*").to_str().unwrap().to_owned();
        let broker =
            Self { address: format!("127.0.0.1:{port}"), jars, folder: folder.to_owned(), process: None };
        let formatted = broker
            .java("kafka.tools.StorageTool")
            .args(["format", "-t", CLUSTER, "-c", "server.properties"])
            .output()
            .unwrap();
        assert!(formatted.status.success(), "{}", String::from_utf8_lossy(&formatted.stderr));
        broker
    }

    fn java(&self, class: &str) -> Command {
        let mut java = Command::new("java");
        java.args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", &self.jars])
            .arg(format!(
                "-Dlog4j2.configurationFile={}",
                root().join("tests/services/kafka/log4j2.properties").display()
            ))
            .arg(class)
            .current_dir(&self.folder)
            .stdin(Stdio::null());
        java
    }

    /// Starts it, and does not wait for it.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "the broker runs already");
        let log: File =
            OpenOptions::new().create(true).append(true).open(self.folder.join("kafka.log")).unwrap();
        let child = self
            .java("kafka.Kafka")
            .arg("server.properties")
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.process = Some(child.unwrap());
    }

    /// Waits until it answers.
    pub fn await_up(&mut self) {
        let began = Instant::now();
        let asks: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.address)
            .set("log_level", "0")
            .create()
            .unwrap();
        while asks.fetch_metadata(None, Duration::from_secs(2)).is_err() {
            let ended = self.process.as_mut().is_none_or(|p| p.try_wait().unwrap().is_some());
            assert!(!ended && began.elapsed() < UP, "the broker does not come up:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// SIGKILL: what it had not written is gone.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Removes the messages of a partition before `position`, as retention does.
    pub async fn remove_before(&self, topic: &str, partition: i32, position: i64) {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.address).create().unwrap();
        let mut before = TopicPartitionList::new();
        before.add_partition_offset(topic, partition, rdkafka::Offset::Offset(position)).unwrap();
        let options = AdminOptions::new().request_timeout(Some(Duration::from_secs(10)));
        let removed = admin.delete_records(&before, &options).await.unwrap();
        for one in removed.elements() {
            assert!(
                !matches!(one.error(), Err(e) if e.rdkafka_error_code() != Some(RDKafkaErrorCode::NoError)),
                "{one:?}"
            );
        }
    }

    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.folder.join("kafka.log")).unwrap_or_default();
        text.lines().rev().take(20).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}
