//! Sources `consul_kv`, `consul_service` and `consul_event`.
//!
//! The cursor is what was seen last, so a change that came while nobody looked is seen as one: the last state of a key counts, not those in between.
//! What is there at the first look makes no event.
//!
//! | kind | payload |
//! | --- | --- |
//! | `consul_kv` | `{change: set or deleted, key, value, flags, create_index, modify_index, session}`; bytes that are no text are in `value_base64` |
//! | `consul_service` | `{service, tags, passing, added, removed}`: lists of `{id, node, address, port, tags, meta}` |
//! | `consul_event` | `{id, name, payload, ltime, node_filter, service_filter, tag_filter}`; bytes that are no text are in `payload_base64` |

use std::collections::BTreeMap;

use serde_json::json;

use super::seat::{MOST_AT_ONCE, Seat, Sight, Trouble, fingerprint, put_bytes, subject};
use crate::consul::{Client, Event, Index, Instance, LOCAL, Moved, Pace, Pair, Wait};
use crate::definitions::consul::{Consul, What};
use crate::model::{Object, Value};

/// Keys that one source may watch.
const MOST_KEYS: usize = 10_000;
/// Events that are remembered as seen: twice what an agent keeps.
const MOST_SEEN: usize = 512;

pub(super) async fn run(seat: &mut Seat, consul: &Consul) -> Result<(), Trouble> {
    let address = seat.optional("address", consul.address.as_ref()).await?;
    let address = address.filter(|address| !address.is_empty()).unwrap_or_else(|| LOCAL.to_owned());
    let token = seat.optional("token", consul.token.as_ref()).await?;
    let ca = seat.pem("ca", consul.ca.as_ref()).await?;
    let mut client = Client::trusting(&address, token.as_deref(), ca.as_deref().map(str::as_bytes))?;
    let datacenter = seat.optional("datacenter", consul.datacenter.as_ref()).await?;
    if let Some(name) = &datacenter {
        client = client.datacenter(name);
    }
    let place = [client.shown(), datacenter.unwrap_or_default()];
    match &consul.what {
        What::Key(key) => {
            let key = seat.setting("key", key).await?;
            watch_keys(seat, &client, &place, &key, false).await
        }
        What::Prefix(prefix) => {
            let prefix = seat.setting("prefix", prefix).await?;
            watch_keys(seat, &client, &place, &prefix, true).await
        }
        What::Service { name, tags } => {
            let name = seat.setting("service", name).await?;
            let mut wanted = Vec::new();
            for tag in tags {
                wanted.push(seat.setting("tag", tag).await?);
            }
            watch_service(seat, &client, &place, &name, &wanted).await
        }
        What::Event(name) => {
            let name = seat.setting("name", name).await?;
            watch_events(seat, &client, &place, &name).await
        }
    }
}

/// Keys that were seen, each with its modify index and a fingerprint of its value.
type Keys = BTreeMap<String, (u64, String)>;

async fn watch_keys(
    seat: &mut Seat,
    client: &Client,
    place: &[String; 2],
    key: &str,
    all_below: bool,
) -> Result<(), Trouble> {
    let kind = if all_below { "prefix" } else { "key" };
    let stored = seat.open(subject(&["consul_kv", &place[0], &place[1], kind, key])).await?;
    let mut known: Option<Keys> =
        stored.as_ref().and_then(|cursor| serde_json::from_value(cursor["keys"].clone()).ok());
    // Where the last look stood tells whether this is still the same history.
    let last = stored.as_ref().and_then(|cursor| cursor["index"].as_u64());
    let (mut index, mut pace) = (Index::default(), Pace::default());
    let mut before = last.map(Index::at);
    loop {
        pace.next().await;
        let wait = Wait::after(&index);
        let answer = match all_below {
            true => client.keys(key, &wait).await?,
            false => {
                let answer = client.key(key, &wait).await?;
                crate::consul::Answer {
                    value: answer.value.into_iter().collect(),
                    index: answer.index,
                    hash: None,
                }
            }
        };
        let moved = index.note(answer.index);
        let went_back = moved == Moved::Back
            || before.take().is_some_and(|mut index| index.note(answer.index) == Moved::Back);
        if answer.value.len() > MOST_KEYS {
            let found = answer.value.len();
            return Err(Trouble::new(format!(
                "there are {found} keys below `{key}`; {MOST_KEYS} are the most: watch a longer prefix"
            )));
        }
        seat.well();
        let now: Keys = answer
            .value
            .iter()
            .map(|pair| (pair.key.clone(), (pair.modify_index, fingerprint(&pair.value))))
            .collect();
        let seen = match &known {
            Some(known) => changes_of_keys(known, &now, answer.value, went_back),
            None => Vec::new(),
        };
        if known.as_ref() == Some(&now) {
            continue;
        }
        keep_keys(seat, seen, known.unwrap_or_default(), &now, answer.index).await?;
        known = Some(now);
    }
}

