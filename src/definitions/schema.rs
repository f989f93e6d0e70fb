//! JSON Schemas of all files that people write, for editors.
//!
//! Promises: the keys of each map are those of the table that its reader goes by, so that what a reader takes and what a schema names can't differ; a
//! key whose form nobody said here fails a test. A schema refuses unknown keys and values of the wrong sort, no more: names, templates, scripts and
//! everything that takes a look at other files is said by `siskin check`.
//!
//! They are of draft 7, which the YAML editors know best.

use serde_json::json;

use super::fields::{self, Type};
use super::sheet::Keys;
use super::{
    action, app, live, meets, needs, rule, site, step, test, trigger, waits, webhook, window, workflow,
};
use crate::model::{Object, Value};

/// A sort of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileKind {
    /// As `siskin schema` names it.
    pub name: &'static str,
    /// Where such files lie in a site, as editors match paths.
    pub files: &'static [&'static str],
    title: &'static str,
    root: Root,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Root {
    Map(&'static str),
    Source,
    Test,
}

/// Every sort of file that has a schema.
pub const ALL: &[FileKind] = &[
    FileKind {
        name: "rule",
        files: &["rules/*.yaml", "packs/*/rules/*.yaml"],
        title: "A rule: which events start what",
        root: Root::Map("rule"),
    },
    FileKind {
        name: "workflow",
        files: &["workflows/*.yaml", "packs/*/workflows/*.yaml"],
        title: "A workflow: steps, and what happens when they fail",
        root: Root::Map("workflow"),
    },
    FileKind {
        name: "action",
        files: &["actions/*.yaml", "packs/*/actions/*.yaml"],
        title: "An action: one thing that can be done",
        root: Root::Map("action"),
    },
    FileKind {
        name: "trigger",
        files: &["triggers/*.yaml", "packs/*/triggers/*.yaml"],
        title: "A trigger: the type of an event",
        root: Root::Map("trigger"),
    },
    FileKind {
        name: "source",
        files: &["sources/*.yaml", "packs/*/sources/*.yaml"],
        title: "A source: what produces events",
        root: Root::Source,
    },
    FileKind {
        name: "app",
        files: &["apps/*.yaml"],
        title: "An application: what is deployed, and where to",
        root: Root::Map("app"),
    },
    FileKind {
        name: "pack",
        files: &["packs/*/pack.yaml"],
        title: "A pack: what it is, what it needs, and what it must be told",
        root: Root::Map("pack"),
    },
    FileKind {
        name: "test",
        files: &["tests/*.yaml", "packs/*/tests/*.yaml"],
        title: "A test of a rule or a workflow",
        root: Root::Test,
    },
    FileKind {
        name: "siskin",
        files: &["siskin.yaml"],
        title: "What a site says of itself",
        root: Root::Map("siskin"),
    },
];

/// The sort of file that a path of a site is.
pub fn kind_of(path: &str) -> Option<&'static FileKind> {
    let inner = match path.strip_prefix("packs/") {
        Some(rest) => rest.split_once('/')?.1,
        None => path,
    };
    let is_pack = path.starts_with("packs/");
    let name = match inner.split_once('/') {
        None if inner == "siskin.yaml" && !is_pack => "siskin",
        None if inner == "pack.yaml" && is_pack => "pack",
        Some((folder, file)) if file.ends_with(".yaml") && !file.contains('/') => folder.strip_suffix('s')?,
        _ => return None,
    };
    let found = ALL.iter().find(|kind| kind.name == name)?;
    (!is_pack || name != "app").then_some(found)
}

/// The schema of a sort of file.
pub fn schema(kind: &FileKind) -> Value {
    let mut used = Used::default();
    let root = match kind.root {
        Root::Map(page) => used.reference(page),
        Root::Source => used.source(),
        Root::Test => json!({
            "type": "object",
            "if": {"required": ["rule"]},
            "then": used.reference("rule_test"),
            "else": used.reference("workflow_test"),
        }),
    };
    let mut schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": kind.title,
        "allOf": [root],
    });
    schema["definitions"] = Value::Object(used.all());
    schema
}

