//! The promises of both languages, through the module's front door.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use serde_json::json;

fn event() -> Scope {
    Scope::new()
        .with(
            "event",
            json!({
                "ref": "refs/heads/main", "deleted": false, "after": "3f1c", "count": 3, "ratio": 1.5, "nothing": null,
                "repository": {"name": "shop", "private": true, "owner": {"name": "acme"}, "topics": ["a", "b"]},
                "commits": [{"id": "c1", "added": ["x"], "distinct": true}, {"id": "c2", "added": [], "distinct": false}],
                "items": ["one"], "keys": {"k": 1}, "tag": "v1", "if": 1, "type": "push", "numbers": [1, 2, 3],
            }),
        )
        .with("apps", json!({"shop": {"owner": "team-shop", "repository": "https://x/shop"}, "till": {}}))
        .with("input", json!({"app": "shop", "wanted": null}))
}

fn run(text: &str) -> Result<Value, String> {
    let expr = Expr::default();
    let script = expr
        .script(text)
        .map_err(|mistake| format!("{}:{} {}", mistake.line, mistake.column, mistake.message))?;
    expr.evaluate(&script, &event())
        .map_err(|failure| format!("{}:{} {}", failure.line, failure.column, failure.message))
}

#[track_caller]
fn gives(text: &str, value: Value) {
    assert_eq!(run(text), Ok(value), "{text}");
}

#[track_caller]
fn fails(text: &str, with: &str) {
    match run(text) {
        Err(message) if message.contains(with) => (),
        other => panic!("{text}\n  should fail with: {with}\n  but: {other:?}"),
    }
}

#[test]
fn a_payload_behaves_as_rhais_own_values_do() {
    for (text, value) in [
        ("event.repository.name", json!("shop")),
        (
            "event.repository",
            json!({"name": "shop", "private": true, "owner": {"name": "acme"}, "topics": ["a", "b"]}),
        ),
        ("event[\"repository\"][\"name\"]", json!("shop")),
        ("let k = \"name\"; event.repository[k]", json!("shop")),
        ("event.commits[0].id", json!("c1")),
        ("event.commits[-1].id", json!("c2")),
        ("event.commits.len()", json!(2)),
        ("event.commits.len", json!(2)),
        ("event.repository.len()", json!(4)),
        ("event.repository.keys()", json!(["name", "private", "owner", "topics"])),
        ("event.repository.owner.values()", json!(["acme"])),
        ("event.repository.contains(\"name\")", json!(true)),
        ("\"name\" in event.repository", json!(true)),
        ("\"nope\" in event.repository", json!(false)),
        ("\"nope\" !in event.repository", json!(true)),
        ("\"a\" in event.repository.topics", json!(true)),
        ("event.repository.name in apps", json!(true)),
        ("event.commits.filter(|c| c.distinct).map(|c| c.id)", json!(["c1"])),
        ("event.commits.some(|c| c.added.len() > 0)", json!(true)),
        ("event.commits.all(|c| c.distinct)", json!(false)),
        ("let ids = []; for c in event.commits { ids.push(c.id) } ids", json!(["c1", "c2"])),
        ("for (c, i) in event.commits { if c.id == \"c2\" { return i } }", json!(1)),
        ("event.commits.find(|c| c.id == \"c2\").id", json!("c2")),
        ("event.numbers.reduce(|sum, n| sum + n, 0)", json!(6)),
        ("type_of(event)", json!("map")),
        ("type_of(event.commits)", json!("array")),
        ("type_of(event.ref)", json!("string")),
        ("event.type_of()", json!("map")),
        ("event.items", json!(["one"])),
        ("event.keys", json!({"k": 1})),
        ("event.tag", json!("v1")),
        ("event.repository == event.repository", json!(true)),
        ("event.repository.owner == #{name: \"acme\"}", json!(true)),
        ("event.repository.owner != #{name: \"other\"}", json!(true)),
        ("event.repository.topics == [\"a\", \"b\"]", json!(true)),
        ("event.count + 1", json!(4)),
        ("event.ratio * 2.0", json!(3.0)),
        ("event.nothing", Value::Null),
        ("event.nothing == ()", json!(true)),
        ("event.get(\"none\")", Value::Null),
        ("event.get(\"none\", 5)", json!(5)),
        ("(#{a: 1} + event.repository.owner)", json!({"a": 1, "name": "acme"})),
        ("let m = #{}; m += event.repository.owner; m.x = 1; m", json!({"name": "acme", "x": 1})),
        ("let m = #{}; m[\"x\"] = 1; m[event.ref] = 2; m", json!({"x": 1, "refs/heads/main": 2})),
        ("let m = #{a: #{}}; m.a.b = 3; m", json!({"a": {"b": 3}})),
        ("let x = event.count; x += 1; x", json!(4)),
        ("`${event.ref} by ${event.repository.owner.name}`", json!("refs/heads/main by acme")),
        ("event.repository.owner.to_json()", json!("{\"name\":\"acme\"}")),
        ("event.repository.owner.filter(|k, v| k == \"name\")", json!({"name": "acme"})),
        ("switch event.ref { \"refs/heads/main\" => 1, _ => 2 }", json!(1)),
        ("apps[input.app].owner", json!("team-shop")),
        ("apps[event.repository.name].owner", json!("team-shop")),
        ("let name = input.app; apps[name].owner", json!("team-shop")),
        ("0..3", json!([0, 1, 2])),
        ("#{match: event.ref, n: 1}", json!({"match": "refs/heads/main", "n": 1})),
        ("()", Value::Null),
    ] {
        gives(text, value);
    }
}

