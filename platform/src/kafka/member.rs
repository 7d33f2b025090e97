//! One member of a group: what is assigned to it, and where it reads.
//!
//! **Positions are checked against the log before they are read from**: what was removed is told as
//! missed, and a log that ends before a position is not the one that was read.

use std::collections::VecDeque;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use castwatch_core::ports::{Generation, Start};
use castwatch_core::{Delivery, Message, Partition, PortError, Position, Topic};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaError as ClientError;
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};
use tracing::{debug, warn};

use super::client::{Membership, Rebalance, Role, assign, hear, unassign};
use super::{KafkaError, KafkaSettings};

/// How long a question to the brokers may take.
pub(super) const ASK: Duration = Duration::from_secs(5);
/// How long a member that ends waits for the group to hear of it.
const FAREWELL: Duration = Duration::from_secs(3);
/// How often the end of a partition is asked for before a position beyond it is believed.
const LOOKS: u32 = 3;

pub(super) type Client = Arc<BaseConsumer<Membership>>;

/// One partition that is assigned.
pub(super) struct Track {
    pub(super) partition: Partition,
    /// What Kafka calls its topic.
    pub(super) name: String,
    pub(super) index: i32,
    /// The next offset to take in; `None` until it is started.
    pub(super) next: Option<i64>,
    /// What was read and not handed over.
    pub(super) pending: Vec<Message>,
    /// Its end, when it was last asked for.
    end: i64,
}

/// A member of a stage's group, and what it read.
pub(super) struct Member {
    settings: KafkaSettings,
    stage: String,
    pub(super) topics: Vec<(Topic, String)>,
    pub(super) client: Option<Client>,
    pub(super) subscribed: bool,
    /// Sorted as they take turns.
    pub(super) tracks: Vec<Track>,
    /// What is to be told before any batch.
    news: VecDeque<Delivery>,
    /// An assignment was handed over that librdkafka still waits for.
    pub(super) unapplied: bool,
    /// What was revoked, and whether it was let go.
    revoking: Vec<((String, i32), bool)>,
    /// Some position may be outside of its partition: librdkafka reads no further there.
    pub(super) astray: bool,
    /// What is added to generations, because the group has forgotten earlier ones.
    lives: u64,
}

impl Member {
    pub(super) fn new(settings: &KafkaSettings, stage: &str, topics: &[Topic]) -> Self {
        Self {
            settings: settings.clone(),
            stage: stage.to_owned(),
            topics: topics.iter().map(|t| (t.clone(), settings.name(t))).collect(),
            client: None,
            subscribed: false,
            tracks: Vec::new(),
            news: VecDeque::new(),
            unapplied: false,
            revoking: Vec::new(),
            astray: false,
            lives: 0,
        }
    }

    pub(super) fn what(&self) -> String {
        let topics: Vec<&str> = self.topics.iter().map(|(_, name)| name.as_str()).collect();
        format!("read of {} for {}", topics.join(", "), self.stage)
    }

    pub(super) fn batch_limit(&self) -> usize {
        self.settings.batch.max(1)
    }

    /// The client, once the brokers have answered and every topic is there.
    pub(super) fn connected(&mut self) -> Result<Client, PortError> {
        let client = match &self.client {
            Some(client) => Arc::clone(client),
            None => {
                let group = self.settings.group(&self.stage);
                let made = self
                    .settings
                    .client(&Role::Consumer(&group))
                    .and_then(|config| Ok(config.create_with_context(Membership::new(&self.settings))?));
                let client: Client =
                    Arc::new(made.map_err(|error| PortError::unavailable(self.what(), error))?);
                Arc::clone(self.client.insert(client))
            }
        };
        if !self.subscribed {
            self.look_at_topics(&client)?;
            let names: Vec<&str> = self.topics.iter().map(|(_, name)| name.as_str()).collect();
            client.subscribe(&names).map_err(|error| self.unavailable(error))?;
            self.subscribed = true;
        }
        Ok(client)
    }

    /// Whether every topic is there.
    pub(super) fn look_at_topics(&self, client: &Client) -> Result<(), PortError> {
        for (_, name) in &self.topics {
            let metadata = client.fetch_metadata(Some(name), ASK).map_err(|error| {
                hear(client);
                PortError::unavailable(self.what(), client.context().link.away(error))
            })?;
            let there = metadata.topics().iter().any(|t| t.name() == name && !t.partitions().is_empty());
            if !there {
                return Err(PortError::unavailable(self.what(), KafkaError::NoTopic(name.clone())));
            }
        }
        Ok(())
    }

    pub(super) fn unavailable(&self, error: ClientError) -> PortError {
        PortError::unavailable(self.what(), KafkaError::from(error))
    }

