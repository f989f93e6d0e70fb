//! Numbers for Prometheus, in its text format.

use std::fmt::Write;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::Api;
use super::problem::Problem;
use crate::store::Newest;

pub(super) async fn show(State(api): State<Api>) -> Result<Response, Problem> {
    let mut text = String::new();
    text.push_str("# HELP siskin_deployments_total Deployments that came to an end since this server started, by what became of them; one that was done and later taken back is counted as both.\n# TYPE siskin_deployments_total counter\n");
    for ((app, environment, status), number) in api.engine.deployments_ended() {
        let labels = [("app", app.as_str()), ("environment", environment.as_str()), ("status", status)];
        line(&mut text, "siskin_deployments_total", &labels, number);
    }
    text.push_str("# HELP siskin_deployed_version_info What stands on each environment; always 1.\n# TYPE siskin_deployed_version_info gauge\n");
    for stored in api.engine.store().newest_deployments(None, Newest::Done).await? {
        let one = &stored.deployment;
        let labels = [
            ("app", one.app.as_str()),
            ("environment", one.environment.as_str()),
            ("version", one.version.as_str()),
        ];
        line(&mut text, "siskin_deployed_version_info", &labels, 1);
    }
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

fn line(text: &mut String, name: &str, labels: &[(&str, &str)], value: u64) {
    let labels: Vec<String> =
        labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
    // Writing to a text can't fail.
    writeln!(text, "{name}{{{}}} {value}", labels.join(",")).unwrap_or_default();
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_a_label_does_not_leave_it() {
        let mut text = String::new();
        line(&mut text, "m", &[("version", "1\"\n\\")], 2);
        assert_eq!(text, "m{version=\"1\\\"\\n\\\\\"} 2\n");
    }
}
