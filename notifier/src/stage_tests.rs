use std::collections::HashMap;
use std::sync::Mutex;

use castwatch_core::payload::{Alert, Words};
use castwatch_core::ports::{RecordPage, RecordQuery, Stored};
use castwatch_core::{Event, Position};

use super::*;

pub(crate) fn explanation(machine: &str, cycle: u64) -> Explanation {
    let words = |ko: &str, en: &str| Words { ko: ko.into(), en: en.into() };
    let score = serde_json::json!({
        "shot": format!("{machine}~8722~20260115T074506Z~{cycle}"), "machine": machine, "die": "8722",
        "cycle": cycle, "ended_at": "2026-01-15T16:45:06+09:00", "try_shot": false, "verdict": "defect",
        "probability": 0.97, "margin": 3.5, "anomaly": 2.5, "missing": 0, "bundle": "b"
    });
    Explanation {
        score: serde_json::from_value(score).unwrap(),
        base: -3.0,
        attributions: Vec::new(),
        cause: "cast_pressure".into(),
        summary: words(
            "주조 압력이 251 bar로 평소(331 bar)보다 낮습니다.",
            "Casting pressure is 251 bar, below its usual 331 bar.",
        ),
        equipment: words("사출 유닛", "Injection unit"),
        advice: words("증압 압력을 확인하세요.", "Check the intensification pressure."),
        chart: Some("charts/1.svg".into()),
    }
}

fn message(position: u64, cycle: u64) -> Message {
    let cause = Event { id: "defect:1".into(), ..Event::default() };
    let out = explanation("DCM-03", cycle).outgoing("explainer", &cause).unwrap();
    Message { position: Position(position), key: out.key, written_ms: 0, event: out.event }
}

/// Claims in memory; so many settles fail before they take effect.
#[derive(Default)]
struct Claims {
    settled: Mutex<HashMap<String, bool>>,
    failing_settles: AtomicU64,
    /// So long each call takes.
    takes: Duration,
}

impl Claims {
    async fn answer(&self) {
        if !self.takes.is_zero() {
            tokio::time::sleep(self.takes).await;
        }
    }
}

impl Records for Claims {
    async fn put(&self, _: &Explanation) -> Result<Stored, PortError> {
        Ok(Stored::New)
    }
    async fn get(&self, _: &str) -> Result<Option<Explanation>, PortError> {
        Ok(None)
    }
    async fn told(&self, _: &Alert) -> Result<(), PortError> {
        self.answer().await;
        Ok(())
    }
    async fn list(&self, _: &RecordQuery) -> Result<RecordPage, PortError> {
        Ok(RecordPage::default())
    }
    async fn claim(&self, id: &str) -> Result<Claim, PortError> {
        self.answer().await;
        let mut settled = self.settled.lock().unwrap();
        Ok(match settled.insert(id.to_owned(), false) {
            None => Claim::Fresh,
            Some(false) => Claim::Begun,
            Some(true) => {
                settled.insert(id.to_owned(), true);
                Claim::Settled
            }
        })
    }
    async fn settle(&self, id: &str) -> Result<(), PortError> {
        self.answer().await;
        if self.failing_settles.load(Ordering::SeqCst) > 0 {
            self.failing_settles.fetch_sub(1, Ordering::SeqCst);
            return Err(PortError::unavailable("settle", "the connection was lost"));
        }
        self.settled.lock().unwrap().insert(id.to_owned(), true);
        Ok(())
    }
}

/// A channel that fails as told and remembers what it told.
struct Scripted {
    name: &'static str,
    idempotent: bool,
    told: Mutex<Vec<u64>>,
    failing: Mutex<VecDeque<SendError>>,
    takes: Duration,
}

fn scripted(name: &'static str, failing: Vec<SendError>) -> Arc<Scripted> {
    let (told, failing) = (Mutex::default(), Mutex::new(failing.into()));
    Arc::new(Scripted { name, idempotent: name != "console", told, failing, takes: Duration::ZERO })
}

