//! A stage in a process of its own, and what it costs.
//!
//! **CPU time is all that the kernel charged the process for**: it is read when the process has
//! ended and before it is waited for, which is when the kernel forgets it. When things happened is
//! taken from the process's own log lines, so that it does not matter how soon they are read here.

use std::collections::{BTreeMap, VecDeque};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use procfs::process::Process;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::bed::Bed;
use crate::cli::StageName;

/// How often memory and threads are looked at.
const SAMPLE: Duration = Duration::from_millis(100);
/// How long a process may take until it has opened its partitions, or has ended when told to.
const PATIENCE: Duration = Duration::from_secs(90);
/// How many of its last lines are shown of a process that failed.
const LAST_LINES: usize = 5;
const MIB: f64 = (1 << 20) as f64;

/// Where a runner's time went, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Messages that were finished.
    pub taken: u64,
    /// Effects of batches.
    pub handle: f64,
    /// Publishing, to the acknowledgement.
    pub publish: f64,
    /// Saving progress.
    pub save: f64,
}

/// What a process said so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// When its model was loaded.
    pub loaded: Option<Timestamp>,
    /// When it opened each partition, and on how many bytes of state.
    pub opened: BTreeMap<String, (Timestamp, u64)>,
    /// When nothing was left to do.
    pub drained: Option<Timestamp>,
    /// Where its time went.
    pub spent: Option<Spent>,
}

/// A process that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What it said.
    pub seen: Seen,
    /// CPU time in seconds; the kernel tells hundredths, rounded down, in two parts.
    pub cpu: f64,
    /// The most memory it had, in MiB.
    pub peak_mib: f64,
    /// CPU time in seconds by the name of the threads, as last seen.
    pub threads: BTreeMap<String, f64>,
}

/// Memory of a process in MiB.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Now.
    pub now: f64,
    /// At most so far.
    pub peak: f64,
}

/// One stage in a process. It is killed when this is dropped.
pub struct StageProcess {
    /// When it was started.
    pub began: Timestamp,
    pid: i32,
    seen: watch::Receiver<Seen>,
    watching: JoinSet<Result<Ended>>,
}

impl StageProcess {
    /// Starts `stage`; with `drain` it ends by itself when nothing is left to do.
    pub fn start(bed: &Bed, stage: StageName, drain: bool) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("finding this program")?);
        command.args(["run", stage.as_str(), "--config"]).arg(&bed.config);
        command.args(drain.then_some("--drain"));
        command.env_clear().envs(&bed.environment);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("starting the {}", stage.as_str()))?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).context("the process has no id")?;
        let (began, (says, seen)) = (Timestamp::now(), watch::channel(Seen::default()));
        let mut watching = JoinSet::new();
        watching.spawn(async move {
            watch_over(child, pid, says).await.with_context(|| format!("running the {}", stage.as_str()))
        });
        Ok(Self { began, pid, seen, watching })
    }

    /// Waits until it has opened so many partitions; what it said by then.
    pub async fn opened(&mut self, partitions: usize) -> Result<Seen> {
        let enough = |seen: &Seen| seen.opened.len() >= partitions;
        match tokio::time::timeout(PATIENCE, self.seen.wait_for(enough)).await {
            Ok(Ok(seen)) => return Ok(seen.clone()),
            Ok(Err(_)) => {}
            Err(_) => bail!("a stage did not open its partitions within {PATIENCE:?}"),
        }
        self.join().await?;
        bail!("a stage ended before it had opened its partitions")
    }

    /// CPU time so far, in seconds.
    pub fn cpu(&self) -> Result<f64> {
        let stat = Process::new(self.pid)?.stat()?;
        Ok(seconds(stat.utime + stat.stime))
    }

    /// Its memory now.
    pub fn memory(&self) -> Result<Memory> {
        let status = Process::new(self.pid)?.status()?;
        let mib = |kib: Option<u64>| kib.unwrap_or_default() as f64 / 1024.0;
        Ok(Memory { now: mib(status.vmrss), peak: mib(status.vmhwm) })
    }

    /// Waits until it ends by itself.
    pub async fn ended(mut self) -> Result<Ended> {
        self.join().await
    }

    /// Asks it to end, and waits.
    pub async fn stop(mut self) -> Result<Ended> {
        let pid = Pid::from_raw(self.pid).context("the process has no id")?;
        kill_process(pid, Signal::TERM).context("asking a stage to end")?;
        tokio::time::timeout(PATIENCE, self.join()).await.context("a stage did not end when asked to")?
    }

    async fn join(&mut self) -> Result<Ended> {
        self.watching.join_next().await.context("the process was waited for before")??
    }
}

/// Listens to a process and looks at it until it has ended.
async fn watch_over(mut child: Child, pid: i32, says: watch::Sender<Seen>) -> Result<Ended> {
    let mut lines = BufReader::new(child.stderr.take().context("it has no standard error")?).lines();
    let mut last = VecDeque::new();
    let mut usage = Usage::default();
    let mut ticks = tokio::time::interval(SAMPLE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            line = lines.next_line() => match line? {
                Some(line) => {
                    says.send_modify(|seen| seen.hear(&line));
                    last.push_back(line);
                    if last.len() > LAST_LINES {
                        last.pop_front();
                    }
                }
                None => break,
            },
            _ = ticks.tick() => usage.look(pid),
        }
    }
    let cpu = cpu_of_ended(pid).await?;
    let status = child.wait().await?;
    if !status.success() {
        bail!("{status}; its last lines:\n{}", last.make_contiguous().join("\n"));
    }
    let seen = says.borrow().clone();
    Ok(Ended { seen, cpu, peak_mib: usage.peak_mib, threads: usage.by_name() })
}

