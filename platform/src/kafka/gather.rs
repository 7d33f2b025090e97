//! Taking in what librdkafka has read.

use std::time::{Duration, Instant};

use castwatch_core::PortError;
use rdkafka::Message as _;
use rdkafka::consumer::Consumer as _;
use rdkafka::message::BorrowedMessage;
use rdkafka::types::RDKafkaErrorCode as Code;
use tracing::warn;

use super::event;
use super::member::{Client, Member};

/// So many bytes of payload are taken in at once.
const MAX_BYTES: usize = 8 << 20;

impl Member {
    /// Waits up to `wait` for something to hand over.
    ///
    /// # Errors
    /// [`PortError::Unavailable`] while the brokers don't answer, never before `wait` is over.
    pub(super) fn gather(&mut self, wait: Duration) -> Result<(), PortError> {
        let deadline = Instant::now() + wait;
        let gathered = self.gather_until(deadline);
        if gathered.is_err() {
            // Whoever tries again at once must not spin.
            std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
        }
        gathered
    }

    fn gather_until(&mut self, deadline: Instant) -> Result<(), PortError> {
        let client = self.connected()?;
        if self.unapplied {
            self.apply(&client)?;
            if client.context().waits() || self.tracks.iter().any(|t| !t.pending.is_empty()) {
                return Ok(());
            }
        }
        let strayed = if self.astray { self.find_astray(&client) } else { Ok(()) };
        let (mut taken, mut bytes, mut last) = (0, 0, 0);
        while taken < self.batch_limit() && bytes < MAX_BYTES {
            let patience =
                if taken == 0 { deadline.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
            match client.poll(patience) {
                Some(Ok(message)) => {
                    taken += 1;
                    bytes += message.payload_len();
                    self.take(&message, &mut last);
                }
                // Told to the client's context as well, with more words.
                Some(Err(_)) => {}
                None if taken > 0 || patience.is_zero() => break,
                None => {}
            }
            if client.context().went_astray() {
                self.astray = true;
                break;
            }
            if client.context().waits() || self.has_news() {
                break;
            }
        }
        if taken > 0 || client.context().waits() {
            client.context().link.works();
            return Ok(());
        }
        strayed.and_then(|()| self.explain(&client))
    }

    /// Why nothing came, where there is more to say than that nothing did.
    fn explain(&mut self, client: &Client) -> Result<(), PortError> {
        if let Some((code, said)) = client.client().fatal_error() {
            if matches!(code, Code::FencedInstanceId | Code::Fenced | Code::UnreleasedInstanceId) {
                return Err(PortError::Fenced { what: self.what() });
            }
            warn!(%code, said, "the consumer is broken and is made anew");
            self.lose_everything();
            return Ok(());
        }
        if client.context().lacks_topic() {
            self.look_at_topics(client).inspect_err(|_| client.context().note_lack())?;
        }
        match client.context().link.trouble() {
            Some(trouble) => Err(PortError::unavailable(self.what(), trouble)),
            None => Ok(()),
        }
    }

    /// Puts one message to those of its partition.
    fn take(&mut self, read: &BorrowedMessage<'_>, last: &mut usize) {
        let (name, index, offset) = (read.topic(), read.partition(), read.offset());
        let here = |t: &super::member::Track| t.index == index && t.name == name;
        if !self.tracks.get(*last).is_some_and(here) {
            let Some(at) = self.tracks.iter().position(here) else { return };
            *last = at;
        }
        let track = &mut self.tracks[*last];
        // Nobody has started this one, or it was read before it was started anew.
        if track.next.is_none_or(|next| offset < next) {
            return;
        }
        track.next = Some(offset + 1);
        track.pending.push(event::message(read));
    }
}
