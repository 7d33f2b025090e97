//! `castwatch doctor`: can this machine, with these settings, run castwatch?

use std::io::Write;

use anyhow::Result;
use castwatch_core::event::Topic;
use castwatch_platform::Inspector;
use serde::Serialize;

use crate::cli::Doctor;
use crate::commands::{bundle_dir, out, settings};
use crate::line;

#[derive(Serialize)]
struct Finding {
    what: &'static str,
    well: bool,
    said: String,
}

/// Looks at everything that a run needs; `false` when something is in the way.
pub fn run(args: &Doctor) -> Result<bool> {
    let mut findings = Vec::new();
    let mut note = |what, outcome: Result<String>| {
        let (well, said) = match outcome {
            Ok(said) => (true, said),
            Err(error) => (false, line::words(&error)),
        };
        findings.push(Finding { what, well, said });
    };
    match settings(&args.common) {
        Err(error) => note("settings", Err(error)),
        Ok(settings) => {
            note("settings", Ok(format!("data in {}", settings.data.display())));
            note("bundle", bundle(args, settings.bundle.as_deref()));
            note("log", log(&settings.data));
            note("charts", charts(&settings.data));
            note(
                "channels",
                line::channels(&settings.channels()).map(|c| format!("{} can be opened", c.len())),
            );
            note("page", page(settings.listen));
        }
    }
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

fn bundle(args: &Doctor, set: Option<&std::path::Path>) -> Result<String> {
    let bundle = line::bundle(&bundle_dir(args.bundle.as_deref().or(set))?)?;
    Ok(format!(
        "{} {}, {} features, golden values agree",
        bundle.name(),
        bundle.digest(),
        bundle.features().len()
    ))
}

fn log(data: &std::path::Path) -> Result<String> {
    if !data.join(castwatch_platform::embedded::FILE).exists() {
        writable(data)?;
        return Ok(format!("no log in {} yet; it will be made", data.display()));
    }
    let inspector = Inspector::open(data)?;
    let messages = Topic::ALL.iter().map(|t| inspector.count(t)).sum::<Result<u64, _>>()?;
    Ok(format!("{messages} messages in {}", data.display()))
}

fn charts(data: &std::path::Path) -> Result<String> {
    writable(&data.join("objects"))?;
    Ok(format!("{} can be written", data.join("objects").display()))
}

/// Writes and removes a file, which is the only answer that counts.
fn writable(dir: &std::path::Path) -> Result<()> {
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