#[test]
fn words_that_rhai_reserves_are_names_after_a_dot() {
    let words = "abstract as async await base break case catch class const continue default do else eval exit export extends \
        false fn for from global go goto if import in is let loop match module namespace new nil null override package print private \
        protected public return self shared spawn static struct super switch sync thread this throw true try type typeof until \
        use using var void where while with yield debug curry call is_shared Fn type_of";
    for word in words.split_whitespace() {
        let scope = Scope::new().with("event", json!({"a": {word: 7}, "list": [{word: 7}]}));
        let expr = Expr::default();
        for text in
            [format!("event.a.{word}"), format!("event?.a?.{word} == 7"), format!("event.list[0].{word}")]
        {
            let script = expr.script(&text).unwrap_or_else(|mistake| panic!("{text}: {mistake}"));
            let value = expr.evaluate(&script, &scope).unwrap_or_else(|failure| panic!("{text}: {failure}"));
            assert!(value == json!(7) || value == json!(true), "{text}: {value}");
        }
        let script = expr.script(&format!("event.none?.{word}.deep"));
        assert!(script.is_ok(), "{word}: {script:?}");
    }
}

#[test]
fn a_missing_name_is_an_error_that_names_the_way_and_the_nearest_key() {
    fails("event.repository.nam", "1:17 event.repository has no `nam`; did you mean `name`?");
    fails("\n  event.repostory.name", "event has no `repostory`; did you mean `repository`?");
    fails("event.commits[1].idd", "event.commits[1] has no `idd`; did you mean `id`?");
    fails("evnt.ref", "there is no `evnt` here; did you mean `event`?");
    fails("let m = #{name: 1}; m.nam", "this map has no `nam`; did you mean `name`?");
    fails("event.nothing.x", "has no `x`");
    fails("event.ref.x", "has no `x`");
    fails("event.commits[7]", "the list has 2 items");
}

#[test]
fn a_question_mark_makes_it_optional() {
    for (text, value) in [
        ("event?.none", Value::Null),
        ("event?.none?.deeper", Value::Null),
        ("event.repository?.none?.x?.y", Value::Null),
        ("event?.repository?.name", json!("shop")),
        ("event?.none == \"a\"", json!(false)),
        ("event?.none != \"a\"", json!(true)),
        ("event?.none ?? \"b\"", json!("b")),
        ("\"x\" in event?.labels", json!(false)),
        ("event.repository?.name?.len()", json!(4)),
        ("event?.none?.len()", Value::Null),
        ("let m = #{a: 1}; m?.b", Value::Null),
        ("let m = #{a: 1}; m?.a", json!(1)),
        ("let m = #{a: #{b: 1}}; m?.a?.b", json!(1)),
        ("event.none?.x", json!("fails")),
    ] {
        if value == json!("fails") {
            fails(text, "event has no `none`");
        } else {
            gives(text, value);
        }
    }
}

#[test]
fn comparing_different_types_is_an_error() {
    fails("1 == \"1\"", "1:3 `==` compares the number 1 with the text \"1\"");
    fails("event.count == \"3\"", "`==` compares the number 3 with the text \"3\"");
    fails("event.count != \"3\"", "`!=` compares");
    fails("\"1\" < 2", "`<` compares");
    fails("event.deleted == \"false\"", "the boolean false with the text");
    fails("event.repository == 1", "a map with the number 1");
    fails("event.commits == 1", "a list with the number 1");
    fails(
        "event.count in [\"3\"]",
        "`in` looks for the number 3 in a list of other things, such as the text \"3\"",
    );
    fails("event.commits < event.commits", "does not work on a list");
    for (text, value) in [
        ("1 == 1.0", true),
        ("1 < 1.5", true),
        ("event.count == 3.0", true),
        ("() == ()", true),
        ("1 == ()", false),
        ("() != \"a\"", true),
        ("() < 1", false),
        ("3 in [1, 2, 3]", true),
        ("3 in [(), \"a\", 3]", true),
        ("4 in []", false),
        ("event.numbers == [1, 2, 3.0]", true),
        ("'a' == \"a\"", true),
        ("[1, \"a\"] == [1, 2]", false),
        ("true != false", true),
        ("\"a\" < \"b\"", true),
    ] {
        gives(text, json!(value));
    }
}

#[test]
fn functions_of_texts_return_and_change_nothing() {
    for (text, value) in [
        ("let s = \"  a \"; s.trim(); s", json!("  a ")),
        ("let s = \"  a \"; s.trim()", json!("a")),
        ("let s = \"aXa\"; s.replace(\"X\", \"-\")", json!("a-a")),
        ("let s = \"ab\"; s.to_upper() + s", json!("ABab")),
        ("\"aé日x\".len()", json!(4)),
        ("\"aé日x\".sub_string(1, 2)", json!("é日")),
        ("\"aé日x\".sub_string(-2)", json!("日x")),
        ("\"aé日x\".sub_string(1..3)", json!("é日")),
        ("\"aé日x\".sub_string(99)", json!("")),
        ("\"aé日x\"[2]", json!("日")),
        ("\"aé日x\"[1..3]", json!("é日")),
        ("\"aé日x\".index_of(\"日\")", json!(2)),
        ("\"abc\".index_of(\"z\")", json!(-1)),
        ("\"a/b/c\".split(\"/\")", json!(["a", "b", "c"])),
        ("\"a/b/c\".split(\"/\", 2)", json!(["a", "b/c"])),
        ("\"ab\".chars()", json!(["a", "b"])),
        ("let t = \"\"; for c in \"ab\".chars() { t += c } t", json!("ab")),
        ("\"abc\".starts_with(\"ab\") && \"abc\".ends_with(\"bc\") && \"abc\".contains(\"b\")", json!(true)),
        ("\"b\" in \"abc\"", json!(true)),
        ("\"v\" + 1 + true", json!("v1true")),
        ("[\"a\", 1].join(\"-\")", json!("a-1")),
        ("\"7\".pad_start(3, \"0\")", json!("007")),
        ("parse_int(\"42\") + 1", json!(43)),
        ("(42).to_string()", json!("42")),
        ("\"x\".is_empty() || \"\".is_empty", json!(true)),
    ] {
        gives(text, value);
    }
    fails("\"abc\"[9]", "the text has 3 characters, there is no [9]");
    fails("\"abc\".push(\"d\")", "push() does not work on a text");
    fails("let s = \"abc\"; s.clear()", "clear() does not work on a text");
    fails("5.trim()", "trim() does not work on a number");
}

