//! The kinds of step that let time pass or wait: `approve`, `watch`, `wait_for`, and the `until` and `every` of what is done again and again.

use super::check::Seen;
use super::fields::{self, Field, Fields, Type};
use super::sheet::{Keys, Table};
use super::step::{NAMES_EVENT, NAMES_OUTPUT, Reader};
use super::tree::Tree;
use super::workflow::{Approve, Call, EventPattern, Kind, Poll, WaitFor, Watch, WatchCheck};
use super::yaml::{Content, Node};
use crate::expr::Script;
use crate::model::{Span, Value};

pub(super) const APPROVE: Keys = Keys {
    of: "`approve`",
    built: &["ask", "of", "count", "distinct_from", "show", "fields", "remind", "timeout"],
    later: &[],
};
pub(super) const WATCH: Keys =
    Keys { of: "`watch`", built: &["for", "since", "abort_on", "check"], later: &[] };
pub(super) const CHECK: Keys =
    Keys { of: "`check`", built: &["run", "with", "every", "healthy", "failures"], later: &[] };
pub(super) const PATTERN: Keys = Keys { of: "`abort_on`", built: &["trigger", "when"], later: &[] };
pub(super) const WAIT_FOR: Keys =
    Keys { of: "`wait_for`", built: &["trigger", "when", "timeout", "on_timeout", "or_poll"], later: &[] };
pub(super) const POLL: Keys = Keys { of: "`or_poll`", built: &["run", "with", "every", "until"], later: &[] };

