//! Progress of stages.
//!
//! **One small object, the manifest, says who owns a partition and how far it came, and is only
//! ever replaced where it still is the one that its writer knows** (`If-Match` with its entity
//! tag). So of two owners one writes, and the other learns that it is none:
//!
//! - *Taking* a partition puts a token of one's own into the manifest and carries the snapshot over.
//! - *Saving* replaces the manifest that holds the token. A state of more than [`INLINE`] bytes lies
//!   beside it, in an object of its own whose name is never used twice: it is written first, and is
//!   the state only once a manifest names it.
//! - *A write that is refused* may be one that took place and whose answer was lost. What lies there
//!   tells: our token, so it was ours, or another's.
//!
//! State objects that no manifest names, of a save that was broken off, are removed by the saves
//! and the takes that follow.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use castwatch_core::event::hex;
use castwatch_core::ports::{Generation, Snapshot, Tally, Token};
use castwatch_core::{Partition, PortError, Position, Snapshots, Topic};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tracing::debug;

use super::transfer::{Condition, Put, Written};
use super::{S3, unique};
use crate::aws::port_error;

/// The layout of manifests that this castwatch writes and reads.
const LAYOUT: u32 = 1;
/// A state of so many bytes lies in the manifest itself.
const INLINE: usize = 16 << 10;
/// How often a write is decided anew when others write at the same time.
const TRIES: u32 = 20;

/// Who owns a partition, and how far it came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Manifest {
    layout: u32,
    generation: u64,
    token: String,
    /// Rises with every write, whoever writes: no two manifests of a partition are alike.
    sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<Kept>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    position: Position,
    tally: Tally,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Base64.
    Inline(String),
    Object(StateObject),
}

/// A state beside the manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct StateObject {
    /// What follows the manifest's key and a dot: the writer's token, a dot and a number.
    name: String,
    length: usize,
    sha256: String,
}

impl Manifest {
    fn object(&self) -> Option<&StateObject> {
        match &self.snapshot.as_ref()?.state {
            State::Object(object) => Some(object),
            State::Inline(_) => None,
        }
    }
}

/// The partitions that this process took.
#[derive(Default)]
pub(super) struct Held(Mutex<HashMap<(String, Partition), (Token, Shared)>>);

type Shared = Arc<tokio::sync::Mutex<Hold>>;

/// What is known of a partition while it is ours.
struct Hold {
    /// The manifest as it lay there last, and its entity tag.
    manifest: Manifest,
    tag: String,
    /// The highest number that was used.
    sequence: u64,
    /// A state that was written whole, and that no manifest names yet.
    uploaded: Option<StateObject>,
    /// The names of state objects that may lie there although no manifest names them.
    strays: Vec<String>,
}

impl Hold {
    fn new(manifest: Manifest, tag: String) -> Self {
        Self { sequence: manifest.sequence, manifest, tag, uploaded: None, strays: Vec::new() }
    }

    /// Takes note of what lies there by now.
    fn lies(&mut self, manifest: Manifest, tag: String) {
        if let Some(old) = self.manifest.object() {
            self.strays.push(old.name.clone());
        }
        self.sequence = self.sequence.max(manifest.sequence);
        (self.manifest, self.tag) = (manifest, tag);
    }

    /// The names that may be removed, now that this manifest is the one that counts.
    fn strays(&mut self, manifest: &Manifest) -> Vec<String> {
        self.uploaded = None;
        let named = manifest.object().map(|object| object.name.as_str());
        std::mem::take(&mut self.strays).into_iter().filter(|name| Some(name.as_str()) != named).collect()
    }
}

impl Held {
    fn get(&self, stage: &str, partition: &Partition, token: &Token) -> Option<Shared> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(&(stage.to_owned(), partition.clone()))
            .filter(|(t, _)| t == token)
            .map(|(_, hold)| hold.clone())
    }

    fn put(&self, stage: &str, partition: &Partition, token: &Token, hold: Hold) -> Shared {
        let hold = Arc::new(tokio::sync::Mutex::new(hold));
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.insert((stage.to_owned(), partition.clone()), (token.clone(), hold.clone()));
        hold
    }
}

