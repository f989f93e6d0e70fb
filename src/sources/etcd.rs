//! Source `etcd`: a key, or all below a prefix.
//!
//! Payload: `{change: set or deleted, key, value, create_revision, mod_revision, version, lease}`; bytes that are no text are in `value_base64` (of a key:
//! `key_base64`). Every change is an event, in the order in which they happened, also those that came while nobody looked: the cursor is the revision that
//! was seen last, with what the keys held then. Where etcd has forgotten those changes (compaction), and where its history is another one (a restored
//! backup, a new cluster), what the keys hold is compared, the last change of each counts, and the source's health says so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::seat::{MOST_AT_ONCE, Seat, Sight, Trouble, fingerprint, put_bytes, subject};
use crate::definitions::remote::Etcd;
use crate::etcd::{Change, Client, Glance, Keys, LOCAL, Pair, Said, Snapshot, Tls, Watching};
use crate::model::{Object, Value};

/// Keys that one source may watch.
const MOST_KEYS: usize = 10_000;
/// A watch that says nothing for so long is looked after: a connection may be dead, or a member alone.
const QUIET: Duration = Duration::from_secs(30);
/// Before a change may be taken for one that the watch did not tell of.
const GRACE: Duration = Duration::from_secs(5);

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Cursor {
    cluster: String,
    /// The members by which it was reached.
    places: Vec<String>,
    /// Changes before this one were all seen; of this one perhaps a part.
    revision: i64,
    /// What each key held: its revision, and a fingerprint. The names are base64: they need not be text.
    keys: BTreeMap<String, (i64, String)>,
}

pub(super) async fn run(seat: &mut Seat, watched: &Etcd) -> Result<(), Trouble> {
    let clients = clients(seat, watched).await?;
    let what = if watched.all_below { "prefix" } else { "key" };
    let name = seat.setting(what, &watched.key).await?;
    let keys = match watched.all_below {
        true => Keys::Below(name.clone().into_bytes()),
        false => Keys::One(name.clone().into_bytes()),
    };
    let places: Vec<String> = clients.iter().map(Client::shown).collect();
    let stored = seat.open(subject(&["etcd", what, &name])).await?;
    let known: Option<Cursor> = stored.and_then(|cursor| serde_json::from_value(cursor).ok());
    let (client, snapshot) = first_that_answers(&clients, &keys).await?;
    seat.well();
    // Reached by other members it may be the same; another one that is reached by none of the old is something else.
    let is_same = |known: &Cursor| {
        known.cluster == snapshot.cluster || known.places.iter().any(|place| places.contains(place))
    };
    let known = known.filter(is_same).map(|known| Cursor { places: places.clone(), ..known });
    let mut known = match known {
        None => {
            let cursor = Cursor::of(&snapshot, places);
            seat.store(Vec::new(), json!(cursor)).await?;
            cursor
        }
        Some(known) if known.is_past_of(&snapshot) => known,
        Some(mut known) => {
            seat.note_error(format!(
                "the history of etcd at {} is another one than before (a restored backup, or a new cluster): what its keys hold was compared with what \
                 they held, so of several changes of a key the last one counts",
                client.shown()
            ));
            let seen = compare(&known, snapshot.pairs.clone(), true);
            take(seat, &mut known, seen, Some(&snapshot)).await?;
            known
        }
    };
    loop {
        let mut watching = client.watch(&keys, known.revision).await?;
        if let Some(before) = follow(seat, &client, &keys, &mut watching, &mut known).await? {
            catch_up(seat, &client, &keys, &mut known, before).await?;
        }
    }
}

async fn clients(seat: &Seat, watched: &Etcd) -> Result<Vec<Client>, Trouble> {
    let identity = seat.pem("certificate", watched.certificate.as_ref()).await?;
    let tls = Tls {
        ca: seat.pem("ca", watched.ca.as_ref()).await?.map(String::into_bytes),
        identity: identity.map(String::into_bytes),
    };
    let user = seat.optional("user", watched.user.as_ref()).await?;
    let password = seat.optional("password", watched.password.as_ref()).await?;
    let mut addresses = Vec::new();
    for address in &watched.addresses {
        // `ETCD_ENDPOINTS` has several in one text.
        let text = seat.setting("address", address).await?;
        addresses.extend(text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned));
    }
    if addresses.is_empty() {
        addresses.push(LOCAL.to_owned());
    }
    let client = |address: &String| {
        let client = Client::new(address, &tls)?;
        Ok(match (&user, &password) {
            (Some(user), Some(password)) => client.user(user, password),
            _ => client,
        })
    };
    addresses.iter().map(client).collect()
}

