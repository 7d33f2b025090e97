//! Topics: made where they are missing, and looked at.
//!
//! **What is there is never changed**: a topic that differs from what castwatch would make is told
//! of, with what to do.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use castwatch_core::{PortError, Topic};
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, OwnedResourceSpecifier, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::metadata::MetadataTopic;
use rdkafka::types::RDKafkaErrorCode as Code;

use super::client::{LARGEST, LARGEST_DEAD, Link, Plain, Role};
use super::inspect::KafkaInspector;
use super::native::give_token;
use super::{KafkaError, KafkaSettings, Sasl};

/// How long the brokers may take to answer.
const ASK: Duration = Duration::from_secs(10);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How a topic is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicState {
    /// The topic.
    pub topic: Topic,
    /// What Kafka calls it.
    pub name: String,
    /// Its partitions; 0 when it is missing.
    pub partitions: u32,
    /// The fewest replicas of one of its partitions.
    pub replication: u16,
    /// So many replicas must have a message before it is acknowledged, as far as it is known.
    pub min_in_sync: Option<u16>,
    /// How long messages are kept, as far as it is known; `None` without end, too.
    pub retention: Option<Duration>,
    /// Whether it was made just now.
    pub made: bool,
    /// What is wrong with it, and what to do.
    pub faults: Vec<String>,
}

/// How a topic should be.
struct Wanted {
    topic: Topic,
    name: String,
    partitions: u32,
    retention: Option<Duration>,
    largest: usize,
}

impl Wanted {
    /// Each of `topics`, and where its dead letters go.
    fn of(settings: &KafkaSettings, topics: &[Topic]) -> Vec<Self> {
        let plain = |topic: &Topic| Self {
            topic: topic.clone(),
            name: settings.name(topic),
            partitions: settings.partitions.max(1),
            retention: Some(if [Topic::DEFECTS, Topic::EXPLANATIONS, Topic::ALERTS].contains(topic) {
                DAY * 30
            } else {
                DAY * 7
            }),
            largest: LARGEST,
        };
        let dead = |topic: &Topic| Self {
            partitions: 1,
            retention: None,
            largest: LARGEST_DEAD,
            ..plain(&topic.dead_letters())
        };
        topics.iter().flat_map(|topic| [plain(topic), dead(topic)]).collect()
    }

    fn configs(&self, settings: &KafkaSettings) -> Vec<(&'static str, String)> {
        let retention = self.retention.map_or_else(|| "-1".into(), |r| r.as_millis().to_string());
        let mut configs = vec![
            ("cleanup.policy", "delete".to_owned()),
            ("retention.ms", retention),
            ("max.message.bytes", self.largest.to_string()),
            // A machine's clock decides neither what is kept nor what is late.
            ("message.timestamp.type", "LogAppendTime".to_owned()),
        ];
        if settings.replication >= 3 {
            configs.push(("min.insync.replicas", "2".to_owned()));
        }
        configs
    }
}

struct Admin<'a> {
    settings: &'a KafkaSettings,
    /// Asks, and hears why there is no answer; an admin client does not.
    look: Arc<KafkaInspector>,
    client: AdminClient<Plain>,
}

impl<'a> Admin<'a> {
    fn new(settings: &'a KafkaSettings) -> Result<Self, PortError> {
        let what = "look at the topics";
        let made = settings.client(&Role::Admin).and_then(|config| {
            Ok::<AdminClient<Plain>, KafkaError>(config.create_with_context(Plain(Link::new(settings)))?)
        });
        let client = made.map_err(|error| PortError::refused(what, error))?;
        if matches!(settings.security.sasl, Some(Sasl::MskIam { .. })) {
            // It does not hear librdkafka ask for one either; this one lasts longer than the client.
            let inner = client.inner();
            let token = inner.context().0.token().map_err(|error| error.to_string());
            let given = token.and_then(|token| give_token(inner, &token));
            given.map_err(|error| PortError::unavailable(what, error))?;
        }
        Ok(Self { settings, look: Arc::new(KafkaInspector::open(settings)?), client })
    }