impl Sender for Arc<Scripted> {
    fn name(&self) -> &str {
        self.name
    }
    fn idempotent(&self) -> bool {
        self.idempotent
    }
    async fn send(&self, alert: &Alert) -> Result<(), SendError> {
        if let Some(error) = self.failing.lock().unwrap().pop_front() {
            return Err(error);
        }
        tokio::time::sleep(self.takes).await;
        self.told.lock().unwrap().push(alert.cycle);
        Ok(())
    }
}

impl Scripted {
    fn told(&self) -> Vec<u64> {
        self.told.lock().unwrap().clone()
    }
}

type Tested = Notifier<Arc<Claims>, Arc<Scripted>>;

fn notifier(claims: &Arc<Claims>, senders: &[&Arc<Scripted>]) -> Tested {
    Notifier::new(Arc::clone(claims), senders.iter().map(|s| Arc::clone(s)).collect()).unwrap()
}

fn open(notifier: &Tested, state: &Bytes) -> AlertHandler<Arc<Claims>, Arc<Scripted>> {
    notifier.open(&Partition::new(Topic::EXPLANATIONS, 0), state).unwrap()
}

#[tokio::test]
async fn tells_each_alert_once_at_every_channel_and_publishes_it() {
    let (console, file) = (scripted("console", vec![]), scripted("file", vec![]));
    let notifier = notifier(&Arc::default(), &[&console, &file]);
    let mut handler = open(&notifier, &Bytes::new());
    let mut out = Outbox::default();
    let outcome = handler.handle(&[message(1, 1), message(2, 2), message(3, 1)], &mut out).await;
    assert_eq!(outcome.done, 3);
    assert!(outcome.stop.is_none());
    assert_eq!((console.told(), file.told()), (vec![1, 2], vec![1, 2]));
    assert_eq!(out.duplicates(), 1);
    let events = out.events();
    assert_eq!(events.len(), 3);
    assert_eq!(events[0].event.id, "alert:DCM-03~8722~20260115T074506Z~1");
    assert_eq!(events[0].event, events[2].event);
    let alert: Alert = serde_json::from_slice(&events[1].event.data).unwrap();
    assert_eq!(alert.channels, ["console", "file"]);
    assert_eq!(alert.id, events[1].event.id);
}

#[tokio::test]
async fn a_crash_before_progress_was_saved_tells_nothing_twice_and_counts_it_done() {
    let (claims, console) = (Arc::default(), scripted("console", vec![]));
    let saved = {
        let mut handler = open(&notifier(&claims, &[&console]), &Bytes::new());
        let _ = handler.handle(&[message(1, 1)], &mut Outbox::default()).await;
        let saved = handler.state();
        let _ = handler.handle(&[message(2, 2)], &mut Outbox::default()).await;
        saved
    };
    let mut handler = open(&notifier(&claims, &[&console]), &saved);
    let mut out = Outbox::default();
    let _ = handler.handle(&[message(2, 2), message(3, 1)], &mut out).await;
    assert_eq!(console.told(), [1, 2]);
    // The second was taken again, the first lies in the log twice.
    assert_eq!((out.events().len(), out.duplicates()), (2, 1));
}

#[tokio::test]
async fn an_alert_in_doubt_is_sent_again_and_counted_where_it_may_show_twice() {
    let claims = Arc::new(Claims { failing_settles: 2.into(), ..Claims::default() });
    let (file, console) = (scripted("file", vec![]), scripted("console", vec![]));
    let notifier = notifier(&claims, &[&file, &console]);
    let mut handler = open(&notifier, &Bytes::new());
    let mut out = Outbox::default();
    let outcome = handler.handle(&[message(1, 1)], &mut out).await;
    assert!(matches!(outcome.stop, Some(Stop::Retry(_))));
    assert_eq!((outcome.done, out.events().len()), (0, 0));
    assert!(handler.handle(&[message(1, 1)], &mut out).await.stop.is_none());
    // The file drops what it has by its id, so there is no doubt about it.
    assert_eq!((file.told(), console.told()), (vec![1, 1], vec![1, 1]));
    assert_eq!(notifier.doubts(), 1);
    claims.settled.lock().unwrap().insert("alert:DCM-03~8722~20260115T074506Z~9#console".into(), false);
    assert!(handler.handle(&[message(4, 9)], &mut out).await.stop.is_none());
    assert_eq!((console.told(), notifier.doubts()), (vec![1, 1, 9], 2));
}

