use std::time::Duration;

use bytes::Bytes;
use castwatch_core::ports::{Claim, Generation, RecordQuery, Snapshot, Start};
use castwatch_core::{
    Consumer, Delivery, Event, Message, Outgoing, Partition, PortError, Position, Publisher, Records,
    Snapshots, Topic, contract,
};

use super::*;

fn outgoing(key: &str, id: usize, bytes: usize) -> Outgoing {
    let event = Event {
        id: id.to_string(),
        ty: Event::SHOT.into(),
        source: "/test".into(),
        subject: id.to_string(),
        time: None,
        traceparent: None,
        extensions: Vec::new(),
        data: Bytes::from(vec![b' '; bytes]),
    };
    Outgoing { topic: Topic::SHOTS, key: key.into(), event }
}

/// Everything in `shots` from the beginning.
async fn read_all(log: &Arc<Embedded>) -> Vec<Message> {
    let mut consumer = log.consumer("test", &[Topic::SHOTS]);
    let mut all = Vec::new();
    loop {
        match consumer.next(Duration::from_millis(20)).await.unwrap() {
            Delivery::Assigned(_, partitions) => {
                for partition in &partitions {
                    consumer.start(partition, Start::Earliest).await.unwrap();
                }
            }
            Delivery::Batch(_, messages) => all.extend(messages),
            Delivery::Idle => return all,
            other => panic!("{other:?}"),
        }
    }
}

fn said(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let log = Embedded::open(folder.path()).unwrap();
    contract::log(&*log, |stage, topics| log.consumer(stage, topics)).await;
    contract::snapshots(&*log).await;
    contract::records(&*log).await;
}

#[tokio::test]
async fn passes_the_contract_with_one_thread_small_batches_and_one_partition() {
    let folder = tempfile::tempdir().unwrap();
    let settings = EmbeddedSettings { partitions: 1, durability: Durability::Normal, batch: 3 };
    let log = Embedded::open_with(folder.path(), settings).unwrap();
    contract::log(&*log, |stage, topics| log.consumer(stage, topics)).await;
    contract::snapshots(&*log).await;
}

#[tokio::test]
async fn nothing_is_lost_when_connections_are_dropped_in_the_middle() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for _ in 0..5 {
        let log = Embedded::open(folder.path()).unwrap();
        let mut sent = tokio::task::JoinSet::new();
        for batch in 0..20 {
            let log = Arc::clone(&log);
            let events: Vec<Outgoing> =
                (0..7).map(|n| outgoing(&format!("DCM-{n}"), acknowledged + batch * 7 + n, 50)).collect();
            sent.spawn(async move { log.publish(&events).await });
        }
        while sent.join_next().await.is_some_and(|done| done.unwrap().is_ok()) {
            acknowledged += 7;
        }
        // What a killed process leaves: the WAL was not carried over.
        let killed = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), killed.path().join(file.file_name())).unwrap();
        }
        let again = Embedded::open(killed.path()).unwrap();
        let read = read_all(&again).await;
        assert_eq!(read.len(), acknowledged, "what was acknowledged is in the file of a killed process");
        assert_eq!(again.inspector().unwrap().distinct_ids(&Topic::SHOTS).unwrap(), acknowledged as u64);
        for extent in again.inspector().unwrap().ends(&Topic::SHOTS).unwrap() {
            let inside = again.inspector().unwrap().scan(&extent.partition, extent.first, 10_000).unwrap();
            let positions: Vec<u64> = inside.iter().map(|m| m.position.0).collect();
            assert_eq!(positions, (0..extent.next.0).collect::<Vec<_>>(), "positions are contiguous");
        }
    }
}

#[tokio::test]
async fn a_transaction_that_was_never_committed_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let log = Embedded::open(folder.path()).unwrap();
    log.publish(&[outgoing("DCM-01", 1, 10)]).await.unwrap();
    let other = schema::open_to_write(&folder.path().join(FILE), Durability::Full).unwrap();
    other.execute_batch("BEGIN IMMEDIATE; UPDATE partitions SET next = 77; DELETE FROM messages").unwrap();
    drop(other);
    log.publish(&[outgoing("DCM-01", 2, 10)]).await.unwrap();
    let positions: Vec<(u64, String)> =
        read_all(&log).await.into_iter().map(|m| (m.position.0, m.event.id)).collect();
    assert_eq!(positions, [(0, "1".into()), (1, "2".into())]);
}