    /// How each topic of `wanted` is.
    async fn states(&self, wanted: &[Wanted]) -> Result<Vec<TopicState>, PortError> {
        let what = "look at the topics";
        let look = Arc::clone(&self.look);
        let metadata = tokio::task::spawn_blocking(move || look.metadata(None, what)).await;
        let metadata = metadata.unwrap_or_else(|panicked| Err(PortError::unavailable(what, panicked)))?;
        let there: HashMap<&str, &MetadataTopic> =
            metadata.topics().iter().filter(|t| !t.partitions().is_empty()).map(|t| (t.name(), t)).collect();
        let asked: Vec<ResourceSpecifier<'_>> = wanted
            .iter()
            .filter(|w| there.contains_key(w.name.as_str()))
            .map(|w| ResourceSpecifier::Topic(&w.name))
            .collect();
        let options = AdminOptions::new().request_timeout(Some(ASK));
        let answers = if asked.is_empty() {
            Vec::new()
        } else {
            self.client.describe_configs(&asked, &options).await.map_err(|e| unavailable(what, e))?
        };
        let configs: HashMap<String, ConfigResource> = answers
            .into_iter()
            .filter_map(|answer| match answer {
                Ok(resource) => match &resource.specifier {
                    OwnedResourceSpecifier::Topic(name) => Some((name.clone(), resource)),
                    _ => None,
                },
                Err(_) => None,
            })
            .collect();
        Ok(wanted
            .iter()
            .map(|w| self.state(w, there.get(w.name.as_str()).copied(), configs.get(&w.name)))
            .collect())
    }

    fn state(
        &self,
        wanted: &Wanted,
        there: Option<&MetadataTopic>,
        configs: Option<&ConfigResource>,
    ) -> TopicState {
        let mut state = TopicState {
            topic: wanted.topic.clone(),
            name: wanted.name.clone(),
            partitions: 0,
            replication: 0,
            min_in_sync: None,
            retention: None,
            made: false,
            faults: Vec::new(),
        };
        let Some(there) = there else {
            state.faults.push("it does not exist".into());
            return state;
        };
        let partitions = there.partitions();
        state.partitions = u32::try_from(partitions.len()).unwrap_or(u32::MAX);
        let fewest = partitions.iter().map(|p| p.replicas().len()).min().unwrap_or(0);
        state.replication = u16::try_from(fewest).unwrap_or(u16::MAX);
        let faults = &mut state.faults;
        for p in partitions {
            if p.leader() < 0 {
                faults.push(format!("partition {} has no leader: look at the brokers", p.id()));
            } else if p.isr().len() < p.replicas().len() {
                let (have, all) = (p.isr().len(), p.replicas().len());
                faults.push(format!("partition {} has {have} of {all} replicas in sync", p.id()));
            }
        }
        if state.partitions != wanted.partitions {
            let (have, want) = (state.partitions, wanted.partitions);
            faults.push(format!(
                "it has {have} partitions and the settings say {want}; changing a topic moves its keys, so \
                 change the settings, or make it anew while it is empty"
            ));
        }
        if state.replication < self.settings.replication {
            let (have, want) = (state.replication, self.settings.replication);
            faults.push(format!("it has {have} replicas and the settings say {want}"));
        }
        let Some(configs) = configs else {
            faults.push("its settings may not be read: allow DescribeConfigs".into());
            return state;
        };
        let value = |name: &str| configs.get(name).and_then(|entry| entry.value.as_deref()).unwrap_or("");
        state.min_in_sync = value("min.insync.replicas").parse().ok();
        state.retention = value("retention.ms").parse().ok().map(Duration::from_millis);
        let safe = if state.replication >= 3 { 2 } else { 1 };
        if state.min_in_sync.is_some_and(|have| have < safe) {
            faults.push(format!("min.insync.replicas must be {safe}: one broker's loss would lose messages"));
        }
        if state.min_in_sync.is_some_and(|have| have > 1 && have >= state.replication) {
            faults.push("min.insync.replicas is as high as its replicas: one broker down stops it".into());
        }
        let short = match (state.retention, wanted.retention) {
            (Some(have), Some(want)) => have < want,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if short {
            let want = wanted.configs(self.settings).into_iter().find(|(k, _)| *k == "retention.ms");
            let want = want.map(|(_, v)| v).unwrap_or_default();
            faults.push(format!("retention.ms is {}: {want} is advised", value("retention.ms")));
        }
        if value("max.message.bytes").parse::<usize>().is_ok_and(|have| have < wanted.largest) {
            let have = value("max.message.bytes");
            faults.push(format!("max.message.bytes is {have}: {} is advised", wanted.largest));
        }
        for (key, good) in [("cleanup.policy", "delete"), ("message.timestamp.type", "LogAppendTime")] {
            if !value(key).is_empty() && value(key) != good {
                faults.push(format!("{key} is {}: {good} is advised", value(key)));
            }
        }
        state
    }

    /// Makes the topics of `wanted`.
    async fn make(&self, wanted: &[&Wanted]) -> Result<(), PortError> {
        let configs: Vec<Vec<(&str, String)>> = wanted.iter().map(|w| w.configs(self.settings)).collect();
        let new: Vec<NewTopic<'_>> = wanted
            .iter()
            .zip(&configs)
            .map(|(w, configs)| {
                let replicas = TopicReplication::Fixed(i32::from(self.settings.replication.max(1)));
                let partitions = i32::try_from(w.partitions).unwrap_or(i32::MAX);
                configs.iter().fold(NewTopic::new(&w.name, partitions, replicas), |t, (k, v)| t.set(k, v))
            })
            .collect();
        let options = AdminOptions::new().request_timeout(Some(ASK)).operation_timeout(Some(ASK));
        let answers = self.client.create_topics(&new, &options).await;
        for answer in answers.map_err(|error| unavailable("making of topics", error))? {
            match answer {
                // Another process was quicker.
                Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
                Err((name, code)) => {
                    let what = format!("making of topic {name}");
                    let said = match code {
                        Code::InvalidReplicationFactor => format!(
                            "there are fewer brokers than replicas: set `kafka.replication` (it is {})",
                            self.settings.replication
                        ),
                        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
                            "castwatch's user may not make topics: allow Create, or make them yourself".into()
                        }
                        code => code.to_string(),
                    };
                    return Err(PortError::refused(what, said));
                }
            }
        }
        Ok(())
    }
}

