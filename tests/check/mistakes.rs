//! Every mistake at once, with file, line and column.

use std::fs;

use serde_json::Value;

use crate::support::server::siskin;

/// Exit status, and each mistake as `file:line:column: message`, from a site of these files.
fn check(files: &[(&str, &[u8])]) -> (i32, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let output = siskin().args(["check", "--json", "--site"]).arg(folder.path()).output().unwrap();
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    let place = |mistake: &Value| {
        let (file, message) = (mistake["file"].as_str().unwrap(), mistake["message"].as_str().unwrap());
        format!("{file}:{}:{}: {message}", mistake["line"], mistake["column"])
    };
    let mistakes = shown["mistakes"].as_array().unwrap().iter().map(place).collect();
    (output.status.code().unwrap(), mistakes)
}

/// The mistakes of one rule.
fn of_rule(text: &str) -> Vec<String> {
    check(&[("rules/r.yaml", text.as_bytes())]).1
}

fn of_workflow(text: &str) -> Vec<String> {
    check(&[("workflows/w.yaml", text.as_bytes())]).1
}

/// That each mistake begins as wanted, and there are no others.
fn are(found: &[String], wanted: &[&str]) {
    let fits = found.len() == wanted.len()
        && found.iter().zip(wanted).all(|(found, wanted)| found.starts_with(wanted));
    assert!(fits, "found {found:#?}\nwanted {wanted:#?}");
}

