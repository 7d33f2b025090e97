//! `castwatch ingest` and `castwatch simulate`: shots from outside into the log.
//!
//! **A file is sent once**: how far it was sent is kept in the log under the digest of its bytes,
//! so that a second run goes on where the first one stopped, and a third says that it is done.

use std::io::{BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use castwatch_core::event::{Partition, Position, Topic, hex};
use castwatch_core::ports::{Generation, Snapshot, Snapshots, Tally, Token};
use castwatch_ingest::{Plant, PumpSettings, SimSettings, Simulator, Summary, Table, ingest};
use castwatch_platform::shutdown::Shutdown;
use sha2::{Digest, Sha256};

use crate::cli::{Ingest, Simulate};
use crate::commands::{out, progress, runtime, say, settings};
use crate::stores::{SnapshotStore, Stores};

/// The name under which progress is saved.
const NAME: &str = "ingest";

/// How far a file was sent, kept after every batch.
struct Bookmark {
    file: Partition,
    token: Token,
    at: Snapshot,
}

impl Bookmark {
    /// The bookmark of a file as this plant file reads it: a mended plant file begins anew.
    async fn take(snapshots: &SnapshotStore, file: &Path, plant: &Path) -> Result<Self> {
        let name = format!("file:{}:{}", &digest(file)?[..24], &digest(plant)?[..8]);
        let file = Partition::new(Topic::named(name), 0);
        let (token, at) = snapshots.take(NAME, &file, Generation::default()).await?;
        Ok(Self { file, token, at: at.unwrap_or_default() })
    }
}

/// `castwatch ingest`.
pub fn run(args: Ingest) -> Result<()> {
    let settings = settings(&args.common)?;
    castwatch_platform::telemetry::init("warn", false).context("starting the log")?;
    let plant = Plant::load(&args.table.plant)?;
    let summary = runtime()?.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        let stores = Stores::open(&settings).await?;
        tokio::select! {
            summary = send(&args, &plant, &stores) => summary,
            () = shutdown.wait() => bail!("stopped; the same command goes on where this one ended"),
        }
    })?;
    if args.common.json {
        return out(&summary);
    }
    let mut screen = std::io::stdout().lock();
    writeln!(
        screen,
        "{} rows: {} shots published, {} refused",
        summary.rows, summary.published, summary.refused
    )?;
    for reason in &summary.reasons {
        writeln!(screen, "  refused: {reason}")?;
    }
    for (reading, count) in &summary.nulled {
        writeln!(screen, "  {reading}: {count} codes for \"no sensor\" made null")?;
    }
    if summary.refused > 0 {
        writeln!(screen, "Refused rows are kept: castwatch dlq list --stage ingest")?;
    }
    Ok(())
}

async fn send(args: &Ingest, plant: &Plant, stores: &Stores) -> Result<Summary> {
    let file = &args.table.file;
    let mut mark = if file.as_os_str() == "-" {
        None
    } else {
        Some(Bookmark::take(&stores.snapshots, file, &args.table.plant).await?)
    };
    let before = mark.as_ref().map_or(0, |m| if args.again { 0 } else { m.at.position.0 });
    if before > 0 {
        say(format_args!("{}: {before} rows were sent before; going on from there", file.display()));
    }
    let bar = progress(file.display());
    let pump = PumpSettings { speed: args.speed, from_row: before + 1, ..PumpSettings::default() };
    let rows = Table::open(file, plant)?;
    let name = file.display().to_string();
    let summary = ingest(&name, rows, &stores.log, &pump, async |summary: &Summary| {
        bar.set_position(summary.next_row - 1);
        let Some(mark) = mark.as_mut() else { return Ok(()) };
        mark.at.position = Position(summary.next_row - 1);
        mark.at.tally = Tally {
            taken: summary.rows,
            done: summary.published,
            dead_letters: summary.refused,
            ..Tally::default()
        };
        stores.snapshots.save(NAME, &mark.file, &mark.token, &mark.at).await
    })
    .await?;
    bar.finish_and_clear();
    if summary.rows == 0 && before > 0 {
        bail!("{} was sent before, all {before} rows of it; --again sends it once more", file.display());
    }
    Ok(summary)
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
        let file =
            std::fs::File::create(&args.out).with_context(|| format!("creating {}", args.out.display()))?;
        let mut file = BufWriter::new(file);
        let totals = castwatch_ingest::simulator::write_table(simulator, args.shots, &mut file)?;
        file.flush().with_context(|| format!("writing {}", args.out.display()))?;
        totals
    };
    say(format_args!("{} shots, {} defects, {} try shots", totals.shots, totals.defects, totals.try_shots));
    Ok(())
}
