//! `castwatch doctor`: can this machine, with these settings, run castwatch?
//!
//! With `--create` it makes what is missing: topics, the table, the bucket.

use std::io::Write;
use std::path::Path;

use anyhow::{Result, bail};
use castwatch_core::event::Topic;
use castwatch_platform::Inspector;
use castwatch_platform::config::{ObjectsKind, RecordsKind, Settings, StreamKind};
use castwatch_platform::dynamodb::DynamoDb;
use castwatch_platform::kafka::Kafka;
use castwatch_platform::s3::S3;
use serde::Serialize;

use crate::cli::Doctor;
use crate::commands::{bundle_dir, out, runtime, settings};
use crate::line;

#[derive(Serialize)]
struct Finding {
    what: &'static str,
    well: bool,
    said: String,
}

/// What was found so far.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn note(&mut self, what: &'static str, outcome: Result<String>) {
        let (well, said) = match outcome {
            Ok(said) => (true, said),
            Err(error) => (false, line::words(&error)),
        };
        self.0.push(Finding { what, well, said });
    }
}

/// Looks at everything that a run needs; `false` when something is in the way.
pub fn run(args: &Doctor) -> Result<bool> {
    let mut findings = Findings::default();
    match settings(&args.common) {
        Err(error) => findings.note("settings", Err(error)),
        Ok(settings) => {
            findings.note("settings", Ok(format!("data in {}", settings.data.display())));
            findings.note("bundle", bundle(args, settings.bundle.as_deref()));
            runtime()?.block_on(stores(&settings, args.create, &mut findings));
            findings.note(
                "channels",
                line::channels(&settings.channels()).map(|c| format!("{} can be opened", c.len())),
            );
            findings.note("page", page(settings.listen));
        }
    }
    let Findings(findings) = findings;
    let well = findings.iter().all(|f| f.well);
    if args.common.json {
        out(&findings)?;
        return Ok(well);
    }
    let mut screen = std::io::stdout().lock();
    for f in &findings {
        writeln!(screen, "{} {:<9} {}", if f.well { "ok  " } else { "FAIL" }, f.what, f.said)?;
    }
    Ok(well)
}

fn bundle(args: &Doctor, set: Option<&Path>) -> Result<String> {
    let bundle = line::bundle(&bundle_dir(args.bundle.as_deref().or(set))?)?;
    Ok(format!(
        "{} {}, {} features, golden values agree",
        bundle.name(),
        bundle.digest(),
        bundle.features().len()
    ))
}

/// Looks at the stores that the settings name.
async fn stores(settings: &Settings, create: bool, findings: &mut Findings) {
    let uses_file = settings.stream == StreamKind::Embedded
        || settings.records == RecordsKind::Embedded
        || settings.objects == ObjectsKind::Folder;
    if uses_file {
        findings.note("log", embedded(&settings.data));
    }
    if settings.stream == StreamKind::Kafka {
        findings.note("topics", topics(settings, create).await);
    }
    if settings.records == RecordsKind::DynamoDb {
        findings.note("table", table(settings, create).await);
    }
    match settings.objects {
        ObjectsKind::Folder => findings.note("charts", charts(settings)),
        ObjectsKind::S3 => findings.note("bucket", bucket(settings, create).await),
    }
}

fn embedded(data: &Path) -> Result<String> {
    if !data.join(castwatch_platform::embedded::FILE).exists() {
        writable(data)?;
        return Ok(format!("no log in {} yet; it will be made", data.display()));
    }
    let inspector = Inspector::open(data)?;
    let messages = Topic::ALL.iter().map(|t| inspector.count(t)).sum::<Result<u64, _>>()?;
    Ok(format!("{messages} messages in {}", data.display()))
}

async fn topics(settings: &Settings, create: bool) -> Result<String> {
    let kafka = Kafka::open(settings.kafka.clone())?;
    let topics =
        if create { kafka.ensure_topics(&Topic::ALL).await? } else { kafka.check(&Topic::ALL).await? };
    let wrong: Vec<String> = topics
        .iter()
        .flat_map(|t| t.faults.iter().map(move |fault| format!("{}: {fault}", t.name)))
        .collect();
    if wrong.is_empty() {
        Ok(format!("{} topics at {} are as they should be", topics.len(), settings.kafka.brokers))
    } else {
        let missing = if create { "" } else { "; `castwatch doctor --create` makes what is missing" };
        bail!("{}{missing}", wrong.join("; "))
    }
}

async fn table(settings: &Settings, create: bool) -> Result<String> {
    let table = DynamoDb::open(settings.dynamodb.clone()).await;
    if create {
        table.create_table().await?;
    }
    Ok(table.check().await?)
}

async fn bucket(settings: &Settings, create: bool) -> Result<String> {
    let s3 = S3::open(settings.s3.clone()).await;
    if create {
        s3.create_bucket().await?;
    }
    Ok(s3.check().await?)
}

fn charts(settings: &Settings) -> Result<String> {
    let folder = settings.data.join("objects");
    writable(&folder)?;
    Ok(format!("{} can be written", folder.display()))
}

/// Writes and removes a file, which is the only answer that counts.
fn writable(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let probe = dir.join(format!(".castwatch-doctor-{}", std::process::id()));
    std::fs::write(&probe, b"ok")?;
    std::fs::remove_file(probe)?;
    Ok(())
}

fn page(listen: std::net::SocketAddr) -> Result<String> {
    drop(std::net::TcpListener::bind(listen)?);
    Ok(format!("{listen} is free"))
}
