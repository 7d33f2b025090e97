//! Events as Kafka messages: CloudEvents' Kafka binding.
//!
//! **Every attribute survives, and every message can be read.** Events are written in binary mode:
//! attributes are headers, the payload is the data as it is. Structured messages, and those of
//! producers that know nothing of CloudEvents, are read too; a message that makes no sense is still
//! a message, for the stage to set aside.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use castwatch_core::{Event, Message, Position};
use rdkafka::message::{BorrowedMessage, Header, Headers, Message as _, OwnedHeaders};
use serde_json::Value;

const JSON: &str = "application/json";
/// CloudEvents' name for the content type, which Kafka's binding writes as a header of its own.
const CONTENT: &str = "datacontenttype";

/// The headers of `event`; none for one without attributes.
pub(super) fn headers(event: &Event) -> Option<OwnedHeaders> {
    let Event { id, ty, source, subject, time, traceparent, extensions, data: _ } = event;
    let texts = [("ce_id", id), ("ce_type", ty), ("ce_source", source), ("ce_subject", subject)];
    let none = texts.iter().all(|(_, text)| text.is_empty());
    if none && time.is_none() && traceparent.is_none() && extensions.is_empty() {
        return None;
    }
    let with = |headers: OwnedHeaders, key: &str, value: &str| {
        headers.insert(Header { key, value: Some(value.as_bytes()) })
    };
    let mut headers = OwnedHeaders::new_with_capacity(8 + extensions.len());
    headers = with(headers, "ce_specversion", "1.0");
    for (key, value) in texts {
        if !value.is_empty() {
            headers = with(headers, key, value);
        }
    }
    if let Some(time) = time {
        headers = with(headers, "ce_time", &time.to_string());
    }
    if let Some(parent) = traceparent {
        headers = with(headers, "traceparent", parent);
    }
    let mut content = JSON;
    for (name, value) in extensions {
        if name == CONTENT {
            content = value;
        } else {
            headers = with(headers, &format!("ce_{name}"), value);
        }
    }
    Some(with(headers, "content-type", content))
}

/// A message as it was read.
pub(super) fn message(read: &BorrowedMessage<'_>) -> Message {
    let data = read.payload().unwrap_or_default();
    // rdkafka panics on a header whose name is not UTF-8; such a message counts as one without headers.
    let event = catch_unwind(AssertUnwindSafe(|| match read.headers() {
        Some(headers) => event(headers.iter().map(|h| (h.key, h.value.unwrap_or_default())), data),
        None => Event { data: Bytes::copy_from_slice(data), ..Event::default() },
    }));
    Message {
        position: Position(u64::try_from(read.offset()).unwrap_or(0)),
        key: text(read.key().unwrap_or_default()),
        written_ms: read.timestamp().to_millis().unwrap_or(0),
        event: event.unwrap_or_else(|_| Event { data: Bytes::copy_from_slice(data), ..Event::default() }),
    }
}

/// The event of these headers and this payload.
fn event<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>, data: &[u8]) -> Event {
    let mut event = Event::default();
    for (name, value) in headers {
        match name {
            "ce_specversion" => {}
            "traceparent" => event.traceparent = Some(text(value)),
            "content-type" => {
                if value.starts_with(b"application/cloudevents+json")
                    && let Some(event) = structured(data)
                {
                    return event;
                }
                if value != JSON.as_bytes() {
                    event.extensions.push((CONTENT.to_owned(), text(value)));
                }
            }
            _ => {
                if let Some(name) = name.strip_prefix("ce_") {
                    attribute(&mut event, name, text(value));
                }
            }
        }
    }
    event.data = Bytes::copy_from_slice(data);
    event
}