    /// The next thing to hand over, if there is one already.
    pub(super) fn ready(&mut self) -> Option<Delivery> {
        if self.unapplied {
            return None;
        }
        if let Some(rebalance) = self.client.as_ref().and_then(|client| client.context().next()) {
            return Some(self.rebalanced(rebalance));
        }
        if let Some(news) = self.news.pop_front() {
            return Some(news);
        }
        let turn = self.tracks.iter().position(|t| !t.pending.is_empty())?;
        let track = &mut self.tracks[turn];
        let batch = Delivery::Batch(track.partition.clone(), std::mem::take(&mut track.pending));
        // The others come before this one from now on.
        self.tracks.rotate_left(turn + 1);
        Some(batch)
    }

    /// Takes in what the group did, and says it in the runner's words.
    fn rebalanced(&mut self, rebalance: Rebalance) -> Delivery {
        match rebalance {
            Rebalance::Assigned(generation, list) => {
                self.unapplied = true;
                self.forget(&list);
                let mut partitions = Vec::new();
                for (name, index) in list {
                    let Some(partition) = self.partition(&name, index) else { continue };
                    partitions.push(partition.clone());
                    self.tracks.push(Track {
                        partition,
                        name,
                        index,
                        next: None,
                        pending: Vec::new(),
                        end: 0,
                    });
                }
                Delivery::Assigned(Generation(generation + (self.lives << 32)), partitions)
            }
            Rebalance::Revoked(list) => {
                let partitions =
                    list.iter().filter_map(|(name, index)| self.partition(name, *index)).collect();
                self.forget(&list);
                self.revoking = list.into_iter().map(|key| (key, false)).collect();
                Delivery::Revoked(partitions)
            }
            Rebalance::Lost(list) => {
                let partitions =
                    list.iter().filter_map(|(name, index)| self.partition(name, *index)).collect();
                self.forget(&list);
                self.revoking.clear();
                Delivery::Lost(partitions)
            }
        }
    }

    fn partition(&self, name: &str, index: i32) -> Option<Partition> {
        let (topic, _) = self.topics.iter().find(|(_, n)| n == name)?;
        Some(Partition::new(topic.clone(), u32::try_from(index).ok()?))
    }

    /// Nothing of these partitions is handed over any more.
    fn forget(&mut self, list: &[(String, i32)]) {
        let gone = |name: &str, index: i32| list.iter().any(|(n, i)| n == name && *i == index);
        let silenced: Vec<Partition> =
            (self.tracks.iter()).filter(|t| gone(&t.name, t.index)).map(|t| t.partition.clone()).collect();
        self.tracks.retain(|t| !gone(&t.name, t.index));
        self.news
            .retain(|n| !matches!(n, Delivery::Missed { partition, .. } if silenced.contains(partition)));
    }

    /// Everything is somebody else's: a client that broke leaves its group.
    pub(super) fn lose_everything(&mut self) {
        let partitions: Vec<Partition> = self.tracks.iter().map(|t| t.partition.clone()).collect();
        self.close();
        self.tracks.clear();
        self.revoking.clear();
        self.news.clear();
        (self.unapplied, self.subscribed, self.astray) = (false, false, false);
        if !partitions.is_empty() {
            self.news.push_back(Delivery::Lost(partitions));
        }
    }

    /// Gives librdkafka the assignment that it waits for, with the positions that were started;
    /// a partition that nobody started is not read.
    pub(super) fn apply(&mut self, client: &Client) -> Result<(), PortError> {
        let list = self
            .tracks
            .iter()
            .map(|t| (t.name.clone(), t.index, t.next.map_or(Offset::Beginning, Offset::Offset)));
        let list: Vec<_> = list.collect();
        assign(client, list.into_iter()).map_err(|error| self.unavailable(error))?;
        self.unapplied = false;
        let (mut still, mut going) = (TopicPartitionList::new(), TopicPartitionList::new());
        for track in &self.tracks {
            let list = if track.next.is_some() { &mut going } else { &mut still };
            list.add_partition(&track.name, track.index);
        }
        client.pause(&still).and_then(|()| client.resume(&going)).map_err(|error| self.unavailable(error))
    }

