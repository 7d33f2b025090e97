//! The feed: what the page shows, in memory, and the events that keep open pages up to date.
//!
//! **An event is shown once**: what was seen is remembered by id, so a replay changes nothing.
//! **Nobody waits for a page**: a page that does not keep up loses its connection and resumes.
//! A snapshot and the events after its cursor are the whole story, because both are taken under
//! one lock. The feed only looks on: an event that it can't read is left out with a warning, and
//! becomes no dead letter.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use castwatch_core::payload::{Alert, Explanation, Payload, Score};
use castwatch_core::runner::chain;
use castwatch_core::stage::StateError;
use castwatch_core::{Handler, Message, Outbox, Outcome, Partition, Stage, Topic, Verdict};
use serde::Serialize;
use tokio::sync::broadcast;

use crate::view::{AlertView, DefectView, ShotView};

/// How much the feed remembers.
#[derive(Clone, Copy, Debug)]
pub struct FeedSettings {
    /// The last shots of each machine.
    pub shots: usize,
    /// The last defects, and the last alerts.
    pub defects: usize,
    /// The last events, from which a page can resume.
    pub events: usize,
    /// The most pages open at a time.
    pub pages: usize,
}

impl Default for FeedSettings {
    fn default() -> Self {
        Self { shots: 60, defects: 50, events: 4096, pages: 200 }
    }
}

/// Watches the line. A clone is the same feed.
#[derive(Clone)]
pub struct Feed {
    shared: Arc<Shared>,
}

struct Shared {
    settings: FeedSettings,
    /// Tells this feed's events from those of the process before it.
    start: String,
    board: Mutex<Board>,
}

/// One event for open pages.
#[derive(Clone, Debug)]
pub struct Live {
    /// Its number; the first is 1.
    pub number: u64,
    /// `shot`, `defect` or `alert`.
    pub kind: &'static str,
    /// Its JSON.
    pub json: Arc<str>,
}

/// How a page goes on.
#[derive(Debug)]
pub enum Resumed {
    /// It missed these, and then takes what comes.
    From(Vec<Live>, broadcast::Receiver<Live>),
    /// What it missed is no longer known: it has to start over.
    Reset,
    /// There are too many pages, or the feed has ended.
    Full,
}

/// Everything the page shows.
struct Board {
    machines: BTreeMap<String, Machine>,
    defects: VecDeque<DefectView>,
    alerts: VecDeque<AlertView>,
    totals: Totals,
    seen: Seen,
    number: u64,
    events: VecDeque<Live>,
    sender: Option<broadcast::Sender<Live>>,
}

#[derive(Default)]
struct Machine {
    totals: Totals,
    shots: VecDeque<ShotView>,
}

/// Counts since the feed began.
#[derive(Clone, Copy, Default, Serialize)]
struct Totals {
    shots: u64,
    ok: u64,
    suspect: u64,
    defect: u64,
    unscorable: u64,
}

impl Totals {
    fn count(&mut self, verdict: Verdict) {
        self.shots += 1;
        match verdict {
            Verdict::Ok => self.ok += 1,
            Verdict::Suspect => self.suspect += 1,
            Verdict::Defect => self.defect += 1,
            Verdict::Unscorable => self.unscorable += 1,
        }
    }
}

/// The snapshot as JSON.
#[derive(Serialize)]
struct State<'a> {
    cursor: String,
    totals: Totals,
    machines: Vec<MachineState<'a>>,
    defects: &'a VecDeque<DefectView>,
    alerts: &'a VecDeque<AlertView>,
}

#[derive(Serialize)]
struct MachineState<'a> {
    machine: &'a str,
    totals: Totals,
    shots: &'a VecDeque<ShotView>,
}

/// The ids seen last. Replays are short, so a bounded memory catches them.
#[derive(Default)]
struct Seen {
    ids: HashSet<String>,
    order: VecDeque<String>,
}

impl Seen {
    const MOST: usize = 65_536;

    /// Whether the id is new.
    fn add(&mut self, id: &str) -> bool {
        if !self.ids.insert(id.to_owned()) {
            return false;
        }
        self.order.push_back(id.to_owned());
        if self.order.len() > Self::MOST
            && let Some(old) = self.order.pop_front()
        {
            self.ids.remove(&old);
        }
        true
    }
}

