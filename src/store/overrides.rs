//! Rules that a person switched off or back on. An override outlives reloads of the definitions.

use super::audit::{self, NewAudit};
use super::db::{Connection, sql};
use super::{Store, StoreError};
use crate::model::Timestamp;

/// What a person said about a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleOverride {
    pub rule: String,
    pub disabled: bool,
    pub by: String,
    pub why: Option<String>,
    pub at: Timestamp,
}

impl Store {
    /// All overrides, by rule.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn rule_overrides(&self) -> Result<Vec<RuleOverride>, StoreError> {
        let rows: Vec<(String, bool, String, Option<String>, i64)> =
            sql("SELECT rule, disabled, switched_by, why, at FROM rule_overrides ORDER BY rule")
                .fetch_all(self.readers())
                .await?;
        Ok(rows
            .into_iter()
            .map(|(rule, disabled, by, why, at)| RuleOverride { rule, disabled, by, why, at: Timestamp(at) })
            .collect())
    }

    /// Stores an override over the one that the rule had.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn set_rule_override(&self, over: RuleOverride, audit: NewAudit) -> Result<(), StoreError> {
        self.write(move |tx| Box::pin(async move { set(tx, &over, &audit).await })).await
    }
}

async fn set(tx: &mut Connection, over: &RuleOverride, audit: &NewAudit) -> Result<(), StoreError> {
    sql("INSERT INTO rule_overrides (rule, disabled, switched_by, why, at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (rule) DO UPDATE SET disabled = excluded.disabled, switched_by = excluded.switched_by,
                                          why = excluded.why, at = excluded.at")
    .bind(&over.rule)
    .bind(i64::from(over.disabled))
    .bind(&over.by)
    .bind(&over.why)
    .bind(over.at.0)
    .execute(&mut *tx)
    .await?;
    audit::add(tx, audit).await?;
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::store::testing::{NOW, audit, fresh, on_both};

    on_both!(the_last_word_on_a_rule_counts,);

    async fn the_last_word_on_a_rule_counts() {
        let (_folder, store) = fresh().await;
        let mut over = RuleOverride {
            rule: "site.push".to_owned(),
            disabled: true,
            by: "ana".to_owned(),
            why: Some("holidays".to_owned()),
            at: NOW,
        };
        store.set_rule_override(over.clone(), audit("rule.disable")).await.unwrap();
        assert_eq!(store.rule_overrides().await.unwrap(), [over.clone()]);
        over.disabled = false;
        store.set_rule_override(over.clone(), audit("rule.enable")).await.unwrap();
        assert_eq!(store.rule_overrides().await.unwrap(), [over]);
    }
}
