//! What Jenkins is asked, and how it answers: paths of jobs, crumbs, redirects, and a server that restarts.

use std::time::Duration;

use reqwest::header::{COOKIE, HeaderMap, LOCATION, SET_COOKIE};
use reqwest::{Method, Response, StatusCode, Url};
use serde_json::Value;
use tokio::sync::Mutex;

use super::super::super::http;
use super::super::super::{Failure, optional_text};

/// How long one answer may take. The console of a build comes in pieces, so that no answer is long.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// The largest JSON that is read.
const BODY_BYTES: usize = 8_000_000;

/// Why an answer is not what was hoped for.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Nobody there, or not ready yet: it may pass. `arrived` says whether the request may have been carried out all the same.
    Away {
        reason: String,
        arrived: bool,
    },
    NotFound,
    /// The answer is final.
    Refused {
        status: u16,
        reason: String,
    },
}

impl Trouble {
    pub(super) fn failure(&self, what: &str) -> Failure {
        match self {
            Trouble::Away { reason, .. } => {
                Failure::new(format!("{what}: Jenkins does not answer: {reason}"))
            }
            Trouble::NotFound => Failure::new(format!(
                "{what}: there is no such thing (404); the name may be wrong, or it may not be seen by this user"
            )),
            Trouble::Refused { reason, .. } => Failure::new(format!("{what}: {reason}")),
        }
    }
}

/// A session token against forged requests, with the cookies that it is good for.
#[derive(Clone)]
struct Crumb {
    field: String,
    value: String,
    cookies: String,
}

/// One Jenkins, as one user.
pub(super) struct Jenkins {
    /// With a slash at its end.
    base: Url,
    user: Option<(String, String)>,
    crumb: Mutex<Option<Crumb>>,
}

impl Jenkins {
    pub(super) fn read(parameters: &Value) -> Result<Jenkins, Failure> {
        let where_to = "say where Jenkins is in siskin.yaml: `config: {jenkins: {url: https://ci.example.com, user: NAME}}`";
        let Some(url) = optional_text(parameters, "url")? else {
            return Err(Failure::new(format!("the address of Jenkins is not known; {where_to}")));
        };
        let mut base = Url::parse(url)
            .map_err(|error| Failure::new(format!("`url` is no URL ({error}); {where_to}")))?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(Failure::new("`url` must be the http or https address of Jenkins"));
        }
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        let user = optional_text(parameters, "user")?.filter(|user| !user.is_empty());
        let token = optional_text(parameters, "token")?.unwrap_or_default();
        let user = user.map(|user| (user.to_owned(), token.to_owned()));
        Ok(Jenkins { base, user, crumb: Mutex::default() })
    }

    /// The path of a job, `folder/name`; a list names each part, so that a part may hold a slash.
    pub(super) fn job_path(job: &Value) -> Result<String, Failure> {
        let wrong = || {
            Failure::new(
                "`job` must be the name of a job, as `shop` or `folder/shop`, or a list of the parts of it",
            )
        };
        let parts: Vec<&str> = match job {
            Value::String(name) => name.trim_matches('/').split('/').collect(),
            Value::Array(parts) => {
                parts.iter().map(Value::as_str).collect::<Option<_>>().ok_or_else(wrong)?
            }
            _ => return Err(wrong()),
        };
        // As the address bar has it: job/folder/job/name.
        let from_address = parts.len() > 1
            && parts.len().is_multiple_of(2)
            && parts.iter().step_by(2).all(|part| *part == "job");
        let parts: Vec<&str> = match from_address && job.is_string() {
            true => parts.into_iter().skip(1).step_by(2).collect(),
            false => parts,
        };
        if parts.is_empty() || parts.iter().any(|part| part.is_empty() || matches!(*part, "." | "..")) {
            return Err(wrong());
        }
        Ok(parts.iter().map(|part| format!("job/{}", escaped(part))).collect::<Vec<_>>().join("/"))
    }

    /// The address below Jenkins' own, for people.
    pub(super) fn address(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub(super) async fn json(&self, path: &str) -> Result<Value, Trouble> {
        let response = self.get(path).await?;
        let bytes = bounded(response).await?;
        serde_json::from_slice(&bytes).map_err(|_| Trouble::Refused {
            status: 200,
            reason: "the answer is no JSON; is `url` the address of Jenkins itself, and not of a login page before it?".to_owned(),
        })
    }

    pub(super) async fn get(&self, path: &str) -> Result<Response, Trouble> {
        let response = self.send(Method::GET, path, &[], None).await?;
        judged(response).await
    }

    /// Sends a form, with a crumb where Jenkins wants one. Answers where it points to.
    pub(super) async fn post(
        &self,
        path: &str,
        form: &[(String, String)],
    ) -> Result<Option<String>, Trouble> {
        let known = self.crumb.lock().await.clone();
        let had_one = known.is_some();
        let mut response = self.send(Method::POST, path, form, known).await?;
        if response.status() == StatusCode::FORBIDDEN {
            // A crumb is missing, or belongs to a session from before a restart.
            let fresh = self.fetch_crumb().await?;
            let is_new = fresh.is_some();
            *self.crumb.lock().await = fresh.clone();
            if is_new || had_one {
                response = self.send(Method::POST, path, form, fresh).await?;
            }
        }
        let location = header(response.headers(), LOCATION.as_str());
        // 302 is how old versions say that it is done, and how stopping says it still.
        if response.status().is_redirection() {
            return Ok(location);
        }
        judged(response).await?;
        Ok(location)
    }

    /// Nothing where Jenkins has them switched off.
    async fn fetch_crumb(&self) -> Result<Option<Crumb>, Trouble> {
        let response = self.send(Method::GET, "crumbIssuer/api/json", &[], None).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let cookies: Vec<String> = response
            .headers()
            .get_all(SET_COOKIE)
            .iter()
            .filter_map(|cookie| cookie.to_str().ok()?.split(';').next().map(str::to_owned))
            .collect();
        let bytes = bounded(judged(response).await?).await?;
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let text = |name: &str| answer.get(name).and_then(Value::as_str).map(str::to_owned);
        let (Some(field), Some(value)) = (text("crumbRequestField"), text("crumb")) else { return Ok(None) };
        Ok(Some(Crumb { field, value, cookies: cookies.join("; ") }))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        form: &[(String, String)],
        crumb: Option<Crumb>,
    ) -> Result<Response, Trouble> {
        let away = |reason: String, arrived: bool| Trouble::Away { reason, arrived };
        let url = self.base.join(path).map_err(|error| away(error.to_string(), false))?;
        let client = http::client(false).map_err(|failure| away(failure.error.message.clone(), false))?;
        let mut request = client.request(method.clone(), url).timeout(ANSWER_TIME);
        if let Some((user, token)) = &self.user {
            request = request.basic_auth(user, Some(token));
        }
        if let Some(crumb) = crumb {
            request = request.header(crumb.field, crumb.value);
            if !crumb.cookies.is_empty() {
                request = request.header(COOKIE, crumb.cookies);
            }
        }
        if method == Method::POST {
            request = request.form(form);
        }
        request.send().await.map_err(|error| away(http::reason(&error), !error.is_connect()))
    }
}