impl Feed {
    /// An empty feed.
    #[must_use]
    pub fn new(settings: FeedSettings) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let board = Board {
            machines: BTreeMap::new(),
            defects: VecDeque::new(),
            alerts: VecDeque::new(),
            totals: Totals::default(),
            seen: Seen::default(),
            number: 0,
            events: VecDeque::new(),
            sender: Some(broadcast::channel(settings.events.max(1)).0),
        };
        let start = format!("{:x}", since.as_nanos());
        Self { shared: Arc::new(Shared { settings, start, board: Mutex::new(board) }) }
    }

    /// The snapshot for a page's first paint, as JSON, with the cursor to go on from.
    ///
    /// # Errors
    /// serde_json's; what is in the feed can be written.
    pub fn snapshot(&self) -> Result<Vec<u8>, serde_json::Error> {
        let board = self.board();
        serde_json::to_vec(&State {
            cursor: self.cursor(board.number),
            totals: board.totals,
            machines: board
                .machines
                .iter()
                .map(|(name, m)| MachineState { machine: name, totals: m.totals, shots: &m.shots })
                .collect(),
            defects: &board.defects,
            alerts: &board.alerts,
        })
    }

    /// The events after `cursor`, without a gap; without a cursor, those from now on.
    #[must_use]
    pub fn resume(&self, cursor: Option<&str>) -> Resumed {
        let board = self.board();
        let Some(sender) = board.sender.as_ref().filter(|s| s.receiver_count() < self.shared.settings.pages)
        else {
            return Resumed::Full;
        };
        let after = match cursor {
            None => board.number,
            Some(text) => match text.split_once('-') {
                Some((start, number)) if start == self.shared.start => match number.parse() {
                    Ok(number) if number <= board.number => number,
                    _ => return Resumed::Reset,
                },
                _ => return Resumed::Reset,
            },
        };
        let missed = board.number - after;
        if missed > board.events.len() as u64 {
            return Resumed::Reset;
        }
        let backlog = board.events.iter().skip(board.events.len() - missed as usize).cloned().collect();
        Resumed::From(backlog, sender.subscribe())
    }

    /// The cursor of an event.
    #[must_use]
    pub fn cursor(&self, number: u64) -> String {
        format!("{}-{number}", self.shared.start)
    }

    /// Ends the streams of all open pages, and takes no more.
    pub fn close(&self) {
        self.board().sender = None;
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.shared.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Feed {
    fn default() -> Self {
        Self::new(FeedSettings::default())
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}

impl Board {
    /// Shows one payload; `false` when it was shown before.
    fn take<P: Payload, V: Serialize + From<P>>(
        &mut self,
        kind: &'static str,
        payload: P,
        settings: &FeedSettings,
        show: impl FnOnce(&mut Self, V),
    ) -> Result<bool, serde_json::Error> {
        if !self.seen.add(&payload.event_id()) {
            return Ok(false);
        }
        let view = V::from(payload);
        let json = serde_json::to_string(&view)?.into();
        self.number += 1;
        let live = Live { number: self.number, kind, json };
        keep(&mut self.events, live.clone(), settings.events);
        show(self, view);
        if let Some(sender) = &self.sender {
            // It fails when no page is open, which is no failure.
            let _ = sender.send(live);
        }
        Ok(true)
    }
}

/// Adds the newest and drops the oldest.
fn keep<T>(queue: &mut VecDeque<T>, item: T, most: usize) {
    queue.push_back(item);
    while queue.len() > most {
        queue.pop_front();
    }
}

impl Stage for Feed {
    type Handler = FeedHandler;

    fn name(&self) -> &'static str {
        "console"
    }

    fn inputs(&self) -> Vec<Topic> {
        vec![Topic::SCORES, Topic::EXPLANATIONS, Topic::ALERTS]
    }

    fn open(&self, partition: &Partition, _: &Bytes) -> Result<FeedHandler, StateError> {
        Ok(FeedHandler { feed: self.clone(), topic: partition.topic.clone() })
    }
}

/// Feeds from one partition.
#[derive(Debug)]
pub struct FeedHandler {
    feed: Feed,
    topic: Topic,
}

impl FeedHandler {
    fn show(&self, message: &Message) -> Result<bool, serde_json::Error> {
        let settings = &self.feed.shared.settings;
        if self.topic == Topic::SCORES {
            let score = Score::read(message)?;
            self.feed.board().take("shot", score, settings, |board, shot: ShotView| {
                board.totals.count(shot.verdict);
                let machine = board.machines.entry(shot.machine.clone()).or_default();
                machine.totals.count(shot.verdict);
                keep(&mut machine.shots, shot, settings.shots);
            })
        } else if self.topic == Topic::EXPLANATIONS {
            let explanation = Explanation::read(message)?;
            self.feed.board().take("defect", explanation, settings, |board, defect: DefectView| {
                keep(&mut board.defects, defect, settings.defects);
            })
        } else {
            let alert = Alert::read(message)?;
            self.feed.board().take("alert", alert, settings, |board, alert: AlertView| {
                keep(&mut board.alerts, alert, settings.defects);
            })
        }
    }
}

impl Handler for FeedHandler {
    async fn handle(&mut self, messages: &[Message], out: &mut Outbox) -> Outcome {
        for message in messages {
            match self.show(message) {
                Ok(true) => {}
                Ok(false) => out.duplicate(),
                Err(error) => tracing::warn!(
                    topic = %self.topic,
                    position = %message.position,
                    error = chain(&error),
                    "an event can't be shown"
                ),
            }
        }
        Outcome::all(messages.len())
    }
}