impl Snapshots for S3 {
    async fn take(
        &self,
        stage: &str,
        partition: &Partition,
        generation: Generation,
    ) -> Result<(Token, Option<Snapshot>), PortError> {
        let what = format!("take-over of {partition} for {stage}");
        let (at, token) = (self.manifest_key(stage, partition), Token(unique()));
        let mut replaced = None;
        for attempt in 0..TRIES {
            let found = self.manifest(&what, &at).await?;
            let condition = found.as_ref().map_or(Condition::Absent, |(_, tag)| Condition::Is(tag.clone()));
            let ours = match found {
                // The write before this one took place; its answer was lost.
                Some((manifest, tag)) if manifest.token == token.0 => Some((manifest, tag)),
                Some((manifest, _)) if manifest.generation > generation.0 => {
                    return Err(PortError::Fenced { what });
                }
                found => {
                    let before = found.map(|(manifest, _)| manifest);
                    let manifest = Manifest {
                        layout: LAYOUT,
                        generation: generation.0,
                        token: token.0.clone(),
                        sequence: before.as_ref().map_or(0, |m| m.sequence) + 1,
                        snapshot: before.as_ref().and_then(|m| m.snapshot.clone()),
                    };
                    replaced = before.map(|m| m.token);
                    match self.put_manifest(&what, &at, &manifest, condition).await? {
                        Written::Done(tag) => Some((manifest, tag)),
                        Written::Not => None,
                    }
                }
            };
            if let Some((manifest, tag)) = ours {
                let snapshot = match &manifest.snapshot {
                    Some(kept) => Some(self.snapshot(&what, &at, kept).await?),
                    None => None,
                };
                self.remove_leftovers(&at, &manifest, replaced);
                self.0.held.put(stage, partition, &token, Hold::new(manifest, tag));
                return Ok((token, snapshot));
            }
            pause(attempt).await;
        }
        Err(contended(what))
    }

    async fn save(
        &self,
        stage: &str,
        partition: &Partition,
        token: &Token,
        snapshot: &Snapshot,
    ) -> Result<(), PortError> {
        let what = format!("save of {partition} for {stage}");
        let at = self.manifest_key(stage, partition);
        let hold = match self.0.held.get(stage, partition, token) {
            Some(hold) => hold,
            None => match self.manifest(&what, &at).await? {
                Some((manifest, tag)) if manifest.token == token.0 => {
                    self.0.held.put(stage, partition, token, Hold::new(manifest, tag))
                }
                _ => return Err(PortError::Fenced { what }),
            },
        };
        self.replace(&what, &at, &mut *hold.lock().await, snapshot).await
    }
}

impl S3 {
    /// What `castwatch books` wants to know: how far a stage came in each partition. The states are
    /// left out.
    ///
    /// # Errors
    /// When the bucket can't be read, or a manifest is none.
    pub async fn snapshots_of(&self, stage: &str) -> Result<Vec<(Partition, Snapshot)>, PortError> {
        let what = format!("list of the progress of {stage}");
        let below = format!("{}snapshots/{stage}/", self.0.settings.prefix);
        let mut all = Vec::new();
        for key in self.keys(&what, &below).await? {
            let place = key.strip_prefix(&below).and_then(|rest| rest.rsplit_once('/'));
            let Some((topic, Ok(index))) = place.map(|(topic, index)| (topic, index.parse())) else {
                continue;
            };
            // A partition that was only taken has no snapshot.
            if let Some((Manifest { snapshot: Some(kept), .. }, _)) = self.manifest(&what, &key).await? {
                let Kept { position, tally, .. } = kept;
                let partition = Partition::new(Topic::named(topic), index);
                all.push((partition, Snapshot { position, tally, state: Bytes::new() }));
            }
        }
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(all)
    }

    fn manifest_key(&self, stage: &str, partition: &Partition) -> String {
        format!("{}snapshots/{stage}/{partition}", self.0.settings.prefix)
    }