/// Removes `topics`, their dead-letter topics and the groups of `stages`.
pub(super) async fn remove(
    settings: &KafkaSettings,
    topics: &[Topic],
    stages: &[&str],
) -> Result<(), PortError> {
    let admin = Admin::new(settings)?;
    let wanted = Wanted::of(settings, topics);
    let names: Vec<&str> = wanted.iter().map(|w| w.name.as_str()).collect();
    let groups: Vec<String> = stages.iter().map(|stage| settings.group(stage)).collect();
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    let options = AdminOptions::new().request_timeout(Some(ASK)).operation_timeout(Some(ASK));
    let what = "removal of topics and groups";
    let topics = admin.client.delete_topics(&names, &options).await.map_err(|e| unavailable(what, e))?;
    let groups = admin.client.delete_groups(&groups, &options).await.map_err(|e| unavailable(what, e))?;
    let gone = |code: &Code| matches!(code, Code::UnknownTopicOrPartition | Code::GroupIdNotFound);
    match topics.into_iter().chain(groups).filter_map(Result::err).find(|(_, code)| !gone(code)) {
        None => Ok(()),
        Some((name, code)) => Err(PortError::refused(format!("removal of {name}"), code.to_string())),
    }
}

fn unavailable(what: &str, error: rdkafka::error::KafkaError) -> PortError {
    PortError::unavailable(what, KafkaError::from(error))
}

/// How each of `topics` and its dead-letter topic is.
pub(super) async fn check(settings: &KafkaSettings, topics: &[Topic]) -> Result<Vec<TopicState>, PortError> {
    Admin::new(settings)?.states(&Wanted::of(settings, topics)).await
}

/// Makes what is missing, and waits until every broker that was asked knows it.
pub(super) async fn ensure(settings: &KafkaSettings, topics: &[Topic]) -> Result<Vec<TopicState>, PortError> {
    let admin = Admin::new(settings)?;
    let wanted = Wanted::of(settings, topics);
    let mut states = admin.states(&wanted).await?;
    let missing: Vec<bool> = states.iter().map(|s| s.partitions == 0).collect();
    let make: Vec<&Wanted> = wanted.iter().zip(&missing).filter(|(_, m)| **m).map(|(w, _)| w).collect();
    if make.is_empty() {
        return Ok(states);
    }
    admin.make(&make).await?;
    let began = Instant::now();
    loop {
        states = admin.states(&wanted).await?;
        let waiting = |s: &TopicState| s.partitions == 0 || s.faults.iter().any(|f| f.contains("no leader"));
        if began.elapsed() > ASK || !states.iter().any(waiting) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for (state, made) in states.iter_mut().zip(missing) {
        state.made = made;
    }
    Ok(states)
}
