//! Sessions, and locks that a session holds on keys.

use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::{Client, ConsulError};
use crate::model::{Object, Span, Value};

/// A session that is to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewSession {
    /// For people.
    pub name: String,
    /// It ends when it was not renewed for so long; `None`: it ends with its node only.
    pub ttl: Option<Span>,
    /// Whether its keys go with it, in place of being free.
    pub deletes: bool,
    /// How long a key can't be locked after its session ended of itself; Consul waits 15 seconds when not said.
    pub lock_delay: Option<Span>,
}

/// A session that is there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Session {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub node: String,
    #[serde(rename = "TTL", default)]
    pub ttl: String,
}

#[derive(Deserialize)]
struct Made {
    #[serde(rename = "ID")]
    id: String,
}

impl Client {
    /// Makes a session; gives its id.
    ///
    /// # Errors
    /// As `key`.
    pub async fn create_session(&self, session: &NewSession) -> Result<String, ConsulError> {
        let mut body = Object::new();
        body.insert("Name".to_owned(), json!(session.name));
        body.insert("Behavior".to_owned(), json!(if session.deletes { "delete" } else { "release" }));
        let span = |span: Span| format!("{}ms", span.duration().as_millis());
        if let Some(ttl) = session.ttl {
            body.insert("TTL".to_owned(), json!(span(ttl)));
        }
        if let Some(delay) = session.lock_delay {
            body.insert("LockDelay".to_owned(), json!(span(delay)));
        }
        let body = Value::Object(body).to_string().into_bytes();
        let made: Made = self.change(Method::PUT, "session/create", "", &[], body).await?;
        Ok(made.id)
    }

    /// Renews a session; `None` when it has ended.
    ///
    /// # Errors
    /// As `key`.
    pub async fn renew_session(&self, id: &str) -> Result<Option<Session>, ConsulError> {
        let renewed = self.change(Method::PUT, "session/renew", id, &[], Vec::new()).await;
        match renewed {
            Ok(sessions) => Ok(Vec::<Session>::into_iter(sessions).next()),
            Err(ConsulError::Answered { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ends a session; its keys are free, or go with it. One that has ended is fine too.
    ///
    /// # Errors
    /// As `key`.
    pub async fn destroy_session(&self, id: &str) -> Result<(), ConsulError> {
        let done: bool = self.change(Method::PUT, "session/destroy", id, &[], Vec::new()).await?;
        match done {
            true => Ok(()),
            false => Err(ConsulError::NotUnderstood {
                address: self.shown(),
                why: "it did not end the session, and does not say why".to_owned(),
            }),
        }
    }

    /// Locks a key for a session, and sets it. False when another session holds it. Of a session that holds it already, true.
    ///
    /// # Errors
    /// As `key`.
    pub async fn acquire(
        &self,
        key: &str,
        value: impl Into<Vec<u8>>,
        session: &str,
    ) -> Result<bool, ConsulError> {
        self.change(Method::PUT, "kv", key, &[("acquire", session)], value.into()).await
    }

    /// Frees a key, and sets it. False when the session does not hold it.
    ///
    /// # Errors
    /// As `key`.
    pub async fn release(
        &self,
        key: &str,
        value: impl Into<Vec<u8>>,
        session: &str,
    ) -> Result<bool, ConsulError> {
        self.change(Method::PUT, "kv", key, &[("release", session)], value.into()).await
    }
}
