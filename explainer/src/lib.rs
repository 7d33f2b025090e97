//! Defects into attributions, charts and records.
//!
//! **An explanation adds up**: base and contributions give the score's margin to 1e-6, checked on
//! every defect, or the defect becomes a dead letter. **A chart never stops an alert**: its key
//! belongs to the shot, and whoever misses its bytes draws it again from the record.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod backend;
pub mod chart;
mod explain;
mod font;
mod stage;
mod words;

pub use explain::{ADDITIVE, ExplainError, PATTERN, explain};
pub use stage::{ChartSettings, ExplainHandler, Explainer, Format, chart_key};
pub use words::Lang;