#[tokio::test]
async fn a_full_disk_is_an_outage_that_passes() {
    let folder = tempfile::tempdir().unwrap();
    let log = Embedded::open(folder.path()).unwrap();
    log.publish(&[outgoing("DCM-01", 0, 10)]).await.unwrap();
    let limit = async |pages: i64| {
        let set = move |db: &Connection| {
            db.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |row| row.get::<_, i64>(0))
        };
        log.writer.run(|| "limit".into(), set).await.unwrap()
    };
    limit(30).await;
    let large: Vec<Outgoing> = (1..200).map(|n| outgoing("DCM-01", n, 4000)).collect();
    let error = log.publish(&large).await.unwrap_err();
    assert!(matches!(error, PortError::Unavailable { .. }), "{error:?}");
    assert!(said(error).starts_with("publish to shots is not available: the disk is full: make room"));
    assert_eq!(read_all(&log).await.len(), 1, "of a publish that failed nothing is there");
    log.publish(&[outgoing("DCM-01", 500, 10)]).await.expect("what fits is still taken");
    limit(1_000_000).await;
    log.publish(&large).await.expect("with room the line goes on");
    let positions: Vec<u64> = read_all(&log).await.iter().map(|m| m.position.0).collect();
    assert_eq!(positions, (0..201).collect::<Vec<_>>(), "without a gap");
}

#[tokio::test]
async fn two_processes_see_each_other_and_fence_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let one = Embedded::open(folder.path()).unwrap();
    let two =
        Embedded::open_with(folder.path(), EmbeddedSettings { partitions: 9, ..EmbeddedSettings::default() });
    let two = two.unwrap();
    one.publish(&[outgoing("DCM-01", 1, 10)]).await.unwrap();
    let mut reader = two.consumer("scorer", &[Topic::SHOTS]);
    let Delivery::Assigned(_, partitions) = reader.next(Duration::ZERO).await.unwrap() else { panic!() };
    assert_eq!(partitions.len(), 4, "a topic keeps the partitions that it was made with");
    for partition in &partitions {
        reader.start(partition, Start::Tail(0)).await.unwrap();
    }
    // The other's message ends the wait, well before its end.
    let began = std::time::Instant::now();
    let two_events = [outgoing("DCM-01", 2, 10)];
    let (delivery, published) = tokio::join!(reader.next(Duration::from_secs(20)), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        one.publish(&two_events).await
    });
    published.unwrap();
    assert!(matches!(&delivery.unwrap(), Delivery::Batch(_, messages) if messages[0].event.id == "2"));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());

    // Both write at once; nothing is lost and positions stay contiguous.
    let write = async |log: &Arc<Embedded>, from: usize| {
        for n in from..from + 100 {
            log.publish(&[outgoing("DCM-01", n, 10)]).await.unwrap();
        }
    };
    tokio::join!(write(&one, 1000), write(&two, 2000));
    let all = read_all(&one).await;
    assert_eq!(all.len(), 202);
    assert!(all.iter().enumerate().all(|(n, m)| m.position.0 == n as u64));

    let partition = &partitions[0];
    let snapshot = Snapshot { position: Position(5), ..Snapshot::default() };
    let (old, _) = one.take("scorer", partition, Generation(1)).await.unwrap();
    let (new, _) = two.take("scorer", partition, Generation(1)).await.unwrap();
    two.save("scorer", partition, &new, &snapshot).await.unwrap();
    let late = one.save("scorer", partition, &old, &Snapshot::default()).await;
    assert!(matches!(late, Err(PortError::Fenced { .. })), "{late:?}");
    assert_eq!(one.inspector().unwrap().snapshots_of("scorer").unwrap(), [(partition.clone(), snapshot)]);
}

#[tokio::test]
async fn a_lock_that_lasts_is_an_outage_that_passes() {
    let folder = tempfile::tempdir().unwrap();
    let log = Embedded::open(folder.path()).unwrap();
    log.writer.run(|| "wait".into(), |db| db.busy_timeout(Duration::from_millis(50))).await.unwrap();
    let other = schema::open_to_write(&folder.path().join(FILE), Durability::Full).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = log.publish(&[outgoing("DCM-01", 1, 10)]).await.unwrap_err();
    assert!(matches!(error, PortError::Unavailable { .. }));
    assert!(said(error).contains("another process keeps the database locked"));
    let shots = Partition::new(Topic::SHOTS, 0);
    assert_eq!(log.inspector().unwrap().scan(&shots, Position(0), 1).unwrap(), [], "readers do not wait");
    other.execute_batch("ROLLBACK").unwrap();
    log.publish(&[outgoing("DCM-01", 1, 10)]).await.unwrap();
}

