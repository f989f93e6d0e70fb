//! What is on each host, and what should be.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;

use super::Api;
use super::problem::{Answer, Problem};
use super::request::{Name, Params};
use super::types::{Held, Host, Page};
use crate::model::{RunId, Value};
use crate::store::{DeploymentFilter, LONGEST_LIST, Newest, RunOrigin, StoredDeployment};
use crate::whereabouts::{self, Record, State as Stands, standing};

/// So many of the newest deployments of each environment say what its hosts hold, in the list of all hosts. Of one host, all that are kept do.
const LOOKED_AT: u32 = 50;
/// More pages of reports of agents are not read.
const PAGES: usize = 20;
/// Where agents report.
const AGENTS: &str = "agents/";

/// An app and one of its environments.
type Place = (String, String);

/// What is known of where things are.
#[derive(Default)]
struct Known {
    /// Newest first.
    pasts: BTreeMap<Place, Vec<Record>>,
    /// The hosts that definitions name; `None` where they are found elsewhere.
    named: BTreeMap<Place, Option<Vec<String>>>,
    /// What agents say, by place and host.
    agents: BTreeMap<Place, BTreeMap<String, Value>>,
}

pub(super) fn record(stored: StoredDeployment) -> Record {
    Record::new(stored.deployment, stored.step, &stored.hosts)
}

impl Known {
    async fn read(api: &Api, deployments: Vec<StoredDeployment>) -> Result<Known, Problem> {
        let mut known = Known::default();
        let mut records: BTreeMap<i64, Record> = BTreeMap::new();
        for stored in deployments {
            records.insert(stored.deployment.id, record(stored));
        }
        for (_, record) in records.into_iter().rev() {
            let place = (record.deployment.app.clone(), record.deployment.environment.clone());
            known.pasts.entry(place).or_default().push(record);
        }
        for (app, file) in api.engine.definitions().apps.as_object().into_iter().flatten() {
            for (name, environment) in
                file.get("environments").and_then(Value::as_object).into_iter().flatten()
            {
                let place = (app.clone(), name.clone());
                known.named.insert(place, whereabouts::named_hosts(environment));
            }
        }
        known.read_agents(api).await?;
        Ok(known)
    }

    async fn read_agents(&mut self, api: &Api) -> Result<(), Problem> {
        let now = api.engine.clock().now();
        let mut after: Option<String> = None;
        for _ in 0..PAGES {
            let page = api.engine.store().kv_list(AGENTS, after.as_deref(), LONGEST_LIST, now).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            for entry in page {
                let mut parts = entry.key.splitn(4, '/').skip(1).map(str::to_owned);
                if let (Some(app), Some(environment), Some(host)) = (parts.next(), parts.next(), parts.next())
                    && entry.value.is_object()
                {
                    self.agents.entry((app, environment)).or_default().insert(host, entry.value);
                }
            }
        }
        Ok(())
    }

    fn places(&self) -> BTreeSet<&Place> {
        self.pasts.keys().chain(self.named.keys()).chain(self.agents.keys()).collect()
    }

    /// All hosts that have to do with a place: those that it names, those that agents report from, and those of the records from the newest that is done on.
    fn hosts(&self) -> BTreeSet<&str> {
        let named = self.named.values().flatten().flatten().map(String::as_str);
        let agents = self.agents.values().flat_map(BTreeMap::keys).map(String::as_str);
        let touched = self.pasts.values().flatten().flat_map(|record| &record.hosts);
        named.chain(agents).chain(touched.map(|touch| touch.host.as_str())).collect()
    }

    /// What a host holds, on every place that it has to do with.
    fn held(&self, host: &str) -> Vec<Held> {
        let on = |place: &&Place| {
            let past = self.pasts.get(*place).map(Vec::as_slice).unwrap_or_default();
            let named = self.named.get(*place).and_then(Option::as_ref);
            let is_named = named.map(|names| names.iter().any(|name| name == host));
            let agent = self.agents.get(*place).and_then(|hosts| hosts.get(host));
            let found = standing(host, (&place.0, &place.1), past, is_named, agent)?;
            Some(Held { standing: found, by: None, rule: None, event: None })
        };
        self.places().iter().filter_map(on).collect()
    }
}