#[test]
fn scripts_are_stopped_by_their_limits() {
    fails("loop {}", "the script did more than 1000000 operations");
    fails("for i in 0..1000000000 {}", "the script did more than 1000000 operations");
    fails("let s = \"aaaaaaaaaa\"; loop { s += s }", "at most 1048576 bytes of text");
    fails("let s = \"aaaaaaaaaa\"; loop { s = `${s}${s}` }", "at most 1048576 bytes of text");
    fails("\"a\".repeat(1000000000)", "at most 1048576 bytes of text");
    fails("\"aaaa\".replace(\"a\", \"bbbbbbbbbb\".repeat(100000))", "at most 1048576 bytes of text");
    fails("\"a\".pad_start(9000000000, \"xyz\")", "at most 1048576 bytes of text");
    fails("let a = [0]; loop { a += a }", "20000 items of lists");
    fails("let a = []; a.pad(1000000000, 0); a", "20000 items of lists");
    fails("let a = [1]; loop { a = [a, a] }", "at most");
    fails("let a = []; loop { a.push(1) }", "items of lists");
    fails("let a = []; loop { a += [1] }", "items of lists");
    fails("let m = #{}; let i = 0; loop { i += 1; m[i.to_string()] = i }", "more than 1000000 operations");
    fails("let s = []; loop { s.push(\"x\".repeat(100000)) }", "bytes of text");
    fails("let a = []; loop { a = [a] }", "");
    fails("let a = []; loop { a = [[[[[[[[[[a]]]]]]]]]] }", "");
    fails("let a = #{}; loop { a = #{a: a} }", "");
    fails("let a = 0; for i in 0..100000 { a = [a] } a", "");
    fails("let f = |x| x; loop { let g = f; f = |x| g.call(x); }", "operations");
    fails("let f = |x| x; loop { f = f.curry(f) }", "`curry` is switched off");
    fails("let f = |x| x; loop { f = curry(f, f) }", "`curry` is switched off");
    fails(
        &format!("fn f(n) {{ {}f(n){} }} f(0)", "[".repeat(14), "]".repeat(14)),
        "more than 32 levels deep",
    );
    fails(
        &format!("fn f(n) {{ {}f(n){} }} f(0)", "if true { ".repeat(12), " }".repeat(12)),
        "more than 32 levels deep",
    );
    fails("fn f(x) { f(x + 1) } f(0)", "more than 32 levels deep");
    fails("let f = |x| x; let g = |h, n| h.call(h, n + 1); g.call(g, 0)", "more than 32 levels deep");
    fails(&format!("{}1{}", "(".repeat(5000), ")".repeat(5000)), "");
    fails(&format!("{}1{}", "[".repeat(5000), "]".repeat(5000)), "");
    fails(&"-".repeat(5000), "");
    fails(&format!("1{}", "+1".repeat(5000)), "");
    fails(
        &(0..300).map(|n| format!("let x{n} = 1;")).chain(["1".to_owned()]).collect::<String>(),
        "more than 128 variables",
    );
}

#[test]
fn arithmetic_fails_and_does_not_panic() {
    fails("9223372036854775807 + 1", "overflow");
    fails("-9223372036854775807 - 5", "overflow");
    fails("9223372036854775807 * 2", "overflow");
    fails("1 / 0", "zero");
    fails("1 % 0", "zero");
    fails("2 ** 100", "overflow");
    gives("1 << 100", json!(0));
    fails("(-9223372036854775807 - 1).abs()", "overflow");
    fails("(0.0 / 0.0)", "no number that JSON can hold");
}

#[test]
fn what_is_switched_off_says_so() {
    fails("event.curry(1)", "`curry` is switched off");
    fails("eval(\"1\")", "1:1 `eval` is switched off");
    fails("event.eval(\"1\")", "`eval` is switched off");
    fails("print(1)", "`print` is switched off");
    fails("debug(1)", "`debug` is switched off");
    fails("import \"x\" as y", "`import` is switched off");
    fails("let x = 1; export x", "`export` is switched off");
    fails("sleep(1)", "there is no function `sleep`");
    fails("timestamp()", "there is no function `timestamp`");
    fails("Fn(\"eval\").call(\"1\")", "");
}

#[test]
fn a_script_that_ends_by_assigning_is_a_mistake() {
    let mistake = |text: &str| Expr::default().script(text).map(|_| ()).unwrap_err();
    let single = mistake("event.status = \"firing\"");
    assert_eq!((single.line, single.column), (1, 14));
    assert!(single.message.contains("`==` compares"), "{}", single.message);
    assert!(mistake("let wanted = \"firing\";").message.contains("`let`"));
    // On the way to a value it is what a script is made of.
    assert!(Expr::default().script("let n = 1; n += 1; n == event.n").is_ok());
    assert!(Expr::default().script("let found = #{}; found.a = 1; found").is_ok());
}

#[test]
fn unknown_functions_are_mistakes_with_the_nearest_name() {
    let expr = Expr::default();
    let mistake = expr.script("\n  event.ref.start_with(\"x\")").unwrap_err();
    assert_eq!(
        mistake,
        Mistake {
            message: "there is no function `start_with`; did you mean `starts_with`?".into(),
            line: 2,
            column: 13
        }
    );
    assert!(expr.script("let f = |x| x + 1; f.call(1)").is_ok());
    assert!(expr.script("fn double(x) { x * 2 } double(4)").is_ok());
    let mistake = expr.script("event.ref ==").unwrap_err();
    assert_eq!((mistake.line, mistake.column), (1, 13));
    let mistake = expr.script("event.ref == \"é\" &&& x").unwrap_err();
    assert_eq!((mistake.line, mistake.column), (1, 20), "{}", mistake.message);
}

