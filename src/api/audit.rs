//! Who did what, when, from where.

use axum::Json;
use axum::extract::State;
use serde_json::json;

use super::Api;
use super::problem::Answer;
use super::request::Params;
use super::types::Page;
use crate::model::Value;
use crate::store::AuditFilter;

pub(super) async fn list(State(api): State<Api>, params: Params) -> Answer<Page<Value>> {
    let params = params.check(&["act", "subject", "cursor", "limit"])?;
    let limit = params.limit()?;
    let filter = AuditFilter {
        act: params.text("act"),
        subject: params.text("subject"),
        before: params.parsed("cursor")?,
        limit,
    };
    let found = api.engine.store().audit(&filter).await?;
    let full = found.len() >= limit as usize;
    let next = found.last().filter(|_| full).map(|row| row.id.to_string());
    let items = found
        .into_iter()
        .map(|row| {
            json!({
                "id": row.id,
                "at": row.at,
                "by": row.actor.to_string(),
                "act": row.act,
                "subject": row.subject,
                "details": row.details,
                "from": row.from,
            })
        })
        .collect();
    Ok(Json(Page { items, next }))
}
