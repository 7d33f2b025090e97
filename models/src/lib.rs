//! Model bundles: what turns a shot into a probability, and the probability into reasons.
//!
//! **One implementation serves training and scoring**: [`Bundle::extract`] makes the features of
//! both, so that they can't differ. **What loads has been checked**: the digests of its files, the
//! shape of its models and its golden values; a broken bundle is refused with the file and what
//! would be right, and never panics. **Attributions are exact** and add up to the margin.
//!
//! A bundle is a folder: `bundle.toml` ([`manifest`]), ONNX files, `golden.json` ([`golden`]) and
//! `MODEL_CARD.md`. The steps are features ([`features`], [`history`]) → scale and clip →
//! autoencoder ([`network`]) → trees ([`forest`]) → calibration → verdict.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod bundle;
mod calibration;
mod error;
pub mod features;
mod forest;
mod forest_onnx;
pub mod golden;
pub mod history;
mod manifest;
mod network;
mod shap;
#[cfg(test)]
mod tests;

pub use bundle::{Attributions, Bundle, Judgement};
pub use error::{BundleError, JudgeError};
pub use features::{FeatureSpec, Features};
pub use history::{DieHistory, HistoryError};
pub use manifest::ReadingSpec;
