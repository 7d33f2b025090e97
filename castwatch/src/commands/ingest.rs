//! `castwatch ingest` and `castwatch simulate`: shots from outside into the log.
//!
//! **A file is sent once**: how far it was sent is kept in the log under the digest of its bytes,
//! so that a second run goes on where the first one stopped, and a third says that it is done.

use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use castwatch_core::event::{Partition, Position, Topic, hex};
use castwatch_core::ports::{Snapshot, Snapshots, Tally, Token};
use castwatch_ingest::{Plant, PumpSettings, SimSettings, Simulator, Summary, Table, ingest};
use castwatch_platform::Embedded;
use castwatch_platform::shutdown::Shutdown;
use sha2::{Digest, Sha256};

use crate::cli::{Ingest, Simulate};
use crate::commands::{out, progress, runtime, settings};
use crate::line;

/// Rows between two saves of progress: after a kill at most so many are sent again, fewer than the
/// scorer remembers, so that it counts them as duplicates.
const CHUNK: usize = 2048;
/// The name under which progress is saved.
const NAME: &str = "ingest";

/// How far a file was sent.
struct Bookmark {
    file: Partition,
    token: Token,
    at: Snapshot,
}

/// `castwatch ingest`.
pub fn run(args: Ingest) -> Result<()> {
    let settings = settings(&args.common)?;
    castwatch_platform::telemetry::init("warn", false).context("starting the log")?;
    let plant = Plant::load(&args.table.plant)?;
    let file = &args.table.file;
    let summary = runtime()?.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        let log = Embedded::open_with(&settings.data, settings.embedded())
            .with_context(|| format!("opening the log in {}", settings.data.display()))?;
        let mut mark = if file.as_os_str() == "-" { None } else { Some(bookmark(&log, file, args.again).await?) };
        let from = mark.as_ref().map_or(0, |m| m.at.position.0);
        send(&args, &plant, &log, &shutdown, &mut mark, from).await
    })?;
    if args.common.json {
        return out(&summary);
    }
    let mut screen = std::io::stdout().lock();
    writeln!(screen, "{}", line::summary(&summary))?;
    Ok(())
}

async fn bookmark(log: &Embedded, file: &Path, again: bool) -> Result<Bookmark> {
    let digest = digest(file)?;
    let file = Partition::new(Topic::named(format!("file:{}", &digest[..32])), 0);
    let (token, at) = log.take(NAME, &file).await?;
    let at = if again { Snapshot::default() } else { at.unwrap_or_default() };
    Ok(Bookmark { file, token, at })
}

async fn send(
    args: &Ingest,
    plant: &Plant,
    log: &Arc<Embedded>,
    shutdown: &Shutdown,
    mark: &mut Option<Bookmark>,
    from: u64,
) -> Result<Summary> {
    let file = &args.table.file;
    let mut rows = Table::open(file, plant)?.skip_while(|row| row_number(row) <= from).peekable();
    if from > 0 {
        if rows.peek().is_none() {
            bail!("{} was sent before, all {from} rows of it; --again sends it once more", file.display());
        }
        eprintln!("{}: going on after row {from}", file.display());
    }
    let bar = progress(file.display());
    bar.set_position(from);
    let pump = PumpSettings { speed: args.speed, ..PumpSettings::default() };
    let mut total = Summary::default();
    while rows.peek().is_some() && !shutdown.is_set() {
        let mut last = from;
        let chunk = rows.by_ref().take(CHUNK).inspect(|row| last = row_number(row));
        let done = tokio::select! {
            done = ingest(chunk, log, &pump, |_| bar.inc(1)) => done?,
            () = shutdown.wait() => break,
        };
        total.add(done);
        if let Some(mark) = mark.as_mut() {
            mark.at.position = Position(last);
            mark.at.tally = Tally { taken: last, done: last, ..Tally::default() };
            log.save(NAME, &mark.file, &mark.token, &mark.at).await?;
        }
    }
    bar.finish_and_clear();
    if shutdown.is_set() {
        bail!("stopped after row {}; the same command goes on from there", total.rows + from);
    }
    Ok(total)
}

fn row_number(row: &Result<castwatch_ingest::Row, castwatch_ingest::RowError>) -> u64 {
    match row {
        Ok(row) => row.number,
        Err(error) => error.number(),
    }
}

/// SHA-256 of a file's bytes.
fn digest(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = file.read(&mut buffer).with_context(|| format!("reading {}", path.display()))?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..n]);
    }
}

/// `castwatch simulate`.
pub fn simulate(args: &Simulate) -> Result<()> {
    let plant = SimSettings { seed: args.seed, machines: args.machines.into(), ..SimSettings::default() };
    let simulator = Simulator::new(plant);
    let totals = if args.out.as_os_str() == "-" {
        castwatch_ingest::simulator::write_table(simulator, args.shots, &mut std::io::stdout().lock())?
    } else {
        let file = std::fs::File::create(&args.out).with_context(|| format!("creating {}", args.out.display()))?;
        let mut file = BufWriter::new(file);
        let totals = castwatch_ingest::simulator::write_table(simulator, args.shots, &mut file)?;
        file.flush().with_context(|| format!("writing {}", args.out.display()))?;
        totals
    };
    eprintln!("{} shots, {} defects, {} try shots", totals.shots, totals.defects, totals.try_shots);
    Ok(())
}