#[test]
fn files_that_are_not_ours_are_named_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(FILE);
    let refused = |expected: &str| {
        let before = std::fs::read(&file).unwrap();
        let to_write = said(Embedded::open(folder.path()).unwrap_err());
        let to_read = said(Inspector::open(folder.path()).unwrap_err());
        assert_eq!(to_write, to_read);
        assert!(to_write.contains(expected), "{to_write}");
        assert_eq!(std::fs::read(&file).unwrap(), before, "the file is as it was");
    };
    assert!(said(Inspector::open(folder.path()).unwrap_err()).starts_with("there is no "));
    assert!(!file.exists(), "looking creates nothing");

    std::fs::write(&file, "machine,die,cycle\n".repeat(1000)).unwrap();
    refused("is not a castwatch database: move it away, or choose another data folder");

    std::fs::remove_file(&file).unwrap();
    Connection::open(&file).unwrap().execute_batch("CREATE TABLE songs (name TEXT)").unwrap();
    refused("is not a castwatch database");

    std::fs::remove_file(&file).unwrap();
    drop(Embedded::open(folder.path()).unwrap());
    let db = Connection::open(&file).unwrap();
    db.pragma_update(None, "user_version", 7).unwrap();
    drop(db);
    refused("was written by a newer castwatch (layout 7; this one knows 2): use that version");

    let blocked = folder.path().join("file");
    std::fs::write(&blocked, "x").unwrap();
    assert!(said(Embedded::open(&blocked).unwrap_err()).contains("can't be used: choose another"));
}

#[tokio::test]
async fn damage_is_named_wherever_it_is_and_nothing_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let log = Embedded::open(folder.path()).unwrap();
    let events: Vec<Outgoing> = (0..500).map(|n| outgoing("DCM-01", n, 1000)).collect();
    log.publish(&events).await.unwrap();
    let extents = log.inspector().unwrap().ends(&Topic::SHOTS).unwrap();
    let partition = extents.into_iter().find(|e| e.next.0 == 500).unwrap().partition;
    drop(log);
    let file = folder.path().join(FILE);
    let sound = std::fs::read(&file).unwrap();
    for tenth in 1..10 {
        let mut bytes = sound.clone();
        let from = bytes.len() * tenth / 10;
        bytes[from..].fill(0xA5);
        std::fs::write(&file, bytes).unwrap();
        let inspector = Inspector::open(folder.path()).unwrap();
        let (mut read, mut at) = (0, Position(0));
        let error = loop {
            match inspector.scan(&partition, at, 7) {
                Ok(messages) if messages.is_empty() => break None,
                Ok(messages) => {
                    for message in messages {
                        assert_eq!((message.position, message.event.id), (at, read.to_string()));
                        (read, at) = (read + 1, at.next());
                    }
                }
                Err(error) => break Some(error),
            }
        };
        let error = error.unwrap_or_else(|| panic!("{read} of 500 messages, and no error"));
        let error = PortError::unavailable("read of shots", error);
        let said = said(error);
        assert!(said.starts_with("read of shots is not available: the database is damaged: stop"), "{said}");
    }
}

#[tokio::test]
async fn many_may_open_a_new_folder_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let open = |n: usize| {
        let folder = folder.path().to_owned();
        std::thread::spawn(move || (n, Embedded::open(folder).unwrap()))
    };
    let opening: Vec<_> = (0..8).map(open).collect();
    for thread in opening {
        let (n, log) = thread.join().unwrap();
        log.publish(&[outgoing("DCM-01", n, 10)]).await.unwrap();
    }
    assert_eq!(Inspector::open(folder.path()).unwrap().distinct_ids(&Topic::SHOTS).unwrap(), 8);
}

#[tokio::test]
async fn too_large_an_event_and_a_bad_page_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let log = Embedded::open(folder.path()).unwrap();
    let refused = |error: PortError| assert!(matches!(error, PortError::Refused { .. }), "{error:?}");
    refused(log.publish(&[outgoing("DCM-01", 1, 65 * 1024 * 1024)]).await.unwrap_err());
    log.publish(&[outgoing("DCM-01", 1, 10 * 1024 * 1024)]).await.expect("bad input of 10 MB is kept");
    assert_eq!(read_all(&log).await.len(), 1);
    for query in [
        RecordQuery { limit: 0, ..RecordQuery::default() },
        RecordQuery { limit: 1001, ..RecordQuery::default() },
        RecordQuery { limit: 5, before: Some("yesterday".into()), ..RecordQuery::default() },
    ] {
        refused(log.list(&query).await.unwrap_err());
    }
}