/// An answer that is one; else what is wrong with it.
async fn judged(response: Response) -> Result<Response, Trouble> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let reason = match status.as_u16() {
        404 => return Err(Trouble::NotFound),
        // Jenkins says 503 while it starts; a proxy before it says 502 and 504 while it is away.
        502..=504 => {
            let reason = format!("it answers {status}; it may be restarting");
            return Err(Trouble::Away { reason, arrived: status.as_u16() == 504 });
        }
        401 => "401: user or token are wrong; `siskin secret set jenkins_token` takes an API token of the user that `config.jenkins.user` names".to_owned(),
        403 => "403: this user may not do that here; it needs the permissions Job/Read, Job/Build and Job/Cancel".to_owned(),
        409 => "409: the job can't be built now; it may be disabled, or still being copied".to_owned(),
        301 | 302 | 303 | 307 | 308 => format!(
            "{status}: Jenkins is elsewhere, at {}; or it wants a login",
            header(response.headers(), LOCATION.as_str()).unwrap_or_default()
        ),
        other => {
            let shown = http::excerpt(&bounded(response).await.unwrap_or_default());
            format!("it answered {other}: {shown}")
        }
    };
    Err(Trouble::Refused { status: status.as_u16(), reason })
}

async fn bounded(mut response: Response) -> Result<Vec<u8>, Trouble> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(body),
            Ok(Some(chunk)) if body.len() + chunk.len() <= BODY_BYTES => body.extend_from_slice(&chunk),
            Ok(Some(_)) => {
                return Err(Trouble::Refused {
                    status: 200,
                    reason: "its answer is larger than 8 MB".to_owned(),
                });
            }
            Err(error) => return Err(Trouble::Away { reason: http::reason(&error), arrived: true }),
        }
    }
}

pub(super) fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// A part of a path: nothing in it can begin another part, a query or a fragment.
fn escaped(part: &str) -> String {
    let mut text = String::new();
    for byte in part.bytes() {
        match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            true => text.push(char::from(byte)),
            false => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_job_is_found_by_its_name_whatever_is_in_it() {
        for (job, path) in [
            (json!("shop"), "job/shop"),
            (json!("folder/shop"), "job/folder/job/shop"),
            (json!("/job/folder/job/shop/"), "job/folder/job/shop"),
            (json!(["shop", "feature/x"]), "job/shop/job/feature%2Fx"),
            (json!("a b?x=1#"), "job/a%20b%3Fx%3D1%23"),
            (json!("job"), "job/job"),
        ] {
            assert_eq!(Jenkins::job_path(&job).unwrap(), path);
        }
        for wrong in [json!(""), json!("a//b"), json!("../x"), json!([]), json!(7), json!(["a", 1])] {
            assert!(Jenkins::job_path(&wrong).is_err(), "{wrong}");
        }
    }
}