/// The first member that knows what a majority knows, and what that is.
async fn first_that_answers(clients: &[Client], keys: &Keys) -> Result<(Client, Snapshot), Trouble> {
    let mut failed = Vec::new();
    for client in clients {
        match client.read(keys, MOST_KEYS).await {
            Ok(snapshot) => return Ok((client.clone(), snapshot)),
            Err(error) => failed.push(error.to_string()),
        }
    }
    Err(Trouble::new(failed.join("; ")))
}

/// Takes in what a watch says until it fails; or until etcd has forgotten what is asked for, then gives before which revision.
async fn follow(
    seat: &mut Seat,
    client: &Client,
    keys: &Keys,
    watching: &mut Watching,
    known: &mut Cursor,
) -> Result<Option<i64>, Trouble> {
    let mut unseen: Option<Glance> = None;
    loop {
        let quiet = if unseen.is_some() { GRACE } else { QUIET };
        let said = match tokio::time::timeout(quiet, watching.next()).await {
            Ok(said) => said?,
            Err(_) => {
                unseen = look_after(client, keys, known, unseen).await?;
                seat.well();
                continue;
            }
        };
        unseen = None;
        match said {
            Said::Begun => seat.well(),
            Said::Changes(changes) => {
                seat.well();
                let seen = known.new_of(changes);
                take(seat, known, seen, None).await?;
            }
            Said::NothingUpTo(revision) => {
                seat.well();
                if revision > known.revision {
                    known.revision = revision;
                    seat.store(Vec::new(), json!(known)).await?;
                }
            }
            Said::Forgotten { before } => return Ok(Some(before)),
        }
    }
}

/// Asks the members whether they have what the watch told. Gives what they have when that is something else: at the second time it is a failure.
async fn look_after(
    client: &Client,
    keys: &Keys,
    known: &Cursor,
    unseen: Option<Glance>,
) -> Result<Option<Glance>, Trouble> {
    let glance = client.glance(keys).await?;
    if known.is_as(glance) {
        return Ok(None);
    }
    match unseen == Some(glance) {
        true => Err(Trouble::new(format!("the watch of etcd at {} is silent", client.shown()))),
        false => Ok(Some(glance)),
    }
}

/// What the keys hold, when what happened to them can't be had any more.
async fn catch_up(
    seat: &mut Seat,
    client: &Client,
    keys: &Keys,
    known: &mut Cursor,
    before: i64,
) -> Result<(), Trouble> {
    let snapshot = client.read(keys, MOST_KEYS).await?;
    let seen = compare(known, snapshot.pairs.clone(), false);
    let after = known.revision;
    let count = seen.len();
    take(seat, known, seen, Some(&snapshot)).await?;
    seat.well();
    seat.note_error(format!(
        "etcd at {} has forgotten the changes between revision {after} and {before} (they were compacted): what its keys hold was compared with what they held, \
         {count} changes were found, and of several changes of a key the last one counts",
        client.shown()
    ));
    Ok(())
}

/// Stores changes, of many a part at a time, each with what was seen up to it; at the end what a snapshot says.
async fn take(
    seat: &mut Seat,
    known: &mut Cursor,
    mut seen: Vec<Change>,
    snapshot: Option<&Snapshot>,
) -> Result<(), Trouble> {
    loop {
        let rest = if seen.len() > MOST_AT_ONCE { seen.split_off(MOST_AT_ONCE) } else { Vec::new() };
        let mut after = known.clone();
        for change in &seen {
            after.note(change, snapshot.is_none());
        }
        if let (Some(snapshot), true) = (snapshot, rest.is_empty()) {
            after = Cursor::of(snapshot, after.places);
        }
        let is_last = rest.is_empty();
        if after != *known {
            seat.store(seen.into_iter().map(sight).collect(), json!(after)).await?;
            *known = after;
        }
        if is_last {
            return Ok(());
        }
        seen = rest;
    }
}