#[test]
fn closures_see_the_names_around_them() {
    gives("let want = \"c2\"; event.commits.filter(|c| c.id == want).len()", json!(1));
    gives("event.commits.filter(|c| c.id != event.after).len()", json!(2));
    gives("let x = 1; let f = || x; [x, f.call()]", json!([1, 1]));
    gives("let x = [1]; let f = || x; #{a: x, b: [x]}", json!({"a": [1], "b": [[1]]}));
    gives("fn main() { event.ref } main()", json!("refs/heads/main"));
    fails("let l = event.commits; l.filter(|c| l.len() > 1)", "copy that with `let` first");
    gives("event.commits.map(|c| `${event.repository.name}/${c.id}`)", json!(["shop/c1", "shop/c2"]));
    gives("event.commits.some(|c| event.repository.topics.some(|t| t == \"a\" && c.distinct))", json!(true));
}

#[test]
fn throwing_is_a_failure_with_its_place() {
    fails("if true {\n  throw \"no way\"\n}", "2:3 no way");
    fails("throw #{code: 1}", "threw");
    gives("try { throw 1 } catch (e) { return e }", json!(1));
    fails("try { loop {} } catch { 1 }", "operations");
    fails("event.ref = \"x\"", "");
    fails("event.numbers.push(4)", "came from outside and can't be changed");
    gives("let n = event.numbers; n.push(4); n.len()", json!(4));
    fails("event.repository.name = \"x\"; true", "came from outside and can't be changed");
    fails("for x in event.repository {}", "keys()");
}

#[test]
fn numbers_too_large_for_a_script_say_so_when_they_are_read() {
    let expr = Expr::default();
    let scope = Scope::new().with("event", json!({"id": 18_446_744_073_709_551_615_u64, "ok": 1}));
    let script = expr.script("event.ok").unwrap();
    assert_eq!(expr.evaluate(&script, &scope), Ok(json!(1)));
    let failure = expr.evaluate(&expr.script("event.id == 1").unwrap(), &scope).unwrap_err();
    assert!(failure.message.contains("event.id is 18446744073709551615, which is too large"), "{failure}");
    let template = expr.template("{{ event.id }}").unwrap();
    assert_eq!(expr.render_plain(&template, &scope), Ok(json!(18_446_744_073_709_551_615_u64)));
}

#[test]
fn built_in_functions() {
    for (text, value) in [
        ("version_compare(\"1.2\", \"1.10\")", json!(-1)),
        ("version_compare(\"1.0~rc1\", \"1.0\")", json!(-1)),
        ("version_compare(\"1:0.1\", \"2.0\")", json!(1)),
        ("version_compare(\"1.0-1\", \"1.0-1\")", json!(0)),
        ("version_compare(\"1.0\", \"1.0-1\")", json!(-1)),
        ("version_compare(\"1.0a\", \"1.0+\")", json!(-1)),
        ("version_compare(\"007\", \"7\")", json!(0)),
        ("version_compare(\"99999999999999999999999\", \"99999999999999999999998\")", json!(1)),
        ("matches(event.ref, \"^refs/heads/(main|stable)$\")", json!(true)),
        ("event.ref.matches(\"tags\")", json!(false)),
        ("glob(event.ref, \"refs/heads/*\")", json!(true)),
        ("glob(\"refs/heads/a/b\", \"refs/heads/*\")", json!(false)),
        ("glob(\"refs/heads/a/b\", \"refs/heads/**\")", json!(true)),
        ("cidr(\"10.1.2.3\", \"10.0.0.0/8\")", json!(true)),
        ("cidr(\"::1\", \"10.0.0.0/8\")", json!(false)),
        ("cidr(\"10.1.2.3\", \"10.1.2.3\")", json!(true)),
        ("duration(\"90s\")", json!(90)),
        ("seconds(\"15m\") > 60", json!(true)),
        ("seconds(\"500ms\")", json!(0.5)),
        ("sha256(\"\")", json!("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")),
        ("base64(\"hi\")", json!("aGk=")),
        ("json(\"{\\\"a\\\": [1]}\").a[0]", json!(1)),
        ("json(#{a: 1})", json!("{\"a\":1}")),
        ("removeprefix(event.ref, \"refs/heads/\")", json!("main")),
        ("event.ref.removeprefix(\"refs/heads/\")", json!("main")),
        ("event.ref.removesuffix(\"main\")", json!("refs/heads/")),
    ] {
        gives(text, value);
    }
    fails("version_compare(1, \"2\")", "version_compare() takes text, not the number 1");
    fails("matches(\"a\", \"(\")", "matches(): the pattern");
    fails("matches(\"a\", \"(a{1000}){1000}\")", "matches(): the pattern");
    fails("seconds(\"5 parsecs\")", "is not a duration");
    fails("cidr(\"x\", \"10.0.0.0/8\")", "takes an address");
    fails("cidr(\"10.0.0.1\", \"10.0.0.0/99\")", "takes a network");
    fails("json(\"{\")", "json(): ");
    fails("matches(\"a\")", "matches() does not work on");
    let bomb = format!("matches(\"{}b\", \"(a*)*c\")", "a".repeat(10_000));
    gives(&bomb, json!(false));
}

