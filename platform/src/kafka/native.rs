//! Two things that librdkafka can and rdkafka can't.
//!
//! **The workspace's only unsafe blocks**: the generation of a group, which fences snapshots, and a
//! token for a client whose events rdkafka does not serve, as an `AdminClient`'s.

use std::ffi::{CStr, CString};
use std::ptr;

use rdkafka::bindings::{
    rd_kafka_consumer_group_metadata, rd_kafka_consumer_group_metadata_destroy,
    rd_kafka_consumer_group_metadata_generation_id, rd_kafka_oauthbearer_set_token,
};
use rdkafka::client::{Client, ClientContext, OAuthToken};
use rdkafka::types::RDKafkaRespErr;

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

/// Gives `client` the token to say who it is with.
#[allow(unsafe_code)]
pub(super) fn give_token<C: ClientContext>(client: &Client<C>, token: &OAuthToken) -> Result<(), String> {
    let text = |text: &str| CString::new(text).map_err(|error| error.to_string());
    let (value, principal) = (text(&token.token)?, text(&token.principal_name)?);
    let mut said = [0; 512];
    // SAFETY: `native_ptr` is that of a live client, which `client` keeps alive for the whole
    // block. librdkafka copies both strings, which end in a null byte and live until after the
    // call, reads no extensions where their count is 0, and writes at most `said.len()` bytes.
    let code = unsafe {
        rd_kafka_oauthbearer_set_token(
            client.native_ptr(),
            value.as_ptr(),
            token.lifetime_ms,
            principal.as_ptr(),
            ptr::null_mut(),
            0,
            said.as_mut_ptr(),
            said.len(),
        )
    };
    if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Ok(());
    }
    let said = said.map(|c| c.cast_unsigned());
    Err(CStr::from_bytes_until_nul(&said).unwrap_or_default().to_string_lossy().into_owned())
}