impl Cursor {
    fn of(snapshot: &Snapshot, places: Vec<String>) -> Cursor {
        Cursor {
            cluster: snapshot.cluster.clone(),
            places,
            // What happened at this revision is seen, so that nothing of it is new again.
            revision: snapshot.revision,
            keys: snapshot.pairs.iter().map(|pair| (STANDARD.encode(&pair.key), state(pair))).collect(),
        }
    }

    /// Whether what is there now can have come from what was seen.
    fn is_past_of(&self, snapshot: &Snapshot) -> bool {
        let is_same = |pair: &Pair| {
            // A key that has not changed since must be as it was seen.
            pair.mod_revision >= self.revision
                || self.keys.get(&STANDARD.encode(&pair.key)) == Some(&state(pair))
        };
        self.cluster == snapshot.cluster
            && self.revision <= snapshot.revision
            && snapshot.pairs.iter().all(is_same)
    }

    fn is_as(&self, glance: Glance) -> bool {
        let newest = self.keys.values().map(|(revision, _)| *revision).max().unwrap_or(0);
        glance == Glance { count: self.keys.len() as u64, newest }
    }

    /// Those that were not seen yet: a watch begins with the revision that was seen last.
    fn new_of(&self, changes: Vec<Change>) -> Vec<Change> {
        let is_new = |change: &Change| {
            let (Change::Set(pair) | Change::Deleted(pair)) = change;
            let seen = self.keys.get(&STANDARD.encode(&pair.key)).map(|(revision, _)| *revision);
            let is_later = seen.is_none_or(|seen| seen < pair.mod_revision);
            // At the last revision itself, a key that is not known is gone already.
            let is_at_end =
                pair.mod_revision == self.revision && (seen.is_some() || matches!(change, Change::Set(_)));
            is_later && (pair.mod_revision > self.revision || is_at_end)
        };
        changes.into_iter().filter(is_new).collect()
    }

    /// Notes a change as seen; with `moves` also when.
    fn note(&mut self, change: &Change, moves: bool) {
        let (Change::Set(pair) | Change::Deleted(pair)) = change;
        let key = STANDARD.encode(&pair.key);
        match change {
            Change::Set(pair) => drop(self.keys.insert(key, state(pair))),
            Change::Deleted(_) => drop(self.keys.remove(&key)),
        }
        if moves {
            self.revision = self.revision.max(pair.mod_revision);
        }
    }
}

fn state(pair: &Pair) -> (i64, String) {
    (pair.mod_revision, fingerprint(&pair.value))
}

/// What is otherwise than it was seen: what was set in the order in which it was, then what is gone.
fn compare(known: &Cursor, mut pairs: Vec<Pair>, is_other_history: bool) -> Vec<Change> {
    pairs.sort_by_key(|pair| pair.mod_revision);
    let names: BTreeSet<String> = pairs.iter().map(|pair| STANDARD.encode(&pair.key)).collect();
    let is_gone = |name: &&String| !names.contains(*name);
    let gone = known.keys.keys().filter(is_gone).map(|name| {
        let key = STANDARD.decode(name).unwrap_or_default();
        Change::Deleted(Pair { key, ..Pair::default() })
    });
    let gone: Vec<Change> = gone.collect();
    let is_changed = |pair: &Pair| match known.keys.get(&STANDARD.encode(&pair.key)) {
        // In another history the revision of the same value is another one.
        Some((_, old)) if is_other_history => *old != fingerprint(&pair.value),
        Some(old) => *old != state(pair),
        None => true,
    };
    pairs.into_iter().filter(is_changed).map(Change::Set).chain(gone).collect()
}