#[test]
fn functions_of_packs_work_in_rhai_and_as_filters() {
    let packs = [
        ("jenkins".to_owned(), "fn job_path(job) { job.split(\"/\").join(\"/job/\") }\nfn twice(x) { inner(x) + inner(x) }\nfn inner(x) { x }".to_owned()),
        ("broken".to_owned(), "fn a(x) {\n  x +\n}".to_owned()),
        ("statements".to_owned(), "let x = 1;".to_owned()),
        ("thief".to_owned(), "fn job_path(x) { x }".to_owned()),
        ("over".to_owned(), "fn trim(x) { x }".to_owned()),
        ("lost".to_owned(), "fn b(x) { nope(x) }".to_owned()),
        ("greedy".to_owned(), "fn c(x) { x == event.ref }".to_owned()),
        ("bad".to_owned(), "fn explode(x) { x.none }\nfn spin(x) { loop {} }".to_owned()),
    ];
    let (expr, mistakes) = Expr::new(&packs);
    let mistakes: Vec<_> = mistakes
        .iter()
        .map(|m| format!("{} {}:{} {}", m.pack, m.mistake.line, m.mistake.column, m.mistake.message))
        .collect();
    assert_eq!(mistakes.len(), 6, "{mistakes:#?}");
    assert!(mistakes[0].starts_with("broken 3:1 "), "{mistakes:#?}");
    assert!(mistakes[1].starts_with("statements 1:1 only `fn`s"), "{mistakes:#?}");
    assert!(mistakes[2].starts_with("thief 1:4 `job_path` is taken: pack jenkins"), "{mistakes:#?}");
    assert!(mistakes[3].starts_with("over 1:4 `trim` is taken: it is built in"), "{mistakes:#?}");
    assert!(mistakes[4].starts_with("lost 1:11 there is no function `nope`"), "{mistakes:#?}");
    assert!(
        mistakes[5].starts_with("greedy 1:16 a function of a pack sees only what it is given"),
        "{mistakes:#?}"
    );
    let scope = event();
    let value = |text: &str| expr.evaluate(&expr.script(text).unwrap(), &scope).map_err(|f| f.message);
    assert_eq!(value("job_path(\"a/b\")"), Ok(json!("a/job/b")));
    let mistake = expr.script("\"a/b\".job_path()").unwrap_err();
    assert_eq!(
        mistake.message,
        "`job_path` comes from a pack's functions.rhai and is called as job_path(value)"
    );
    assert_eq!(value("twice(2)"), Ok(json!(4)));
    assert!(value("explode(event)").unwrap_err().starts_with("in explode(): "));
    assert!(value("spin(1)").unwrap_err().contains("1000000 operations"));
    let filled = |text: &str| expr.render_plain(&expr.template(text).unwrap(), &scope).map_err(|f| f.message);
    assert_eq!(filled("{{ 'a/b' | job_path }}"), Ok(json!("a/job/b")));
    assert_eq!(filled("x{{ 4 | twice }}"), Ok(json!("x8")));
    assert!(filled("{{ event | explode }}").unwrap_err().contains("explode(): "));
    assert!(filled("{{ 1 | spin }}").unwrap_err().contains("operations"));
}

#[test]
fn conditions_must_be_booleans() {
    let expr = Expr::default();
    let condition = |text: &str| expr.condition(&expr.script(text).unwrap(), &event()).map_err(|f| f.message);
    assert_eq!(condition("event.count > 2"), Ok(true));
    assert_eq!(
        condition("event.count"),
        Err("a condition must be true or false, this one gives the number 3".into())
    );
    assert!(condition("event?.none").is_err());
}

fn references(text: &str) -> Vec<String> {
    let found = Expr::default().script(text).unwrap().references();
    found
        .iter()
        .map(|r| format!("{}:{} {r}{}", r.line, r.column, if r.optional { "?" } else { "" }))
        .collect()
}

#[test]
fn scripts_tell_what_they_read() {
    assert_eq!(
        references("steps.package.output.deb == event?.a?.b"),
        ["1:1 steps.package.output.deb", "1:29 event.a.b?"]
    );
    assert_eq!(references("apps[input.app].repository"), ["1:1 apps", "1:6 input.app"]);
    assert_eq!(references("apps[name].repository"), ["1:1 apps", "1:6 name"]);
    assert_eq!(references("apps[\"shop\"].repository.len()"), ["1:1 apps.shop.repository"]);
    assert_eq!(references("let x = event.a;\n x.b + y.c"), ["1:9 event.a", "2:8 y.c"]);
    assert_eq!(
        references("event.list.filter(|c| c.id == input.x && c.y)"),
        ["1:1 event.list", "1:31 input.x"]
    );
    assert_eq!(
        references("for i in event.l { if i == k.z { return v } }"),
        ["1:10 event.l", "1:28 k.z", "1:41 v"]
    );
    assert_eq!(references("event.a.contains(b.c).d"), ["1:1 event.a", "1:18 b.c"]);
    assert_eq!(references("#{x: a.b, y: [c.d, `${e.f}`]}"), ["1:6 a.b", "1:15 c.d", "1:23 e.f"]);
    assert_eq!(references("event.private.if.type"), ["1:1 event.private.if.type"]);
    assert_eq!(
        references("switch a.b { 1 => c.d, 2 if e.f => 3, _ => g.h }"),
        ["1:8 a.b", "1:19 c.d", "1:29 e.f", "1:44 g.h"]
    );
    assert_eq!(
        references("!event.deleted && event.repository.name in apps"),
        ["1:2 event.deleted", "1:19 event.repository.name", "1:44 apps"]
    );
}

// ---- templates ----

fn filled(text: &str) -> Result<Filled, String> {
    let expr = Expr::default();
    let scope = event().with("config", json!({"secret_name": "from_config", "user": "me", "number": 1}));
    let template = expr.template(text).map_err(|m| format!("{}:{} {}", m.line, m.column, m.message))?;
    expr.render(&template, &scope).map_err(|f| format!("{}:{} {}", f.line, f.column, f.message))
}

#[track_caller]
fn renders(text: &str, value: Value) {
    assert_eq!(filled(text), Ok(Filled::Plain(value)), "{text}");
}

#[track_caller]
fn refuses(text: &str, with: &str) {
    match filled(text) {
        Err(message) if message.contains(with) => (),
        other => panic!("{text}\n  should fail with: {with}\n  but: {other:?}"),
    }
}

