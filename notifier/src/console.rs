//! The channel of a terminal: one line an alert, Korean first.
//!
//! **A line is written whole or the send fails.** A terminal does not remember what it showed, so
//! an alert in doubt is shown again.

use std::fmt;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use castwatch_core::payload::Alert;

use crate::sender::{SendError, Sender};
use crate::text::one_line;

/// Writes alerts to a terminal.
pub struct Console {
    writer: Mutex<Box<dyn Write + Send>>,
}

impl Console {
    /// A channel that writes to `writer`, such as standard error.
    pub fn new(writer: impl Write + Send + 'static) -> Self {
        Self { writer: Mutex::new(Box::new(writer)) }
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").finish_non_exhaustive()
    }
}

impl Sender for Console {
    fn name(&self) -> &str {
        "console"
    }

    fn idempotent(&self) -> bool {
        false
    }

    async fn send(&self, alert: &Alert) -> Result<(), SendError> {
        let line = line(alert);
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.write_all(line.as_bytes()).and_then(|()| writer.flush()).map_err(SendError::transient)
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

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
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
        Console::new(shared.clone()).send(&crate::alert(&explanation, &[])).await.unwrap();
        let text = String::from_utf8(shared.0.lock().unwrap().clone()).unwrap();
        assert_eq!(
            text,
            "불량 · DCM-03 · 금형 8722 · 258번 샷 — 주조 압력이 251 bar로 평소(331 bar)보다 낮습니다. [2J \
             | Defect · DCM-03 · die 8722 · shot 258 — Casting pressure is 251 bar, below its usual 331 bar.\n"
        );
    }

    #[tokio::test]
    async fn a_closed_terminal_is_an_outage_not_a_bad_alert() {
        let error = Console::new(Closed).send(&crate::alert(&explanation("m", 1), &[])).await.unwrap_err();
        assert!(matches!(error, SendError::Transient(_)));
    }
}