#[tokio::test]
async fn an_outage_stops_at_the_message_after_the_other_channels_were_told() {
    let hook = scripted("webhook", vec![SendError::transient("503")]);
    let console = scripted("console", vec![]);
    let notifier = notifier(&Arc::default(), &[&hook, &console]);
    let mut handler = open(&notifier, &Bytes::new());
    let mut out = Outbox::default();
    let outcome = handler.handle(&[message(1, 1), message(2, 2)], &mut out).await;
    assert_eq!((outcome.done, out.events().len()), (0, 0));
    let Some(Stop::Retry(error)) = outcome.stop else { panic!("not a retry") };
    assert_eq!(error.to_string(), "sending alert:DCM-03~8722~20260115T074506Z~1 to webhook is not available");
    // The second alert does not overtake the first where it is late.
    assert_eq!((hook.told(), console.told()), (vec![], vec![1, 2]));
    assert_eq!(handler.handle(&[message(1, 1), message(2, 2)], &mut out).await.done, 2);
    assert_eq!((hook.told(), console.told()), (vec![1, 2], vec![1, 2]));
    assert_eq!(out.duplicates(), 0);
}

#[tokio::test]
async fn only_what_may_have_been_sent_is_in_doubt() {
    let console = scripted("console", vec![SendError::transient("gone")]);
    let notifier = notifier(&Arc::default(), &[&console]);
    let mut handler = open(&notifier, &Bytes::new());
    let messages: Vec<Message> = (1..=5).map(|i| message(i, i)).collect();
    assert_eq!(handler.handle(&messages, &mut Outbox::default()).await.done, 0);
    assert_eq!(handler.handle(&messages, &mut Outbox::default()).await.done, 5);
    assert_eq!((console.told(), notifier.doubts()), (vec![1, 2, 3, 4, 5], 1));
}

#[tokio::test(start_paused = true)]
async fn claims_are_begun_and_settled_together() {
    let claims = Arc::new(Claims { takes: Duration::from_millis(5), ..Claims::default() });
    let (console, file) = (scripted("console", vec![]), scripted("file", vec![]));
    let notifier = notifier(&claims, &[&console, &file]);
    let (mut handler, mut out) = (open(&notifier, &Bytes::new()), Outbox::default());
    let messages: Vec<Message> = (0..40).map(|i| message(i, i)).collect();
    let began = Instant::now();
    assert_eq!(handler.handle(&messages, &mut out).await.done, 40);
    assert_eq!(began.elapsed(), Duration::from_millis(3 * 3 * 5));
    let all: Vec<u64> = (0..40).collect();
    assert_eq!((console.told(), file.told(), out.duplicates()), (all.clone(), all, 0));
}

#[tokio::test]
async fn a_slow_channel_hands_over_each_alert_it_told() {
    let slow = Scripted { takes: HAND_OVER, ..Arc::into_inner(scripted("webhook", vec![])).unwrap() };
    let slow = Arc::new(slow);
    let notifier = notifier(&Arc::default(), &[&slow]);
    let mut handler = open(&notifier, &Bytes::new());
    let messages: Vec<Message> = (1..=3).map(|i| message(i, i)).collect();
    for done in 0..3 {
        let mut out = Outbox::default();
        let outcome = handler.handle(&messages[done..], &mut out).await;
        assert!(outcome.done == 1 && outcome.stop.is_none());
        assert_eq!((out.events().len(), slow.told().len()), (1, done + 1));
    }
}