/// One attribute by its CloudEvents name.
fn attribute(event: &mut Event, name: &str, value: String) {
    match name {
        "id" => event.id = value,
        "type" => event.ty = value,
        "source" => event.source = value,
        "subject" => event.subject = value,
        "traceparent" => event.traceparent = event.traceparent.take().or(Some(value)),
        "time" => match value.parse() {
            Ok(time) => event.time = Some(time),
            // Kept, so that a dead letter shows it as it came.
            Err(_) => event.extensions.push((name.to_owned(), value)),
        },
        _ => event.extensions.push((name.to_owned(), value)),
    }
}

/// A whole event in JSON; `None` where it is not one.
fn structured(payload: &[u8]) -> Option<Event> {
    use base64::Engine as _;
    let Value::Object(members) = serde_json::from_slice(payload).ok()? else { return None };
    members.get("specversion")?;
    let json = members.get(CONTENT).and_then(Value::as_str).is_none_or(|content| content.contains("json"));
    let mut event = Event::default();
    for (name, value) in members {
        match (name.as_str(), value) {
            ("specversion", _) | (_, Value::Null) => {}
            ("data", Value::String(text)) if !json => event.data = text.into(),
            ("data", value) => event.data = value.to_string().into(),
            ("data_base64", Value::String(text)) => {
                event.data = base64::engine::general_purpose::STANDARD.decode(text).ok()?.into();
            }
            (CONTENT, Value::String(text)) if text == JSON => {}
            (name, Value::String(text)) => attribute(&mut event, name, text),
            (name, value) => attribute(&mut event, name, value.to_string()),
        }
    }
    Some(event)
}

/// Bytes as text; what is no UTF-8 is replaced.
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => String::from_utf8_lossy(bytes).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(event: &Event) -> Event {
        match headers(event) {
            Some(headers) => super::event(
                headers.as_borrowed().iter().map(|h| (h.key, h.value.unwrap_or_default())),
                &event.data,
            ),
            None => Event { data: event.data.clone(), ..Event::default() },
        }
    }

    #[test]
    fn attributes_survive_the_way_through_headers() {
        let full = Event {
            id: "score:주조기%203".into(),
            ty: "castwatch.score.v1".into(),
            source: "/castwatch/scorer".into(),
            subject: "주조기%203".into(),
            time: "2026-01-15T07:45:06.250Z".parse().ok(),
            traceparent: Some(castwatch_core::event::trace_root("x")),
            extensions: vec![("dlqerror".into(), "깨진 \"글\"\n".into()), (CONTENT.into(), "a/b".into())],
            data: Bytes::from_static(&[0, 0xff]),
        };
        assert_eq!(round(&full).extensions.len(), 2);
        let only_id = Event { id: "1".into(), ..Event::default() };
        for event in [full, only_id, Event::default()] {
            assert_eq!(round(&event), event);
        }
    }

    #[test]
    fn foreign_messages_are_read_as_far_as_they_make_sense() {
        let of = |headers: &[(&str, &[u8])], data: &[u8]| super::event(headers.iter().copied(), data);
        assert_eq!(of(&[("x-trace", b"1")], b"{}"), Event { data: "{}".into(), ..Event::default() });
        let odd = of(&[("ce_time", b"yesterday"), ("ce_id", b"\xff1"), ("ce_traceparent", b"00-a")], b"");
        assert_eq!(
            (odd.id.as_str(), odd.traceparent.as_deref(), odd.extension("time")),
            ("\u{fffd}1", Some("00-a"), Some("yesterday"))
        );
        let whole = br#"{"specversion":"1.0","id":"7","type":"t","source":"/s","lot":3,"data":{"a":[1]}}"#;
        let content: (&str, &[u8]) = ("content-type", b"application/cloudevents+json; charset=utf-8");
        let event = of(&[content], whole);
        assert_eq!(
            (&event.id, &event.ty, &event.data[..], event.extension("lot")),
            (&"7".into(), &"t".into(), &b"{\"a\":[1]}"[..], Some("3"))
        );
        let broken = of(&[content], b"{\"specversion\":");
        assert_eq!(&broken.data[..], b"{\"specversion\":", "what can't be read is kept as it came");
    }
}
