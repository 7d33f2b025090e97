//! The built binary as the members of a line: started, killed, told to stop, frozen and thawed.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use castwatch_sim::binary::castwatch;

use crate::broker::free_ports;
use crate::http;

/// How long a member that was told to stop may take.
const STOP: Duration = Duration::from_secs(30);

/// One process of the line. It is killed when the test lets go of it.
pub struct Member {
    /// Its name in the names of its files.
    pub name: String,
    process: Child,
    log: PathBuf,
    port: u16,
    frozen: bool,
}

impl Member {
    /// Starts `castwatch run` with these arguments; it logs into `folder`.
    pub fn start(folder: &Path, name: &str, arguments: &[&str]) -> Self {
        Self::spawn(folder, name, castwatch(&[&["run"], arguments].concat()))
    }

    /// Starts a command of the binary as a member.
    pub fn spawn(folder: &Path, name: &str, mut command: Command) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let [port] = free_ports();
        let process = command
            .env("CASTWATCH_TELEMETRY_LISTEN", format!("127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Self { name: name.to_owned(), process, log, port, frozen: false }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// SIGKILL: no handler runs, nothing is flushed.
    pub fn kill(mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// SIGTERM; it must end by itself, and well.
    pub fn stop(mut self) -> Result<(), String> {
        self.signal("TERM");
        let status = self.ended(STOP);
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("{} ended with {status}: {}", self.name, self.last_words())),
            None => Err(format!("{} did not stop in {STOP:?}: {}", self.name, self.last_words())),
        }
    }

    /// Waits for its end.
    pub fn ended(&mut self, patience: Duration) -> Option<ExitStatus> {
        let began = Instant::now();
        while began.elapsed() < patience {
            if let Some(status) = self.process.try_wait().unwrap() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    }

    /// Whether it runs.
    pub fn alive(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// SIGSTOP: it does nothing and does not know it.
    pub fn freeze(&mut self) {
        self.signal("STOP");
        self.frozen = true;
    }

    /// SIGCONT: it goes on as if no time had passed.
    pub fn thaw(&mut self) {
        self.signal("CONT");
        self.frozen = false;
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name} of {}", self.name);
    }

    /// Everything it said.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines it said.
    pub fn last_words(&self) -> String {
        let text = self.said();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    /// `/health/ready`: the status, 0 where nobody answers, and why.
    pub async fn ready(&self) -> (u16, String) {
        http::get(self.port, "/health/ready").await.unwrap_or_else(|error| (0, error.to_string()))
    }

    /// Waits until `/health/ready` answers `status`; what it said then.
    pub async fn await_ready(&mut self, status: u16, patience: Duration) -> Result<String, String> {
        let began = Instant::now();
        loop {
            let (now, text) = self.ready().await;
            if now == status {
                return Ok(text);
            }
            if !self.alive() || began.elapsed() > patience {
                let words = self.last_words();
                return Err(format!("{}: ready says {now} ({text}), not {status}\n{words}", self.name));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The sum of a metric over its labels that hold all of `labels`; `None` where there is none.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let (_, text) = http::get(self.port, "/metrics").await.ok()?;
        let values = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        });
        values.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).reduce(|a: f64, b: f64| a + b)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
