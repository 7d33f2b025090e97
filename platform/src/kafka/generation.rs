//! The one thing that rdkafka knows and does not say: the generation of a group.
//!
//! **The workspace's only unsafe block.**

use rdkafka::bindings::{
    rd_kafka_consumer_group_metadata, rd_kafka_consumer_group_metadata_destroy,
    rd_kafka_consumer_group_metadata_generation_id,
};
use rdkafka::client::{Client, ClientContext};

/// The generation of the group as this member knows it, or its member epoch (KIP-848); 0 while it
/// is in none.
#[allow(unsafe_code)]
pub(super) fn generation<C: ClientContext>(client: &Client<C>) -> u64 {
    // SAFETY: `native_ptr` is that of a live client, which `client` keeps alive for the whole
    // block, and librdkafka's functions may be called from any thread. The metadata is a copy that
    // belongs to us: it is null for a client without a group, which is seen before it is used, is
    // read once, and is destroyed once and not used afterwards.
    let generation = unsafe {
        let metadata = rd_kafka_consumer_group_metadata(client.native_ptr());
        if metadata.is_null() {
            return 0;
        }
        let generation = rd_kafka_consumer_group_metadata_generation_id(metadata);
        rd_kafka_consumer_group_metadata_destroy(metadata);
        generation
    };
    u64::try_from(generation).unwrap_or(0)
}
