//! What is done to a line on Kafka, S3 and DynamoDB, and what must hold meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::time::sleep;

use crate::audit::{Audit, audit};
use crate::member::Member;
use crate::plant::Load;
use crate::proxy::Faults;
use crate::site::{SESSION, Site};
use crate::world::World;

/// What was done, and what came of it.
pub type Told = Result<(String, Audit), String>;

/// How long a member may take to be ready.
pub const READY: Duration = Duration::from_secs(60);

fn seconds(chance: &mut StdRng, from: f64, to: f64) -> Duration {
    Duration::from_secs_f64(chance.random_range(from..to))
}

/// Machines that send twice, out of order, and rubbish.
pub async fn bad_input(world: &mut World, _: &mut StdRng) -> Told {
    let site = Site::new(world, "input", "classic").await?;
    let plant = site.plant(Load { rate: 500, twice: 0.08, broken: 0.03, shuffled: 0.5 });
    let members = vec![site.member("one"), site.member("two")];
    sleep(Duration::from_secs(5)).await;
    let sent = plant.stop().await;
    Ok((
        "8 % twice, 3 % unreadable, half out of order".to_owned(),
        audit(&site, &sent, members, &BTreeSet::new()).await,
    ))
}

/// Processes that are killed under load, and come back.
pub async fn killed_stages(world: &mut World, chance: &mut StdRng) -> Told {
    let site = Site::new(world, "kills", "classic").await?;
    let plant = site.plant(Load::default());
    let mut members = vec![site.member("one"), site.member("two"), site.member("three")];
    let kills = 10;
    for _ in 0..kills {
        sleep(seconds(chance, 0.3, 2.2)).await;
        let victim = members.remove(chance.random_range(0..members.len()));
        let name = victim.name.clone();
        site.disturb();
        victim.kill();
        members.push(site.member(&name));
    }
    let sent = plant.stop().await;
    Ok((format!("SIGKILL of a process, {kills} times"), audit(&site, &sent, members, &BTreeSet::new()).await))
}

/// A broker that is killed under load, and comes back on the same data.
pub async fn killed_broker(world: &mut World, chance: &mut StdRng) -> Told {
    let site = Site::new(world, "broker", "classic").await?;
    let plant = site.plant(Load::default());
    let members = vec![site.member("one"), site.member("two")];
    let kills = 2;
    for _ in 0..kills {
        sleep(seconds(chance, 2.0, 4.0)).await;
        site.disturb_on();
        restart_broker(world, seconds(chance, 0.0, 1.0)).await;
        site.disturb_off();
    }
    sleep(Duration::from_secs(1)).await;
    let sent = plant.stop().await;
    Ok((
        format!("SIGKILL of the broker, {kills} times"),
        audit(&site, &sent, members, &BTreeSet::new()).await,
    ))
}

/// Kills the broker and starts it again after `away`.
pub async fn restart_broker(world: &mut World, away: Duration) {
    world.broker.kill();
    sleep(away).await;
    tokio::task::block_in_place(|| {
        world.broker.start();
        world.broker.await_up();
    });
}

/// Members that join and leave all the time, none of them by force.
pub async fn rebalances(world: &mut World, chance: &mut StdRng, protocol: &str) -> Told {
    let site = Site::new(world, &format!("join-{protocol}"), protocol).await?;
    let plant = site.plant(Load::default());
    let mut members = vec![site.member("steady")];
    let (mut joined, mut left) = (0, 0);
    for turn in 0..6 {
        sleep(seconds(chance, 1.0, 2.2)).await;
        if members.len() > 3 || (members.len() > 1 && turn % 2 == 1) {
            let goes = members.remove(chance.random_range(1..members.len()));
            tokio::task::block_in_place(|| goes.stop())?;
            left += 1;
        } else {
            members.push(site.member(&format!("guest-{turn}")));
            joined += 1;
        }
    }
    let sent = plant.stop().await;
    Ok((
        format!("{joined} members join, {left} leave, {protocol}"),
        audit(&site, &sent, members, &BTreeSet::new()).await,
    ))
}