#[test]
fn a_value_that_is_exactly_one_expression_keeps_its_type() {
    for (text, value) in [
        (
            "{{ event.commits }}",
            json!([{"id": "c1", "added": ["x"], "distinct": true}, {"id": "c2", "added": [], "distinct": false}]),
        ),
        ("{{event.count}}", json!(3)),
        ("{{ event.ratio }}", json!(1.5)),
        ("{{ event.deleted }}", json!(false)),
        ("{{ event.nothing }}", Value::Null),
        ("{{ event.commits[-1].id }}", json!("c2")),
        ("{{ event['repository']['name'] }}", json!("shop")),
        ("{{ apps[input.app].repository }}", json!("https://x/shop")),
        ("{{ event.numbers | map('string') | list }}", json!(["1", "2", "3"])),
        ("{{ event.count + 1 }}", json!(4)),
        ("{{ event.count / 2 }}", json!(1.5)),
        ("{{ 'a' ~ 1 }}", json!("a1")),
        ("{{ not event.deleted }}", json!(true)),
        ("{{ {'a': [1, event.count]} }}", json!({"a": [1, 3]})),
        ("{{ event.repository.topics | join(',') }}", json!("a,b")),
        ("{{ event.none | default('x') }}", json!("x")),
        ("{{ event.none is defined }}", json!(false)),
        ("{{ event.items }}", json!(["one"])),
        ("{{ event.keys }}", json!({"k": 1})),
        ("{{ event.repository | length }}", json!(4)),
        ("{{ event.ref | removeprefix('refs/heads/') }}", json!("main")),
        ("{{ event.commits | selectattr('distinct') | map(attribute='id') | list }}", json!(["c1"])),
        ("{{ event.commits | map(attribute='id') }}", json!(["c1", "c2"])),
        ("{{ range(3) }}", json!([0, 1, 2])),
        ("{{ '1h' | seconds }}", json!(3600)),
        ("{{ event.repository.owner | json }}", json!("{\"name\":\"acme\"}")),
        ("{{ event.repository.owner | tojson }}", json!("{\"name\":\"acme\"}")),
        ("{{ event.ref == 'refs/heads/main' }}", json!(true)),
        ("{{ 'shop' in apps }}", json!(true)),
        ("{{ 'yes' if event.count > 2 else 'no' }}", json!("yes")),
        ("{{ '{{' }}", json!("{{")),
        ("{{ '}}' }}", json!("}}")),
        ("{{ 1.0 }}", json!(1.0)),
        ("plain", json!("plain")),
        ("", json!("")),
        (" {{ event.count }}", json!(" 3")),
        ("{ not a template }", json!("{ not a template }")),
    ] {
        renders(text, value);
    }
}

#[test]
fn text_around_values_prints_them_plainly() {
    for (text, value) in [
        ("{{ event.repository.name }}-{{ event.count }}", "shop-3"),
        ("deleted: {{ event.deleted }}", "deleted: false"),
        ("list: {{ event.numbers }}", "list: [1,2,3]"),
        ("map: {{ event.repository.owner }}", "map: {\"name\":\"acme\"}"),
        ("a {{ '{{' }} b", "a {{ b"),
        ("{% if event.deleted %}gone{% else %}here {{ event.count }}{% endif %}", "here 3"),
        (
            "{% for c in event.commits %}{{ loop.index }}:{{ c.id }} {{ c.distinct }};{% endfor %}",
            "1:c1 true;2:c2 false;",
        ),
        ("{% for k, v in event.repository.owner | items %}{{ k }}={{ v }}{% endfor %}", "name=acme"),
        ("{% set x = event.count %}{{ x }}{# comment #}", "3"),
        ("{% for c in event.commits %}{% set line = c.id ~ '!' %}{{ line }}{% endfor %}", "c1!c2!"),
        ("{% raw %}{{ x }}{% endraw %}", "{{ x }}"),
        ("a {{- event.count -}} b", "a3b"),
        ("<b>{{ '<&>' }}</b>", "<b><&></b>"),
        ("line\n", "line\n"),
        ("{{ event.count }}\n", "3\n"),
        ("{% if true %}x{% endif %}\n", "x\n"),
    ] {
        renders(text, json!(value));
    }
    refuses("x {{ event.nothing }}", "1:6 `event.nothing` is null here");
    refuses("{% if true %}{{ event.nothing }}{% endif %}", "null here");
}

#[test]
fn unknown_names_are_errors_with_the_nearest_one_and_their_place() {
    refuses("{{ event.repository.nam }}", "1:4 event.repository has no `nam`; did you mean `name`?");
    refuses("ref:\n  {{ evnt.ref }}", "2:6 there is no `evnt` here; did you mean `event`?");
    refuses("{{ event.none.x }}", "event has no `none`");
    refuses("{{ event.nothing.x }}", "`event.nothing` is null here, so it has no `x`");
    refuses("{{ event.none | upper }}", "1:4 event has no `none`");
    refuses("{{ event.count + event.nope }}", "1:18 event has no `nope`");
    refuses("{{ [event.nope] }}", "event has no `nope`");
    refuses("{{ event.commits[9] }}", "event.commits has 2 items, there is no [9]");
    refuses("{% if event.nope %}{% endif %}", "1:7 event has no `nope`");
    refuses("{% for c in event.commits %}\n{{ c.nope }}{% endfor %}", "2:4 ");
    refuses("{{ apps[input.wanted].x }}", "() is no key");
    refuses("{{ apps[event.repository.owner.name].x }}", "apps has no `acme`");
    refuses("{{ 1 / 0 }}", "");
}

#[test]
fn mistakes_in_templates_are_found_before_they_run() {
    let mistake = |text: &str| {
        let mistake = Expr::default().template(text).unwrap_err();
        format!("{}:{} {}", mistake.line, mistake.column, mistake.message)
    };
    assert_eq!(
        mistake("a {{ event.ref | removeprefx('x') }}"),
        "1:18 there is no filter `removeprefx`; did you mean `removeprefix`?"
    );
    assert_eq!(mistake("{{ x is defned }}"), "1:9 there is no test `defned`; did you mean `defined`?");
    assert_eq!(mistake("{{ rnge(3) }}"), "1:4 there is no function `rnge`; did you mean `range`?");
    assert_eq!(mistake("{{ sha256('x') }}"), "1:4 `sha256` is a filter: write {{ value | sha256 }}");
    assert_eq!(mistake("{{ }}"), "1:3 there is nothing between `{{` and `}}`");
    assert!(mistake("a\nb {{ event.ref").starts_with("2:3 `{{` has no `}}`"));
    assert!(mistake("{{ 'x }}").starts_with("1:4 a quote is missing"));
    assert!(mistake("x {{ event..ref }}").starts_with("1:12 "), "{}", mistake("x {{ event..ref }}"));
    assert!(mistake("{{ a b }}").starts_with("1:6 "), "{}", mistake("{{ a b }}"));
    assert!(mistake("{% include 'x' %}").starts_with("1:4 `{% include %}` is not for templates here"));
    for tag in [
        "import 'x' as y",
        "from 'x' import y",
        "extends 'x'",
        "macro m()",
        "block b",
        "call x()",
        "do x()",
        "filter upper",
        "autoescape true",
    ] {
        assert!(mistake(&format!("{{% {tag} %}}")).contains("is not for templates here"), "{tag}");
    }
    assert!(mistake("{% if x %}").starts_with("1:"));
    assert!(mistake("{{ include('x') }}").contains("there is no function"));
    assert!(mistake("{{ namespace() }}").contains("there is no function"));
    assert!(mistake("{{ debug() }}").contains("there is no function"));
}

