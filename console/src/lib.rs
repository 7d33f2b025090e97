//! The supervisors' page: machines, the last shots as they arrive, defects with chart and words.
//!
//! **The console only watches**: its effect is memory, and no reader of its pages can hold back
//! the line. **A page misses nothing it was not told about**: after a lost connection it goes on
//! from the last event it saw, or it is told to start over ([`Feed::resume`]).
//!
//! There is no sign-in yet, so [`check_address`] lets it listen on loopback only unless it is told
//! otherwise.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod assets;
mod feed;
mod http;
mod serve;
mod view;

pub use feed::{Feed, FeedHandler, FeedSettings, Live, Resumed};
pub use http::router;
pub use serve::{NotLoopback, check_address, serve};
pub use view::{AlertView, DefectView, ShotView};