#[test]
fn an_empty_folder_is_a_site_and_a_file_is_none() {
    assert_eq!(check(&[]), (0, vec![]));
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = siskin().args(["check", "--site"]).arg(file.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is no folder"));
}

#[test]
fn each_trap_of_yaml_is_found_where_it_stands() {
    for (when, wanted) in [
        ("when: !event.deleted && x", "rules/r.yaml:2:7: `!event.deleted` is a tag"),
        ("when: #{a: 1}", "rules/r.yaml:2:7: `#{` begins a comment"),
        ("when:", "rules/r.yaml:2:1: `when` is empty"),
        ("owner: &a x", "rules/r.yaml:2:8: `&a` is an anchor"),
        ("owner: *a", "rules/r.yaml:2:8: a value that begins with `*` is an alias"),
        ("<<: {owner: x}", "rules/r.yaml:2:1: merge keys"),
        ("owner: {{ event.x }}", "rules/r.yaml:2:8: an unquoted `{{`"),
        ("enabled: no", "rules/r.yaml:2:10: `enabled` must be true or false, not `no`"),
        ("run: core.noop", "rules/r.yaml:3:1: `run` stands here twice"),
        ("whne: true", "rules/r.yaml:2:1: `whne` is no key of a rule"),
        ("description: a: b", "rules/r.yaml:2:15: `: ` inside a value"),
        ("notify: {failed: [owner]}", "rules/r.yaml:2:1: `notify` is not built yet"),
    ] {
        are(&of_rule(&format!("trigger: github.push\n{when}\nrun: core.noop\n")), &[wanted]);
    }
    are(
        &of_workflow("steps:\n  - {id: a, run: core.noop, when: [1,2].contains(1)}\n"),
        &["workflows/w.yaml:2:35: inside `{ }` YAML cuts a value"],
    );
}

#[test]
fn what_could_never_run_is_refused_before_it_does() {
    let noop = |id: &str, keys: &str| format!("  - {{id: {id}, run: core.noop{keys}}}\n");
    are(
        &of_workflow(&format!(
            "steps:\n{}{}{}{}{}",
            noop("a", ", needs: [b]"),
            noop("b", ", needs: [a]"),
            noop("c", ", needs: [nobody], for_each: 3"),
            "  - {id: g, needs: [c], parallel: []}\n",
            "  - {id: h, needs: [c], steps: [{id: a, run: core.noop}]}\n",
        )),
        &[
            "workflows/w.yaml:4:56: `for_each` must be a list",
            "workflows/w.yaml:5:35: `parallel` has no steps",
            "workflows/w.yaml:6:33: two steps are called `a`",
        ],
    );
    are(
        &of_workflow(&format!(
            "steps:\n{}{}{}{}",
            noop("a", ", needs: [b]"),
            noop("b", ", needs: [a]"),
            noop("c", ", needs: [nobody]"),
            "  - {id: h, needs: [], window: night, steps: [{id: d, run: core.noop, when: steps.c.status == \"failed\"}]}\n",
        )),
        &[
            "workflows/w.yaml:2:37: these steps wait for one another",
            "workflows/w.yaml:4:37: step `c` needs `nobody`, which is no step here",
            "workflows/w.yaml:5:24: `window` belongs to",
            "workflows/w.yaml:5:32: there is no window `night`",
            "workflows/w.yaml:5:77: step `d` reads `steps.c` but does not wait for it",
        ],
    );
}

#[test]
fn files_that_are_no_yaml_text_are_mistakes_of_their_own() {
    let large = "#".repeat(10_000_000);
    let bomb: String = (b'b'..b'j')
        .map(|letter| format!("{0}: &{0} [*{1}, *{1}, *{1}]\n", letter as char, (letter - 1) as char))
        .collect();
    for (text, wanted) in [
        (&b""[..], "rules/r.yaml:1:1: this file is empty"),
        (b"# only a comment\n", "rules/r.yaml:1:1: this file is empty"),
        (b"\xef\xbb\xbftrigger: x\n", "rules/r.yaml:1:1: this file begins with a byte order mark"),
        (b"run: core.noop\nowner: caf\xe9\n", "rules/r.yaml:2:11: this is not UTF-8"),
        (b"- a\n", "rules/r.yaml:1:1: a rule must be a map"),
        (b"run: core.echo\nwith:\n\tvalue: 1\n", "rules/r.yaml:3:1: a tab stands"),
        (large.as_bytes(), "rules/r.yaml:1:1: this file can't be read: it has 10000000 bytes"),
        (b"a: [[[[[[[[[[[[[[[[", "rules/r.yaml:1:"),
    ] {
        let (status, mistakes) =
            check(&[("rules/r.yaml", text), ("rules/ok.yaml", b"trigger: github.push\nrun: core.noop\n")]);
        assert_eq!(status, 1);
        assert!(mistakes.iter().any(|mistake| mistake.starts_with(wanted)), "{wanted}: {mistakes:#?}");
        assert!(mistakes.iter().all(|mistake| mistake.starts_with("rules/r.yaml:")), "{mistakes:#?}");
    }
    assert!(of_rule(&bomb).iter().any(|mistake| mistake.contains("is an anchor")));
    are(&of_rule("trigger: github.push\r\nrun: core.noop\r\n"), &[]);
}

#[test]
fn a_script_that_ends_too_early_is_shown_where_it_ends() {
    are(
        &of_rule("trigger: github.push\nwhen: |\n  event.ref ==\nrun: core.noop\n"),
        &["rules/r.yaml:3:14: "],
    );
}

#[test]
fn names_are_seen_only_where_they_stand() {
    are(
        &of_workflow(
            "input: {app: string}\nsteps:\n  - id: a\n    when: event.x == 1\n    run: core.echo\n    with: {value: \"{{ input.ap }} {{ item }}\"}\n",
        ),
        &[
            "workflows/w.yaml:4:11: there is no `event` in a workflow",
            "workflows/w.yaml:6:23: `input` has no `ap`",
            "workflows/w.yaml:6:38: there is no `item` in a workflow",
        ],
    );
    are(
        &of_rule(
            "trigger: github.push\nwhen: steps.a == 1\nrun: core.echo\nwith: {value: \"{{ input.x }}\"}\n",
        ),
        &["rules/r.yaml:2:7: there is no `steps`", "rules/r.yaml:4:19: there is no `input`"],
    );
}

#[test]
fn what_a_step_reads_it_must_wait_for_and_must_be_given() {
    are(
        &of_workflow(
            "steps:\n  - id: a\n    run: core.echo\n    with: {value: \"{{ steps.b.output.value }}\"}\n  - id: b\n    run: core.echo\n    with: {value: \"{{ steps.a.output.valeu }} {{ steps.biuld.output }}\"}\noutput: {x: \"{{ steps.q.output }}\"}\n",
        ),
        &[
            "workflows/w.yaml:4:23: step `a` reads `steps.b` but does not wait for it",
            "workflows/w.yaml:7:23: `steps.a.output` has no `valeu`",
            "workflows/w.yaml:7:50: there is no step `biuld`",
            "workflows/w.yaml:8:17: there is no step `q`",
        ],
    );
    are(
        &of_workflow(
            "steps:\n  - id: a\n    run: core.noop\n    needs: [b]\n  - id: b\n    run: core.noop\n    needs: [a, c]\n",
        ),
        &[
            "workflows/w.yaml:4:13: these steps wait for one another",
            "workflows/w.yaml:7:16: step `b` needs `c`, which is no step here",
        ],
    );
}

#[test]
fn one_mistake_hides_no_other() {
    are(
        &of_workflow(
            "steps:\n  - id: a\n    run: core.noop\n  - id: a\n    run: core.echo\n    with: {valu: \"{{ nothing.x }}\"}\n    retry: {attempts: 0, dealy: 1s}\noutput: {x: \"{{ steps.q.output }}\"}\n",
        ),
        &[
            "workflows/w.yaml:4:5: two steps are called `a`",
            "workflows/w.yaml:5:10: core.echo needs `value`",
            "workflows/w.yaml:6:12: core.echo takes no `valu`",
            "workflows/w.yaml:6:22: there is no `nothing`",
            "workflows/w.yaml:7:23: `attempts` must be a whole number",
            "workflows/w.yaml:7:26: `dealy` is no key of `retry`",
            "workflows/w.yaml:8:17: there is no step `q`",
        ],
    );
}

#[test]
fn the_nearest_name_is_said_and_the_line_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("workflows")).unwrap();
    let text = "steps:\n  - id: a\n    rnu: core.noop\n  - id: b\n    run: core.nop\n";
    fs::write(folder.path().join("workflows/w.yaml"), text).unwrap();
    let output = siskin().args(["check", "--site"]).arg(folder.path()).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    for wanted in
        ["workflows/w.yaml:3:5", "3 |     rnu: core.noop", "did you mean `run`?", "did you mean `core.noop`?"]
    {
        assert!(shown.contains(wanted), "{wanted}:\n{shown}");
    }
}