/// Members that are frozen for longer than their session, and go on as if nothing had been.
pub async fn frozen_members(world: &mut World, chance: &mut StdRng) -> Told {
    let site = Site::new(world, "frozen", "classic").await?;
    let plant = site.plant(Load::default());
    let mut members = vec![site.member("one"), site.member("two")];
    for member in &mut members {
        member.await_ready(200, READY).await?;
    }
    let mut watch = Progress::default();
    let mut problems: Vec<String> = Vec::new();
    for member in &mut members {
        sleep(seconds(chance, 0.5, 1.5)).await;
        site.disturb();
        member.freeze();
        sleep(SESSION + Duration::from_millis(2500)).await;
        watch.look(&site).await?;
        site.disturb();
        member.thaw();
        // The zombie believes that it owns what the other one has moved on.
        for _ in 0..6 {
            sleep(Duration::from_millis(250)).await;
            watch.look(&site).await?;
        }
        let fenced = member.metric("castwatch_fenced_total", &[]).await.unwrap_or(0.0);
        let said = member.said().contains("another process owns this partition");
        if fenced == 0.0 || !said {
            problems.push(format!("{} was not fenced: {fenced}, {said}", member.name));
        }
    }
    let sent = plant.stop().await;
    let mut found = audit(&site, &sent, members, &BTreeSet::new()).await;
    found.problems.extend(problems);
    found.problems.extend(watch.back);
    Ok(("SIGSTOP beyond the session, SIGCONT, 2 times".to_owned(), found))
}

/// Saved progress, which never goes back.
#[derive(Default)]
struct Progress {
    at: std::collections::BTreeMap<String, u64>,
    back: Vec<String>,
}

impl Progress {
    async fn look(&mut self, site: &Site) -> Result<(), String> {
        for stage in crate::site::LINE {
            for (partition, snapshot) in site.objects.snapshots_of(stage).await.map_err(|e| e.to_string())? {
                let place = format!("{stage} {partition}");
                let before = self.at.insert(place.clone(), snapshot.position.0).unwrap_or(0);
                if snapshot.position.0 < before {
                    let now = snapshot.position;
                    self.back.push(format!("{place}: saved progress went from {before} back to {now}"));
                }
            }
        }
        Ok(())
    }
}

/// A network between the line and its broker that is slow, breaks, goes dead and narrows.
pub async fn bad_network(world: &mut World, chance: &mut StdRng) -> Told {
    let site = Site::new(world, "network", "classic").await?;
    let plant = site.plant(Load::default());
    let members = vec![site.member("one"), site.member("two")];
    sleep(Duration::from_secs(2)).await;
    site.disturb_on();
    let (latency, jitter) = (Duration::from_millis(40), Duration::from_millis(80));
    world.kafka.set(Faults { latency, jitter, ..Faults::default() });
    sleep(Duration::from_secs(3)).await;
    world.kafka.heal();
    let resets = 5;
    for _ in 0..resets {
        sleep(seconds(chance, 0.2, 0.9)).await;
        world.kafka.reset();
    }
    // A cable is out for a moment, and for longer than a session.
    for silence in [Duration::from_secs(1), SESSION + Duration::from_secs(1)] {
        world.kafka.set(Faults { silent: true, ..Faults::default() });
        sleep(silence).await;
        world.kafka.heal();
        sleep(Duration::from_millis(500)).await;
    }
    world.kafka.set(Faults { bandwidth: 48 * 1024, ..Faults::default() });
    sleep(Duration::from_secs(3)).await;
    world.kafka.heal();
    world.kafka.strand();
    sleep(Duration::from_secs(1)).await;
    let sent = plant.stop().await;
    // Dead connections are found by time-outs alone, which are a part of the recovery.
    let found = audit(&site, &sent, members, &BTreeSet::new()).await;
    site.disturb_off();
    Ok((format!("latency 40-120 ms, {resets} resets, silence, 48 KiB/s, half-open"), found))
}