/// Stores changes of keys, of many a part at a time, each with the keys as they are after it.
async fn keep_keys(
    seat: &mut Seat,
    mut seen: Vec<Sight>,
    mut known: Keys,
    now: &Keys,
    index: Option<u64>,
) -> Result<(), Trouble> {
    while seen.len() > MOST_AT_ONCE {
        let rest = seen.split_off(MOST_AT_ONCE);
        for key in seen.iter().filter_map(|sight| sight.body["key"].as_str()) {
            match now.get(key) {
                Some(state) => known.insert(key.to_owned(), state.clone()),
                None => known.remove(key),
            };
        }
        seat.store(seen, json!({"index": index, "keys": known})).await?;
        seen = rest;
    }
    seat.store(seen, json!({"index": index, "keys": now})).await
}

fn changes_of_keys(known: &Keys, now: &Keys, pairs: Vec<Pair>, went_back: bool) -> Vec<Sight> {
    let mut pairs = pairs;
    pairs.sort_by_key(|pair| pair.modify_index);
    let is_changed = |pair: &Pair| match (known.get(&pair.key), now.get(&pair.key)) {
        // In another history the index of the same value is another one.
        (Some((_, old)), Some((_, new))) if went_back => old != new,
        (Some(old), Some(new)) => old != new,
        _ => true,
    };
    let set = pairs.into_iter().filter(is_changed).map(|pair| {
        let mut body = Object::new();
        body.insert("change".to_owned(), json!("set"));
        body.insert("key".to_owned(), json!(pair.key));
        put_bytes(&mut body, "value", pair.value);
        body.insert("flags".to_owned(), json!(pair.flags));
        body.insert("create_index".to_owned(), json!(pair.create_index));
        body.insert("modify_index".to_owned(), json!(pair.modify_index));
        body.insert("session".to_owned(), json!(pair.session));
        Sight::of(Value::Object(body))
    });
    let deleted = known.iter().filter(|(key, _)| !now.contains_key(*key)).map(|(key, (modify_index, _))| {
        Sight::of(json!({"change": "deleted", "key": key, "value": null, "modify_index": modify_index}))
    });
    let mut sights: Vec<Sight> = set.collect();
    sights.extend(deleted);
    sights
}

async fn watch_service(
    seat: &mut Seat,
    client: &Client,
    place: &[String; 2],
    name: &str,
    tags: &[String],
) -> Result<(), Trouble> {
    let mut parts = vec!["consul_service", &place[0], &place[1], name];
    parts.extend(tags.iter().map(String::as_str));
    let stored = seat.open(subject(&parts)).await?;
    let mut known: Option<BTreeMap<String, Value>> =
        stored.and_then(|cursor| serde_json::from_value(cursor["passing"].clone()).ok());
    let (mut index, mut pace) = (Index::default(), Pace::default());
    loop {
        pace.next().await;
        let answer = client.instances(name, tags, true, &Wait::after(&index)).await?;
        index.note(answer.index);
        seat.well();
        let now: BTreeMap<String, Value> = answer
            .value
            .iter()
            .map(|instance| (format!("{} {}", instance.node, instance.id), shown(instance)))
            .collect();
        if known.as_ref() == Some(&now) {
            continue;
        }
        let seen = known.as_ref().map(|known| {
            let added: Vec<_> = now.iter().filter(|(id, new)| known.get(*id) != Some(new)).collect();
            let removed: Vec<_> = known.iter().filter(|(id, old)| now.get(*id) != Some(old)).collect();
            let values = |found: Vec<(&String, &Value)>| -> Vec<Value> {
                found.into_iter().map(|(_, value)| value.clone()).collect()
            };
            Sight::of(json!({
                "service": name,
                "tags": tags,
                "passing": now.values().collect::<Vec<_>>(),
                "added": values(added),
                "removed": values(removed),
            }))
        });
        seat.store(seen.into_iter().collect(), json!({"passing": now})).await?;
        known = Some(now);
    }
}

