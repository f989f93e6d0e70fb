//! Tokens of people and programs. Only their hashes are kept.

use super::audit::{self, NewAudit};
use super::db::{Query, sql};
use super::{Store, StoreError, json};
use crate::model::Timestamp;

/// A token to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// Of the token's text, in whatever form the caller looks it up by.
    pub hash: String,
    /// What the token is for, in people's words.
    pub name: String,
    pub user: String,
    pub roles: Vec<String>,
    pub created_at: Timestamp,
}

/// A token as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub id: i64,
    pub hash: String,
    pub name: String,
    pub user: String,
    pub roles: Vec<String>,
    pub created_at: Timestamp,
    pub last_used_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

const SELECT: &str = "SELECT id, hash, name, owner, roles, created_at, last_used_at, revoked_at FROM tokens";

impl Store {
    /// Stores a token and gives its id.
    ///
    /// # Errors
    /// `Conflict` when the hash is there already. The database cannot be written.
    pub async fn add_token(&self, token: NewToken, audit: NewAudit) -> Result<i64, StoreError> {
        let roles = json::write("roles", &token.roles)?;
        self.write(move |tx| {
            Box::pin(async move {
                let id = sql(
                    "INSERT INTO tokens (hash, name, owner, roles, created_at) VALUES ($1, $2, $3, $4, $5) RETURNING id",
                )
                .bind(&token.hash)
                .bind(&token.name)
                .bind(&token.user)
                .bind(&roles)
                .bind(token.created_at.0)
                .fetch_one(&mut *tx)
                .await?;
                audit::add(tx, &audit).await?;
                Ok(id)
            })
        })
        .await
    }

    /// The token with this hash, revoked ones included: look at `revoked_at`.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn token_by_hash(&self, hash: &str) -> Result<Option<Token>, StoreError> {
        let mut query = Query::new(SELECT);
        query.push(" WHERE hash = ").push_bind(hash.to_owned());
        let row: Option<Row> = query.fetch_optional(self.readers()).await?;
        row.map(read).transpose()
    }

    /// All tokens, oldest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        let mut query = Query::new(SELECT);
        query.push(" ORDER BY id");
        let rows: Vec<Row> = query.fetch_all(self.readers()).await?;
        rows.into_iter().map(read).collect()
    }

    /// Notes that a token was used. The caller keeps this rare: once a minute is enough.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn token_used(&self, id: i64, now: Timestamp) -> Result<(), StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                sql("UPDATE tokens SET last_used_at = $1 WHERE id = $2")
                    .bind(now.0)
                    .bind(id)
                    .execute(tx)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    /// Revokes a token. False when there is none or it was revoked before; then there is no audit row.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn revoke_token(&self, id: i64, audit: NewAudit) -> Result<bool, StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                let done = sql("UPDATE tokens SET revoked_at = $1 WHERE id = $2 AND revoked_at IS NULL")
                    .bind(audit.at.0)
                    .bind(id)
                    .execute(&mut *tx)
                    .await?;
                if done == 0 {
                    return Ok(false);
                }
                audit::add(tx, &audit).await?;
                Ok(true)
            })
        })
        .await
    }
}

type Row = (i64, String, String, String, String, i64, Option<i64>, Option<i64>);

fn read(
    (id, hash, name, user, roles, created_at, last_used_at, revoked_at): Row,
) -> Result<Token, StoreError> {
    Ok(Token {
        id,
        hash,
        name,
        user,
        roles: json::read(&format!("roles of token {id}"), &roles)?,
        created_at: Timestamp(created_at),
        last_used_at: last_used_at.map(Timestamp),
        revoked_at: revoked_at.map(Timestamp),
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::store::testing::{NOW, audit, fresh, on_both};

    on_both!(a_token_is_found_by_its_hash_until_it_is_revoked,);

    async fn a_token_is_found_by_its_hash_until_it_is_revoked() {
        let (_folder, store) = fresh().await;
        let new = NewToken {
            hash: "h".to_owned(),
            name: "laptop".to_owned(),
            user: "ana".to_owned(),
            roles: vec!["admin".to_owned()],
            created_at: NOW,
        };
        let id = store.add_token(new.clone(), audit("token.add")).await.unwrap();
        assert!(matches!(store.add_token(new, audit("token.add")).await, Err(StoreError::Conflict(_))));
        store.token_used(id, NOW).await.unwrap();
        assert!(store.revoke_token(id, audit("token.revoke")).await.unwrap());
        assert!(!store.revoke_token(id, audit("token.revoke")).await.unwrap());
        let token = store.token_by_hash("h").await.unwrap().unwrap();
        assert_eq!(
            (token.roles[0].as_str(), token.last_used_at, token.revoked_at),
            ("admin", Some(NOW), Some(NOW))
        );
        assert_eq!(store.tokens().await.unwrap(), [token]);
        assert_eq!(store.token_by_hash("other").await.unwrap(), None);
        assert_eq!(store.count("SELECT count(*) FROM audit").await, 2);
    }
}
