//! The built binary, run as its users run it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// The root of the project.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// The binary, built in the same profile as this test.
pub fn binary() -> PathBuf {
    let deps = std::env::current_exe().unwrap_or_default();
    let found = deps.ancestors().nth(2).map(|dir| dir.join("castwatch")).unwrap_or_default();
    assert!(found.is_file(), "{} is not there; build it first: cargo build --release", found.display());
    found
}

/// A command of the binary, run in the project's root.
pub fn castwatch(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).current_dir(root()).stdin(Stdio::null());
    command
}

/// Runs a command that must succeed.
pub fn succeed(args: &[&str]) -> Output {
    let output = run(args);
    assert!(output.status.success(), "castwatch {}: {}", args.join(" "), text(&output.stderr));
    output
}

/// Runs a command to its end.
pub fn run(args: &[&str]) -> Output {
    castwatch(args).output().unwrap_or_else(|e| panic!("castwatch {}: {e}", args.join(" ")))
}

/// Runs a command that must succeed and print JSON.
pub fn json(args: &[&str]) -> Value {
    parse(&succeed(args).stdout)
}

/// Reads JSON that must be JSON.
pub fn parse(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|e| panic!("{e} in {}", text(bytes)))
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A process that is killed when the test lets go of it.
pub struct Running(pub Child);

impl Running {
    /// Starts a command without its output.
    pub fn start(args: &[&str]) -> Self {
        let child = castwatch(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|e| panic!("castwatch {}: {e}", args.join(" "))))
    }

    /// SIGKILL: no handler runs, nothing is flushed.
    pub fn kill(mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Sends a signal by name, such as `INT`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.0.id().to_string()]).status();
        assert!(sent.is_ok_and(|s| s.success()), "kill -{name}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The folder of real shots, or `None` after saying that they are not there.
pub fn real_data() -> Option<PathBuf> {
    let dir =
        std::env::var_os("CASTWATCH_TEST_DATA").map_or_else(|| root().join("../shared/data"), PathBuf::from);
    if dir.join("casting_process_train.csv.gz").is_file() {
        return Some(dir);
    }
    eprintln!("skipped: no real shots at {}; CASTWATCH_TEST_DATA names another folder", dir.display());
    None
}