#[test]
fn secrets_stay_holes() {
    let hole = |name: &str, base64| crate::model::filled::Part::Secret { name: name.into(), base64 };
    let text = |text: &str| crate::model::filled::Part::Text(text.into());
    assert_eq!(filled("{{ secret('token') }}"), Ok(Filled::Text(vec![hole("token", false)])));
    assert_eq!(
        filled("Basic {{ secret(\"token\") | base64 }}."),
        Ok(Filled::Text(vec![text("Basic "), hole("token", true), text(".")]))
    );
    assert_eq!(
        filled("{{ config.user }}:{{ secret(config.secret_name) }}"),
        Ok(Filled::Text(vec![text("me:"), hole("from_config", false)]))
    );
    assert_eq!(
        filled("{{ secret(apps[input.app].owner) }}"),
        Ok(Filled::Text(vec![hole("team-shop", false)]))
    );
    refuses("{{ secret(config.number) }}", "secret() takes the name of a secret, not the number 1");
    for wrong in [
        "secret(event.ref)",
        "secret(input.app)",
        "secret(1)",
        "secret()",
        "secret('')",
        "secret('a' ~ 'b')",
        "secret(config)",
        "secret(apps)",
        "secret('a', 'b')",
    ] {
        refuses(
            &format!("{{{{ {wrong} }}}}"),
            "secret() takes a name in quotes or a value from config or apps, never from event or input",
        );
    }
    refuses("{{ secret('a') | upper }}", "a secret may pass no filter but base64");
    refuses("{{ secret('a') | base64 | upper }}", "a secret may pass no filter but base64");
    for wrong in ["secret('a') == 'b'", "secret('a') ~ 'b'", "secret('a')[0]", "secret('a') if true"] {
        refuses(&format!("{{{{ {wrong} }}}}"), "secret() must stand alone");
    }
    for wrong in ["[secret('a')]", "'x' ~ secret('a')", "('' ~ secret('a'))"] {
        refuses(&format!("{{{{ {wrong} }}}}"), "secret() must stand alone");
    }
    refuses("{% if true %}{{ secret('a') }}{% endif %}", "secret() may not stand in a template with {% %}");
    let expr = Expr::default();
    let template = expr.template("{{ secret('b') }}{{ secret('a') }}{{ secret('a') }}").unwrap();
    assert_eq!(template.secrets(), ["a", "b"]);
    assert!(template.mentions_secret());
    assert!(expr.render_plain(&template, &event()).is_err());
    assert!(!expr.template("secret('a')").unwrap().mentions_secret());
}

#[test]
fn results_are_data() {
    let expr = Expr::default();
    let scope =
        Scope::new().with("event", json!({"ref": "{{ secret('a') }} $(reboot) {% raw %}", "r": "{{"}));
    let render = |text: &str| expr.render_plain(&expr.template(text).unwrap(), &scope);
    assert_eq!(render("x {{ event.ref }}"), Ok(json!("x {{ secret('a') }} $(reboot) {% raw %}")));
    assert_eq!(render("{{ event.ref }}"), Ok(json!("{{ secret('a') }} $(reboot) {% raw %}")));
    assert_eq!(
        render("{% if true %}{{ event.ref }}{% endif %}"),
        Ok(json!("{{ secret('a') }} $(reboot) {% raw %}"))
    );
}

#[test]
fn templates_are_stopped_by_their_limits() {
    refuses("{{ 'a' * 1000000000 }}", "");
    refuses("{{ [1] * 1000000000 }}", "");
    refuses("{{ range(10**9) }}", "range() gives 10000 numbers at most");
    refuses("{{ range(10**30) }}", "");
    let chain = "'aaaaaaaaaa'".to_owned() + "|replace('a','aaaaaaaaaa')".repeat(12).as_str();
    refuses(&format!("{{{{ {chain} }}}}"), "replace: the text gets too long");
    let nested: String = (0..6).map(|i| format!("{{% for a{i} in range(100) %}}")).collect();
    refuses(&format!("{nested}x{}", "{% endfor %}".repeat(6)), "");
    refuses(
        &format!("{{% set x = 'aaaaaaaaaa' %}}{}", "{% set x = x ~ x %}".repeat(60)),
        "can't be built upon",
    );
    refuses(
        "{% set x = 'a' %}{% for i in range(60) %}{% set x = x ~ x %}{% endfor %}",
        "can't be built upon",
    );
    refuses("{% set x %}a{% endset %}", "");
    refuses(
        &format!("{}x{}", "{% if true %}".repeat(2000), "{% endif %}".repeat(2000)),
        "inside one another",
    );
    refuses(
        &format!("{{% if true %}}{}x{{% endif %}}", "{% elif true %}".repeat(2000)),
        "inside one another",
    );
    refuses(&format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000)), "");
    refuses(&format!("{{{{ {}1{} }}}}", "[".repeat(5000), "]".repeat(5000)), "");
    refuses(&format!("{{{{ {}x }}}}", "not ".repeat(20000)), "");
    drop(filled(&format!("{{{{ x{} }}}}", ".a".repeat(20000))));
    drop(filled(&format!("{{{{ x{}{} }}}}", "[x".repeat(5000), "]".repeat(5000))));
    drop(filled(&format!("{{{{ 1{} }}}}", "+1".repeat(50000))));
}

