//! A broker of a test's own, to be killed: `CASTWATCH_TEST_KAFKA_HOME` is a folder with Kafka's
//! jars in `lib`.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A broker in a folder of its own.
pub struct Server {
    home: PathBuf,
    folder: tempfile::TempDir,
    /// The address of its open listener.
    pub plain: String,
    /// The address of its listener with TLS and SASL.
    pub safe: String,
    running: Option<Child>,
}

impl Server {
    /// A broker that is not running yet; says so where there is no Kafka.
    pub fn new() -> Option<Self> {
        let Some(home) = std::env::var_os("CASTWATCH_TEST_KAFKA_HOME").filter(|h| !h.is_empty()) else {
            println!("skipped: no CASTWATCH_TEST_KAFKA_HOME; tests/run sets it");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let [plain, controller, safe] = [(); 3].map(|()| {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            address.to_string()
        });
        let dir = folder.path().display();
        let properties = format!(
            "process.roles=broker,controller\nnode.id=1\nlog.dirs={dir}/data\n\
             listeners=PLAINTEXT://{plain},CONTROLLER://{controller},SAFE://{safe}\n\
             advertised.listeners=PLAINTEXT://{plain},SAFE://{safe}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SAFE:SASL_SSL\n\
             controller.listener.names=CONTROLLER\ncontroller.quorum.voters=1@{controller}\n\
             inter.broker.listener.name=PLAINTEXT\nsasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512\n\
             listener.name.safe.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_castwatch=\"secret\";\n\
             listener.name.safe.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
             ssl.keystore.type=PEM\nssl.keystore.location={dir}/keystore.pem\n\
             offsets.topic.replication.factor=1\noffsets.topic.num.partitions=2\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\nauto.create.topics.enable=false\n\
             log.cleaner.dedupe.buffer.size=4194304\nbroker.session.timeout.ms=3000\n\
             broker.heartbeat.interval.ms=500\ncontrolled.shutdown.enable=false\n"
        );
        fs::write(folder.path().join("server.properties"), properties).unwrap();
        let server = Self { home: home.into(), folder, plain, safe, running: None };
        server.certify();
        let scram = "SCRAM-SHA-512=[name=castwatch,password=secret]";
        let cluster = "7Y1NBN9cR9SjGc2wDqJEbw";
        let tool = ["kafka.tools.StorageTool", "format", "-t", cluster, "--add-scram", scram];
        let formatted = server.java(&tool).arg("-c").arg(server.file("server.properties")).output().unwrap();
        assert!(formatted.status.success(), "{}", String::from_utf8_lossy(&formatted.stderr));
        Some(server)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn java(&self, arguments: &[&str]) -> Command {
        let mut java = Command::new("java");
        java.args(["-Xmx384m", "-XX:+UseSerialGC", "-cp"]).arg(self.home.join("lib/*")).args(arguments);
        java.stdin(Stdio::null()).stdout(Stdio::null()).current_dir(self.folder.path());
        java
    }

    /// A certificate that vouches for itself.
    fn certify(&self) {
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"])
            .args(["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "ca.pem"])
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let read = |name: &str| fs::read_to_string(self.file(name)).unwrap();
        fs::write(self.file("keystore.pem"), read("key.pem") + &read("ca.pem")).unwrap();
    }

    /// Starts it and waits until it listens.
    pub fn start(&mut self) {
        let log = fs::File::create(self.file("log")).unwrap();
        let child =
            self.java(&["kafka.Kafka", "server.properties"]).stderr(log).spawn().expect("java starts");
        self.running = Some(child);
        let began = Instant::now();
        while TcpStream::connect(&self.plain).is_err() {
            assert!(began.elapsed() < Duration::from_secs(60), "{}", tail(&self.file("log")));
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Ends it without any notice.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.running.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn tail(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().rev().take(5).collect::<Vec<_>>().join("\n")
}