fn sight(change: Change) -> Sight {
    let mut body = Object::new();
    let (word, pair) = match change {
        Change::Set(pair) => ("set", pair),
        Change::Deleted(pair) => ("deleted", pair),
    };
    body.insert("change".to_owned(), json!(word));
    put_bytes(&mut body, "key", pair.key);
    if word == "set" {
        put_bytes(&mut body, "value", pair.value);
        body.insert("create_revision".to_owned(), json!(pair.create_revision));
    } else {
        body.insert("value".to_owned(), Value::Null);
    }
    // Of a deletion that was found by comparing, nobody knows when it was.
    let when = Some(pair.mod_revision).filter(|revision| *revision > 0);
    body.insert("mod_revision".to_owned(), json!(when));
    if word == "set" {
        body.insert("version".to_owned(), json!(pair.version));
        body.insert("lease".to_owned(), json!(Some(pair.lease).filter(|lease| *lease != 0)));
    }
    Sight::of(Value::Object(body))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str, mod_revision: i64) -> Pair {
        let (key, value) = (key.as_bytes().to_vec(), value.as_bytes().to_vec());
        Pair { key, value, mod_revision, ..Pair::default() }
    }

    fn cursor(revision: i64, pairs: &[Pair]) -> Cursor {
        Cursor::of(&Snapshot { cluster: "7".to_owned(), revision, pairs: pairs.to_vec() }, Vec::new())
    }

    /// `set KEY` and `deleted KEY`, in order.
    fn shown(changes: Vec<Change>) -> Vec<String> {
        let bodies = changes.into_iter().map(|change| sight(change).body);
        let text = |body: &Value, name: &str| body[name].as_str().unwrap().to_owned();
        bodies.map(|body| format!("{} {}", text(&body, "change"), text(&body, "key"))).collect()
    }

    #[test]
    fn of_the_revision_that_was_seen_last_only_the_rest_is_new() {
        // A transaction sets b and deletes c at revision 9, where b and the deletion of d were stored already.
        let known = cursor(9, &[pair("a", "1", 5), pair("b", "2", 9), pair("c", "1", 3)]);
        let told = vec![
            Change::Set(pair("b", "2", 9)),
            Change::Deleted(pair("c", "", 9)),
            Change::Deleted(pair("d", "", 9)),
            Change::Set(pair("e", "1", 9)),
            Change::Set(pair("a", "3", 10)),
            Change::Deleted(pair("f", "", 10)),
        ];
        assert_eq!(shown(known.new_of(told)), ["deleted c", "set e", "set a", "deleted f"]);
    }

    #[test]
    fn what_was_forgotten_is_found_by_comparing() {
        let known = cursor(9, &[pair("a", "1", 5), pair("b", "1", 6), pair("c", "1", 7)]);
        let now = vec![pair("a", "1", 5), pair("b", "1", 20), pair("d", "1", 12)];
        assert_eq!(shown(compare(&known, now.clone(), false)), ["set d", "set b", "deleted c"]);
        assert_eq!(shown(compare(&known, now, true)), ["set d", "deleted c"]);
    }

    #[test]
    fn another_history_is_known_by_its_cluster_its_revision_or_its_keys() {
        let known = cursor(9, &[pair("a", "1", 5)]);
        let now = |cluster: &str, revision: i64, pair: Pair| Snapshot {
            cluster: cluster.to_owned(),
            revision,
            pairs: vec![pair],
        };
        assert!(known.is_past_of(&now("7", 12, pair("a", "1", 5))));
        assert!(known.is_past_of(&now("7", 12, pair("a", "2", 11))));
        assert!(!known.is_past_of(&now("8", 12, pair("a", "1", 5))));
        assert!(!known.is_past_of(&now("7", 8, pair("a", "1", 5))));
        assert!(!known.is_past_of(&now("7", 12, pair("a", "2", 5))));
        assert!(!known.is_past_of(&now("7", 12, pair("b", "1", 4))));
    }

    #[test]
    fn keys_and_values_that_are_no_text_are_base64() {
        let pair = Pair { key: vec![0xff], value: vec![0xff, 0], mod_revision: 3, ..Pair::default() };
        let body = sight(Change::Set(pair)).body;
        assert_eq!((&body["key"], &body["key_base64"]), (&Value::Null, &json!("/w==")));
        assert_eq!((&body["value"], &body["value_base64"]), (&Value::Null, &json!("/wA=")));
        assert_eq!((&body["mod_revision"], &body["lease"]), (&json!(3), &Value::Null));
    }
}
