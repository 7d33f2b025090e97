//! One line for one scenario: its own topics, groups, table, keys, plant and receiver.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use castwatch_platform::dynamodb::{DynamoDb, DynamoSettings};
use castwatch_platform::kafka::{Kafka, KafkaSettings};
use castwatch_platform::s3::{S3, S3Settings};
use castwatch_sim::binary::{castwatch, text};

use crate::http::Service;
use crate::ledger::Ledger;
use crate::member::Member;
use crate::plant::{Load, Plant};
use crate::proxy::{Proxy, Speech};
use crate::receiver::Receiver;
use crate::world::World;

/// The stages of a whole line.
pub const LINE: [&str; 3] = ["scorer", "explainer", "notifier"];
/// So soon the broker gives the partitions of a silent member away.
pub const SESSION: Duration = Duration::from_secs(3);
/// What alerts are signed with.
const SECRET: &str = "whsec_Y2FzdHdhdGNoLWNoYW9zLXRlc3RzLXNlY3JldA==";

/// When something was done to the line that may cut a send off from the note that it took place.
#[derive(Clone, Copy, Debug)]
pub struct Disturbance {
    /// When it began.
    pub from: Instant,
    /// When it ended; `None` while it goes on.
    pub to: Option<Instant>,
}

/// A line.
pub struct Site {
    /// What stands before its topics.
    pub prefix: String,
    /// Its settings file.
    pub config: PathBuf,
    /// Where its processes log.
    pub folder: PathBuf,
    /// Who receives its alerts,
    pub receiver: Receiver,
    /// and what stands before it.
    pub webhook: Proxy,
    /// What its topics hold.
    pub ledger: Mutex<Ledger>,
    /// Its records, read without a proxy.
    pub records: DynamoDb,
    /// Its charts and its progress, read without a proxy.
    pub objects: S3,
    /// What was done to it.
    pub disturbances: Mutex<Vec<Disturbance>>,
    log: Kafka,
    seed: u64,
}

impl Site {
    /// Makes topics, table and bucket, and what is to run on them. `protocol` is the one by which
    /// members share the work.
    pub async fn new(world: &World, name: &str, protocol: &str) -> Result<Self, String> {
        let prefix = format!("{name}.");
        let folder = world.folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let receiver = Receiver::start().await.unwrap();
        let webhook =
            Proxy::start(receiver.address, Speech::Http(Service::Webhook), world.seed + 3).await.unwrap();
        let (table, keys) = (format!("chaos-{}-{name}", world.run), format!("{}/{name}/", world.run));
        let config = folder.join("castwatch.toml");
        let settings = format!(
            "stream = \"kafka\"
records = \"dynamodb\"
objects = \"s3\"
data_folder = \"data\"
listen = \"127.0.0.1:0\"
[runner]
save_every_ms = 500
[retry]
most_ms = 1000
[charts]
formats = [\"svg\"]
[kafka]
brokers = \"{kafka}\"
topic_prefix = \"{prefix}\"
group_prefix = \"{name}\"
protocol = \"{protocol}\"
session_timeout_ms = {session}
partitions = 4
replication = 1
{heartbeat}
[aws]
region = \"us-east-1\"
access_key = \"castwatch\"
secret_key = \"castwatch\"
[s3]
bucket = \"castwatch-chaos\"
prefix = \"{keys}\"
endpoint = \"http://{s3}\"
path_style = true
[dynamodb]
table = \"{table}\"
endpoint = \"http://{dynamodb}\"
[telemetry]
stall_ms = 3000
[[channel]]
kind = \"webhook\"
name = \"receiver\"
url = \"http://{webhook}/alerts\"
secret = \"{SECRET}\"
timeout_ms = 2000
",
            kafka = world.kafka.address,
            session = SESSION.as_millis(),
            // The broker decides it where it runs the group.
            heartbeat =
                if protocol == "classic" { "librdkafka = [\"heartbeat.interval.ms=500\"]" } else { "" },
            s3 = world.s3.address,
            dynamodb = world.dynamodb.address,
            webhook = webhook.address,
        );
        std::fs::write(&config, settings).unwrap();
        let made = castwatch(&["doctor", "--create", "--config", config.to_str().unwrap()]).output().unwrap();
        if !made.status.success() {
            return Err(format!("doctor --create: {}{}", text(&made.stdout), text(&made.stderr)));
        }
        let log = Kafka::open(KafkaSettings {
            brokers: world.broker.address.clone(),
            topic_prefix: prefix.clone(),
            ..KafkaSettings::default()
        })
        .map_err(|error| error.to_string())?;
        let records = DynamoDb::open(DynamoSettings {
            aws: world.aws(world.services.dynamodb),
            table,
            ..DynamoSettings::default()
        })
        .await;
        let objects = S3::open(S3Settings {
            aws: world.aws(world.services.s3),
            bucket: "castwatch-chaos".to_owned(),
            prefix: keys,
            path_style: true,
            ..S3Settings::default()
        })
        .await;
        let ledger = tokio::task::block_in_place(|| Ledger::open(&world.broker.address, &prefix))
            .map_err(|error| error.to_string())?;
        Ok(Self {
            prefix,
            config,
            folder,
            receiver,
            webhook,
            ledger: Mutex::new(ledger),
            records,
            objects,
            disturbances: Mutex::default(),
            log,
            seed: world.seed,
        })
    }

    /// Starts a process with all stages of the line.
    pub fn member(&self, name: &str) -> Member {
        self.stages(name, &LINE)
    }

    /// Starts a process with these stages.
    pub fn stages(&self, name: &str, stages: &[&str]) -> Member {
        let config = ["--config", self.config.to_str().unwrap()];
        Member::start(&self.folder, name, &[stages, &config].concat())
    }

    /// Starts the plant.
    pub fn plant(&self, load: Load) -> Plant {
        Plant::start(self.log.clone(), load, self.seed)
    }

    /// Notes that a process is killed, frozen or thawed now.
    pub fn disturb(&self) {
        let now = Instant::now();
        self.disturbances.lock().unwrap().push(Disturbance { from: now, to: Some(now) });
    }

    /// Notes that services fail from now on.
    pub fn disturb_on(&self) {
        self.disturbances.lock().unwrap().push(Disturbance { from: Instant::now(), to: None });
    }

    /// Notes that they do not any more.
    pub fn disturb_off(&self) {
        if let Some(last) = self.disturbances.lock().unwrap().iter_mut().rev().find(|d| d.to.is_none()) {
            last.to = Some(Instant::now());
        }
    }
}