#[test]
fn templates_tell_what_they_read() {
    let references = |text: &str| {
        let found = Expr::default().template(text).unwrap().references();
        found
            .iter()
            .map(|r| format!("{}:{} {r}{}", r.line, r.column, if r.optional { "?" } else { "" }))
            .collect::<Vec<_>>()
    };
    assert_eq!(references("{{ steps.package.output.deb }}"), ["1:4 steps.package.output.deb"]);
    assert_eq!(references("{{ apps[input.app].repository }}"), ["1:4 apps", "1:9 input.app"]);
    assert_eq!(references("{{ apps['shop'].owner | default('x') }}"), ["1:4 apps.shop.owner?"]);
    assert_eq!(references("é {{ event.a is defined and event.b.c }}"), ["1:6 event.a?", "1:29 event.b.c"]);
    assert_eq!(
        references("{% for c in event.l %}\n{{ c.id }}{{ x.y }}{{ loop.index }}{% endfor %}"),
        ["1:13 event.l", "2:14 x.y"]
    );
    assert_eq!(references("{{ {'a': b.c} | dictsort(by='value') }}"), ["1:10 b.c"]);
    assert_eq!(references("{{ secret(config.name) }}"), ["1:11 config.name"]);
    assert_eq!(references("{{ event.name.upper() }}"), ["1:4 event.name"]);
}

#[test]
fn a_large_payload_is_walked_and_not_copied() {
    let commits: Vec<Value> = (0..5000).map(|n| json!({"id": n, "message": "x".repeat(200)})).collect();
    let scope = Scope::new().with("event", json!({"ref": "main", "commits": commits}));
    let expr = Expr::default();
    let script = expr.script("event.ref == \"main\" && event.commits.len() == 5000").unwrap();
    assert_eq!(expr.condition(&script, &scope), Ok(true));
    let script = expr.script("event.commits.filter(|c| c.id >= 4990).map(|c| c.id)").unwrap();
    assert_eq!(expr.evaluate(&script, &scope).unwrap().as_array().unwrap().len(), 10);
    let script = expr.script("event").unwrap();
    assert_eq!(expr.evaluate(&script, &scope).unwrap()["ref"], json!("main"));
    let script = expr.script("let all = []; for i in 0..200 { all.push(event) } all").unwrap();
    assert_eq!(expr.evaluate(&script, &scope).unwrap_err().kind, FailureKind::Limit);
    let template = expr.template("{{ event.commits[4999].id }}").unwrap();
    assert_eq!(expr.render_plain(&template, &scope), Ok(json!(4999)));
}

#[test]
fn lazy_names_are_made_when_read_and_once() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let made = Arc::new(AtomicUsize::new(0));
    let count = made.clone();
    let scope = event().with_lazy("slow", move || {
        count.fetch_add(1, Ordering::SeqCst);
        json!({"a": 1})
    });
    let expr = Expr::default();
    assert_eq!(expr.evaluate(&expr.script("event.count").unwrap(), &scope), Ok(json!(3)));
    assert_eq!(made.load(Ordering::SeqCst), 0);
    assert_eq!(expr.evaluate(&expr.script("slow.a + slow.a").unwrap(), &scope), Ok(json!(2)));
    assert_eq!(expr.render_plain(&expr.template("{{ slow.a }}").unwrap(), &scope), Ok(json!(1)));
    assert_eq!(made.load(Ordering::SeqCst), 1);
    assert_eq!(scope.with("event", json!(1)).get("event").as_deref(), Some(&json!(1)));
}

#[test]
fn it_can_be_shared_between_threads() {
    fn shareable<T: Send + Sync + 'static>() {}
    shareable::<Expr>();
    shareable::<Script>();
    shareable::<Template>();
    shareable::<Scope>();
}

/// Texts made of the pieces that matter to each language, in any order.
fn soup(pieces: &'static [&'static str]) -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    proptest::collection::vec(proptest::sample::select(pieces), 0..14).prop_map(|pieces| pieces.concat())
}

proptest::proptest! {
    #[test]
    fn any_script_gives_a_value_or_says_why_within_its_text(text in soup(&[
        "event", ".", "?.", "[", "]", "(", ")", "|x| ", "x", "0", "-1", "\"é\"", "`${", "}`", "{", "}", "#{", "a:", ",", ";", "\n", " ",
        "==", "=", "in ", "let ", "if ", "fn f(x)", "for i in ", "0..3", "repository", "commits", ".len()", ".filter", "private", "&&", "!",
    ])) {
        let expr = Expr::default();
        let lines: Vec<&str> = text.split('\n').collect();
        let place = match expr.script(&text) {
            Err(mistake) => Some((mistake.line, mistake.column)),
            Ok(script) => expr.evaluate(&script, &event()).err().map(|failure| (failure.line, failure.column)),
        };
        if let Some((line, column)) = place {
            proptest::prop_assert!(line >= 1 && line <= lines.len(), "line {line} of {text:?}");
            proptest::prop_assert!(column >= 1 && column <= lines[line - 1].chars().count() + 2, "{line}:{column} of {text:?}");
        }
    }

    #[test]
    fn any_template_gives_a_value_or_says_why_within_its_text(text in soup(&[
        "{{", "}}", "{%", "%}", "{#", "#}", "{", "}", " ", "event", ".", "[", "]", "(", ")", "'", "\"", "é", "\n", "|", "upper", "default('')",
        "secret(", "'a'", "if ", "endif", "for x in ", "endfor", "set x = ", "raw", "endraw", "-", "~", "+", "1", "==", "is defined", ",", ":",
        "repository", "commits", "\\",
    ])) {
        let expr = Expr::default();
        let lines: Vec<&str> = text.split('\n').collect();
        let place = match expr.template(&text) {
            Err(mistake) => Some((mistake.line, mistake.column)),
            Ok(template) => expr.render(&template, &event()).err().map(|failure| (failure.line, failure.column)),
        };
        if let Some((line, column)) = place {
            proptest::prop_assert!(line >= 1 && line <= lines.len(), "line {line} of {text:?}");
            proptest::prop_assert!(column >= 1 && column <= lines[line - 1].chars().count() + 2, "{line}:{column} of {text:?}");
        }
    }
}
