//! The names that a script or template may see, and the way into a value.

use std::fmt;
use std::sync::{Arc, OnceLock};

use indexmap::IndexMap;

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
    Parts(Arc<Parts>),
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

    /// This scope and one more name whose value is a map of parts that are shared with others.
    #[must_use]
    pub fn with_parts(&self, name: &str, parts: Parts) -> Scope {
        self.layer(name, Entry::Parts(Arc::new(parts)))
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
            Entry::Parts(parts) => parts.whole().clone(),
            Entry::Lazy { value, make } => value.get_or_init(|| Arc::new(make())).clone(),
        })
    }

    /// The way into the value of a name. Unlike `get` it copies nothing.
    pub(super) fn branch(&self, name: &str) -> Option<Branch> {
        let layer = self.layers().find(|layer| &*layer.name == name)?;
        if let Entry::Parts(parts) = &layer.value {
            return Some(Branch { root: Root::Parts(parts.clone()), name: name.into(), ways: Arc::new([]) });
        }
        self.get(name).map(|value| Branch::new(name, value))
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

/// A map whose values are shared with others, so that it costs nothing to make, however large they are.
#[derive(Clone, Default)]
pub struct Parts {
    parts: IndexMap<String, Part>,
    /// Put together when somebody wants all of it.
    whole: OnceLock<Arc<Value>>,
}

/// One value of such a map.
#[derive(Clone)]
enum Part {
    Value(Arc<Value>),
    Parts(Arc<Parts>),
}

impl Parts {
    pub fn new() -> Parts {
        Parts::default()
    }

    /// Adds a value.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Arc<Value>>) -> Parts {
        self.parts.insert(name.to_owned(), Part::Value(value.into()));
        self
    }

    /// Adds a map of parts.
    pub fn add(&mut self, name: &str, parts: Parts) {
        self.parts.insert(name.to_owned(), Part::Parts(Arc::new(parts)));
    }

    /// Adds a value as it is.
    pub fn add_value(&mut self, name: &str, value: Arc<Value>) {
        self.parts.insert(name.to_owned(), Part::Value(value));
    }

    fn whole(&self) -> &Arc<Value> {
        self.whole.get_or_init(|| {
            let part = |part: &Part| match part {
                Part::Value(value) => Value::clone(value),
                Part::Parts(parts) => Value::clone(parts.whole()),
            };
            let map = self.parts.iter().map(|(name, value)| (name.clone(), part(value)));
            Arc::new(Value::Object(map.collect()))
        })
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
    root: Root,
    name: Arc<str>,
    ways: Arc<[Way]>,
}

/// Where a way begins. No way leads on from parts: each of them is a root of its own.
#[derive(Clone)]
enum Root {
    Value(Arc<Value>),
    Parts(Arc<Parts>),
}

impl Branch {
    pub(super) fn new(name: &str, root: Arc<Value>) -> Branch {
        Branch { root: Root::Value(root), name: name.into(), ways: Arc::new([]) }
    }

    /// The value at this place.
    pub(super) fn value(&self) -> &Value {
        let root = match &self.root {
            Root::Value(value) => value,
            Root::Parts(parts) => parts.whole(),
        };
        self.ways.iter().fold(&**root, |value, way| {
            let next = match way {
                Way::Key(key) => value.get(&**key),
                Way::Index(index) => value.get(index),
            };
            next.unwrap_or(&Value::Null)
        })
    }

    /// Whether it is a map of parts, which one had better not ask for its whole value.
    pub(super) fn is_parts(&self) -> bool {
        matches!(self.root, Root::Parts(_))
    }

    /// The place of an entry of the map here, if there is one.
    pub(super) fn child(&self, key: &str) -> Option<Branch> {
        match &self.root {
            Root::Parts(_) => self.part(key),
            Root::Value(_) => self.value().get(key).map(|_| self.down(Way::Key(key.into()))),
        }
    }

    fn part(&self, key: &str) -> Option<Branch> {
        let Root::Parts(parts) = &self.root else { return None };
        let root = match parts.parts.get(key)? {
            Part::Value(value) => Root::Value(value.clone()),
            Part::Parts(parts) => Root::Parts(parts.clone()),
        };
        let name = Named { above: self, way: &Way::Key(key.into()) }.to_string();
        Some(Branch { root, name: name.into(), ways: Arc::new([]) })
    }

    /// The keys of the map here.
    pub(super) fn keys(&self) -> Vec<&str> {
        match &self.root {
            Root::Parts(parts) => parts.parts.keys().map(String::as_str).collect(),
            Root::Value(_) => {
                self.value().as_object().into_iter().flat_map(|map| map.keys().map(String::as_str)).collect()
            }
        }
    }

    /// The place one step further in. The step must exist.
    pub(super) fn down(&self, way: Way) -> Branch {
        if let (true, Way::Key(key)) = (self.is_parts(), &way)
            && let Some(part) = self.part(key)
        {
            return part;
        }
        let ways = self.ways.iter().cloned().chain([way]).collect();
        Branch { root: self.root.clone(), name: self.name.clone(), ways }
    }

    /// What to say when `key` is not in the map here.
    pub(super) fn missing(&self, key: &str) -> String {
        if self.is_parts() {
            return format!("{self} has no `{key}`{}", did_you_mean(key, self.keys()));
        }
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
        self.ways.iter().try_for_each(|way| way.fmt(f))
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Index(index) => write!(f, "[{index}]"),
            Way::Key(key) if key.chars().all(|c| c.is_alphanumeric() || c == '_') => write!(f, ".{key}"),
            Way::Key(key) => write!(f, "[{key:?}]"),
        }
    }
}

/// A place and one step further.
struct Named<'a> {
    above: &'a Branch,
    way: &'a Way,
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.above, self.way)
    }
}

impl fmt::Debug for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.value(), f)
    }
}