/// What a value may be.
#[derive(Clone, Copy, Debug)]
enum Form {
    Any,
    /// A scalar: unquoted, it is its source text.
    Text,
    Span,
    Flag,
    /// A whole number from this one on.
    Whole(u32),
    Number,
    Word(&'static [&'static str]),
    Words(fn() -> Vec<&'static str>),
    /// A text with a template in it.
    Template,
    /// A number, or so many percent.
    Share,
    Map,
    MapOf(&'static Form),
    List,
    ListOf(&'static Form),
    /// One, or a list of such.
    OneOrMore(&'static Form),
    /// A map with known keys.
    Page(&'static str),
    Or(&'static [Form]),
}

use Form::{
    Any, Flag, List, ListOf, Map, MapOf, Number, OneOrMore, Or, Page, Share, Span, Template, Text, Whole,
    Word, Words,
};

/// A key: its name, its form, what it is for. One whose purpose begins with `!` must be there.
type Row = (&'static str, Form, &'static str);

/// A map with known keys: how others name it, the reader's table, and the form of each key.
type Known = (&'static str, &'static Keys, &'static [Row]);

const TEXTS: Form = MapOf(&Text);
const TEXT_OR_TEXTS: Form = OneOrMore(&Text);
const TEXTS_OR_TEMPLATE: Form = Or(&[Map, Template]);
const FIELDS: Form = MapOf(&FIELD);
const FIELD: Form = Or(&[Words(types), Page("field")]);
const STEPS: Form = ListOf(&Page("step"));

fn types() -> Vec<&'static str> {
    Type::ALL.iter().map(|kind| kind.as_str()).collect()
}

const DESCRIPTION: Row = ("description", Text, "For people: what it is, what it is for.");

const PAGES: &[Known] = &[
    ("field", &fields::FIELD, FIELD_ROWS),
    ("rule", &rule::RULE, RULE_ROWS),
    ("schedule", &rule::TIMES, TIMES_ROWS),
    ("at_most", &meets::AT_MOST, AT_MOST_ROWS),
    ("otherwise", &meets::OTHERWISE, CALL_ROWS),
    ("part", &meets::PART, PART_ROWS),
    ("workflow", &workflow::WORKFLOW, WORKFLOW_ROWS),
    ("concurrency", &workflow::CONCURRENCY, CONCURRENCY_ROWS),
    ("step", &step::STEP, STEP_ROWS),
    ("retry", &step::RETRY, RETRY_ROWS),
    ("undo", &step::UNDO, CALL_ROWS),
    ("worker", &step::WORKER, WORKER_ROWS),
    ("approve", &waits::APPROVE, APPROVE_ROWS),
    ("watch", &waits::WATCH, WATCH_ROWS),
    ("watch_check", &waits::CHECK, WATCH_CHECK_ROWS),
    ("pattern", &waits::PATTERN, PATTERN_ROWS),
    ("wait_for", &waits::WAIT_FOR, WAIT_FOR_ROWS),
    ("or_poll", &waits::POLL, POLL_ROWS),
    ("action", &action::ACTION, ACTION_ROWS),
    ("http", &action::HTTP, HTTP_ROWS),
    ("auth", &action::AUTH, AUTH_ROWS),
    ("shell", &action::SHELL, SHELL_ROWS),
    ("script", &action::SCRIPT, SCRIPT_ROWS),
    ("trigger", &trigger::TRIGGER, TRIGGER_ROWS),
    ("verify", &webhook::VERIFY, VERIFY_ROWS),
    ("hmac_sha256", &webhook::HMAC, PROOF_ROWS),
    ("standard_webhooks", &webhook::STANDARD, PROOF_ROWS),
    ("slack", &webhook::SLACK, PROOF_ROWS),
    ("circleci", &webhook::CIRCLECI, PROOF_ROWS),
    ("token", &webhook::TOKEN, TOKEN_ROWS),
    ("basic", &webhook::BASIC, PROOF_ROWS),
    ("limit", &webhook::LIMIT, LIMIT_ROWS),
    ("app", &app::APP, APP_ROWS),
    ("environment", &app::ENVIRONMENT, ENVIRONMENT_ROWS),
    ("host", &app::HOST, HOST_ROWS),
    ("ssh", &app::SSH, SSH_ROWS),
    ("hosts_of_consul", &app::OF_CONSUL, FOUND_HOSTS_ROWS),
    ("hosts_of_file", &app::OF_FILE, FOUND_HOSTS_ROWS),
    ("hosts_of_command", &app::OF_COMMAND, FOUND_HOSTS_ROWS),
    ("ssh_of_hosts", &app::COMMON_SSH, SSH_ROWS),
    ("advertise_in_consul", &app::IN_CONSUL, ADVERTISE_ROWS),
    ("advertise_in_etcd", &app::IN_ETCD, ADVERTISE_ROWS),
    ("advertise_in_kv", &app::IN_KV, ADVERTISE_ROWS),
    ("host_check", &app::CHECK, HOST_CHECK_ROWS),
    ("host_check_http", &app::CHECK_HTTP, HOST_CHECK_ROWS),
    ("host_check_tcp", &app::CHECK_TCP, HOST_CHECK_ROWS),
    ("host_check_consul", &app::CHECK_CONSUL, HOST_CHECK_ROWS),
    ("balancer", &app::BALANCER, BALANCER_ROWS),
    ("analysis", &app::ANALYSIS, ANALYSIS_ROWS),
    ("query", &app::QUERY, QUERY_ROWS),
    ("siskin", &site::SITE, SITE_ROWS),
    ("retention", &site::RETENTION, RETENTION_ROWS),
    ("user", &site::USER, USER_ROWS),
    ("window", &window::WINDOW, WINDOW_ROWS),
    ("pack", &site::PACK, PACK_ROWS),
    ("needs", &needs::NEEDS, NEEDS_ROWS),
    ("rule_test", &test::RULE_TEST, TEST_ROWS),
    ("workflow_test", &test::WORKFLOW_TEST, WORKFLOW_TEST_ROWS),
    ("rule_case", &test::RULE_CASE, RULE_CASE_ROWS),
    ("workflow_case", &test::WORKFLOW_CASE, WORKFLOW_CASE_ROWS),
    ("event", &test::EVENT, EVENT_ROWS),
    ("timed_event", &test::TIMED_EVENT, EVENT_ROWS),
    ("answer", &test::ANSWER, ANSWER_ROWS),
    ("held", &test::HELD, HELD_ROWS),
    ("forced", &test::FORCED, FORCED_ROWS),
    ("mock", &test::MOCK, MOCK_ROWS),
    ("attempt", &test::ATTEMPT, MOCK_ROWS),
    ("error", &test::ERROR, ERROR_ROWS),
    ("rule_expected", &test::RULE_EXPECTED, RULE_EXPECTED_ROWS),
    ("workflow_expected", &test::WORKFLOW_EXPECTED, WORKFLOW_EXPECTED_ROWS),
    ("step_expected", &test::STEP_EXPECTED, STEP_EXPECTED_ROWS),
    ("error_expected", &test::ERROR_EXPECTED, ERROR_EXPECTED_ROWS),
    ("called", &test::CALLED, CALL_ROWS),
];

const FIELD_ROWS: &[Row] = &[
    ("type", Words(types), "What a value must be."),
    ("default", Any, "What it is when nobody says; without it, it must be said."),
    ("optional", Flag, "It may be missing, without a default."),
    ("enum", List, "The only values."),
    ("pattern", Text, "A regular expression that a text must match."),
    ("min", Number, "The least number, or length of a text, list or map."),
    ("max", Number, "The greatest number, or length of a text, list or map."),
    ("items", FIELD, "What each of a list is."),
    ("properties", FIELDS, "What a map has."),
    ("secret", Flag, "It is masked wherever it would be shown."),
    ("verbatim", Flag, "It is code: never rendered, braces stay."),
    DESCRIPTION,
];

const CALL_ROWS: &[Row] = &[
    ("run", Text, "!The action or workflow."),
    ("with", Map, "What it is given; strings may hold {{ templates }}."),
];

const RULE_ROWS: &[Row] = &[
    DESCRIPTION,
    ("trigger", TEXT_OR_TEXTS, "The type of the events, `pack.name`; or a list of them."),
    ("schedule", Page("schedule"), "Times at which it is due, in place of a trigger."),
    ("read", TEXTS, "Values of the key-value store that `when` and `with` see: name and key."),
    (
        "when",
        Text,
        "rhai: false or () is no match, true is one; a map is one, and its entries are `matched.*`.",
    ),
    ("count", Whole(2), "It matches when so many events of a key came within the time."),
    ("within", Span, "In which time the events of `count` or `all` come."),
    ("by", Text, "rhai: the key that events have in common."),
    ("all", ListOf(&Page("part")), "It matches when one event of each came for the same key."),
    ("at_most", Page("at_most"), "How often it may match in a time."),
    ("run", Text, "!The action or workflow that is started."),
    ("with", Map, "What it is given; strings may hold {{ templates }}."),
    ("on_behalf_of", Text, "Who counts as the starter."),
    ("owner", Text, "With whose rights it runs."),
    ("enabled", Flag, "False: it is checked, and starts nothing."),
];
const TIMES_ROWS: &[Row] = &[
    ("cron", TEXT_OR_TEXTS, "Minute, hour, day of the month, month, day of the week."),
    ("times", TEXT_OR_TEXTS, "\"08:30\" each day, or \"2026-12-24 18:00\" once."),
    ("time_zone", Text, "IANA's name of a zone; UTC when not said."),
    ("catch_up", Word(&["one", "all", "none"]), "What is done for times that were missed."),
];
const AT_MOST_ROWS: &[Row] = &[
    ("count", Whole(1), "!How often it may match."),
    ("per", Span, "!In which time."),
    ("by", Text, "rhai: the key for which it counts."),
    ("otherwise", Page("otherwise"), "What is run instead, once."),
];
const PART_ROWS: &[Row] = &[
    ("as", Text, "!What the event is called: `event.NAME`."),
    ("trigger", Text, "!The type of the event."),
    ("when", Text, "rhai: whether an event counts."),
    ("by", Text, "rhai: the key that the events have in common."),
];

const WORKFLOW_ROWS: &[Row] = &[
    DESCRIPTION,
    ("input", FIELDS, "What it takes: `app: string`, or `app: {type: string, default: shop}`."),
    ("steps", STEPS, "!What is done, each after the one above; or after what it `needs`."),
    ("on_failure", STEPS, "What is done when it failed."),
    ("finally", STEPS, "What is done in any case, last."),
    ("output", Map, "What it gives."),
    ("timeout", Span, "How long `steps` may take."),
    ("concurrency", Page("concurrency"), "How many runs there may be at a time."),
];
const CONCURRENCY_ROWS: &[Row] = &[
    ("key", Text, "Runs with the same key count together."),
    ("limit", Whole(1), "How many of them run at a time."),
    ("on_limit", Word(&["queue", "newest", "reject"]), "What becomes of one too many."),
];
const STEP_ROWS: &[Row] = &[
    ("id", Text, "!Its name: small letters, digits and _."),
    ("run", Text, "The action that is done, or the workflow that runs as a child."),
    ("with", Map, "What it is given; strings may hold {{ templates }}."),
    ("shell", Text, "A shell script, verbatim; data comes in by `env`."),
    ("env", TEXTS, "Environment of the script."),
    ("cwd", Text, "The folder in which the script runs."),
    ("approve", Page("approve"), "Waits until people agree."),
    ("watch", Page("watch"), "Lets time pass, and fails when something happens."),
    ("wait_for", Page("wait_for"), "Waits for an event."),
    ("sleep", Text, "Lets time pass: a duration, or a time."),
    ("emit", Text, "Puts an event of this trigger in, with the payload in `with`."),
    ("steps", STEPS, "A group of steps, one after the other."),
    ("parallel", STEPS, "A group of steps, all at once."),
    ("needs", TEXT_OR_TEXTS, "The steps that must have ended before; [] for none."),
    (
        "start_on",
        Word(&["success", "failure", "finished"]),
        "On which outcome of what it waits for it starts.",
    ),
    ("when", Text, "rhai: false skips the step."),
    ("for_each", Any, "rhai that gives a list, a list, or a map of lists: the step is done for each item."),
    ("as", Text, "What an item is called; `item` when not said."),
    ("concurrency", Whole(1), "How many items are done at once; 10 when not said."),
    ("max_failures", Share, "How many items may fail: a number or a percentage."),
    ("fail_fast", Flag, "One failure too many ends what is being done."),
    ("retry", Page("retry"), "How often it is tried."),
    ("until", Text, "rhai over `output`: it is done again until true."),
    ("every", Span, "How long between two times."),
    ("lock", Text, "Held while it runs, across all runs."),
    ("window", Text, "A window of siskin.yaml: it starts only when that is open."),
    ("worker", Page("worker"), "Where it may run."),
    ("read", TEXTS, "Values of the key-value store: name and key."),
    ("timeout", Span, "How long an attempt may take."),
    ("continue_on_failure", Flag, "Its failure does not fail the run."),
    ("undo", Page("undo"), "How it is taken back."),
];
const RETRY_ROWS: &[Row] = &[
    ("attempts", Whole(1), "!How often it is tried in all."),
    ("delay", Span, "How long before the second attempt."),
    ("backoff", Number, "By how much each further wait is longer."),
    ("max_delay", Span, "The longest wait."),
    ("jitter", Number, "By which part waits differ, 0 to 1."),
    ("when", Text, "rhai over `error` and `output`: whether it is tried again."),
    ("lost", Flag, "Also when the worker died."),
];
const WORKER_ROWS: &[Row] = &[
    ("pool", Text, "Workers of this pool."),
    ("labels", TEXTS, "Workers with these labels."),
    ("same_as", Text, "The worker that did this step."),
];
const APPROVE_ROWS: &[Row] = &[
    ("ask", Text, "!What people are asked."),
    ("of", Or(&[Text, List]), "!Who may answer: roles and users."),
    ("count", Or(&[Whole(1), Template]), "How many must agree."),
    ("distinct_from", TEXT_OR_TEXTS, "Who may not: `starter` when not said, or `none`."),
    ("show", Map, "What they are shown."),
    ("fields", FIELDS, "What they are to say: the answers are the output."),
    ("remind", Span, "How often those who have not answered are asked again."),
    ("timeout", Span, "How long it waits; 7d when not said."),
];
const WATCH_ROWS: &[Row] = &[
    ("for", Or(&[Span, Template]), "!How long."),
    ("since", Text, "Events since this step began count, too."),
    ("abort_on", OneOrMore(&Page("pattern")), "Events that fail it."),
    ("check", Page("watch_check"), "An action that says whether all is well."),
];
const WATCH_CHECK_ROWS: &[Row] = &[
    ("run", Text, "!The action."),
    ("with", Map, "What it is given."),
    ("every", Span, "!How often."),
    ("healthy", Text, "!rhai over `output`: whether all is well."),
    ("failures", Whole(1), "How often it may not be well; 1 when not said."),
];
const PATTERN_ROWS: &[Row] =
    &[("trigger", Text, "!The type of the event."), ("when", Text, "rhai over `event`.")];
const WAIT_FOR_ROWS: &[Row] = &[
    ("trigger", Text, "!The type of the event."),
    ("when", Text, "rhai over `event`."),
    ("timeout", Span, "How long it waits; 7d when not said."),
    ("on_timeout", Word(&["fail", "continue"]), "What becomes of the step then."),
    ("or_poll", Page("or_poll"), "An action that is asked beside it."),
];
const POLL_ROWS: &[Row] = &[
    ("run", Text, "!The action."),
    ("with", Map, "What it is given."),
    ("every", Span, "!How often."),
    ("until", Text, "!rhai over `output`: whether it is as wanted."),
];

const ACTION_ROWS: &[Row] = &[
    DESCRIPTION,
    ("runner", Word(&action::RUNNERS), "!How it is done."),
    ("input", FIELDS, "What it takes."),
    ("returns", FIELDS, "What its output has."),
    ("idempotent", Flag, "Done twice is as done once: a lost attempt is tried again."),
    ("timeout", Span, "How long an attempt may take."),
    ("output", Map, "Its output, made of what came of it."),
    ("http", Page("http"), "The request, for the runner `http`."),
    ("shell", Page("shell"), "The script, for the runner `shell`."),
    ("script", Page("script"), "The file, for the runner `script`."),
    ("native", Map, "What the runner `native` gets in place of the input."),
];
const HTTP_ROWS: &[Row] = &[
    ("method", Text, "GET when not said."),
    ("url", Text, "!Where it goes."),
    ("headers", TEXTS_OR_TEMPLATE, "Headers."),
    ("query", TEXTS_OR_TEMPLATE, "Parameters of the URL."),
    ("auth", Page("auth"), "Credentials."),
    ("body", Any, "The body as it is."),
    ("form", Any, "A body of form fields."),
    ("json", Any, "A body of JSON."),
    ("expect", OneOrMore(&Whole(100)), "Which status is a success."),
];
const AUTH_ROWS: &[Row] = &[("basic", ListOf(&Text), "User and password."), ("bearer", Text, "A token.")];
const SHELL_ROWS: &[Row] = &[
    ("script", Text, "!The script, verbatim."),
    ("env", TEXTS_OR_TEMPLATE, "Its environment."),
    ("cwd", Text, "The folder in which it runs."),
];
const SCRIPT_ROWS: &[Row] = &[
    ("file", Text, "!A file of the pack."),
    ("args", ListOf(&Text), "Its arguments."),
    ("env", TEXTS_OR_TEMPLATE, "Its environment."),
];
const TRIGGER_ROWS: &[Row] = &[DESCRIPTION, ("payload", Map, "The JSON Schema of the payload.")];

/// Keys of all kinds of sources; none means two things.
const SOURCE_ROWS: &[Row] = &[
    DESCRIPTION,
    ("kind", Text, "!What it is."),
    ("trigger", Text, "!The type of the events: a name, or a template."),
    ("dedup", Text, "A template: events with the same key are one."),
    ("each", Text, "rhai that gives a list: one event per element, as `item`."),
    ("path", Text, "Of a webhook: it is reached as POST /hooks/PATH. Of a file source: the file or folder."),
    (
        "verify",
        Or(&[Word(&["none"]), Page("verify"), ListOf(&Page("verify"))]),
        "How deliveries prove where they come from; a list: one is enough.",
    ),
    ("answer", Text, "What senders are told."),
    ("limit", Page("limit"), "How much is taken."),
    ("every", Span, "How often."),
    ("catch_up", Word(&["one", "all", "none"]), "What is done for times that were missed."),
    ("cron", TEXT_OR_TEXTS, "Minute, hour, day of the month, month, day of the week."),
    ("times", TEXT_OR_TEXTS, "\"08:30\" each day, or \"2026-12-24 18:00\" once."),
    ("time_zone", Text, "IANA's name of a zone; UTC when not said."),
    ("command", TEXT_OR_TEXTS, "A line for the shell, or a program with its arguments."),
    ("env", TEXTS, "Environment of the program."),
    ("cwd", Text, "The folder in which it runs."),
    ("cursor", Text, "Of an event: what the program is told when it is started again."),
    ("glob", Text, "Which files of the folder."),
    ("recursive", Flag, "Folders inside, too."),
    ("url", Text, "What is asked."),
    ("headers", TEXTS, "Headers of the request."),
    ("branch", TEXT_OR_TEXTS, "Names or patterns of branches."),
    ("user", Text, "Who asks."),
    ("token", Text, "A template that gives the token."),
    ("secret", Text, "The name of the secret that holds the token."),
    ("address", Text, "Where it is; the agent on this machine when not said."),
    ("datacenter", Text, "Which of its datacenters."),
    ("key", Text, "One key."),
    ("prefix", Text, "All keys below it."),
    ("service", Text, "The service."),
    ("tag", TEXT_OR_TEXTS, "Only instances with these tags."),
    ("name", Text, "The name of the events."),
    ("password", Text, "A template that gives the password."),
    ("ca", Text, "Who vouches for its certificate: PEM, or a file."),
    ("certificate", Text, "Our own, with its key: PEM, or a file."),
    ("queue", Text, "The queue."),
    ("declare", Flag, "Whether the queue is made."),
    ("exchange", Text, "What the queue is bound to."),
    ("binding", TEXT_OR_TEXTS, "The keys under which it is bound."),
    ("format", Word(&["auto", "json", "text"]), "What messages are."),
    ("at_once", Whole(1), "How many messages are on their way at a time."),
    ("repository", Text, "The repository, `owner/name`."),
    ("api", Text, "Where the API is, when not GitHub's own."),
];
/// Keys that are something else in one kind.
const SOURCE_SPECIAL: &[(&str, &[Row])] =
    &[("etcd", &[("address", TEXT_OR_TEXTS, "The members of the cluster.")])];
/// What a source of a kind must say, beside `trigger`.
const SOURCE_NEEDS: &[(&str, &[&str])] = &[
    ("webhook", &["path", "verify"]),
    ("interval", &["every"]),
    ("exec", &["command"]),
    ("file", &["path"]),
    ("http_poll", &["url"]),
    ("git_branch", &["url", "branch"]),
    ("consul_service", &["service"]),
    ("consul_event", &["name"]),
    ("amqp", &["url", "queue"]),
    ("github_releases", &["repository"]),
];
const VERIFY_ROWS: &[Row] = &[
    ("hmac_sha256", Page("hmac_sha256"), "A signature of the body in a header."),
    ("standard_webhooks", Page("standard_webhooks"), "Signatures as standardwebhooks.com has them."),
    ("slack", Page("slack"), "Slack's signature, v0."),
    ("circleci", Page("circleci"), "CircleCI's signature."),
    ("token", Page("token"), "A shared token in a header or in the URL."),
    ("basic", Page("basic"), "A user and a password."),
];
const PROOF_ROWS: &[Row] = &[
    ("header", Text, "!The header that has it."),
    ("prefix", Text, "What stands before it."),
    ("user", Text, "!The user."),
    ("secret", TEXT_OR_TEXTS, "!The name of the secret; of several, any fits."),
];
const TOKEN_ROWS: &[Row] = &[
    ("header", Text, "The header that has it."),
    ("query", Text, "The parameter of the URL that has it."),
    ("secret", TEXT_OR_TEXTS, "!The name of the secret; of several, any fits."),
];
const LIMIT_ROWS: &[Row] = &[
    ("size", Text, "The largest body: 500KB, 2MB."),
    ("depth", Whole(1), "How deep lists and maps may nest."),
    ("rate", Text, "How many in a time: 100/s, 600/m."),
];

const APP_ROWS: &[Row] = &[
    DESCRIPTION,
    ("owner", Text, "Whose it is."),
    ("repository", Text, "Where its source is."),
    ("package", Text, "What its package is called."),
    ("environments", MapOf(&Page("environment")), "Where it is deployed to."),
];
const ENVIRONMENT_ROWS: &[Row] = &[
    DESCRIPTION,
    (
        "hosts",
        Or(&[
            ListOf(&Or(&[Text, Page("host")])),
            Page("hosts_of_consul"),
            Page("hosts_of_file"),
            Page("hosts_of_command"),
        ]),
        "!Its hosts: names, or how each is reached; or where they are found.",
    ),
    ("suite", Text, "The suite of the APT repository."),
    ("batch", Share, "How many hosts at a time: a number or a percentage."),
    ("max_unavailable", Share, "How many may be away: a number or a percentage."),
    ("approvers", TEXT_OR_TEXTS, "Who may agree to a deployment."),
    ("bake", Span, "How long it is watched."),
    (
        "check",
        Or(&[
            Text,
            Page("host_check"),
            Page("host_check_http"),
            Page("host_check_tcp"),
            Page("host_check_consul"),
        ]),
        "What says whether a host is well: a script, or what is asked of it.",
    ),
    ("balancer", Page("balancer"), "What gives its hosts their traffic."),
    ("analysis", Page("analysis"), "What is measured of a version there."),
    (
        "advertise",
        Or(&[Page("advertise_in_consul"), Page("advertise_in_etcd"), Page("advertise_in_kv")]),
        "Where the version that is to be there is told.",
    ),
    ("source_list", Text, "The file in /etc/apt/sources.list.d."),
    ("window", Text, "When deployments may start."),
];
const HOST_ROWS: &[Row] = &[
    ("name", Text, "!Its name."),
    ("ssh", Page("ssh"), "How it is reached."),
    ("root", Text, "A folder on this machine that stands for a host."),
    ("address", Text, "Where what runs on it is reached, when that is not where ssh goes."),
];
const SSH_ROWS: &[Row] = &[
    ("host", Text, "Its address."),
    ("port", Whole(1), "22 when not said."),
    ("user", Text, "As whom."),
    ("key", Text, "The name of the secret that holds the key."),
    ("known_hosts", Text, "The keys of hosts, as in ~/.ssh/known_hosts."),
    ("host_keys", Word(&["strict", "accept_new"]), "Whether a host may be new."),
];
/// `{app}` and `{environment}` in the key are their names.
const ADVERTISE_ROWS: &[Row] = &[
    ("consul", Text, "!A key of Consul's store."),
    ("etcd", Text, "!A key of etcd."),
    ("kv", Text, "!A key of Siskin's own store."),
    ("address", TEXT_OR_TEXTS, "Where Consul is, or the members of etcd."),
    ("datacenter", Text, "Which of its datacenters."),
];
/// Hosts that are found when a step begins.
const FOUND_HOSTS_ROWS: &[Row] = &[
    ("consul", Text, "!The service of Consul whose nodes they are."),
    ("tag", TEXT_OR_TEXTS, "The tags of its instances."),
    ("role", Text, "The role, which gives the tag by the convention."),
    ("canary", Flag, "Whether they are the canaries of the role."),
    ("address", Text, "Where Consul is."),
    ("datacenter", Text, "Which of its datacenters."),
    ("file", Text, "!A file that lists them, by its absolute path."),
    ("command", TEXT_OR_TEXTS, "!A program that prints them."),
    ("at_least", Whole(1), "Fewer are a failure."),
    ("ssh", Page("ssh_of_hosts"), "How all of them are reached."),
    ("roots", Text, "A folder on this machine that has one for each."),
];
const HOST_CHECK_ROWS: &[Row] = &[
    ("script", Text, "!The script, verbatim."),
    ("http", Text, "!A path on the host, or an address; {name} and {address} in it are the host's."),
    ("port", Whole(1), "Of the path; 80 when not said."),
    ("host", Text, "What the request calls the host."),
    ("expect", Or(&[Whole(100), ListOf(&Whole(100))]), "The right statuses; every 2xx when not said."),
    ("contains", Text, "What the body must hold."),
    ("tcp", Whole(1), "!A port that takes connections."),
    ("consul", Text, "!A service whose instance on the host must pass."),
    ("tag", TEXT_OR_TEXTS, "The tags of its instances."),
    ("address", Text, "Where Consul is."),
    ("datacenter", Text, "Which of its datacenters."),
    ("tries", Whole(1), "How often it is tried."),
    ("interval", Span, "How long between two tries."),
    ("timeout", Span, "How long one may take."),
];
const ANALYSIS_ROWS: &[Row] = &[
    ("queries", ListOf(&Page("query")), "Of Prometheus."),
    ("alerts", TEXT_OR_TEXTS, "Matchers of Alertmanager; an alert that fits all of them is unhealthy."),
    ("failure_limit", Whole(0), "So many looks may be unhealthy."),
    ("inconclusive_limit", Whole(0), "So many looks may find out nothing."),
];
const QUERY_ROWS: &[Row] = &[
    ("name", Text, "What it measures."),
    ("query", Text, "!The expression, in PromQL."),
    ("max", Number, "More is unhealthy."),
    ("min", Number, "Less is unhealthy."),
    ("empty", Word(app::VERDICTS), "What it means when it finds nothing."),
    ("nan", Word(app::VERDICTS), "What it means when it finds no number."),
];
const BALANCER_ROWS: &[Row] = &[
    ("haproxy", TEXT_OR_TEXTS, "!Runtime sockets of HAProxys: paths, or HOST:PORT."),
    (
        "backend",
        TEXT_OR_TEXTS,
        "The backends that have the hosts; {app} is its name, and what is meant when nothing is said.",
    ),
    (
        "server",
        Text,
        "What a host is called there; {host} is its name, and what is meant when nothing is said.",
    ),
    ("drain", Span, "How long sessions may take to end; 30s when not said."),
    ("ready", Span, "How long HAProxy may take to hold a host for up again; 1m when not said."),
];

const SITE_ROWS: &[Row] = &[
    ("config", Map, "What packs are told: pack, then what its pack.yaml asks for."),
    ("public_url", Text, "Where people and senders find the server."),
    ("retention", Page("retention"), "How long things are kept."),
    ("users", MapOf(&Page("user")), "People, with their roles."),
    ("windows", MapOf(&Page("window")), "When things may start."),
];
const RETENTION_ROWS: &[Row] = &[
    ("events", Span, "Events."),
    ("runs", Span, "Runs that ended."),
    ("logs", Span, "What runs printed."),
    ("audit", Span, "Who did what."),
];
const USER_ROWS: &[Row] = &[
    ("roles", TEXT_OR_TEXTS, "What the user may do."),
    ("links", TEXTS, "What the user is called elsewhere: github: octocat."),
];
const WINDOW_ROWS: &[Row] = &[
    ("open", TEXT_OR_TEXTS, "!Minutes in which it is open, as cron patterns."),
    ("closed", TEXT_OR_TEXTS, "Days on which it is not: 2026-12-24, or 2026-12-24..2027-01-02."),
    ("time_zone", Text, "IANA's name of a zone; UTC when not said."),
];
const PACK_ROWS: &[Row] = &[
    ("name", Text, "As its folder is called."),
    DESCRIPTION,
    ("version", Text, "Its version."),
    ("config", FIELDS, "What it must be told in siskin.yaml."),
    (
        "needs",
        Or(&[Page("needs"), Text, ListOf(&Text)]),
        "The packs that it needs; or these with programs and a version of siskin.",
    ),
];
const NEEDS_ROWS: &[Row] = &[
    ("packs", TEXT_OR_TEXTS, "Other packs."),
    ("programs", TEXT_OR_TEXTS, "Programs on the machines that do its actions."),
    ("siskin", Text, "The versions of siskin that will do: \">=0.1, <2\"."),
];

const TEST_ROWS: &[Row] = &[
    ("rule", Text, "!The rule, `pack.name`."),
    ("config", MapOf(&Map), "What packs are told in it."),
    ("kv", Map, "What the key-value store has."),
    ("apps", Map, "Apps beside those of the site."),
    ("cases", ListOf(&Page("rule_case")), "!What is tried."),
];
const WORKFLOW_TEST_ROWS: &[Row] = &[
    ("workflow", Text, "!The workflow, `pack.name`."),
    ("mock", MocksForm::FORM, "What steps give in place of being done."),
    ("config", MapOf(&Map), "What packs are told in it."),
    ("kv", Map, "What the key-value store has."),
    ("apps", Map, "Apps beside those of the site."),
    ("cases", ListOf(&Page("workflow_case")), "!What is tried."),
];

/// The form of `mock`, which stands in two places.
struct MocksForm;

impl MocksForm {
    const FORM: Form = MapOf(&OneOrMore(&Page("mock")));
}

const RULE_CASE_ROWS: &[Row] = &[
    ("name", Text, "!What it shows."),
    ("event", Page("event"), "!What comes."),
    ("expect", Page("rule_expected"), "!What comes of it."),
];
const WORKFLOW_CASE_ROWS: &[Row] = &[
    ("name", Text, "!What it shows."),
    ("at", Text, "When the run begins."),
    ("input", Map, "What the run is given."),
    ("mock", MocksForm::FORM, "What steps give in this case."),
    ("events", ListOf(&Page("timed_event")), "What comes while it runs."),
    ("answers", MapOf(&Page("answer")), "What people say, by the approving step."),
    ("holds", OneOrMore(&Page("held")), "What is held, and when."),
    ("force", Page("forced"), "Somebody lets it pass windows and holds."),
    ("expect", Page("workflow_expected"), "!What comes of it."),
];
const EVENT_ROWS: &[Row] = &[
    ("at", Span, "How long after the start."),
    ("trigger", Text, "Its type; where the rule has only one, that."),
    ("payload", Any, "Its payload."),
    ("file", Text, "A JSON file beside the test that has the payload."),
];
const ANSWER_ROWS: &[Row] = &[
    ("by", TEXT_OR_TEXTS, "!Who answers."),
    ("at", Span, "How long after the start."),
    ("yes", Flag, "They agree."),
    ("reject", Flag, "They do not."),
    ("comment", Text, "What they say."),
    ("answers", Any, "What they answer to the fields."),
];
const HELD_ROWS: &[Row] = &[
    ("what", Text, "!An app, or all."),
    ("from", Span, "How long after the start."),
    ("until", Span, "Till when."),
    ("why", Text, "Why."),
];
const FORCED_ROWS: &[Row] =
    &[("at", Span, "How long after the start."), ("by", Text, "Who."), ("why", Text, "Why.")];
const MOCK_ROWS: &[Row] = &[
    ("output", Map, "What it gives."),
    ("fail", Text, "It fails, with this message."),
    ("error", Or(&[Text, Page("error")]), "It fails so."),
    ("takes", Span, "How long it takes."),
    ("attempts", OneOrMore(&Page("attempt")), "One attempt after the other."),
];
const ERROR_ROWS: &[Row] =
    &[("kind", Words(test::error_kinds), "How it failed."), ("message", Text, "The message.")];
const ERROR_EXPECTED_ROWS: &[Row] =
    &[("kind", Any, "How it failed."), ("message", Any, "The message."), ("step", Any, "At which step.")];
const RULE_EXPECTED_ROWS: &[Row] = &[
    ("match", Flag, "Whether it matches."),
    ("run", Text, "What it runs."),
    ("with", Map, "With what; a part is enough."),
    ("on_behalf_of", Any, "On whose behalf."),
    ("why", Text, "Why it failed."),
];
const WORKFLOW_EXPECTED_ROWS: &[Row] = &[
    ("status", Words(test::final_statuses), "How it ends."),
    ("steps", MapOf(&Or(&[Words(test::step_statuses), Page("step_expected")])), "How steps end."),
    ("undone", TEXT_OR_TEXTS, "Which steps are taken back."),
    ("called", OneOrMore(&Or(&[Text, Page("called")])), "What was called."),
    ("not_called", TEXT_OR_TEXTS, "What was not."),
    ("output", Any, "What it gives; a part is enough."),
    ("error", Or(&[Text, List, Page("error_expected")]), "With which error it ends."),
];
const STEP_EXPECTED_ROWS: &[Row] = &[
    ("status", Words(test::step_statuses), "How it ends."),
    ("output", Any, "What it gives; a part is enough."),
    ("error", Any, "With which error."),
    ("attempts", Any, "How often it was tried."),
];

/// The maps that a schema refers to.
#[derive(Default)]
struct Used {
    pages: Vec<&'static str>,
    sources: Vec<(String, Value)>,
}

impl Used {
    fn reference(&mut self, page: &'static str) -> Value {
        if !self.pages.contains(&page) {
            self.pages.push(page);
        }
        json!({"$ref": format!("#/definitions/{page}")})
    }

    /// All of them, and what they refer to.
    fn all(mut self) -> Object {
        let mut definitions = Object::new();
        let mut next = 0;
        while let Some(name) = self.pages.get(next).copied() {
            next += 1;
            let Some((_, keys, rows)) = PAGES.iter().find(|(page, _, _)| *page == name) else { continue };
            let mut map = self.map(keys, rows, &[]);
            if name == "step" {
                add_belongs(&mut map);
            }
            definitions.insert(name.to_owned(), map);
        }
        definitions.extend(self.sources);
        definitions
    }

    /// A map with the keys of its reader.
    fn map(&mut self, keys: &Keys, rows: &[Row], needs: &[&str]) -> Value {
        let mut properties = Object::new();
        let mut required: Vec<&str> = Vec::new();
        for key in keys.built {
            let row = rows.iter().find(|(name, _, _)| name == key);
            let (form, purpose) = row.map_or((Any, ""), |(_, form, purpose)| (*form, *purpose));
            if purpose.starts_with('!') || needs.contains(key) {
                required.push(key);
            }
            let mut property = self.form(form);
            let purpose = purpose.trim_start_matches('!');
            if !purpose.is_empty() {
                // Beside a reference, nothing else counts.
                property = match property.get("$ref").is_some() {
                    true => json!({"description": purpose, "allOf": [property]}),
                    false => described(property, purpose),
                };
            }
            properties.insert((*key).to_owned(), property);
        }
        let mut map = json!({"type": "object", "properties": properties, "additionalProperties": false});
        if !required.is_empty() {
            map["required"] = json!(required);
        }
        map
    }

    fn form(&mut self, form: Form) -> Value {
        match form {
            Any => json!({}),
            Text => json!({"type": ["string", "number", "boolean"]}),
            Span => json!({"type": "string", "pattern": SPAN}),
            Flag => json!({"type": "boolean"}),
            Whole(least) => json!({"type": "integer", "minimum": least}),
            Number => json!({"type": "number"}),
            Word(words) => json!({"enum": words}),
            Words(words) => json!({"enum": words()}),
            Template => json!({"type": "string", "pattern": "\\{[{%]"}),
            Share => {
                json!({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]+%?$"}]})
            }
            Map => json!({"type": "object"}),
            MapOf(of) => json!({"type": "object", "additionalProperties": self.form(*of)}),
            List => json!({"type": "array"}),
            ListOf(of) => json!({"type": "array", "items": self.form(*of)}),
            OneOrMore(of) => {
                let one = self.form(*of);
                json!({"anyOf": [one, {"type": "array", "items": one}]})
            }
            Page(page) => self.reference(page),
            Or(forms) => {
                let forms: Vec<Value> = forms.iter().map(|form| self.form(*form)).collect();
                json!({"anyOf": forms})
            }
        }
    }

    /// Which keys a source has depends on its kind.
    fn source(&mut self) -> Value {
        let kinds = live::KINDS.iter().copied().chain([("webhook", &webhook::WEBHOOK)]);
        let mut each = Vec::new();
        let mut names = Vec::new();
        for (kind, keys) in kinds {
            let needs =
                SOURCE_NEEDS.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, needs)| needs);
            let special = SOURCE_SPECIAL.iter().find(|(name, _)| *name == kind);
            let special = special.map_or(&[][..], |(_, rows)| rows);
            let rows: Vec<Row> = special.iter().chain(SOURCE_ROWS).copied().collect();
            let mut map = self.map(keys, &rows, needs);
            map["properties"]["kind"] = json!({"const": kind, "description": keys.of});
            let name = format!("source_{kind}");
            each.push(json!({
                "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
                "then": {"$ref": format!("#/definitions/{name}")},
            }));
            self.sources.push((name, map));
            names.push(kind);
        }
        json!({
            "type": "object",
            "required": ["kind"],
            "properties": {"kind": {"enum": names, "description": "What it is."}},
            "allOf": each,
        })
    }
}

/// As `model::Span` reads it.
const SPAN: &str = "^\\s*([0-9]+(\\.[0-9]+)?\\s*(ms|s|m|h|d)\\s*)+$";

fn described(mut property: Value, purpose: &str) -> Value {
    property["description"] = json!(purpose);
    property
}

/// A step does one thing, and some keys belong to some things only.
fn add_belongs(step: &mut Value) {
    let one = |key: &str| json!({"required": [key]});
    step["oneOf"] = step::KINDS.iter().map(|kind| one(kind)).collect();
    let belongs = step::BELONGS.iter().map(|(key, kinds)| {
        let kinds: Vec<Value> = kinds.iter().map(|kind| one(kind)).collect();
        ((*key).to_owned(), json!({"anyOf": kinds}))
    });
    step["dependencies"] = Value::Object(belongs.collect());
}

/// Every map with known keys, with those whose form nobody said.
#[cfg(test)]
pub(super) fn formless() -> Vec<String> {
    let sources = live::KINDS.iter().map(|(name, keys)| (*name, *keys, SOURCE_ROWS));
    let webhook = ("webhook", &webhook::WEBHOOK, SOURCE_ROWS);
    let pages = PAGES.iter().copied().chain(sources).chain([webhook]);
    pages
        .flat_map(|(name, keys, rows)| {
            let lacking = keys.built.iter().filter(move |key| !rows.iter().any(|(row, _, _)| row == *key));
            lacking.map(move |key| format!("{name}.{key}"))
        })
        .collect()
}
