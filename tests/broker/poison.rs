//! Messages that nobody can read block nothing, and are kept with their reason.

use serde_json::{Value, json};
use siskin::amqp::{Address, Connection, Queue, To};

use super::stage::{PACK, Stage, action};

async fn send(broker: &Address, queue: &str, bodies: &[&[u8]]) {
    let connection = Connection::open(broker, "a test").await.unwrap();
    let channel = connection.channel().await.unwrap();
    for body in bodies {
        channel.send(To::Queue(queue), body).await.unwrap().wait().await.unwrap();
    }
    connection.close().await;
}

/// Takes what is in the queue of the dead, `count` messages.
async fn dead(broker: &Address, count: usize) -> Vec<(Vec<u8>, String)> {
    let connection = Connection::open(broker, "a test").await.unwrap();
    let channel = connection.channel().await.unwrap();
    let mut consumer = channel.consume(Queue::Shared("siskin.dead"), "dead", 100).await.unwrap();
    let mut found = Vec::new();
    while found.len() < count {
        let next = tokio::time::timeout(std::time::Duration::from_secs(60), consumer.next()).await;
        let delivery = next.expect("it comes in time").unwrap().unwrap();
        found.push((delivery.body().to_vec(), delivery.header("siskin-reason").unwrap_or_default()));
        delivery.acknowledge().await.unwrap();
    }
    connection.close().await;
    found
}

#[test]
fn poison_in_any_queue_is_kept_with_its_reason_and_runs_go_on() {
    let work = action(false, "echo done >>\"$FOLDER/done\"");
    let stage = Stage::new(&[PACK, ("packs/local/actions/work.yaml", &work)]);
    let worker = stage.worker();
    assert_eq!(stage.run("local.work")["status"], "succeeded");
    let broker: Address = stage.broker.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let newer = json!({"v": 2, "do": {"anything": 1}}).to_string();
    let strange = json!({"v": 1, "sing": {}}).to_string();
    let bodies: [&[u8]; 4] = [b"nonsense", b"\xff\xfe", newer.as_bytes(), strange.as_bytes()];
    let own = format!("siskin.worker.{}", worker.id());
    for queue in ["siskin.pool.default", "siskin.reports", &own] {
        runtime.block_on(send(&broker, queue, &bodies));
    }
    assert_eq!(stage.run("local.work")["status"], "succeeded");
    let found = runtime.block_on(dead(&broker, 3 * bodies.len()));
    for body in bodies {
        assert_eq!(found.iter().filter(|(known, _)| known == body).count(), 3);
    }
    let reasons: Vec<&str> = found.iter().map(|(_, why)| why.as_str()).collect();
    assert!(reasons.iter().all(|why| why.starts_with("it is")), "{reasons:?}");
    assert!(reasons.iter().any(|why| why.contains("version 2")), "{reasons:?}");
    assert!(stage.server.log().contains("siskin.dead") && worker.log().contains("siskin.dead"));
}

#[test]
fn an_attempt_that_its_worker_cannot_read_fails_and_says_why() {
    let work = action(false, "echo done >>\"$FOLDER/done\"");
    let stage = Stage::new(&[PACK, ("packs/local/actions/work.yaml", &work)]);
    let run = stage.start("local.work");
    let waits = |run: &Value| run["waits"][0]["for"] == "a worker of pool default; none is there";
    stage.server.wait_for(&format!("/runs/{run}"), waits);
    // Beside the attempt itself lies one of the same key from a server of the future.
    let broker: Address = stage.broker.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let steps = stage.server.get(&format!("/runs/{run}"))["steps"].clone();
    let key = json!({"run": run, "step": steps[0]["id"], "visit": 1, "item": null, "number": 1});
    let newer = json!({"v": 7, "do": {"key": key}}).to_string();
    runtime.block_on(async {
        let connection = Connection::open(&broker, "a test").await.unwrap();
        let channel = connection.channel().await.unwrap();
        let mut consumer = channel.consume(Queue::Shared("siskin.pool.default"), "x", 1).await.unwrap();
        consumer.next().await.unwrap().unwrap().acknowledge().await.unwrap();
        connection.close().await;
    });
    runtime.block_on(send(&broker, "siskin.pool.default", &[newer.as_bytes()]));
    let _worker = stage.worker();
    let ended = stage.server.wait_for_end(run);
    assert_eq!(ended["status"], "failed", "{ended}");
    assert!(ended["error"]["message"].as_str().unwrap().contains("version 7"), "{ended}");
}
