//! A value whose strings may be templates: `with`, `show`, `output`.

use crate::expr::{Expr, Failure, Scope, Template};
use crate::model::{Filled, Value};

/// A parsed value with its templates compiled.
#[derive(Clone, Debug)]
pub enum Tree {
    /// No template anywhere inside.
    Plain(Value),
    Template(Template),
    List(Vec<Tree>),
    /// In the order of writing.
    Map(Vec<(String, Tree)>),
}

impl Tree {
    /// The value with its templates rendered; secrets stay holes.
    ///
    /// # Errors
    /// The first template that fails.
    pub fn render(&self, expr: &Expr, scope: &Scope) -> Result<Filled, Failure> {
        Ok(match self {
            Tree::Plain(value) => Filled::Plain(value.clone()),
            Tree::Template(template) => expr.render(template, scope)?,
            Tree::List(items) => {
                Filled::list(items.iter().map(|item| item.render(expr, scope)).collect::<Result<_, _>>()?)
            }
            Tree::Map(entries) => {
                let rendered =
                    entries.iter().map(|(name, value)| Ok((name.clone(), value.render(expr, scope)?)));
                Filled::map(rendered.collect::<Result<_, Failure>>()?)
            }
        })
    }

    /// The value as it is written, templates as their text: for people and programs that ask what is defined.
    pub fn shown(&self) -> Value {
        match self {
            Tree::Plain(value) => value.clone(),
            Tree::Template(template) => Value::String(template.source().to_owned()),
            Tree::List(items) => items.iter().map(Tree::shown).collect(),
            Tree::Map(entries) => entries.iter().map(|(name, value)| (name.clone(), value.shown())).collect(),
        }
    }

    /// Every template in it.
    pub fn templates(&self) -> Vec<&Template> {
        match self {
            Tree::Plain(_) => Vec::new(),
            Tree::Template(template) => vec![template],
            Tree::List(items) => items.iter().flat_map(Tree::templates).collect(),
            Tree::Map(entries) => entries.iter().flat_map(|(_, value)| value.templates()).collect(),
        }
    }
}

/// Renders the entries of a `with`; those that are wholly `()` are dropped.
///
/// # Errors
/// The first template that fails.
pub fn render_map(entries: &[(String, Tree)], expr: &Expr, scope: &Scope) -> Result<Filled, Failure> {
    render_entries(entries, expr, scope).map_err(|(_, failure)| failure)
}

/// As [`render_map`], for who says which entry failed.
///
/// # Errors
/// The name of the first entry that fails, and why.
pub fn render_entries<'a>(
    entries: &'a [(String, Tree)],
    expr: &Expr,
    scope: &Scope,
) -> Result<Filled, (&'a str, Failure)> {
    let mut rendered = Vec::with_capacity(entries.len());
    for (name, tree) in entries {
        let value = tree.render(expr, scope).map_err(|failure| (name.as_str(), failure))?;
        if value != Filled::Plain(Value::Null) {
            rendered.push((name.clone(), value));
        }
    }
    Ok(Filled::map(rendered))
}
