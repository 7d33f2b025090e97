//! Who looks on at a runner, such as what exports traces.

use std::time::SystemTime;

use crate::event::{Message, Outgoing, Partition};

/// Messages that are finished: their effects are done and their events acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Finished<'a> {
    /// The stage.
    pub stage: &'static str,
    /// Where the messages lie.
    pub partition: &'a Partition,
    /// The messages, in order.
    pub messages: &'a [Message],
    /// What was made of them, in order; dead letters too.
    pub events: &'a [Outgoing],
    /// When handling them began.
    pub began: SystemTime,
    /// When the events were acknowledged.
    pub ended: SystemTime,
}

/// Sees what a runner finished. It is called between batches, so it must not wait for anything;
/// what it does can't change what the runner does.
pub trait Observer: Send + Sync {
    /// These messages are finished.
    fn finished(&self, batch: &Finished<'_>);
}