    /// The manifest that lies there, with its entity tag.
    async fn manifest(&self, what: &str, at: &str) -> Result<Option<(Manifest, String)>, PortError> {
        let Some(got) = self.get_object(what, at).await? else { return Ok(None) };
        match serde_json::from_slice::<Manifest>(&got.bytes) {
            Ok(manifest) if manifest.layout == LAYOUT => Ok(Some((manifest, got.tag))),
            Ok(Manifest { layout, .. }) => {
                let cause = format!(
                    "{at} has layout {layout}, this castwatch knows {LAYOUT}; use the castwatch that wrote it"
                );
                Err(PortError::refused(what, cause))
            }
            Err(e) => {
                let cause = format!(
                    "{at} is no snapshot of castwatch ({e}); bring back an earlier version of the object"
                );
                Err(PortError::refused(what, cause))
            }
        }
    }

    async fn put_manifest(
        &self,
        what: &str,
        at: &str,
        manifest: &Manifest,
        condition: Condition,
    ) -> Result<Written, PortError> {
        let json = serde_json::to_vec(manifest).map_err(|e| PortError::refused(what, e))?;
        let put = Put { condition, content_type: Some("application/json".into()), ..Put::default() };
        self.put_object(what, at, json.into(), put).await
    }

    /// A snapshot whole, its state as it was written.
    async fn snapshot(&self, what: &str, at: &str, kept: &Kept) -> Result<Snapshot, PortError> {
        let state = match &kept.state {
            State::Inline(text) => {
                BASE64_STANDARD.decode(text).map_err(|e| PortError::refused(what, e))?.into()
            }
            State::Object(object) => {
                let key = format!("{at}.{}", object.name);
                let damaged = |how: &str| {
                    let cause = format!(
                        "the state {key} {how}; bring back an earlier version of it, or remove {at} to begin anew"
                    );
                    PortError::refused(what, cause)
                };
                let found =
                    self.download(what, &key, object.length).await?.ok_or_else(|| damaged("is gone"))?;
                if found.len() != object.length || digest(what, found.clone()).await? != object.sha256 {
                    return Err(damaged("is not the one that was saved"));
                }
                found
            }
        };
        Ok(Snapshot { position: kept.position, tally: kept.tally, state })
    }

    /// Replaces the manifest that is held.
    async fn replace(
        &self,
        what: &str,
        at: &str,
        hold: &mut Hold,
        snapshot: &Snapshot,
    ) -> Result<(), PortError> {
        let state = if snapshot.state.len() <= INLINE {
            State::Inline(BASE64_STANDARD.encode(&snapshot.state))
        } else {
            State::Object(self.state_object(what, at, hold, &snapshot.state).await?)
        };
        let kept = Kept { position: snapshot.position, tally: snapshot.tally, state };
        for attempt in 0..TRIES {
            hold.sequence += 1;
            let manifest =
                Manifest { sequence: hold.sequence, snapshot: Some(kept.clone()), ..hold.manifest.clone() };
            let saved = match self.put_manifest(what, at, &manifest, Condition::Is(hold.tag.clone())).await? {
                Written::Done(tag) => {
                    hold.lies(manifest, tag);
                    true
                }
                Written::Not => match self.manifest(what, at).await? {
                    // Our own write, whose answer was lost: this one, or one before it that came late.
                    Some((found, tag)) if found.token == manifest.token => {
                        let this = found == manifest;
                        hold.lies(found, tag);
                        this
                    }
                    found => {
                        let strays = found.map_or_else(Vec::new, |(manifest, _)| hold.strays(&manifest));
                        self.remove(at, strays);
                        return Err(PortError::Fenced { what: what.to_owned() });
                    }
                },
            };
            if saved {
                let manifest = hold.manifest.clone();
                self.remove(at, hold.strays(&manifest));
                return Ok(());
            }
            pause(attempt).await;
        }
        Err(contended(what.to_owned()))
    }

    /// A state beside the manifest; one that lies there already is not written again.
    async fn state_object(
        &self,
        what: &str,
        at: &str,
        hold: &mut Hold,
        state: &Bytes,
    ) -> Result<StateObject, PortError> {
        let sha256 = digest(what, state.clone()).await?;
        let known = [hold.manifest.object(), hold.uploaded.as_ref()];
        if let Some(same) =
            known.into_iter().flatten().find(|o| o.sha256 == sha256 && o.length == state.len())
        {
            return Ok(same.clone());
        }
        hold.sequence += 1;
        let name = format!("{}.{}", hold.manifest.token, hold.sequence);
        hold.strays.push(name.clone());
        let put = Put { content_type: Some("application/octet-stream".into()), ..Put::default() };
        self.upload(what, &format!("{at}.{name}"), state.clone(), put).await?;
        let object = StateObject { name, length: state.len(), sha256 };
        hold.uploaded = Some(object.clone());
        Ok(object)
    }

