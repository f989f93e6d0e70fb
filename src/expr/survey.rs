//! What a compiled script reads and calls, found by walking its tree once.

use std::collections::HashSet;

use rhai::{AST, ASTFlags, ASTNode, Expr as Node, Position, Stmt};

use super::library::TEXT_FUNCTIONS;
use super::rhai::{ASSIGNED, CLOSED, OPTIONAL, PACKAGED, place};
use super::{Mistake, Reference, did_you_mean, functions, habits};

/// Walks a tree once: which names it reads, which functions it calls.
#[derive(Default)]
pub(super) struct Survey {
    locals: HashSet<String>,
    pub(super) references: Vec<Reference>,
    calls: Vec<Call>,
    /// There are loops, functions or closures.
    pub(super) is_deep: bool,
    /// Nodes that a chain above them has dealt with, by address.
    seen: HashSet<usize>,
}

struct Call {
    name: String,
    is_method: bool,
    position: Position,
}

impl Survey {
    pub(super) fn of(
        tree: &AST,
        known: impl Fn(&str) -> bool,
        is_of_pack: impl Fn(&str) -> bool,
    ) -> Result<Survey, Mistake> {
        let mut survey = Survey { is_deep: tree.has_functions(), ..Survey::default() };
        let mut captured = HashSet::new();
        tree.walk(&mut |path| {
            match path.last() {
                Some(ASTNode::Expr(node)) => survey.expression(node, &mut captured),
                Some(ASTNode::Stmt(statement)) => survey.statement(statement),
                _ => (),
            }
            true
        });
        for function in tree.iter_functions() {
            let is_closure = function.name.contains('$');
            // The parameters of a closure begin with what it captures; those are names of its surroundings.
            let own = function.params.iter().filter(|name| !(is_closure && captured.contains(**name)));
            survey.locals.extend(own.map(|name| (*name).to_owned()));
        }
        let Survey { locals, mut references, calls, mut is_deep, .. } = survey;
        let own: HashSet<&str> = tree.iter_functions().map(|function| function.name).collect();
        for Call { name, is_method, position } in calls {
            let (line, column) = place(position).unwrap_or((1, 1));
            is_deep |= is_of_pack(&name);
            if is_method && is_of_pack(&name) {
                let message =
                    format!("`{name}` comes from a pack's functions.rhai and is called as {name}(value)");
                return Err(Mistake { message, line, column });
            }
            if let Some((_, why)) = CLOSED.iter().find(|(closed, _)| *closed == name) {
                return Err(Mistake { message: (*why).to_owned(), line, column });
            }
            if known(&name) || own.contains(name.as_str()) || locals.contains(&name) {
                continue;
            }
            let builtin = PACKAGED.iter().copied().chain(functions::ALL.iter().map(|function| function.name));
            let all = builtin.chain(TEXT_FUNCTIONS.iter().copied()).chain(own.iter().copied());
            let hint = match habits::function(&name, |ours| all.clone().any(|known| known == ours)) {
                Some(ours) => format!("; did you mean `{ours}`?"),
                None => did_you_mean(&name, all),
            };
            let message = format!("there is no function `{name}`{hint}");
            return Err(Mistake { message, line, column });
        }
        references.retain(|reference| !locals.contains(&reference.root));
        let of_habit =
            |reference: &&Reference| reference.path.is_empty() && habits::named(&reference.root).is_some();
        if let Some(Reference { root, line, column, .. }) = references.iter().find(of_habit) {
            let meant = habits::named(root).unwrap_or_default();
            return Err(Mistake {
                message: format!("there is no `{root}`: {meant}"),
                line: *line,
                column: *column,
            });
        }
        references.sort_by_key(|reference| (reference.line, reference.column));
        references.dedup();
        Ok(Survey { references, is_deep, ..Survey::default() })
    }

    fn statement(&mut self, statement: &Stmt) {
        self.is_deep |= matches!(statement, Stmt::While(..) | Stmt::Do(..) | Stmt::For(..));
        match statement {
            Stmt::Var(declared, ..) => {
                self.locals.insert(declared.0.name.to_string());
            }
            Stmt::For(parts, _) => {
                self.locals.insert(parts.0.name.to_string());
                self.locals.extend(parts.1.iter().map(|counter| counter.name.to_string()));
            }
            Stmt::TryCatch(parts, _) => {
                if let Node::Variable(name, ..) = &parts.expr {
                    self.locals.insert(name.1.to_string());
                }
            }
            Stmt::FnCall(call, position) => self.call(call, false, *position),
            _ => (),
        }
    }

    fn expression(&mut self, node: &Node, captured: &mut HashSet<String>) {
        if self.seen.contains(&address(node)) {
            if let Node::MethodCall(call, position) = node {
                self.call(call, true, *position);
            }
            return;
        }
        match node {
            Node::FnCall(call, _)
                if call.name == "curry" && matches!(call.args[0], Node::DynamicConstant(..)) =>
            {
                // What a closure captures: not read here, but where the closure reads it.
                for argument in &call.args[1..] {
                    if let Node::Variable(name, ..) = argument {
                        captured.insert(name.1.to_string());
                        self.seen.insert(address(argument));
                    }
                }
            }
            Node::FnCall(call, position) => self.call(call, false, *position),
            Node::MethodCall(call, position) => self.call(call, true, *position),
            Node::Variable(name, _, position) => self.reference(&name.1, Vec::new(), *position, false),
            Node::Dot(..) | Node::Index(..) => self.chain(node),
            _ => (),
        }
    }

    fn call(&mut self, call: &rhai::FnCallExpr, is_method: bool, position: Position) {
        if call.op_token.is_none() && call.name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            self.calls.push(Call { name: call.name.to_string(), is_method, position });
        }
    }

    /// `root.name["name"].method(...)...`, which rhai nests to the right.
    fn chain(&mut self, head: &Node) {
        let (Node::Dot(parts, ..) | Node::Index(parts, ..)) = head else { return };
        let mut path = Vec::new();
        let mut open = true;
        let mut optional = false;
        let mut at = head;
        while let Node::Dot(parts, flags, _) | Node::Index(parts, flags, _) = at {
            let is_dot = matches!(at, Node::Dot(..));
            optional |= open && flags.contains(ASTFlags::NEGATED);
            let (link, next) = match &parts.rhs {
                rest @ (Node::Dot(inner, ..) | Node::Index(inner, ..))
                    if !flags.contains(ASTFlags::BREAK) =>
                {
                    self.seen.insert(address(rest));
                    (&inner.lhs, rest)
                }
                last => (last, &Node::Unit(Position::NONE)),
            };
            match link {
                Node::Property(name, _) if is_dot => {
                    optional |= open && name.2.starts_with(OPTIONAL);
                    if open {
                        path.push(name.2.trim_start_matches([OPTIONAL, ASSIGNED]).to_owned());
                    }
                }
                Node::StringConstant(name, _) if !is_dot && open => path.push(name.to_string()),
                _ => open = false,
            }
            at = next;
        }
        if let Node::Variable(name, _, position) = &parts.lhs {
            self.seen.insert(address(&parts.lhs));
            self.reference(&name.1, path, *position, optional);
        }
    }

    fn reference(&mut self, root: &str, path: Vec<String>, position: Position, optional: bool) {
        let (line, column) = place(position).unwrap_or((1, 1));
        self.references.push(Reference { root: root.to_owned(), path, line, column, optional });
    }
}

fn address(node: &Node) -> usize {
    std::ptr::from_ref(node).addr()
}
