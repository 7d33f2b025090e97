use bytes::Bytes;

use crate::event::{Partition, Position, Topic};
use crate::ports::{Generation, PortError, Snapshot, Snapshots, Tally, Token};

/// [`Snapshots`]: one snapshot a stage and partition, whole, saved only by who took it last.
pub async fn snapshots<S: Snapshots>(snapshots: &S) {
    keeps_what_was_saved(snapshots).await;
    fences_older_tokens(snapshots).await;
    keeps_partitions_apart(snapshots).await;
    gives_one_of_many_the_partition(snapshots).await;
    keeps_late_assignments_out(snapshots).await;
}

fn partition(index: u32) -> Partition {
    Partition::new(Topic::named("contract-shots"), index)
}

fn snapshot(position: u64, state: impl Into<Bytes>) -> Snapshot {
    let tally = Tally {
        taken: position,
        done: position / 2,
        duplicates: position / 4,
        dead_letters: 1,
        missed: position / 8,
    };
    Snapshot { position: Position(position), tally, state: state.into() }
}

async fn take<S: Snapshots>(snapshots: &S, stage: &str, partition: &Partition) -> (Token, Option<Snapshot>) {
    snapshots.take(stage, partition, Generation(5)).await.expect("take")
}

async fn save<S: Snapshots>(snapshots: &S, stage: &str, at: &Partition, token: &Token, what: &Snapshot) {
    snapshots.save(stage, at, token, what).await.expect("the newest token saves");
}

/// Saves with a token that is no longer the newest.
async fn refused<S: Snapshots>(snapshots: &S, stage: &str, at: &Partition, token: &Token, what: &Snapshot) {
    match snapshots.save(stage, at, token, what).await {
        Err(PortError::Fenced { .. }) => {}
        other => panic!("a save with an older token must be fenced, not {other:?}"),
    }
}

async fn keeps_what_was_saved<S: Snapshots>(snapshots: &S) {
    let (stage, at) = ("contract-keeps", partition(0));
    let (mut token, before) = take(snapshots, stage, &at).await;
    assert_eq!(before, None, "a partition begins without a snapshot");
    let (again, before) = take(snapshots, stage, &at).await;
    assert_eq!(before, None, "taking alone saves nothing");
    assert_ne!(again, token, "every take gives another token");
    token = again;
    let binary: Bytes = (0..=255).cycle().take(1 << 20).collect();
    let cases = [
        snapshot(0, Bytes::new()),
        snapshot(7, "상태"),
        snapshot(u64::from(u32::MAX) * 1000, binary),
        snapshot((1 << 53) + 1, vec![0, 0xff, 0]),
        snapshot(3, Bytes::new()),
    ];
    for case in cases {
        save(snapshots, stage, &at, &token, &case).await;
        save(snapshots, stage, &at, &token, &case).await;
        let (next, kept) = take(snapshots, stage, &at).await;
        let kept = kept.expect("what was saved is there");
        assert_eq!(
            (kept.position, kept.tally),
            (case.position, case.tally),
            "position and tally belong together"
        );
        assert!(kept.state == case.state, "{} bytes of state must survive", case.state.len());
        token = next;
    }
}

async fn fences_older_tokens<S: Snapshots>(snapshots: &S) {
    let (stage, at) = ("contract-fences", partition(1));
    let (first, _) = take(snapshots, stage, &at).await;
    save(snapshots, stage, &at, &first, &snapshot(10, "first")).await;
    let (second, kept) = take(snapshots, stage, &at).await;
    assert_eq!(kept, Some(snapshot(10, "first")), "the new owner goes on from what the old one saved");
    refused(snapshots, stage, &at, &first, &snapshot(20, "late")).await;
    save(snapshots, stage, &at, &second, &snapshot(15, "second")).await;
    refused(snapshots, stage, &at, &first, &snapshot(30, "later still")).await;
    let (third, kept) = take(snapshots, stage, &at).await;
    assert_eq!(kept, Some(snapshot(15, "second")), "what was fenced wrote nothing");
    refused(snapshots, stage, &at, &second, &snapshot(40, "late too")).await;
    refused(snapshots, stage, &at, &Token("no token".into()), &snapshot(50, "forged")).await;
    save(snapshots, stage, &at, &third, &snapshot(16, "third")).await;
}

async fn keeps_partitions_apart<S: Snapshots>(snapshots: &S) {
    let homes = [
        ("contract-a", partition(0)),
        ("contract-b", partition(0)),
        ("contract-a", partition(1)),
        ("contract-a", Partition::new(Topic::named("contract-scores"), 0)),
    ];
    let mut tokens = Vec::new();
    for (n, (stage, at)) in homes.iter().enumerate() {
        let (token, before) = take(snapshots, stage, at).await;
        assert_eq!(before, None, "{stage} {at} must not see another's snapshot");
        save(snapshots, stage, at, &token, &snapshot(n as u64, format!("of {n}"))).await;
        tokens.push(token);
    }
    for (n, (stage, at)) in homes.iter().enumerate() {
        save(snapshots, stage, at, &tokens[n], &snapshot(n as u64 + 100, format!("again {n}"))).await;
    }
    for (n, (stage, at)) in homes.iter().enumerate() {
        let (_, kept) = take(snapshots, stage, at).await;
        assert_eq!(kept, Some(snapshot(n as u64 + 100, format!("again {n}"))), "{stage} {at} has its own");
    }
}

async fn gives_one_of_many_the_partition<S: Snapshots>(snapshots: &S) {
    let (stage, at) = ("contract-race", partition(2));
    let one = || take(snapshots, stage, &at);
    let (a, b, c, d, e, f) = tokio::join!(one(), one(), one(), one(), one(), one());
    let tokens: Vec<Token> = [a, b, c, d, e, f].into_iter().map(|(token, _)| token).collect();
    let mut owners = Vec::new();
    for (n, token) in tokens.iter().enumerate() {
        match snapshots.save(stage, &at, token, &snapshot(n as u64, "mine")).await {
            Ok(()) => owners.push(n),
            Err(PortError::Fenced { .. }) => {}
            Err(other) => panic!("a save is done or fenced, not {other:?}"),
        }
    }
    assert_eq!(owners.len(), 1, "of those who take a partition at once exactly one may save, not {owners:?}");
    let (_, kept) = take(snapshots, stage, &at).await;
    assert_eq!(kept, Some(snapshot(owners[0] as u64, "mine")), "and what it saved is there");
}

async fn keeps_late_assignments_out<S: Snapshots>(snapshots: &S) {
    let (stage, at) = ("contract-late", partition(3));
    let (token, _) = snapshots.take(stage, &at, Generation(7)).await.expect("the first take");
    match snapshots.take(stage, &at, Generation(6)).await {
        Err(PortError::Fenced { .. }) => {}
        other => panic!("an owner of an older generation must be fenced, not {other:?}"),
    }
    save(snapshots, stage, &at, &token, &snapshot(1, "still mine")).await;
    let (again, kept) =
        snapshots.take(stage, &at, Generation(7)).await.expect("the same generation takes again");
    assert_eq!(kept, Some(snapshot(1, "still mine")));
    let (later, _) = snapshots.take(stage, &at, Generation(8)).await.expect("a later generation takes");
    refused(snapshots, stage, &at, &again, &snapshot(2, "late")).await;
    save(snapshots, stage, &at, &later, &snapshot(3, "newest")).await;
}
