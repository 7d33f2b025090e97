//! Writing to topics.
//!
//! **`publish` returns when every event is acknowledged by all in-sync replicas, or when none of
//! them is on its way any more**, so that a second try comes after the first in every partition.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use castwatch_core::{Outgoing, PortError, Publisher};
use rdkafka::error::KafkaError as ClientError;
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::warn;

use super::client::{Link, Role, Writing};
use super::{Kafka, KafkaError, KafkaSettings, event};

/// How long to wait for room in the queue before looking again.
const ROOM: Duration = Duration::from_millis(5);

/// The events of one call on their way.
#[derive(Default)]
pub(super) struct Flight {
    /// How many are on their way, and one for the call itself while it hands them over.
    left: AtomicUsize,
    failed: Mutex<Option<ClientError>>,
    landed: Notify,
}

impl Flight {
    /// Notes that one of them is acknowledged or given up.
    pub(super) fn landed(&self, error: Option<&ClientError>) {
        if let Some(error) = error {
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.clone());
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.landed.notify_one();
        }
    }
}

type Client = ThreadedProducer<Writing>;

/// The one producer of a process, made when it is first needed and again after a fatal error.
#[derive(Default)]
pub(super) struct Producer(RwLock<Option<Arc<Client>>>);

impl Producer {
    fn get(&self, settings: &KafkaSettings) -> Result<Arc<Client>, KafkaError> {
        if let Some(client) = &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(Arc::clone(client));
        }
        let mut slot = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*slot {
            return Ok(Arc::clone(client));
        }
        let config = settings.client(&Role::Producer)?;
        let client: Client = config.create_with_context(Writing(Link::new(settings)))?;
        Ok(Arc::clone(slot.insert(Arc::new(client))))
    }

    /// Makes the next call begin with another producer than this one.
    fn replace(&self, broken: &Arc<Client>) {
        let mut slot = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if slot.as_ref().is_some_and(|client| Arc::ptr_eq(client, broken)) {
            *slot = None;
        }
    }
}

impl Publisher for Kafka {
    async fn publish(&self, events: &[Outgoing]) -> Result<(), PortError> {
        let Some(first) = events.first() else { return Ok(()) };
        let what = |event: &Outgoing| format!("publish to {}", event.topic);
        let (settings, producer) = (&self.0.settings, &self.0.producer);
        let client = producer.get(settings).map_err(|error| PortError::unavailable(what(first), error))?;
        let flight = Arc::new(Flight { left: AtomicUsize::new(1), ..Flight::default() });
        let mut rejected = None;
        for event in events {
            if let Err(error) = send(&client, settings, event, &flight).await {
                rejected = Some((event, error));
                break;
            }
        }
        flight.landed(None);
        while flight.left.load(Ordering::Acquire) > 0 {
            flight.landed.notified().await;
        }
        let failed = flight.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (event, error) = match (rejected, failed) {
            (None, None) => return Ok(()),
            (Some(rejected), _) => rejected,
            (None, Some(error)) => (first, error),
        };
        if let Some((code, said)) = client.client().fatal_error() {
            warn!(%code, said, "the producer is broken and is made anew");
            producer.replace(&client);
            // Its end waits for its threads.
            tokio::task::spawn_blocking(move || drop(client));
            return Err(PortError::unavailable(what(event), KafkaError::from(error)));
        }
        Err(explain(what(event), settings, &client, event, error))
    }
}

/// Hands one event over; waits while the queue is full.
async fn send(
    client: &Client,
    settings: &KafkaSettings,
    outgoing: &Outgoing,
    flight: &Arc<Flight>,
) -> Result<(), ClientError> {
    let prefixed;
    let topic = if settings.topic_prefix.is_empty() {
        outgoing.topic.as_str()
    } else {
        prefixed = settings.name(&outgoing.topic);
        &prefixed
    };
    flight.left.fetch_add(1, Ordering::AcqRel);
    let mut record = BaseRecord::with_opaque_to(topic, Arc::clone(flight))
        .key(outgoing.key.as_str())
        .payload(&outgoing.event.data[..]);
    record.headers = event::headers(&outgoing.event);
    let began = Instant::now();
    loop {
        match client.send(record) {
            Ok(()) => return Ok(()),
            Err((error, again))
                if error.rdkafka_error_code() == Some(Code::QueueFull)
                    && began.elapsed() < settings.delivery_timeout =>
            {
                record = again;
                tokio::time::sleep(ROOM).await;
            }
            Err((error, _)) => {
                flight.left.fetch_sub(1, Ordering::AcqRel);
                return Err(error);
            }
        }
    }
}

/// What an error means for whoever published.
fn explain(
    what: String,
    settings: &KafkaSettings,
    client: &Client,
    event: &Outgoing,
    error: ClientError,
) -> PortError {
    let link = &client.context().0;
    match error.rdkafka_error_code() {
        Some(
            Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidTopic | Code::InvalidRecord,
        ) => PortError::refused(what, KafkaError::from(error)),
        // A partition that is no more ends its queue as if the client had been told to end.
        Some(
            Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition | Code::BrokerDestroy,
        ) => PortError::unavailable(what, KafkaError::NoTopic(settings.name(&event.topic))),
        Some(Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed) => {
            PortError::unavailable(what, KafkaError::Forbidden(error.to_string()))
        }
        Some(Code::MessageTimedOut | Code::BrokerTransportFailure | Code::AllBrokersDown) => {
            PortError::unavailable(what, link.away("not acknowledged in time"))
        }
        _ => PortError::unavailable(what, KafkaError::from(error)),
    }
}
