//! Renders what an action file says, at the worker: the runner's section before the work, `output:` after it. Here secrets become text, in memory
//! only.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::expr::{Expr, Scope};
use crate::model::attempt::Work;
use crate::model::{Filled, Object, Secret, Value};
use crate::runners::Failure;

/// How many packs' functions are kept compiled.
const KEPT: usize = 16;

/// Expressions with the functions of packs, compiled once for many attempts.
pub(super) struct Expressions {
    plain: Arc<Expr>,
    packs: Mutex<Vec<Pack>>,
}

struct Pack {
    name: String,
    functions: String,
    expr: Arc<Expr>,
}

impl Expressions {
    pub(super) fn new() -> Expressions {
        Expressions { plain: Arc::new(Expr::default()), packs: Mutex::default() }
    }

    /// The expressions that an action of this name sees.
    pub(super) fn of(&self, action: &str, work: &Work) -> Arc<Expr> {
        let Some(functions) = &work.functions else { return self.plain.clone() };
        let pack = action.split('.').next().unwrap_or_default();
        let mut packs = self.packs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = packs.iter().find(|known| known.name == pack && known.functions == *functions) {
            return known.expr.clone();
        }
        // Mistakes were reported when the definitions were loaded.
        let (expr, _mistakes) = Expr::new(&[(pack.to_owned(), functions.clone())]);
        let expr = Arc::new(expr);
        if packs.len() == KEPT {
            packs.remove(0);
        }
        packs.push(Pack { name: pack.to_owned(), functions: functions.clone(), expr: expr.clone() });
        expr
    }
}

/// A value with its holes filled.
pub(super) fn fill(value: &Filled, secrets: &BTreeMap<String, Secret>) -> Result<Value, Failure> {
    value.fill(&mut |name| match secrets.get(name) {
        Some(secret) => Ok(secret.reveal().to_owned()),
        None => Err(Failure::new(format!(
            "the secret `{name}` is not set; set it with `siskin secret set {name}`"
        ))),
    })
}

/// The section with all its templates rendered and its secrets filled in, but for the entries named `verbatim`.
pub(super) fn section(
    expr: &Expr,
    section: &Value,
    verbatim: &[&str],
    scope: &Scope,
    secrets: &BTreeMap<String, Secret>,
) -> Result<Value, Failure> {
    let render = |name: &str, value: &Value| {
        walk(value, name, &|text, place| {
            let template = expr.template(text).map_err(|mistake| failure(place, &mistake))?;
            fill(&expr.render(&template, scope).map_err(|error| failure(place, &error))?, secrets)
        })
    };
    let Value::Object(entries) = section else { return render("", section) };
    let mut rendered = Object::new();
    for (name, value) in entries {
        let value = if verbatim.contains(&name.as_str()) { value.clone() } else { render(name, value)? };
        rendered.insert(name.clone(), value);
    }
    Ok(Value::Object(rendered))
}

/// The output that the templates of `output:` make of what the runner gave.
pub(super) fn output(expr: &Expr, templates: &Value, scope: &Scope) -> Result<Value, Failure> {
    walk(templates, "output", &|text, place| {
        let template = expr.template(text).map_err(|mistake| failure(place, &mistake))?;
        expr.render_plain(&template, scope).map_err(|error| failure(place, &error))
    })
}

/// A value with each of its texts rendered.
fn walk(
    value: &Value,
    place: &str,
    render: &impl Fn(&str, &str) -> Result<Value, Failure>,
) -> Result<Value, Failure> {
    Ok(match value {
        Value::String(text) if text.contains('{') => render(text, place)?,
        Value::Array(items) => {
            let item = |(index, item): (usize, &Value)| walk(item, &format!("{place}[{index}]"), render);
            Value::Array(items.iter().enumerate().map(item).collect::<Result<_, _>>()?)
        }
        Value::Object(entries) => {
            let mut rendered = Object::new();
            for (name, value) in entries {
                rendered.insert(name.clone(), walk(value, &format!("{place}.{name}"), render)?);
            }
            Value::Object(rendered)
        }
        other => other.clone(),
    })
}

fn failure(place: &str, what: &impl std::fmt::Display) -> Failure {
    Failure::new(format!("`{place}` of the action's file: {what}"))
}