#[tokio::test]
async fn partitions_take_turns_and_released_ones_are_silent() {
    let folder = tempfile::tempdir().unwrap();
    let settings = EmbeddedSettings { batch: 10, ..EmbeddedSettings::default() };
    let log = Embedded::open_with(folder.path(), settings).unwrap();
    let events: Vec<Outgoing> =
        (0..4000).map(|n| outgoing(&format!("DCM-{}", if n % 10 == 0 { n } else { 1 }), n, 10)).collect();
    log.publish(&events).await.unwrap();
    let mut reader = log.consumer("scorer", &[Topic::SHOTS]);
    let Delivery::Assigned(_, partitions) = reader.next(Duration::ZERO).await.unwrap() else { panic!() };
    for partition in &partitions {
        reader.start(partition, Start::Earliest).await.unwrap();
    }
    let mut turns = Vec::new();
    for _ in 0..12 {
        let Delivery::Batch(partition, messages) = reader.next(Duration::ZERO).await.unwrap() else {
            panic!()
        };
        assert_eq!(messages.len(), 10);
        turns.push(partition);
    }
    for round in turns.chunks(4) {
        let mut round: Vec<_> = round.to_vec();
        round.sort();
        assert_eq!(round, partitions, "each partition has its turn");
    }
    reader.release(&partitions[1..]).await.unwrap();
    while let Delivery::Batch(partition, _) = reader.next(Duration::ZERO).await.unwrap() {
        assert_eq!(partition, partitions[0], "released partitions are silent");
    }
    let gone = reader.start(&partitions[1], Start::Earliest).await.unwrap_err();
    assert!(matches!(gone, PortError::Refused { .. }), "{gone:?}");
}

#[tokio::test]
async fn the_last_consumer_of_a_stage_is_its_only_one() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (Embedded::open(folder.path()).unwrap(), Embedded::open(folder.path()).unwrap());
    let (mut early, mut other) =
        (one.consumer("scorer", &[Topic::SHOTS]), one.consumer("console", &[Topic::SHOTS]));
    let mut late = two.consumer("scorer", &[Topic::SHOTS]);
    let Delivery::Assigned(first, _) = early.next(Duration::ZERO).await.unwrap() else { panic!() };
    assert!(matches!(other.next(Duration::ZERO).await.unwrap(), Delivery::Assigned(..)));
    assert!(matches!(early.next(Duration::ZERO).await.unwrap(), Delivery::Idle));
    // The early one hears of it while it waits.
    let (out, Ok(Delivery::Assigned(second, _))) =
        tokio::join!(early.next(Duration::from_secs(20)), late.next(Duration::ZERO))
    else {
        panic!()
    };
    assert!(matches!(out, Err(PortError::Fenced { .. })), "{out:?}");
    assert!(second > first, "{first:?} {second:?}");
    assert!(matches!(late.next(Duration::ZERO).await.unwrap(), Delivery::Idle));
    assert!(matches!(other.next(Duration::ZERO).await.unwrap(), Delivery::Idle), "other stages go on");
}

#[tokio::test]
async fn the_inspector_counts() {
    let folder = tempfile::tempdir().unwrap();
    let log = Embedded::open(folder.path()).unwrap();
    let alerts: Vec<Outgoing> =
        [3, 3, 5].iter().map(|n| Outgoing { topic: Topic::ALERTS, ..outgoing("DCM-01", *n, 1) }).collect();
    let shots: Vec<Outgoing> = (0..6).chain([3]).map(|n| outgoing(&format!("DCM-{n}"), n, 1)).collect();
    log.publish(&shots).await.unwrap();
    log.publish(&alerts).await.unwrap();
    assert_eq!(log.claim("alert:3").await.unwrap(), Claim::Fresh);
    assert_eq!(log.claim("alert:5").await.unwrap(), Claim::Fresh);
    log.settle("alert:5").await.unwrap();
    let inspector = Inspector::open(folder.path()).unwrap();
    assert_eq!(inspector.topics().unwrap(), [Topic::ALERTS, Topic::SHOTS]);
    assert_eq!(
        (inspector.count(&Topic::SHOTS).unwrap(), inspector.distinct_ids(&Topic::SHOTS).unwrap()),
        (7, 6)
    );
    assert_eq!(inspector.ends(&Topic::SHOTS).unwrap().iter().map(|e| e.next.0 - e.first.0).sum::<u64>(), 7);
    assert_eq!(inspector.ends(&Topic::SCORES).unwrap(), []);
    assert_eq!(inspector.count(&Topic::SCORES).unwrap(), 0);
    assert_eq!(inspector.claims().unwrap(), Claims { begun: 1, settled: 1 });
    assert_eq!(inspector.records().unwrap(), 0);
}