    /// Removes, in its own time, what owners before us left: all states that are not named and are
    /// the last owner's, who can't name them any more, or older than our manifest. Those of a later
    /// owner are neither.
    fn remove_leftovers(&self, at: &str, manifest: &Manifest, replaced: Option<String>) {
        let Some(replaced) = replaced else { return };
        let (s3, at, named) = (self.clone(), at.to_owned(), manifest.object().map(|o| o.name.clone()));
        let sequence = manifest.sequence;
        tokio::spawn(async move {
            let beside = format!("{at}.");
            let keys = s3.keys("list of old states", &beside).await.unwrap_or_default();
            let names = keys.iter().filter_map(|key| key.strip_prefix(&beside)).filter(|name| {
                let of = name.rsplit_once('.').map(|(token, number)| (token, number.parse::<u64>()));
                let old = matches!(of, Some((token, Ok(number))) if token == replaced || number < sequence);
                old && named.as_deref() != Some(name)
            });
            s3.remove(&at, names.map(str::to_owned).collect());
        });
    }

    /// Removes states in its own time: nobody waits, and what stays is in nobody's way.
    fn remove(&self, at: &str, names: Vec<String>) {
        let keys: Vec<String> = names.into_iter().map(|name| format!("{at}.{name}")).collect();
        let s3 = self.clone();
        tokio::spawn(async move {
            for key in keys {
                if let Err(error) = s3.delete_object("removal of an old state", &key).await {
                    debug!(key, error = castwatch_core::runner::chain(&error), "an old state stays");
                }
            }
        });
    }

    /// All keys that begin so.
    pub(super) async fn keys(&self, what: &str, beginning: &str) -> Result<Vec<String>, PortError> {
        let list = self.0.client.list_objects_v2().bucket(&self.0.settings.bucket).prefix(beginning);
        let mut pages = list.into_paginator().send();
        let mut keys = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| port_error(what, e))?;
            keys.extend(page.contents.unwrap_or_default().into_iter().filter_map(|object| object.key));
        }
        Ok(keys)
    }
}

/// SHA-256 in hexadecimal, off the tasks that others wait for.
async fn digest(what: &str, bytes: Bytes) -> Result<String, PortError> {
    let hash = tokio::task::spawn_blocking(move || hex(&Sha256::digest(&bytes))).await;
    hash.map_err(|e| PortError::unavailable(what, e))
}

/// Lets the others finish who write at the same time.
async fn pause(attempt: u32) {
    tokio::time::sleep(Duration::from_millis(u64::from(attempt.min(10)) * 20)).await;
}

fn contended(what: String) -> PortError {
    PortError::unavailable(what, format!("others wrote it {TRIES} times in a row"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What lies in buckets must be read by every later castwatch.
    #[test]
    fn manifests_stay_readable() {
        let kept =
            |state| Kept { position: Position(7), tally: Tally { taken: 7, ..Tally::default() }, state };
        let manifest =
            |snapshot| Manifest { layout: 1, generation: 5, token: "t".into(), sequence: 9, snapshot };
        let object = StateObject { name: "t.8".into(), length: 20_000, sha256: "ab".into() };
        let tally = r#""tally":{"taken":7,"done":0,"duplicates":0,"dead_letters":0}"#;
        let cases = [
            (None, String::new()),
            (
                Some(kept(State::Inline("AAE=".into()))),
                format!(r#","snapshot":{{"position":7,{tally},"state":{{"inline":"AAE="}}}}"#),
            ),
            (
                Some(kept(State::Object(object))),
                format!(
                    r#","snapshot":{{"position":7,{tally},"state":{{"object":{{"name":"t.8","length":20000,"sha256":"ab"}}}}}}"#
                ),
            ),
        ];
        for (snapshot, text) in cases {
            let text = format!(r#"{{"layout":1,"generation":5,"token":"t","sequence":9{text}}}"#);
            let manifest = manifest(snapshot);
            assert_eq!(serde_json::to_string(&manifest).unwrap(), text);
            assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest);
        }
    }
}