    /// Reads a partition from `start` on.
    pub(super) fn start(&mut self, partition: &Partition, start: Start) -> Result<(), PortError> {
        let what = format!("start of {partition}");
        let Some(at) = self.tracks.iter().position(|t| t.partition == *partition) else {
            return Err(PortError::refused(what, "it is not assigned to this consumer"));
        };
        let Some(client) = self.client.clone() else {
            return Err(PortError::unavailable(what, "there is no client"));
        };
        self.news.retain(|n| !matches!(n, Delivery::Missed { partition: p, .. } if p == partition));
        let track = &mut self.tracks[at];
        track.next = None;
        track.pending.clear();
        let (low, high) = extent(&client, track, start, LOOKS).map_err(|error| match error {
            error @ KafkaError::Ahead { .. } => PortError::refused(&what, error),
            error => PortError::unavailable(&what, error),
        })?;
        let position = match start {
            Start::Earliest => low,
            Start::At(position) => signed(position),
            Start::Tail(count) => high.saturating_sub_unsigned(count).max(low),
        };
        let next = position.max(low);
        if !self.unapplied {
            let again = seek(&client, track, next).map_err(|error| PortError::unavailable(&what, error));
            again.and_then(|()| {
                let mut going = TopicPartitionList::new();
                going.add_partition(&track.name, track.index);
                client.resume(&going).map_err(|error| PortError::unavailable(&what, KafkaError::from(error)))
            })?;
        }
        track.next = Some(next);
        if position < low {
            self.news.push_back(missed(partition, position, low));
        }
        Ok(())
    }

    /// Compares every position with its partition, and has librdkafka read all of them anew: it
    /// says that one lies outside, but not which, and reads no further there.
    pub(super) fn find_astray(&mut self, client: &Client) -> Result<(), PortError> {
        let (what, mut ahead) = (self.what(), None);
        for track in &mut self.tracks {
            let Some(next) = track.next else { continue };
            match extent(client, track, Start::At(unsigned(next)), 1) {
                Ok((low, _)) if next < low => {
                    self.news.push_back(missed(&track.partition, next, low));
                    track.next = Some(low);
                }
                Ok(_) => {}
                Err(error @ KafkaError::Ahead { .. }) => ahead = Some(error),
                Err(error) => return Err(PortError::unavailable(what, error)),
            }
        }
        let all: Vec<(String, i32)> = self.tracks.iter().map(|t| (t.name.clone(), t.index)).collect();
        unassign(client, &all).map_err(|error| self.unavailable(error))?;
        self.apply(client)?;
        // One that still lies outside makes librdkafka say so again.
        self.astray = false;
        ahead.map_or(Ok(()), |error| Err(PortError::refused(what, error)))
    }

    /// Whether there is something to tell before any batch.
    pub(super) fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// Lets partitions go: what was revoked goes to its next owner, what was not stays silent.
    pub(super) fn release(&mut self, partitions: &[Partition]) -> Result<(), PortError> {
        let Some(client) = self.client.clone() else { return Ok(()) };
        let keys: Vec<(String, i32)> =
            partitions.iter().map(|p| (self.settings.name(&p.topic), p.index.cast_signed())).collect();
        let mut silent = TopicPartitionList::new();
        for track in self.tracks.iter().filter(|t| partitions.contains(&t.partition)) {
            silent.add_partition(&track.name, track.index);
        }
        self.forget(&keys);
        client.pause(&silent).map_err(|error| self.unavailable(error))?;
        for (key, gone) in &mut self.revoking {
            *gone |= keys.contains(key);
        }
        if !self.revoking.is_empty() && self.revoking.iter().all(|(_, gone)| *gone) {
            let list: Vec<(String, i32)> = self.revoking.iter().map(|(key, _)| key.clone()).collect();
            unassign(&client, &list).map_err(|error| self.unavailable(error))?;
            self.revoking.clear();
        }
        Ok(())
    }

    /// Shows Kafka's own tools how far this stage is.
    pub(super) fn saved(&mut self, partition: &Partition, position: Position) {
        let Some(client) = &self.client else { return };
        let mut offsets = TopicPartitionList::new();
        let name = self.settings.name(&partition.topic);
        let committed = offsets
            .add_partition_offset(&name, partition.index.cast_signed(), Offset::Offset(signed(position)))
            .and_then(|()| client.commit(&offsets, CommitMode::Async));
        if let Err(error) = committed {
            debug!(%partition, %error, "offsets were not committed; only Kafka's own tools look at them");
        }
    }

