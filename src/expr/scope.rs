//! The names that a script or template may see, and the way into a value.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::did_you_mean;
use crate::model::Value;

/// Names with their values. Cheap to clone and to extend: `scope.with("output", value)` leaves the old scope as it was.
#[derive(Clone, Default)]
pub struct Scope {
    newest: Option<Arc<Layer>>,
}

struct Layer {
    name: Arc<str>,
    value: Entry,
    below: Option<Arc<Layer>>,
}

enum Entry {
    Ready(Arc<Value>),
    Lazy { value: OnceLock<Arc<Value>>, make: Box<dyn Fn() -> Value + Send + Sync> },
}

impl Scope {
    /// No names.
    pub fn new() -> Scope {
        Scope::default()
    }

    /// This scope and one more name; it hides an older one of the same name.
    #[must_use]
    pub fn with(&self, name: &str, value: impl Into<Arc<Value>>) -> Scope {
        self.layer(name, Entry::Ready(value.into()))
    }

    /// This scope and one more name whose value is made when it is first read, and once only.
    #[must_use]
    pub fn with_lazy(&self, name: &str, make: impl Fn() -> Value + Send + Sync + 'static) -> Scope {
        self.layer(name, Entry::Lazy { value: OnceLock::new(), make: Box::new(make) })
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<Arc<Value>> {
        let layer = self.layers().find(|layer| &*layer.name == name)?;
        Some(match &layer.value {
            Entry::Ready(value) => value.clone(),
            Entry::Lazy { value, make } => value.get_or_init(|| Arc::new(make())).clone(),
        })
    }

    /// All names, newest first, each once.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for layer in self.layers() {
            if !names.contains(&&*layer.name) {
                names.push(&layer.name);
            }
        }
        names
    }

    fn layer(&self, name: &str, value: Entry) -> Scope {
        Scope { newest: Some(Arc::new(Layer { name: name.into(), value, below: self.newest.clone() })) }
    }

    fn layers(&self) -> impl Iterator<Item = &Layer> {
        std::iter::successors(self.newest.as_deref(), |layer| layer.below.as_deref())
    }

    /// What to say of a name that is not here.
    pub(super) fn unknown(&self, name: &str) -> String {
        let mut names = self.names();
        let hint = did_you_mean(name, names.iter().copied());
        if !hint.is_empty() {
            return format!("there is no `{name}` here{hint}");
        }
        names.sort_unstable();
        match names.as_slice() {
            [] => format!("there is no `{name}` here"),
            names => format!("there is no `{name}` here; known are {}", names.join(", ")),
        }
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// One step into a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Key(Arc<str>),
    Index(usize),
}

/// A place inside a shared value: so both languages walk a payload without copying it.
#[derive(Clone)]
pub(super) struct Branch {
    root: Arc<Value>,
    name: Arc<str>,
    ways: Arc<[Way]>,
}

impl Branch {
    pub(super) fn new(name: &str, root: Arc<Value>) -> Branch {
        Branch { root, name: name.into(), ways: Arc::new([]) }
    }

    /// The value at this place.
    pub(super) fn value(&self) -> &Value {
        self.ways.iter().fold(&*self.root, |value, way| {
            let next = match way {
                Way::Key(key) => value.get(&**key),
                Way::Index(index) => value.get(index),
            };
            next.unwrap_or(&Value::Null)
        })
    }

    /// The place one step further in. The step must exist.
    pub(super) fn down(&self, way: Way) -> Branch {
        let ways = self.ways.iter().cloned().chain([way]).collect();
        Branch { root: self.root.clone(), name: self.name.clone(), ways }
    }

    /// What to say when `key` is not in the map here.
    pub(super) fn missing(&self, key: &str) -> String {
        match self.value() {
            Value::Object(map) => {
                format!("{self} has no `{key}`{}", did_you_mean(key, map.keys().map(String::as_str)))
            }
            Value::Null => format!("`{self}` is null here, so it has no `{key}`"),
            other => format!("{self} is {}, so it has no `{key}`", super::functions::describe(other)),
        }
    }
}

/// The way as users write it.
impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.ways.iter().try_for_each(|way| match way {
            Way::Index(index) => write!(f, "[{index}]"),
            Way::Key(key) if key.chars().all(|c| c.is_alphanumeric() || c == '_') => write!(f, ".{key}"),
            Way::Key(key) => write!(f, "[{key:?}]"),
        })
    }
}

impl fmt::Debug for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.value(), f)
    }
}