/// S3 and DynamoDB that throttle, fail, lose answers and go away.
pub async fn bad_stores(world: &mut World, _: &mut StdRng) -> Told {
    let site = Site::new(world, "stores", "classic").await?;
    let plant = site.plant(Load::default());
    let members = vec![site.member("one"), site.member("two")];
    sleep(Duration::from_secs(1)).await;
    let before = world.s3.injected() + world.dynamodb.injected();
    site.disturb_on();
    let overload = Faults { refused: 0.3, unheard: 0.05, ..Faults::default() };
    world.s3.set(overload);
    world.dynamodb.set(overload);
    sleep(Duration::from_secs(6)).await;
    world.s3.set(Faults { down: true, ..overload });
    sleep(Duration::from_secs(2)).await;
    world.s3.heal();
    world.dynamodb.set(Faults { down: true, ..overload });
    sleep(Duration::from_secs(2)).await;
    world.heal();
    site.disturb_off();
    let hit = world.s3.injected() + world.dynamodb.injected() - before;
    let sent = plant.stop().await;
    Ok((
        format!("{hit} requests refused or unheard, each store away once"),
        audit(&site, &sent, members, &BTreeSet::new()).await,
    ))
}

/// A receiver that fails, and one whose answers are lost.
pub async fn bad_receiver(world: &mut World, _: &mut StdRng) -> Told {
    let site = Site::new(world, "receiver", "classic").await?;
    let plant = site.plant(Load::default());
    let members = vec![site.member("one"), site.member("two")];
    site.disturb_on();
    site.webhook.set(Faults { refused: 0.2, unheard: 0.1, ..Faults::default() });
    sleep(Duration::from_secs(4)).await;
    site.webhook.set(Faults { down: true, ..Faults::default() });
    sleep(Duration::from_secs(2)).await;
    site.webhook.heal();
    site.disturb_off();
    let hit = site.webhook.injected();
    let sent = plant.stop().await;
    Ok((
        format!("{hit} alerts refused or unheard, receiver away"),
        audit(&site, &sent, members, &BTreeSet::new()).await,
    ))
}

/// Retention that removes messages before a slow consumer has read them.
pub async fn retention(world: &mut World, _: &mut StdRng) -> Told {
    let site = Site::new(world, "retention", "classic").await?;
    let exact = Load { rate: 300, twice: 0.0, broken: 0.0, shuffled: 0.0 };
    let plant = site.plant(exact);
    let mut first = site.member("first");
    first.await_ready(200, READY).await?;
    sleep(Duration::from_secs(2)).await;
    tokio::task::block_in_place(|| first.stop())?;
    // Nobody reads while the log grows and retention takes half of what waits.
    sleep(Duration::from_secs(2)).await;
    let sent = plant.stop().await;
    let saved = site.objects.snapshots_of("scorer").await.map_err(|e| e.to_string())?;
    let (ends, places) = tokio::task::block_in_place(|| {
        let mut ledger = site.ledger.lock().unwrap();
        ledger.follow().map_err(|e| e.to_string())?;
        Ok::<_, String>((ledger.read_to("shots"), ledger.book("shots").places.clone()))
    })?;
    let mut removed = BTreeSet::new();
    for (partition, end) in ends {
        let at =
            saved.iter().find(|(p, _)| p.index as i32 == partition).map_or(0, |(_, s)| s.position.0 as i64);
        let to = at + (end - at) / 2;
        if to > at {
            world.broker.remove_before(&format!("{}shots", site.prefix), partition, to).await;
            removed.extend(places.range((partition, at)..(partition, to)).map(|(_, shot)| shot.clone()));
        }
    }
    let mut second = site.member("second");
    second.await_ready(200, READY).await?;
    let expected = removed.len() as f64;
    let mut counted = None;
    for _ in 0..40 {
        counted = second.metric("castwatch_messages_total", &["scorer", "missed"]).await;
        if counted == Some(expected) {
            break;
        }
        sleep(Duration::from_millis(250)).await;
    }
    let said = second.said();
    let mut found = audit(&site, &sent, vec![second], &removed).await;
    if counted != Some(expected) {
        found.problems.push(format!("{expected} messages were removed, the metric counts {counted:?}"));
    }
    if !said.contains("messages were removed before they were read") {
        found.problems.push("the log does not say that messages were missed".to_owned());
    }
    Ok((format!("{} messages removed before they were read", removed.len()), found))
}

