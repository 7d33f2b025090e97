//! A disk that is full, under a line on the embedded log.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use castwatch_platform::Embedded;
use castwatch_sim::binary::{castwatch, parse, text};
use tokio::time::sleep;

use crate::audit::Audit;
use crate::member::Member;
use crate::plant::{Load, Plant};
use crate::receiver::Receiver;
use crate::scenarios::{READY, Told};
use crate::site::LINE;
use crate::world::World;

/// A small file system in memory, unmounted when the test lets go of it.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf, megabytes: u32) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "castwatch"])
            .arg(&at)
            .output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(at))
    }

    /// Fills what is left of it.
    fn fill(&self) {
        use std::io::Write as _;
        let mut ballast = std::fs::File::create(self.ballast()).unwrap();
        for size in [64 * 1024, 4096, 512] {
            while ballast.write_all(&vec![7; size]).is_ok() {}
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The disk of the embedded log is full for a while.
pub async fn full_disk(world: &mut World) -> Told {
    let folder = world.folder.path().join("disk");
    std::fs::create_dir(&folder).unwrap();
    let Some(disk) = Disk::mount(folder.join("small"), 48) else {
        let why = "skipped: no right to mount a small file system; see platform's test of a full log";
        return Ok((why.to_owned(), Audit::default()));
    };
    let data = disk.0.join("data");
    let receiver = Receiver::start().await.unwrap();
    let config = folder.join("castwatch.toml");
    let settings = format!(
        "[runner]
save_every_ms = 200
[retry]
most_ms = 500
[charts]
formats = [\"svg\"]
[telemetry]
stall_ms = 2000
[[channel]]
kind = \"webhook\"
name = \"receiver\"
url = \"http://{}/alerts\"
secret = \"whsec_Y2FzdHdhdGNoLWNoYW9zLXRlc3RzLXNlY3JldA==\"
",
        receiver.address
    );
    std::fs::write(&config, settings).unwrap();
    let common = ["--config", config.to_str().unwrap(), "--data", data.to_str().unwrap()];
    let log = Embedded::open(&data).map_err(|error| error.to_string())?;
    let mut member = Member::start(&folder, "one", &[LINE.as_slice(), &common].concat());
    member.await_ready(200, READY).await?;
    let plant = Plant::start(log, Load { rate: 200, ..Load::default() }, world.seed);
    sleep(Duration::from_secs(2)).await;
    disk.fill();
    let why = member.await_ready(503, READY).await?;
    sleep(Duration::from_secs(2)).await;
    let mut found = Audit::default();
    if !why.contains("full") && !why.contains("disk") {
        found.problems.push(format!("not ready, and does not say that the disk is full: {why}"));
    }
    disk.empty();
    let began = Instant::now();
    member.await_ready(200, READY).await?;
    sleep(Duration::from_secs(1)).await;
    let sent = plant.stop().await;
    let books = loop {
        let books = books(&common)?;
        if books["balanced"] == true || began.elapsed() > READY {
            break books;
        }
        sleep(Duration::from_millis(200)).await;
    };
    found.recovery = began.elapsed();
    tokio::task::block_in_place(|| member.stop())?;
    let count = |what: &str| books["log"][what].as_u64().unwrap_or(0) as usize;
    (found.shots, found.defects) = (count("shots"), count("defects"));
    if books["balanced"] != true {
        found.lost.push(books["problems"].to_string());
    }
    if !(sent.acknowledged.len()..=sent.tried.len()).contains(&found.shots) {
        found.lost.push(format!(
            "{} shots acknowledged, {} in the log",
            sent.acknowledged.len(),
            found.shots
        ));
    }
    let alerts = receiver.inbox.by_alert();
    found.repeats = alerts.values().map(|(_, times)| times.len() - 1).sum();
    found.told_twice.extend(alerts.iter().filter(|(_, (ids, _))| ids.len() > 1).map(|(id, _)| id.clone()));
    if alerts.len() != found.defects {
        found.lost.push(format!("{} defects, {} told", found.defects, alerts.len()));
    }
    Ok(("the embedded log's disk is full for 2 s".to_owned(), found))
}

fn books(common: &[&str]) -> Result<serde_json::Value, String> {
    let output = castwatch(&[&["books", "--json"], common].concat()).output().map_err(|e| e.to_string())?;
    if output.stdout.is_empty() { Err(text(&output.stderr)) } else { Ok(parse(&output.stdout)) }
}