    /// Whether the group still counts this member among its own: it accepts a commit of the offset
    /// that it has already.
    pub(super) fn confirm(
        &mut self,
        partition: &Partition,
        generation: Generation,
    ) -> Result<Option<Generation>, PortError> {
        let what = format!("confirmation of {partition}");
        let Some(client) = self.client.clone() else { return Ok(None) };
        // The broker asks who commits, and not whose the partition is.
        if !self.tracks.iter().any(|t| t.partition == *partition) {
            return Ok(None);
        }
        let (name, index) = (self.settings.name(&partition.topic), partition.index.cast_signed());
        let explain = |error: ClientError| PortError::unavailable(&what, KafkaError::from(error));
        let mut asked = TopicPartitionList::new();
        asked.add_partition(&name, index);
        let known = client.committed_offsets(asked, ASK).map_err(explain)?;
        let known = known.find_partition(&name, index).map(|p| p.offset());
        let offset = match known {
            Some(Offset::Offset(offset)) => offset,
            _ => client.fetch_watermarks(&name, index, ASK).map_err(explain)?.0,
        };
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(&name, index, Offset::Offset(offset)).map_err(explain)?;
        match client.commit(&offsets, CommitMode::Sync) {
            Ok(()) if client.assignment_lost() => Ok(None),
            Ok(()) => {
                let later = generation.0 + (1 << 32);
                self.lives = self.lives.max(later >> 32);
                Ok(Some(Generation(later)))
            }
            Err(error) => match error.rdkafka_error_code() {
                Some(
                    Code::IllegalGeneration
                    | Code::UnknownMemberId
                    | Code::RebalanceInProgress
                    | Code::FencedInstanceId
                    | Code::FencedMemberEpoch
                    | Code::StaleMemberEpoch,
                ) => Ok(None),
                _ => Err(explain(error)),
            },
        }
    }

    pub(super) fn ends(&self) -> Vec<(Partition, Position)> {
        let heard = |t: &Track| self.client.as_ref().and_then(|c| c.context().end(&t.name, t.index));
        let end = |t: &Track| heard(t).unwrap_or(0).max(t.end).max(t.next.unwrap_or(0));
        self.tracks.iter().map(|t| (t.partition.clone(), unsigned(end(t)))).collect()
    }

    /// Leaves the group, unless this member is a static one, and waits a little until that is done.
    fn close(&mut self) {
        let Some(client) = self.client.take() else { return };
        client.context().close();
        let (revoked, unapplied) = (std::mem::take(&mut self.revoking), self.unapplied);
        let (done, wait) = mpsc::channel();
        // librdkafka's farewell blocks; where no broker answers it goes on without us.
        let closing = std::thread::Builder::new().name("castwatch-farewell".into()).spawn(move || {
            let list: Vec<(String, i32)> = revoked.into_iter().map(|(key, _)| key).collect();
            let answered = if unapplied {
                client.incremental_assign(&TopicPartitionList::new())
            } else if list.is_empty() {
                Ok(())
            } else {
                unassign(&client, &list)
            };
            if let Err(error) = answered {
                debug!(%error, "the last assignment was not answered");
            }
            drop(client);
            let _ = done.send(());
        });
        match closing {
            Ok(_) if wait.recv_timeout(FAREWELL).is_err() => {
                debug!(stage = self.stage, "the group was not told in time; it will notice");
            }
            Ok(_) => {}
            Err(error) => warn!(%error, "no thread to leave the group with"),
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.close();
    }
}

fn missed(partition: &Partition, from: i64, to: i64) -> Delivery {
    Delivery::Missed { partition: partition.clone(), from: unsigned(from), to: unsigned(to) }
}

fn signed(position: Position) -> i64 {
    i64::try_from(position.0).unwrap_or(i64::MAX)
}

fn unsigned(offset: i64) -> Position {
    Position(u64::try_from(offset).unwrap_or(0))
}

/// Where a partition begins and ends; an error where it ends before `start`.
fn extent(client: &Client, track: &mut Track, start: Start, looks: u32) -> Result<(i64, i64), KafkaError> {
    let mut look = 0;
    loop {
        look += 1;
        let (low, high) =
            client.fetch_watermarks(&track.name, track.index, ASK).map_err(|error| {
                match error.rdkafka_error_code() {
                    Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                        KafkaError::NoTopic(track.name.clone())
                    }
                    Some(Code::OperationTimedOut | Code::BrokerTransportFailure | Code::AllBrokersDown) => {
                        client.context().link.away(error)
                    }
                    _ => KafkaError::from(error),
                }
            })?;
        track.end = high;
        match start {
            // A broker that has just come back may not know its end yet.
            Start::At(position) if signed(position) > high && look < looks => {
                std::thread::sleep(Duration::from_secs(1));
            }
            Start::At(position) if signed(position) > high => {
                let partition = format!("{}/{}", track.name, track.index);
                return Err(KafkaError::Ahead { partition, end: unsigned(high).0, position });
            }
            _ => return Ok((low, high)),
        }
    }
}

/// Goes to another offset of a partition that is read already.
fn seek(client: &Client, track: &Track, offset: i64) -> Result<(), KafkaError> {
    if client.seek(&track.name, track.index, Offset::Offset(offset), ASK).is_ok() {
        return Ok(());
    }
    // librdkafka has stopped reading here, or not begun: a position outside does that.
    unassign(client, &[(track.name.clone(), track.index)])?;
    assign(client, std::iter::once((track.name.clone(), track.index, Offset::Offset(offset))))?;
    Ok(())
}
