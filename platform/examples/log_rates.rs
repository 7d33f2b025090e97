//! How fast the embedded log takes and gives shots, and what durability costs.
//!
//! `cargo run --release -p castwatch-platform --example log_rates [SHOTS] [DATA_FOLDER]`
#![allow(clippy::print_stdout)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use castwatch_core::ports::{Generation, Snapshot, Start};
use castwatch_core::{
    Consumer as _, Delivery, EndedAt, Event, Outgoing, Position, Publisher as _, Readings, Shot,
    Snapshots as _, Topic,
};
use castwatch_platform::{Durability, Embedded, EmbeddedSettings};

const BATCH: usize = 512;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let shots: usize = args.next().map_or(Ok(100_000), |n| n.parse()).context("SHOTS is a number")?;
    let below = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let events = (0..shots as u64).map(shot).collect::<anyhow::Result<Vec<_>>>()?;
    for durability in [Durability::Full, Durability::Normal] {
        let folder = tempfile::tempdir_in(&below)?;
        let settings = EmbeddedSettings { durability, ..EmbeddedSettings::default() };
        let log = Embedded::open_with(folder.path(), settings)?;
        let mut reader = log.consumer("bench", &[Topic::SHOTS]);

        let began = Instant::now();
        let mut waits = Vec::new();
        for batch in events.chunks(BATCH) {
            let asked = Instant::now();
            log.publish(batch).await?;
            waits.push(asked.elapsed());
        }
        let published = began.elapsed();

        let began = Instant::now();
        let mut left = shots;
        while left > 0 {
            match reader.next(Duration::from_secs(1)).await? {
                Delivery::Assigned(_, partitions) => {
                    for partition in &partitions {
                        reader.start(partition, Start::Earliest).await?;
                    }
                }
                Delivery::Batch(_, messages) => left -= messages.len(),
                other => bail!("{left} shots are missing: {other:?}"),
            }
        }
        let consumed = began.elapsed();

        let began = Instant::now();
        for event in &events[..200.min(events.len())] {
            log.publish(std::slice::from_ref(event)).await?;
        }
        let alone = began.elapsed() / 200;
        let partition = castwatch_core::Partition::new(Topic::SHOTS, 0);
        let (token, _) = log.take("bench", &partition, Generation(1)).await?;
        let state = bytes::Bytes::from(vec![7; 64 * 1024]);
        let began = Instant::now();
        for n in 0..100 {
            let snapshot = Snapshot { position: Position(n), state: state.clone(), ..Snapshot::default() };
            log.save("bench", &partition, &token, &snapshot).await?;
        }
        let saved = began.elapsed() / 100;
        waits.sort();
        println!(
            "{durability:?}: published {:.0}/s (batch of {BATCH}: median {:.1?}, longest {:.1?}), consumed {:.0}/s, \
             one event alone {alone:.1?}, a snapshot of 64 KiB {saved:.1?}, {:.0} bytes a shot on disk",
            shots as f64 / published.as_secs_f64(),
            waits[waits.len() / 2],
            waits[waits.len() - 1],
            shots as f64 / consumed.as_secs_f64(),
            std::fs::metadata(folder.path().join("castwatch.sqlite"))?.len() as f64 / shots as f64,
        );
    }
    Ok(())
}

/// A shot of 25 readings on one of eight machines.
fn shot(n: u64) -> anyhow::Result<Outgoing> {
    let readings: Readings = (0..25)
        .map(|r| (format!("reading_number_{r}"), Some((n * 31 + r * 7) as f64 % 997.0 / 3.0)))
        .collect();
    let seconds = 1_768_000_000 + n as i64 / 8 * 40;
    let shot = Shot {
        machine: format!("DCM-{:02}", n % 8),
        die: format!("{}", 8700 + n / 8 % 3),
        cycle: n,
        ended_at: EndedAt::new(jiff::Timestamp::from_second(seconds)?, jiff::tz::offset(9))?,
        try_shot: false,
        readings,
    };
    Ok(Outgoing { topic: Topic::SHOTS, key: shot.machine.clone(), event: Event::of_shot(&shot, "/bench")? })
}
