//! Progress of stages.

use castwatch_core::ports::{Generation, Snapshot, Tally, Token};
use castwatch_core::{Partition, PortError, Position, Snapshots};
use rusqlite::{OptionalExtension as _, Row, params};

use super::Embedded;
use super::consumer::parsed;

impl Snapshots for Embedded {
    async fn take(
        &self,
        stage: &str,
        partition: &Partition,
        generation: Generation,
    ) -> Result<(Token, Option<Snapshot>), PortError> {
        let (name, topic, number) = (stage.to_owned(), partition.topic.clone(), partition.index);
        let what = || format!("take-over of {partition} for {stage}");
        let taken = self
            .writer
            .run(what, move |db| {
                db.prepare_cached(
                    "INSERT INTO snapshots (stage, topic, partition, generation, epoch) VALUES (?, ?, ?, ?, 1) \
                     ON CONFLICT DO UPDATE SET epoch = epoch + 1, generation = excluded.generation \
                     WHERE generation <= excluded.generation RETURNING position, tally, state, epoch",
                )?
                .query_row(params![name, topic.as_str(), number, generation.0.cast_signed()], |row| {
                    Ok((Token(row.get::<_, i64>(3)?.to_string()), snapshot(row)?))
                })
                .optional()
            })
            .await?;
        taken.ok_or_else(|| PortError::Fenced { what: what() })
    }

    async fn save(
        &self,
        stage: &str,
        partition: &Partition,
        token: &Token,
        snapshot: &Snapshot,
    ) -> Result<(), PortError> {
        let what = || format!("save of {partition} for {stage}");
        let fenced = || PortError::Fenced { what: what() };
        // A token that is no number was never given out.
        let epoch: i64 = token.0.parse().map_err(|_| fenced())?;
        let tally = serde_json::to_string(&snapshot.tally).map_err(|e| PortError::refused(what(), e))?;
        let (name, topic, number) = (stage.to_owned(), partition.topic.clone(), partition.index);
        let (position, state) = (snapshot.position.0.cast_signed(), snapshot.state.clone());
        let saved = self
            .writer
            .run(what, move |db| {
                db.prepare_cached(
                    "UPDATE snapshots SET position = ?, tally = ?, state = ? \
                     WHERE stage = ? AND topic = ? AND partition = ? AND epoch = ?",
                )?
                .execute(params![
                    position,
                    tally,
                    &state[..],
                    name,
                    topic.as_str(),
                    number,
                    epoch
                ])
            })
            .await?;
        if saved == 0 { Err(fenced()) } else { Ok(()) }
    }
}

/// The snapshot in the first three columns; a partition that was only taken has none.
pub(super) fn snapshot(row: &Row<'_>) -> rusqlite::Result<Option<Snapshot>> {
    let Some(position) = row.get::<_, Option<i64>>(0)? else { return Ok(None) };
    let tally: Option<Tally> = parsed(row, 1, |text| serde_json::from_str(text))?;
    Ok(Some(Snapshot {
        position: Position(position.cast_unsigned()),
        tally: tally.unwrap_or_default(),
        state: row.get::<_, Vec<u8>>(2)?.into(),
    }))
}
