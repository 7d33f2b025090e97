//! The channel of a terminal: one line an alert, Korean first.
//!
//! **A line is written whole or the send fails.** A terminal does not remember what it showed, so
//! an alert in doubt is shown again. A terminal that is gone ([`io::ErrorKind::BrokenPipe`]) never
//! comes back: it is said once in the log, and from then on this channel takes alerts and shows
//! them to nobody, rather than keep them from the other channels.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use castwatch_core::payload::Alert;

use crate::sender::{SendError, Sender};
use crate::text::one_line;

/// Writes alerts to a terminal.
pub struct Console {
    name: String,
    /// None once the terminal is gone.
    writer: Mutex<Option<Box<dyn Write + Send>>>,
}

impl Console {
    /// A channel that writes to `writer`, such as standard error.
    pub fn new(name: impl Into<String>, writer: impl Write + Send + 'static) -> Self {
        Self { name: name.into(), writer: Mutex::new(Some(Box::new(writer))) }
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Sender for Console {
    fn name(&self) -> &str {
        &self.name
    }

    fn idempotent(&self) -> bool {
        false
    }

    async fn send(&self, alert: &Alert) -> Result<(), SendError> {
        let line = line(alert);
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(terminal) = writer.as_mut() else { return Ok(()) };
        match terminal.write_all(line.as_bytes()).and_then(|()| terminal.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                tracing::warn!(
                    channel = self.name,
                    alert = alert.id,
                    "the terminal is gone; nothing is shown there any more"
                );
                *writer = None;
                Ok(())
            }
            written => written.map_err(SendError::transient),
        }
    }
}

/// `불량 · DCM-03 … — why and how sure | Defect · DCM-03 … — why and how sure`
fn line(alert: &Alert) -> String {
    let why = |body: &'_ str| body.lines().next().unwrap_or_default().to_owned();
    let (ko, en) = (why(&alert.body.ko), why(&alert.body.en));
    one_line(&format!("{} — {ko} | {} — {en}", alert.title.ko, alert.title.en)) + "\n"
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::stage::tests::explanation;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// A terminal that takes nothing, and how often it was asked.
    struct Failing(io::ErrorKind, Arc<AtomicUsize>);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            self.1.fetch_add(1, Ordering::SeqCst);
            Err(self.0.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn writes_one_line_in_two_languages() {
        let shared = Shared::default();
        let mut explanation = explanation("DCM-03", 258);
        explanation.summary.ko.push_str("\u{1b}[2J");
        Console::new("console", shared.clone()).send(&crate::alert(&explanation, &[])).await.unwrap();
        let text = String::from_utf8(shared.0.lock().unwrap().clone()).unwrap();
        assert_eq!(
            text,
            "불량 · DCM-03 · 금형 8722 · 샷 번호 258 — 주조 압력이 251 bar로 평소(331 bar)보다 낮습니다. [2J \
             | Defect · DCM-03 · die 8722 · shot 258 — Casting pressure is 251 bar, below its usual 331 bar.\n"
        );
    }

    #[tokio::test]
    async fn a_terminal_that_fails_is_an_outage_and_one_that_is_gone_is_not() {
        let (alert, asked) = (crate::alert(&explanation("m", 1), &[]), Arc::<AtomicUsize>::default());
        let full = Console::new("wall", Failing(io::ErrorKind::StorageFull, Arc::clone(&asked)));
        for _ in 0..2 {
            assert!(matches!(full.send(&alert).await, Err(SendError::Transient(_))));
        }
        assert_eq!((full.name(), asked.swap(0, Ordering::SeqCst)), ("wall", 2));
        let gone = Console::new("wall", Failing(io::ErrorKind::BrokenPipe, Arc::clone(&asked)));
        for _ in 0..3 {
            gone.send(&alert).await.unwrap();
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1, "what is gone is not asked again");
    }
}
