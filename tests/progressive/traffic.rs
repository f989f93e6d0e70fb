//! What clients see while hosts are changed.

use serde_json::{Value, json};

use super::world::{ILL, Load, NAMES, World, roll_of};

fn why(run: &Value) -> &str {
    assert_eq!(run["status"], "failed", "{run}");
    run["error"]["message"].as_str().unwrap()
}

#[test]
fn no_request_fails_while_hosts_are_restarted_and_a_host_that_fails_stays_without_traffic() {
    let Some(world) = World::new(2, [""; 2], &[]) else { return };
    let loads: Vec<Load> = world.haproxies.iter().map(|haproxy| Load::start(&haproxy.url(), 6)).collect();
    let rolled = world.roll("all", "2.0");
    assert_eq!(rolled["status"], "succeeded", "{rolled}");
    assert_eq!(world.versions(), ["2.0"; 3]);
    assert_eq!(world.advertised("all"), "2.0");

    let failed = world.roll("all", ILL);
    let said = why(&failed);
    assert!(said.contains("web1: the health check failed, 3 tries: GET http://127.0.0.2:"), "{said}");
    assert!(
        said.contains("/health answered 503 Service Unavailable: this is how it is; 2xx was wanted"),
        "{said}"
    );
    assert!(
        said.contains("it stays without traffic (drained: ") && said.contains("not touched: web2, web3"),
        "{said}"
    );
    for haproxy in &world.haproxies {
        assert!(haproxy.is_drained("web1"), "{:?}", haproxy.server("web1"));
        assert!(haproxy.server("web2").0.starts_with("UP"));
    }
    assert_eq!(world.advertised("all"), "2.0", "put back");

    let with = json!({"deployment": world.newest_deployment(), "app": "shop"});
    let restored = world.server.run_to_end("deploy.restore", with);
    assert_eq!(restored["status"], "succeeded", "{restored}");
    assert_eq!(world.versions(), ["2.0"; 3]);
    world.all_are_up();
    for load in loads {
        let (good, bad) = load.end();
        assert!(bad.is_empty(), "{} of {} failed: {:?}", bad.len(), good, &bad[..bad.len().min(5)]);
        assert!(good > 500, "{good}");
    }
}

#[test]
fn what_somebody_else_took_out_stays_out_and_the_next_roll_brings_back_what_failed() {
    let Some(world) = World::new(1, [""; 2], &[]) else { return };
    let haproxy = &world.haproxies[0];
    haproxy.ask("set server shop/web2 state maint");
    haproxy.ask("set server shop/web3 state drain");
    assert!(why(&world.roll("all", ILL)).contains("web1"));
    assert!(haproxy.is_drained("web1"));
    let rolled = world.roll("all", "2.0");
    assert_eq!(rolled["status"], "succeeded", "{rolled}");
    assert_eq!(world.versions(), ["2.0"; 3]);
    haproxy.until("web1", "UP");
    assert!(haproxy.server("web2").0.starts_with("MAINT"));
    assert!(haproxy.is_drained("web3"));
}

#[test]
fn what_can_be_known_to_go_wrong_is_refused_before_anything_is_told_or_touched() {
    let Some(mut world) = World::new(2, [""; 2], &[]) else { return };
    let missing = world.roll("all", "9.9");
    let said = why(&missing);
    assert!(said.contains("web1: demo 9.9 is not what its sources offer: 4.0, 3.0, 2.0, 1.0"), "{said}");
    assert!(said.contains("no host was touched"), "{said}");
    assert_eq!(world.advertised("all"), "1.0");

    // Not what is on the canaries: nothing there yet, another version, and then the right one.
    let promote = |version: &str| {
        let mut with = roll_of("production", version);
        with["as_on"] = json!("canary");
        world.server.run_to_end("deploy.roll", with)
    };
    assert!(why(&promote("2.0")).contains("shop 2.0 is not what stands on canary: nothing stands there"));
    assert_eq!(world.roll("canary", "2.0")["status"], "succeeded");
    let other = promote("4.0");
    assert!(why(&other).contains("shop 4.0 is not what stands on canary: 2.0 stands there now"), "{other}");
    assert_eq!(world.versions(), ["2.0", "1.0", "1.0"]);
    assert_eq!(world.advertised("production"), Value::Null);
    assert_eq!(promote("2.0")["status"], "succeeded");
    assert_eq!(world.versions(), ["2.0"; 3]);

    world.haproxies[1].kill();
    let away = world.roll("all", "4.0");
    let said = why(&away);
    assert!(said.contains(&world.haproxies[1].socket()) && said.contains("does HAProxy run"), "{said}");
    assert_eq!(world.versions(), ["2.0"; 3]);
    assert_eq!(world.advertised("all"), "1.0");
    for name in NAMES {
        world.haproxies[0].until(name, "UP");
    }
}

#[test]
fn the_canaries_get_the_share_that_they_are_given_and_what_was_comes_back() {
    let Some(world) = World::new(2, [""; 2], &[]) else { return };
    let shift = |with: Value| {
        let mut all = json!({"app": "shop", "environment": "canary"});
        all.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        let run = world.server.run_to_end("deploy.shift", all);
        assert_eq!(run["status"], "succeeded", "{run}");
        run["output"].clone()
    };
    let weights = || -> Vec<Vec<u32>> {
        let of = |name: &&str, index: usize| world.haproxies[index].server(name).1.parse().unwrap();
        (0..2).map(|index| NAMES.iter().map(|name| of(name, index)).collect()).collect()
    };
    let small = shift(json!({"percent": 5}));
    assert_eq!(weights(), [[27, 256, 256]; 2]);
    let more = shift(json!({"percent": 25}));
    assert_eq!(weights(), [[171, 256, 256]; 2]);
    shift(json!({"percent": 100}));
    assert_eq!(weights(), [[256, 0, 0]; 2]);
    shift(json!({"weights": more["was"]}));
    assert_eq!(weights(), [[27, 256, 256]; 2]);
    shift(json!({"weights": small["was"]}));
    assert_eq!(weights(), [[100; 3]; 2]);
    shift(json!({"percent": 0}));
    assert_eq!(weights(), [[0, 256, 256]; 2]);
    shift(json!({}));
    assert_eq!(weights(), [[100; 3]; 2]);
}