#[tokio::test]
async fn two_files_tell_each_alert_under_their_own_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let files = ["line-1", "line-2"].map(|name| crate::File::open(name, path(name)).unwrap());
    let notifier = Notifier::new(Arc::new(Claims::default()), files.into()).unwrap();
    let mut handler = notifier.open(&Partition::new(Topic::EXPLANATIONS, 0), &Bytes::new()).unwrap();
    let mut out = Outbox::default();
    assert_eq!(handler.handle(&[message(1, 1), message(2, 2)], &mut out).await.done, 2);
    let alert: Alert = serde_json::from_slice(&out.events()[0].event.data).unwrap();
    assert_eq!(alert.channels, ["line-1", "line-2"]);
    let told = ["line-1", "line-2"].map(|name| std::fs::read_to_string(path(name)).unwrap());
    assert_eq!(told[0].lines().count(), 2);
    assert_eq!(told[0], told[1]);
}

#[tokio::test]
async fn a_refusal_is_a_dead_letter_after_the_other_channels_were_told() {
    let hook = scripted("webhook", vec![SendError::refused("400"), SendError::refused("400")]);
    let file = scripted("file", vec![SendError::transient("disk full")]);
    let console = scripted("console", vec![]);
    let notifier = notifier(&Arc::default(), &[&hook, &file, &console]);
    let mut handler = open(&notifier, &Bytes::new());
    let mut out = Outbox::default();
    assert!(matches!(handler.handle(&[message(1, 1)], &mut out).await.stop, Some(Stop::Retry(_))));
    assert_eq!((file.told(), console.told()), (vec![], vec![1]));
    let outcome = handler.handle(&[message(1, 1)], &mut out).await;
    let Some(Stop::Refuse(error)) = outcome.stop else { panic!("not refused") };
    assert_eq!(error.to_string(), "alert:DCM-03~8722~20260115T074506Z~1 was refused by webhook");
    assert_eq!((file.told(), console.told(), out.events().len()), (vec![1], vec![1], 0));
    // Replayed from the dead letters, the webhook alone is asked.
    assert!(handler.handle(&[message(9, 1)], &mut out).await.stop.is_none());
    assert_eq!((hook.told(), file.told(), console.told()), (vec![1], vec![1], vec![1]));
    assert_eq!((out.events().len(), out.duplicates()), (1, 0));
}

#[tokio::test]
async fn refuses_what_is_not_an_explanation_names_that_meet_and_states_it_cannot_read() {
    let console = scripted("console", vec![]);
    let tested = notifier(&Arc::default(), &[&console]);
    let mut bad = message(1, 1);
    bad.event.data = Bytes::from_static(b"{\"machine\":");
    let outcome = open(&tested, &Bytes::new()).handle(&[message(0, 5), bad], &mut Outbox::default()).await;
    assert_eq!(outcome.done, 1);
    assert!(matches!(outcome.stop, Some(Stop::Refuse(_))));
    assert!(tested.open(&Partition::new(Topic::EXPLANATIONS, 0), &Bytes::from_static(b"abc")).is_err());
    let twice = Notifier::new(Arc::new(Claims::default()), vec![Arc::clone(&console), console]).unwrap_err();
    assert_eq!(twice.to_string(), "two channels are named `console`");
}

#[tokio::test]
async fn remembers_a_bounded_number_of_alerts() {
    let tested = notifier(&Arc::default(), &[]);
    let mut handler = open(&tested, &Bytes::new());
    let messages: Vec<Message> = (0..2000).map(|i| message(i, i)).collect();
    let mut out = Outbox::default();
    assert_eq!(handler.handle(&messages, &mut out).await.done, 2000);
    assert_eq!(handler.state().len(), REMEMBERED * MARK);
    let _ = handler.handle(&[message(2000, 1999), message(2001, 0)], &mut out).await;
    assert_eq!((out.events().len(), out.duplicates()), (2002, 1));
}
