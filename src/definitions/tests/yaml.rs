//! What YAML would quietly turn into something else, and where each character stands.

use super::{in_rule, in_workflow, mistakes, read};
use crate::definitions::workflow::Kind;
use crate::definitions::{Files, show};

#[test]
fn a_tag_would_lose_the_negation() {
    insta::assert_snapshot!(in_rule("trigger: github.push\nwhen: !event.deleted && event.x\nrun: core.noop\n"), @r##"
    2:7 `!event.deleted` is a tag to YAML, so the value would begin after it
        when: "!event.deleted && event.x"
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nwhen: !event.deleted\nrun: core.noop\n"), @r##"
    2:7 `!event.deleted` is a tag to YAML, so the value would begin after it
        when: "!event.deleted"
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nwhen: !(event.deleted) || \"x\" == event.y\nrun: core.noop\n"), @r##"
    2:7 a value that begins with `!` is a tag to YAML
        when: '!(event.deleted) || "x" == event.y'
    "##);
    insta::assert_snapshot!(in_rule("trigger: !!str github.push\nrun: core.noop\n"), @r##"
    1:10 `!!str` is a tag to YAML, so the value would begin after it
        trigger: "!!str github.push"
    "##);
}

#[test]
fn a_map_of_rhai_would_be_a_comment() {
    insta::assert_snapshot!(in_rule("trigger: github.push\nwhen: #{a: event.b}\nrun: core.noop\n"), @r##"
    2:7 `#{` begins a comment to YAML, so `when` does not begin there
        when: "#{a: event.b}"
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nwhen: event.a && #{a: event.b}\nrun: core.noop\n"), @r##"
    2:18 `#{` begins a comment to YAML, so the rest of this value is lost
        when: "event.a && #{a: event.b}"
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nwhen: #{\n  a: event.b }\nrun: core.noop\n"), @r##"
    2:7 `#{` begins a comment to YAML, so `when` does not begin there
        put the script in a block after `|`
    "##);
}

#[test]
fn anchors_aliases_and_merge_keys_are_refused() {
    insta::assert_snapshot!(in_rule("trigger: &t github.push\nrun: core.noop\nowner: *t\n"), @r##"
    1:10 `&t` is an anchor to YAML, and those are not used here
        write each value out where it is used; a text that begins with `&` needs quotes
    3:8 `*t` is an alias to YAML, and those are not used here
        owner: "*t"
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nrun: core.echo\nwith:\n  <<: {value: 1}\n"), @r##"
    4:3 merge keys (`<<`) are not used here
        write the keys out
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nrun: core.echo\nwith: &w {value: 1}\n"), @r##"
    3:7 `&w` is an anchor to YAML, and those are not used here
        write each value out where it is used; a text that begins with `&` needs quotes
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nrun: *\n"), @r##"
    2:6 a value that begins with `*` is an alias to YAML
        run: "*"
    "##);
}

#[test]
fn an_unquoted_template_would_be_a_map() {
    insta::assert_snapshot!(in_rule("trigger: github.push\nrun: core.echo\nwith:\n  value: {{ event.ref }}\n"), @r##"
    4:10 an unquoted `{{` is a map to YAML, not a template
        value: "{{ event.ref }}"
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nrun: core.echo\nwith:\n  value: {{ event.ref }}-x\n"), @r##"
    4:10 an unquoted `{{` is a map to YAML, not a template
        value: "{{ event.ref }}-x"
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nrun: core.echo\nwith: {value: {{ event.ref }}}\n"), @r##"
    3:15 an unquoted `{{` is a map to YAML, not a template
        with: {value: "{{ event.ref }}"}
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nrun: core.echo\nwith: {value: a {{ event.ref }} b}\n"), @r##"
    3:17 an unquoted `{{` is a map to YAML, not a template
        with: {value: "a {{ event.ref }} b"}
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nrun: core.echo\nwith: {value: {{ event.ref | replace('a', \"b\") }}}\n"), @r##"
    3:15 an unquoted `{{` is a map to YAML, not a template
        with: {value: '{{ event.ref | replace(''a'', "b") }}'}
    "##);
    assert_eq!(
        in_rule("trigger: github.push\nrun: core.echo\nwith:\n  value: ref {{ event.ref }} end\n"),
        ""
    );
}

#[test]
fn a_script_in_a_flow_map_would_be_cut() {
    let steps = |watch: &str| in_workflow(&format!("steps:\n  - id: a\n    wait_for: {watch}\n"));
    insta::assert_snapshot!(steps("{trigger: github.push, when: event.a in [1, 2] && event.b, timeout: 1h}"), @r##"
    3:44 inside `{ }` YAML cuts a value at `,` `[` `]` `{` and `}`: `when` must be quoted
        wait_for: {trigger: github.push, when: "event.a in [1, 2] && event.b", timeout: 1h}
    "##);
    insta::assert_snapshot!(steps("{trigger: github.push, when: event.a.contains(1, 2), timeout: 1h}"), @r##"
    3:44 inside `{ }` YAML cuts a value at `,` `[` `]` `{` and `}`: `when` must be quoted
        wait_for: {trigger: github.push, when: "event.a.contains(1, 2)", timeout: 1h}
    "##);
    insta::assert_snapshot!(steps("{trigger: github.push, when: event.a == #{}}"), @r##"
    3:44 inside `{ }` YAML cuts a value at `,` `[` `]` `{` and `}`: `when` must be quoted
        wait_for: {trigger: github.push, when: "event.a == #{}"}
    "##);
    insta::assert_snapshot!(steps("{when: event.a[0] == 1, trigger: github.push}"), @r##"
    3:22 inside `{ }` YAML cuts a value at `,` `[` `]` `{` and `}`: `when` must be quoted
        wait_for: {when: "event.a[0] == 1", trigger: github.push}
    "##);
    assert_eq!(steps("{trigger: github.push, when: event.a == 1}"), "");
}

#[test]
fn empty_and_doubled_keys_are_refused() {
    insta::assert_snapshot!(in_rule("trigger: github.push\nwhen:\nrun: core.noop\nrun: core.noop\n"), @r##"
    2:1 `when` is empty
        give `when` a value, or leave it out
    4:1 `run` stands here twice
        keep one of them
    "##);
    insta::assert_snapshot!(in_rule("trigger:\n  - github.push\n  -\nrun: core.noop\nwith: {}\nowner: ~\n"), @r##"
    3:4 an item of this list is empty
        give it a value, or leave it out
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nrun: core.echo\nwith: {value: 1, value: 2, other}\n"), @r##"
    3:18 `value` stands here twice
        keep one of them
    3:28 `other` is empty
        give `other` a value, or leave it out
    3:28 core.echo takes no `other`
        known are value
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nrun: core.noop\n? [a]\n: b\n: c\n"), @r##"
    3:3 a key must be a plain word here, not a list or map
    5:1 a key is missing before `:`
    "##);
}

#[test]
fn tabs_and_encodings_are_named() {
    insta::assert_snapshot!(in_rule("trigger: github.push\nrun: core.echo\nwith:\n\tvalue: 1\n"), @r##"
    4:1 a tab stands where the line is indented
        indent with spaces
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nrun: core.echo\nwith:\n  \tvalue: 1\n"), @r##"
    4:3 a tab stands where the line is indented
        indent with spaces
    "##);
    insta::assert_snapshot!(in_rule("\ttrigger: github.push\n"), @r##"
    1:1 a tab stands where the line is indented
        indent with spaces
    1:2 a rule needs `run`
    "##);
    assert_eq!(in_rule("trigger: github.push\nwhen: |\n  event.a\n  \t&& event.b\nrun: core.noop\n"), "");
    let of_bytes = |bytes: &[u8]| {
        let mut files = Files::default();
        files.texts.insert("rules/r.yaml".to_owned(), bytes.into());
        crate::definitions::Definitions::read(&files)
            .1
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    };
    insta::assert_snapshot!(of_bytes(b"\xEF\xBB\xBFtrigger: a.b\n"), @r##"rules/r.yaml:1:1: this file begins with a byte order mark"##);
    insta::assert_snapshot!(of_bytes(b"\xFF\xFEt\0r\0"), @r##"rules/r.yaml:1:1: this file is UTF-16 or binary"##);
    insta::assert_snapshot!(of_bytes("trigger: gr\u{fc}n\nrun: \"\u{fc}".bytes().chain([0xFF, b'x']).collect::<Vec<_>>().as_slice()), @r##"rules/r.yaml:2:8: this is not UTF-8"##);
    insta::assert_snapshot!(of_bytes(b"a: 1\rb: 2\n"), @r##"rules/r.yaml:1:1: a carriage return stands alone here"##);
}

#[test]
fn bombs_are_stopped() {
    insta::assert_snapshot!(in_rule(&"[".repeat(1000)), @r##"1:256 this is nested more than 64 deep"##);
    insta::assert_snapshot!(in_rule(&format!("a: {}", "{a: ".repeat(100))), @r##"1:256 this is nested more than 64 deep"##);
    insta::assert_snapshot!(in_rule(&"- a\n".repeat(100_001)), @r##"
    99998:3 this file has more than 100000 values
        split it
    "##);
    insta::assert_snapshot!(in_rule(&"x".repeat(1_000_001)), @r##"
    1:1 this file has 1000001 bytes; a definition has at most 1000000
        split it
    "##);
    insta::assert_snapshot!(in_rule(&format!("a: {}", "{{".repeat(500))), @r##"
    1:4 an unquoted `{{` is a map to YAML, not a template
        put the value in quotes
    "##);
}

#[test]
fn syntax_errors_have_their_place_and_the_way_out() {
    insta::assert_snapshot!(in_rule("trigger: github.push\ndescription: note: this\nrun: core.noop\n"), @r##"
    2:18 `: ` inside a value begins a map to YAML
        description: "note: this"
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nowner: @alice\nrun: core.noop\n"), @r##"
    2:8 a value that begins with `@` is a sign of its own to YAML
        owner: "@alice"
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nowner: 'alice\nrun: core.noop\n"), @r##"
    2:8 this is not YAML: invalid indentation in quoted scalar
        is the quote at the end of this value missing?
    "##);
    insta::assert_snapshot!(in_rule("trigger: [github.push\nrun: core.noop\n"), @r##"
    2:4 this is not YAML: illegal placement of ':' indicator
        is the `[` of line 1, column 10 closed?
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\n run: core.noop\n"), @r##"
    2:5 this line is indented too far
        begin the line in the column of the key that it stands beside
    "##);
}

#[test]
fn only_true_and_false_are_booleans() {
    insta::assert_snapshot!(in_rule("trigger: github.push\nrun: core.noop\nenabled: no\n"), @r##"
    3:10 `enabled` must be true or false, not `no`
        write `enabled: false`
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nrun: ci.build\nwith: {commit: a, loud: yes}\n"), @r##"
    3:25 `loud` must be true or false, not `yes` (text)
        write `true`
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nrun: ci.build\nwith: {commit: a, loud: \"true\"}\n"), @r##"3:25 `loud` must be true or false, not `true` (text)"##);
}

#[test]
fn where_text_is_declared_an_unquoted_scalar_is_its_source() {
    let (definitions, mistakes) = read(&[(
        "workflows/w.yaml",
        "steps:\n  - id: a\n    run: ci.build\n    with: {commit: 12345e7, count: 0x10}\n  - id: b\n    run: ci.build\n    with: {commit: 1.10, values: {level: 2}}\n  - id: c\n    run: core.echo\n    with: {value: [1.10, yes, ~, 1e3, 0o7, true, .5, 12345678901, a, \"1\"]}\n",
    )]);
    assert_eq!(mistakes, []);
    let given: Vec<String> = definitions.workflows["site.w"]
        .steps
        .iter()
        .map(|step| {
            let Kind::Run(call) = &step.kind else { panic!() };
            format!("{:?}", call.with)
        })
        .collect();
    insta::assert_snapshot!(given.join("\n"), @r##"
    [("commit", Plain(String("12345e7"))), ("count", Plain(Number(16)))]
    [("commit", Plain(String("1.10"))), ("values", Plain(Object {"level": Number(2)}))]
    [("value", Plain(Array [Number(1.1), String("yes"), Null, Number(1000.0), Number(7), Bool(true), Number(0.5), Number(12345678901), String("a"), String("1")]))]
    "##);
}

#[test]
fn numbers_that_do_not_fit_ask_for_quotes() {
    insta::assert_snapshot!(in_rule("trigger: github.push\nrun: core.echo\nwith: {value: 123456789012345678901234567890}\n"), @r##"
    3:15 `123456789012345678901234567890` is too large a number; in quotes it is text
        "123456789012345678901234567890"
    "##);
}

#[test]
fn mistakes_in_scripts_are_found_where_they_stand() {
    // In a block, with what YAML takes away from it.
    insta::assert_snapshot!(in_rule("trigger: github.push\nwhen: |\n\n    event.a\n      && evnt.b\nrun: core.noop\n"), @r##"
    5:10 there is no `evnt` in a rule's `when`
        did you mean `event`?
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nwhen: |2\n    event.a && evnt.b\nrun: core.noop\n"), @r##"
    3:16 there is no `evnt` in a rule's `when`
        did you mean `event`?
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nwhen: >\n  event.a\n  && evnt.b\nrun: core.noop\n"), @r##"
    4:6 there is no `evnt` in a rule's `when`
        did you mean `event`?
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nwhen: event.a\n   && evnt.b\nrun: core.noop\n"), @r##"
    3:7 there is no `evnt` in a rule's `when`
        did you mean `event`?
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nwhen: 'event.a == ''ü'' && evnt.b'\nrun: core.noop\n"), @r##"
    2:28 there is no `evnt` in a rule's `when`
        did you mean `event`?
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nwhen: \"event.a == \\\"𝄞\\u00e9\\\" && evnt.b\"\nrun: core.noop\n"), @r##"
    2:34 there is no `evnt` in a rule's `when`
        did you mean `event`?
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nwhen: \"event.a\\n\\\n   && evnt.b\"\nrun: core.noop\n"), @r##"
    3:7 there is no `evnt` in a rule's `when`
        did you mean `event`?
    "##);
    insta::assert_snapshot!(in_rule("description: grün 🎉\ntrigger: github.push\nwhen: event.x == \"🎉ü\" && evnt.b\nrun: core.noop\n"), @r##"
    3:26 there is no `evnt` in a rule's `when`
        did you mean `event`?
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\r\nwhen: |\r\n  event.a\r\n  && evnt.b\r\nrun: core.noop\r\n"), @r##"
    4:6 there is no `evnt` in a rule's `when`
        did you mean `event`?
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nwhen: |\n  event.a ==\n    == 3\nrun: core.noop\n"), @r##"4:5 unexpected '=='"##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nrun: core.echo\nwith: {value: \"🎉 {{ evnt.b }} {{ event.x | nope }}\"}\n"), @r##"3:44 there is no filter `nope`"##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nrun: core.echo\nwith:\n  value: |\n    One\n      {{ evnt.b }}\n"), @r##"
    6:10 there is no `evnt` in a rule
        did you mean `event`?
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nrun: core.echo\nwith:\n  value: >-\n    One\n    two\n\n    {{ evnt.b }}\n"), @r##"
    8:8 there is no `evnt` in a rule
        did you mean `event`?
    "##);
}

#[test]
fn functions_of_packs_are_placed_too() {
    insta::assert_snapshot!(mistakes(&[("packs/p/functions.rhai", "fn a(x) {\n  x +\n}\n")]), @r##"3:1 unexpected '}'"##);
}

#[test]
fn mistakes_are_shown_in_their_line() {
    let files = super::with_packs(&[(
        "rules/r.yaml",
        "description: grün\ntrigger: github.psh\nwhen: !event.deleted\nrun: core.noop\nwhat: 1\n",
    )]);
    let (_, mistakes) = crate::definitions::Definitions::read(&files);
    insta::assert_snapshot!(show(&mistakes, &files, false), @r##"
    error: there is no trigger `github.psh`
     --> rules/r.yaml:2:10
      |
    1 | description: grün
    2 | trigger: github.psh
      |          ^^^^^^^^^^
    3 | when: !event.deleted
    4 | run: core.noop
      |
      = help: did you mean `github.push`?

    error: `!event.deleted` is a tag to YAML, so the value would begin after it
     --> rules/r.yaml:3:7
      |
    1 | description: grün
    2 | trigger: github.psh
    3 | when: !event.deleted
      |       ^
    4 | run: core.noop
      |
      = help: when: "!event.deleted"

    error: `what` is no key of a rule
     --> rules/r.yaml:5:1
      |
    3 | when: !event.deleted
    4 | run: core.noop
    5 | what: 1
      | ^^^^
      |
      = help: known are all, at_most, by, count, description, enabled, on_behalf_of, owner, read, run, schedule, trigger, when, with, within
    "##);
}