/// CPU time of a process that closed its outputs: all of it, once it has ended.
async fn cpu_of_ended(pid: i32) -> Result<f64> {
    let ended = async {
        loop {
            let stat = Process::new(pid)?.stat()?;
            if stat.state == 'Z' {
                return Ok(seconds(stat.utime + stat.stime));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.context("it closed its outputs and did not end")?
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / procfs::ticks_per_second() as f64
}

/// What was seen of a living process.
#[derive(Default)]
struct Usage {
    peak_mib: f64,
    /// The name and the CPU seconds of each thread.
    threads: BTreeMap<i32, (String, f64)>,
}

impl Usage {
    /// Looks at the process; one that is ending shows nothing more.
    fn look(&mut self, pid: i32) {
        let Ok(process) = Process::new(pid) else { return };
        if let Some(kib) = process.status().ok().and_then(|status| status.vmhwm) {
            self.peak_mib = kib as f64 * 1024.0 / MIB;
        }
        for task in process.tasks().into_iter().flatten().flatten() {
            if let Ok(stat) = task.stat() {
                self.threads.insert(task.tid, (stat.comm, seconds(stat.utime + stat.stime)));
            }
        }
    }

    fn by_name(self) -> BTreeMap<String, f64> {
        let mut by_name = BTreeMap::new();
        for (name, cpu) in self.threads.into_values() {
            *by_name.entry(kind(&name)).or_default() += cpu;
        }
        by_name
    }
}

/// The kind of a thread: its name without its number.
fn kind(name: &str) -> String {
    name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned()
}

/// A log line, as far as it is of interest.
#[derive(Deserialize)]
struct Line {
    timestamp: String,
    fields: Fields,
}

#[derive(Deserialize)]
struct Fields {
    message: String,
    #[serde(default)]
    partition: String,
    #[serde(default)]
    state_bytes: u64,
    #[serde(default)]
    taken: u64,
    #[serde(default)]
    handle_seconds: f64,
    #[serde(default)]
    publish_seconds: f64,
    #[serde(default)]
    save_seconds: f64,
}

impl Seen {
    /// Takes in a line. Most say nothing of interest, and some are no log lines at all.
    fn hear(&mut self, line: &str) {
        let Ok(Line { timestamp, fields }) = serde_json::from_str(line) else { return };
        let Ok(at) = timestamp.parse::<Timestamp>() else { return };
        match fields.message.as_str() {
            "model bundle loaded" => self.loaded = Some(at),
            "partition opened" => {
                self.opened.insert(fields.partition, (at, fields.state_bytes));
            }
            "drained" => self.drained = Some(at),
            "stage ended" => {
                self.spent = Some(Spent {
                    taken: fields.taken,
                    handle: fields.handle_seconds,
                    publish: fields.publish_seconds,
                    save: fields.save_seconds,
                });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hears_what_stages_say() {
        let mut seen = Seen::default();
        for line in [
            "thread 'x' says something that is no log line",
            r#"{"timestamp":"2026-01-05T00:00:01.000001Z","level":"INFO","fields":{"message":"model bundle loaded","name":"default","digest":"ab"},"target":"castwatch::line"}"#,
            r#"{"timestamp":"2026-01-05T00:00:02.5Z","level":"INFO","fields":{"message":"partition opened","stage":"scorer","partition":"shots/0","position":"7","state_bytes":12},"target":"t"}"#,
            r#"{"timestamp":"2026-01-05T00:00:03Z","level":"INFO","fields":{"message":"partition opened","partition":"shots/0","state_bytes":12},"target":"t"}"#,
            r#"{"timestamp":"2026-01-05T00:00:09Z","level":"INFO","fields":{"message":"drained","seconds":1.5},"target":"t"}"#,
            r#"{"timestamp":"2026-01-05T00:00:09Z","level":"INFO","fields":{"message":"stage ended","stage":"scorer","taken":100,"handle_seconds":0.5,"publish_seconds":0.25,"save_seconds":1},"target":"t"}"#,
        ] {
            seen.hear(line);
        }
        let at = |second: i64| Timestamp::from_second(1_767_571_200 + second).unwrap();
        assert_eq!(seen.loaded, Some("2026-01-05T00:00:01.000001Z".parse().unwrap()));
        assert_eq!(
            seen.opened,
            BTreeMap::from([("shots/0".to_owned(), (at(3), 12))]),
            "a partition counts once"
        );
        assert_eq!(seen.drained, Some(at(9)));
        assert_eq!(seen.spent, Some(Spent { taken: 100, handle: 0.5, publish: 0.25, save: 1.0 }));
    }

    #[tokio::test]
    async fn the_cpu_time_of_an_ended_process_is_all_of_it() {
        let script = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let cpu = cpu_of_ended(child.id().unwrap().cast_signed()).await.unwrap();
        assert!(cpu > 0.0 && cpu < 60.0, "{cpu}");
        assert!(child.wait().await.unwrap().success(), "it can still be waited for");
    }

    #[test]
    fn looks_at_memory_and_threads() {
        let mut usage = Usage::default();
        usage.look(std::process::id().cast_signed());
        assert!(usage.peak_mib > 1.0 && !usage.threads.is_empty());
        assert_eq!(
            (kind("rdk:broker12"), kind("tokio-rt-worker")),
            ("rdk:broker".into(), "tokio-rt-worker".into())
        );
    }
}