fn shown(instance: &Instance) -> Value {
    json!({
        "id": instance.id,
        "node": instance.node,
        "address": instance.address,
        "port": instance.port,
        "tags": instance.tags,
        "meta": instance.meta,
    })
}

async fn watch_events(
    seat: &mut Seat,
    client: &Client,
    place: &[String; 2],
    name: &str,
) -> Result<(), Trouble> {
    let stored = seat.open(subject(&["consul_event", &place[0], &place[1], name])).await?;
    let mut known: Option<Vec<String>> =
        stored.and_then(|cursor| serde_json::from_value(cursor["seen"].clone()).ok());
    let (mut index, mut pace) = (Index::default(), Pace::default());
    loop {
        pace.next().await;
        let answer = client.events(name, &Wait::after(&index)).await?;
        // It is made of the last event's id, and goes up or down.
        index.note_opaque(answer.index);
        seat.well();
        let is_new = |event: &&Event| known.as_ref().is_none_or(|known| !known.contains(&event.id));
        let new: Vec<Event> = answer.value.iter().filter(is_new).cloned().collect();
        if new.is_empty() && known.is_some() {
            continue;
        }
        let mut ids = known.clone().unwrap_or_default();
        ids.extend(new.iter().map(|event| event.id.clone()));
        ids.drain(..ids.len().saturating_sub(MOST_SEEN));
        let seen = if known.is_some() { new.into_iter().map(sight_of_event).collect() } else { Vec::new() };
        seat.store(seen, json!({"seen": ids})).await?;
        known = Some(ids);
    }
}

fn sight_of_event(event: Event) -> Sight {
    let mut body = Object::new();
    body.insert("id".to_owned(), json!(event.id));
    body.insert("name".to_owned(), json!(event.name));
    put_bytes(&mut body, "payload", event.payload);
    body.insert("ltime".to_owned(), json!(event.ltime));
    body.insert("node_filter".to_owned(), json!(event.node_filter));
    body.insert("service_filter".to_owned(), json!(event.service_filter));
    body.insert("tag_filter".to_owned(), json!(event.tag_filter));
    Sight { dedup: Some(event.id), ..Sight::of(Value::Object(body)) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str, modify_index: u64) -> Pair {
        Pair {
            key: key.to_owned(),
            value: value.as_bytes().to_vec(),
            flags: 0,
            create_index: 1,
            modify_index,
            session: None,
        }
    }

    fn keys(pairs: &[Pair]) -> Keys {
        pairs.iter().map(|pair| (pair.key.clone(), (pair.modify_index, fingerprint(&pair.value)))).collect()
    }

    /// `set KEY` and `deleted KEY`, in order.
    fn changes(old: &[Pair], new: &[Pair], went_back: bool) -> Vec<String> {
        let seen = changes_of_keys(&keys(old), &keys(new), new.to_vec(), went_back);
        let text = |sight: &Sight, name: &str| sight.body[name].as_str().unwrap().to_owned();
        seen.iter().map(|sight| format!("{} {}", text(sight, "change"), text(sight, "key"))).collect()
    }

    #[test]
    fn each_changed_and_each_deleted_key_is_seen_once_in_the_order_of_its_change() {
        let old = [pair("a", "1", 5), pair("b", "1", 6), pair("c", "1", 7)];
        let new = [pair("a", "1", 5), pair("b", "2", 9), pair("d", "1", 8)];
        assert_eq!(changes(&old, &new, false), ["set d", "set b", "deleted c"]);
        assert_eq!(changes(&old, &[pair("a", "1", 8), old[1].clone(), old[2].clone()], false), ["set a"]);
    }

    #[test]
    fn in_another_history_only_other_values_are_changes() {
        let old = [pair("a", "1", 50), pair("b", "1", 60)];
        assert_eq!(changes(&old, &[pair("a", "1", 5), pair("b", "2", 60)], true), ["set b"]);
    }

    #[test]
    fn bytes_that_are_no_text_are_base64() {
        let mut body = Object::new();
        put_bytes(&mut body, "value", vec![0xff, 0]);
        put_bytes(&mut body, "other", b"text".to_vec());
        assert_eq!(Value::Object(body), json!({"value": null, "value_base64": "/wA=", "other": "text"}));
    }
}