impl Reader<'_> {
    /// rhai over an action's `output`.
    pub(super) fn until(&self, node: &Node, outputs: Option<&Fields>, seen: &Seen<'_>) -> Option<Script> {
        let seen = Seen { of: "`until`", names: NAMES_OUTPUT, output: outputs, ..*seen };
        self.sheet.script(node, "until", self.world, &seen).map(|(script, _)| script)
    }

    /// A span that is longer than nothing.
    fn longer_than_nothing(&self, node: &Node, what: &str) -> Option<Span> {
        let span = self.sheet.span(node, what)?;
        if span.0 == 0 {
            self.sheet.wrong(node, format!("`{what}` must be longer than nothing"), None);
        }
        Some(span)
    }

    pub(super) fn every(&self, node: &Node) -> Option<Span> {
        self.longer_than_nothing(node, "every")
    }

    /// The action of a `check` or an `or_poll`.
    pub(super) fn call_of_action(
        &self,
        table: &Table<'_>,
        what: &str,
        seen: &Seen<'_>,
    ) -> Option<(Call, Option<Fields>)> {
        let secrets = Seen { no_secrets: None, ..*seen };
        let call = self.call(table, &secrets);
        if let (Some((call, _)), Some(node)) = (&call, table.get("run"))
            && self.is_workflow(&call.run)
        {
            self.sheet.wrong(node, format!("`{what}` runs an action; {} is a workflow", call.run), None);
        }
        call
    }

    pub(super) fn poll(&self, node: &Node, seen: &Seen<'_>) -> Option<Poll> {
        let table = self.sheet.table(node, &POLL)?;
        let call = self.call_of_action(&table, "or_poll", seen);
        let every = table.need("every").and_then(|node| self.every(node));
        let outputs = call.as_ref().and_then(|(_, outputs)| outputs.as_ref());
        let until = table.need("until").and_then(|node| self.until(node, outputs, seen));
        Some(Poll { call: call?.0, every: every?, until: until? })
    }
    pub(super) fn approve(&self, node: &Node, seen: &Seen<'_>) -> Option<(Kind, Option<Fields>)> {
        let sheet = self.sheet;
        let table = sheet.table(node, &APPROVE)?;
        let strings = Field::new(Type::String);
        let text = |node: &Node, what: &str| {
            sheet.scalar(node, what);
            sheet.tree(node, Some(&strings), self.world, seen)
        };
        let ask = table.need("ask").map(|node| text(node, "ask"));
        let of = table.need("of").map(|node| match &node.content {
            Content::List(items) if items.is_empty() => {
                sheet.wrong(node, "`of` names nobody who could answer", None);
                Tree::Plain(Value::Null)
            }
            Content::List(_) => {
                let list = Field { items: Some(Box::new(strings.clone())), ..Field::new(Type::Array) };
                sheet.tree(node, Some(&list), self.world, seen)
            }
            _ => text(node, "of"),
        });
        let count = table.get("count").map(|node| {
            let tree = sheet.tree(node, Some(&Field::new(Type::Integer)), self.world, seen);
            if matches!(tree, Tree::Plain(_)) {
                sheet.whole(node, "count", 1);
            }
            tree
        });
        let distinct_from = table.get("distinct_from").map(|node| match &node.content {
            Content::Scalar(scalar) if scalar.text == "none" => Vec::new(),
            _ => sheet.one_or_list(node).iter().map(|node| text(node, "distinct_from")).collect(),
        });
        let show =
            table.get("show").map(|node| sheet.trees(node, "show", self.world, seen)).unwrap_or_default();
        let fields = table.get("fields").map(|node| fields::read(sheet, node, "fields")).unwrap_or_default();
        let mut outputs = fields.clone();
        outputs.insert("approved_by".to_owned(), Field::new(Type::Array));
        outputs.insert("comment".to_owned(), Field::new(Type::String));
        let approve = Approve {
            ask: ask?,
            of: of?,
            count: count.unwrap_or(Tree::Plain(Value::from(1))),
            distinct_from,
            show,
            remind: table.get("remind").and_then(|node| self.longer_than_nothing(node, "remind")),
            fields_shown: if fields.is_empty() { Value::Null } else { fields::shown_fields(&fields) },
            fields,
            timeout: table.span("timeout"),
        };
        Some((Kind::Approve(approve), Some(outputs)))
    }

    pub(super) fn watch(&self, node: &Node, seen: &Seen<'_>) -> Option<(Kind, Option<Fields>)> {
        let sheet = self.sheet;
        let table = sheet.table(node, &WATCH)?;
        let span = table.need("for").map(|node| {
            let field = Field::new(Type::Duration);
            sheet.scalar(node, "for");
            let tree = sheet.tree(node, Some(&field), self.world, seen);
            sheet.check_literal(node, &field, "for");
            tree
        });
        let patterns = table.get("abort_on").map(|node| sheet.one_or_list(node)).unwrap_or_default();
        let abort_on =
            patterns.iter().filter_map(|node| self.pattern(&sheet.table(node, &PATTERN)?, seen)).collect();
        let check = table.get("check").map(|node| self.check(node, seen));
        let watch = Watch {
            span: span?,
            since: table.get("since").and_then(|node| sheet.name(node, "since")),
            abort_on,
            check: match check {
                Some(check) => Some(check?),
                None => None,
            },
        };
        Some((Kind::Watch(watch), Some(any_fields(&["by", "checks", "unhealthy"]))))
    }

    pub(super) fn check(&self, node: &Node, seen: &Seen<'_>) -> Option<WatchCheck> {
        let sheet = self.sheet;
        let table = sheet.table(node, &CHECK)?;
        let call = self.call_of_action(&table, "check", seen);
        let every = table.need("every").and_then(|node| self.every(node));
        let failures = table.get("failures").and_then(|node| sheet.whole(node, "failures", 1));
        let outputs = call.as_ref().and_then(|(_, outputs)| outputs.as_ref());
        let in_healthy = Seen { of: "`healthy`", names: NAMES_OUTPUT, output: outputs, ..*seen };
        let healthy =
            table.need("healthy").and_then(|node| sheet.script(node, "healthy", self.world, &in_healthy));
        Some(WatchCheck {
            call: call?.0,
            every: every?,
            healthy: healthy?.0,
            failures: failures.unwrap_or(1),
        })
    }

    /// `trigger` + `when`.
    pub(super) fn pattern(&self, table: &Table<'_>, seen: &Seen<'_>) -> Option<EventPattern> {
        let seen = Seen { of: "this `when`", names: NAMES_EVENT, ..*seen };
        let trigger = table.need("trigger").and_then(|node| self.world.trigger(self.sheet, node, "trigger"));
        let when = table.get("when").map(|node| self.sheet.script(node, "when", self.world, &seen));
        let place = self.sheet.source.place(table.node.line, table.node.column);
        let when = match when {
            Some(script) => Some(script?.0),
            None => None,
        };
        Some(EventPattern { trigger: trigger?, when, place })
    }

    pub(super) fn wait_for(&self, node: &Node, seen: &Seen<'_>) -> Option<(Kind, Option<Fields>)> {
        let table = self.sheet.table(node, &WAIT_FOR)?;
        let on_timeout = table
            .get("on_timeout")
            .and_then(|node| self.sheet.word(node, "on_timeout", &["fail", "continue"]));
        let timeout = table.span("timeout");
        let poll = table.get("or_poll").and_then(|node| self.poll(node, seen));
        let event = self.pattern(&table, seen)?;
        let outputs = match poll {
            Some(_) => any_fields(&["by", "event", "id", "output"]),
            None => any_fields(&["by", "event", "id"]),
        };
        let wait = WaitFor { event, timeout, continue_on_timeout: on_timeout == Some("continue"), poll };
        Some((Kind::WaitFor(wait), Some(outputs)))
    }
}

fn any_fields(names: &[&str]) -> Fields {
    names.iter().map(|name| ((*name).to_owned(), Field::new(Type::Any))).collect()
}