/// A broker that is away at the start, in the middle and at the end.
pub async fn broker_away(world: &mut World, _: &mut StdRng) -> Told {
    let site = Site::new(world, "away", "classic").await?;
    world.broker.kill();
    let mut member = site.member("one");
    let why = member.await_ready(503, READY).await?;
    if !why.contains("the log has not answered") && !why.contains("no broker of") {
        return Err(format!("not ready, and does not say that the broker is away: {why}"));
    }
    up(world);
    member.await_ready(200, READY).await?;
    let plant = site.plant(Load::default());
    sleep(Duration::from_secs(2)).await;
    site.disturb_on();
    world.broker.kill();
    let why = member.await_ready(503, READY).await?;
    up(world);
    site.disturb_off();
    member.await_ready(200, READY).await?;
    let sent = plant.stop().await;
    let said = member.said();
    // At the end: whoever is told to stop must stop, broker or not.
    site.disturb();
    world.broker.kill();
    tokio::task::block_in_place(|| member.stop())?;
    up(world);
    let mut found = audit(&site, &sent, vec![site.member("two")], &BTreeSet::new()).await;
    for words in ["waiting to try again", "getting on again"] {
        if !said.contains(words) {
            found.problems.push(format!("the log never says `{words}`; not ready because: {why}"));
        }
    }
    Ok(("broker away at start, middle and end".to_owned(), found))
}

fn up(world: &mut World) {
    tokio::task::block_in_place(|| {
        world.broker.start();
        world.broker.await_up();
    });
}

/// Everything at once, until `kills` processes or brokers were killed.
pub async fn mixed(world: &mut World, chance: &mut StdRng, name: &str, kills: u32) -> Told {
    let site = Site::new(world, name, "classic").await?;
    let plant = site.plant(Load { rate: 150, ..Load::default() });
    let mut members: Vec<Member> = ["one", "two", "three"].map(|name| site.member(name)).into();
    let (mut killed, mut brokers, mut frozen, mut others) = (0, 0, 0, 0);
    while killed + brokers < kills {
        sleep(seconds(chance, 0.2, 2.0)).await;
        let who = chance.random_range(0..members.len());
        let share = chance.random_range(0.05..0.4);
        match chance.random_range(0..100) {
            0..42 => {
                let victim = members.remove(who);
                let name = victim.name.clone();
                site.disturb();
                victim.kill();
                sleep(seconds(chance, 0.0, 1.0)).await;
                members.push(site.member(&name));
                killed += 1;
            }
            42..50 => {
                site.disturb_on();
                restart_broker(world, seconds(chance, 0.0, 2.0)).await;
                site.disturb_off();
                brokers += 1;
            }
            50..58 => {
                site.disturb();
                members[who].freeze();
                sleep(SESSION + seconds(chance, 0.0, 2.0)).await;
                site.disturb();
                members[who].thaw();
                frozen += 1;
            }
            58..66 => {
                let goes = members.remove(who);
                let name = goes.name.clone();
                tokio::task::block_in_place(|| goes.stop())?;
                members.push(site.member(&name));
                others += 1;
            }
            fault => {
                site.disturb_on();
                let overload = Faults { refused: share, unheard: share / 5.0, ..Faults::default() };
                match fault {
                    66..74 => world.kafka.reset(),
                    74..78 => world.kafka.strand(),
                    78..82 => world.kafka.set(Faults { silent: true, ..Faults::default() }),
                    82..86 => world.kafka.set(Faults {
                        latency: Duration::from_millis(20),
                        jitter: Duration::from_millis(100),
                        ..Faults::default()
                    }),
                    86..90 => world.s3.set(overload),
                    90..94 => world.dynamodb.set(overload),
                    94..97 => site.webhook.set(overload),
                    _ => world.dynamodb.set(Faults { down: true, ..Faults::default() }),
                }
                sleep(seconds(chance, 0.5, 4.0)).await;
                world.heal();
                site.webhook.heal();
                site.disturb_off();
                others += 1;
            }
        }
        for member in &mut members {
            if !member.alive() {
                return Err(format!("{} ended by itself: {}", member.name, member.last_words()));
            }
        }
    }
    let sent = plant.stop().await;
    let faults =
        format!("SIGKILL of {killed} processes, {brokers} brokers, {frozen} frozen, {others} others");
    Ok((faults, audit(&site, &sent, members, &BTreeSet::new()).await))
}
