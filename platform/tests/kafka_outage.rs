//! Kafka going away and coming back, and Kafka with a lock on its door: on brokers of the tests' own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod kafka_support;

use std::time::{Duration, Instant};

use castwatch_core::{Consumer, Delivery, PortError, Publisher, Topic};
use castwatch_platform::Embedded;
use castwatch_platform::config::Secret;
use castwatch_platform::kafka::{Kafka, KafkaSettings, Sasl, Security, Tls};

use kafka_support::server::Server;
use kafka_support::{Member, Scoring, fresh, order, publish, shot, until};

const STALL: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(60);

fn said(error: &PortError) -> String {
    castwatch_core::runner::chain(error)
}

/// A broker that is down at the start and in the middle: not ready, with the reason, and a full
/// recovery without a restart (connect #4737).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_goes_and_comes_back() {
    let Some(mut server) = Server::new() else { return };
    let kafka = Kafka::open(KafkaSettings { partitions: 2, ..fresh(&server.plain) }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let snapshots = Embedded::open(folder.path()).unwrap();
    let stage = Scoring::default();
    let member = Member::run(&kafka, &snapshots, &stage);
    let not_ready = async |address: &str| {
        let status = &member.status;
        until("not ready", Duration::from_secs(15), || {
            status
                .get()
                .ready(STALL)
                .is_err_and(|r| r.iter().any(|r| r.contains("no broker of") && r.contains(address)))
        })
        .await;
        println!("not ready: {}", status.get().ready(STALL).unwrap_err().join("; "));
    };
    not_ready(&server.plain).await;
    let error = kafka.publish(&[shot("DCM-01", 0)]).await.unwrap_err();
    assert!(matches!(error, PortError::Unavailable { .. }), "{error:?}");
    assert!(
        said(&error).contains(&format!("publish to shots is not available: no broker of {}", server.plain))
    );

    server.start();
    let began = Instant::now();
    while kafka.ensure_topics(&[Topic::SHOTS, Topic::SCORES]).await.is_err() {
        assert!(began.elapsed() < SOON, "topics can be made");
    }
    publish(&kafka, &(0..50).map(|n| shot("DCM-01", n)).collect::<Vec<_>>()).await;
    until("the first shots", SOON, || stage.done.lock().unwrap().len() == 50).await;
    until("ready", SOON, || member.status.get().ready(STALL).is_ok()).await;

    server.kill();
    not_ready(&server.plain).await;
    let late = {
        let kafka = kafka.clone();
        tokio::spawn(async move {
            publish(&kafka, &(50..100).map(|n| shot("DCM-01", n)).collect::<Vec<_>>()).await;
        })
    };
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.start();
    late.await.unwrap();
    until("the rest", SOON, || stage.done.lock().unwrap().len() >= 100).await;
    until("ready", SOON, || member.status.get().ready(STALL).is_ok()).await;
    member.end().await;
    let positions = order(&stage.done).into_values().next().unwrap();
    assert!(positions.windows(2).all(|p| p[1] == p[0] + 1), "in order: {positions:?}");

    // And at the end: a member leaves although nobody hears of it.
    let member = Member::run(&kafka, &snapshots, &stage);
    until("open", SOON, || !member.status.get().partitions.is_empty()).await;
    server.kill();
    let began = Instant::now();
    member.end().await;
    assert!(began.elapsed() < Duration::from_secs(20), "an end in {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_and_passwords() {
    let Some(mut server) = Server::new() else { return };
    server.start();
    let tls = |ca_file| Some(Tls { ca_file, ..Tls::default() });
    let password = |text: &str| Secret::new(text.to_owned());
    let user = || "castwatch".to_owned();
    let kafka = |security| Kafka::open(KafkaSettings { security, ..fresh(&server.safe) }).unwrap();
    let ca = server.file("ca.pem");
    for sasl in [
        Sasl::Plain { user: user(), password: password("secret") },
        Sasl::Scram512 { user: user(), password: password("secret") },
    ] {
        let kafka = kafka(Security { tls: tls(Some(ca.clone())), sasl: Some(sasl) });
        let made = kafka.ensure_topics(&[Topic::SHOTS]).await.unwrap();
        assert!(made.iter().all(|t| t.made && t.faults.is_empty()), "{made:?}");
        publish(&kafka, &[shot("DCM-01", 1)]).await;
        let mut reader = kafka.consumer("scorer", &[Topic::SHOTS]);
        let assigned = reader.next(Duration::from_secs(10)).await.unwrap();
        assert!(matches!(assigned, Delivery::Assigned(..)), "{assigned:?}");
    }
    let wrong = Sasl::Scram512 { user: user(), password: password("guess") };
    let trusting = Sasl::Plain { user: user(), password: password("secret") };
    let cases = [
        (Security { tls: tls(Some(ca)), sasl: Some(wrong) }, "refuse this client"),
        (Security { tls: tls(None), sasl: Some(trusting) }, "certificate verify failed"),
    ];
    for (security, expected) in cases {
        let kafka = kafka(security);
        let error = said(&kafka.publish(&[shot("DCM-01", 1)]).await.unwrap_err());
        assert!(error.contains(expected) && !error.contains("guess"), "{error}");
        println!("{error}");
        let error = said(&kafka.consumer("scorer", &[Topic::SHOTS]).next(Duration::ZERO).await.unwrap_err());
        assert!(error.contains(expected), "{error}");
    }
}