/// All hosts, in order of name.
pub(super) async fn list(State(api): State<Api>, params: Params) -> Answer<Page<Host>> {
    let params = params.check(&["app", "environment", "state", "cursor", "limit"])?;
    let limit = params.limit()?;
    let (app, environment, cursor) = (params.text("app"), params.text("environment"), params.text("cursor"));
    let states = states(params.text("state").as_deref())?;
    let deployments = api.engine.store().recent_deployments(app.as_deref(), LOOKED_AT).await?;
    let known = Known::read(&api, deployments).await?;
    let wanted = |held: &Held| {
        app.as_ref().is_none_or(|app| *app == held.standing.app)
            && environment.as_ref().is_none_or(|environment| *environment == held.standing.environment)
            && states.as_ref().is_none_or(|states| states.contains(&held.standing.state))
    };
    let mut items = Vec::new();
    let later = |host: &&str| cursor.as_ref().is_none_or(|cursor| **host > **cursor);
    for host in known.hosts().into_iter().filter(later) {
        let holds: Vec<Held> = known.held(host).into_iter().filter(wanted).collect();
        if !holds.is_empty() {
            items.push(Host { host: host.to_owned(), holds });
        }
        if items.len() >= limit as usize {
            break;
        }
    }
    with_origins(&api, items.iter_mut().flat_map(|host| &mut host.holds)).await?;
    Ok(Json(Page::of(items, limit, |host| host.host.clone())))
}

fn states(text: Option<&str>) -> Result<Option<Vec<Stands>>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let state = |word: &str| {
        let found = Stands::ALL.into_iter().find(|state| state.as_str() == word);
        found.ok_or_else(|| {
            let known: Vec<&str> = Stands::ALL.iter().map(|state| state.as_str()).collect();
            Problem::invalid(vec![format!(
                "`state={word}` is not understood; known are {}",
                known.join(", ")
            )])
        })
    };
    text.split(',').map(state).collect::<Result<Vec<_>, _>>().map(Some)
}

/// One host: all that is kept of it is looked through.
pub(super) async fn show(State(api): State<Api>, Name(host): Name) -> Answer<Host> {
    let store = api.engine.store();
    let filter =
        DeploymentFilter { host: Some(host.clone()), limit: LONGEST_LIST, ..DeploymentFilter::default() };
    let mut deployments = store.deployments(&filter).await?;
    // What stands on the environments, whether it came to this host or not.
    for which in [Newest::Done, Newest::NotTakenBack] {
        deployments.extend(store.newest_deployments(None, which).await?);
    }
    let known = Known::read(&api, deployments).await?;
    let mut holds = known.held(&host);
    if holds.is_empty() {
        let near = crate::definitions::nearest(&host, known.hosts());
        let near = near.map(|near| format!(" host `{host}`; did you mean `{near}`?"));
        return Err(Problem::missing(
            near.unwrap_or_else(|| format!("host `{host}`: no app names it, and no deployment came to it"))
                .trim_start(),
        ));
    }
    with_origins(&api, holds.iter_mut()).await?;
    Ok(Json(Host { host, holds }))
}

/// Adds by whom, which rule and which event.
async fn with_origins(api: &Api, holds: impl Iterator<Item = &mut Held>) -> Result<(), Problem> {
    let holds: Vec<&mut Held> = holds.collect();
    let runs: BTreeSet<RunId> = holds.iter().filter_map(|held| held.standing.run).collect();
    let runs: Vec<RunId> = runs.into_iter().collect();
    let mut starters = BTreeMap::new();
    for some in runs.chunks(LONGEST_LIST as usize) {
        starters.extend(api.engine.store().starters(some).await?);
    }
    let origins: BTreeMap<RunId, RunOrigin> = api.engine.store().origins(&runs).await?;
    for held in holds {
        let Some(run) = held.standing.run else { continue };
        held.by = starters.get(&run).map(ToString::to_string);
        held.rule = origins.get(&run).and_then(|origin| origin.rule.clone());
        held.event = origins.get(&run).and_then(|origin| origin.event);
    }
    Ok(())
}
