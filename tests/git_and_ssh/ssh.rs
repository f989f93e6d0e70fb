#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use std::net::TcpListener;
use std::time::{Duration, Instant};

use siskin::model::Span;
use siskin::process::{Ended, Finished, Stream};
use siskin::ssh::{self, HostKeys, Request, SshError, Target, Work};
use tokio_util::sync::CancellationToken;

use super::sshd::{self, Sshd};
use super::use_the_shim;

fn script(text: &str) -> Request {
    Request::new(Work::Script { text: text.into(), args: Vec::new() })
}

async fn run(target: &Target, request: Request) -> Result<Finished, SshError> {
    use_the_shim();
    let mut seen = Vec::new();
    let finished =
        ssh::run(target, request, &mut |_, line| seen.push(line.to_vec()), &CancellationToken::new()).await;
    assert!(seen.iter().all(|line| !line.starts_with(b"siskin:")), "our own lines are not shown");
    finished
}

fn sshd() -> Option<Sshd> {
    let started = sshd::start();
    if started.is_none() {
        eprintln!("skipped: no sshd here (apt-get install openssh-server)");
    }
    started
}

#[tokio::test]
async fn arguments_environment_and_scripts_arrive_as_they_are() {
    let Some(sshd) = sshd() else { return };
    let hostile = "it's $(touch /tmp/x) `id` \"q\" \\ \n* ; & | ü -n";
    let argv = vec!["printf".into(), "%s|%s".into(), hostile.into(), String::new()];
    let finished = run(&sshd.target(), Request::new(Work::Argv(argv))).await.unwrap();
    assert_eq!((finished.ended, finished.stdout.text()), (Ended::Code(0), format!("{hostile}|")));
    assert_eq!(finished.stderr.text(), "");

    let request = Request {
        env: vec![("VALUE".into(), hostile.into())],
        cwd: Some("/tmp".into()),
        ..Request::new(Work::Script {
            text: r#"printf '%s|%s|' "$VALUE" "$1"; pwd; cat; echo END
END='x'; printf '%s\\t\n' "$END" >&2; exit 7"#
                .into(),
            args: vec![hostile.into()],
        })
    };
    let finished = run(&sshd.target(), request).await.unwrap();
    assert_eq!(finished.ended, Ended::Code(7));
    assert_eq!(finished.stdout.text(), format!("{hostile}|{hostile}|/tmp\nEND\n"));
    assert_eq!(finished.stderr.text(), "x\\t\n");
}

#[tokio::test]
async fn secrets_in_the_environment_are_on_no_command_line() {
    let Some(sshd) = sshd() else { return };
    let request = Request {
        env: vec![("TOKEN".into(), "s3cr3t-value".into())],
        ..script(
            "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c 's3cr3t[-]value'; echo $TOKEN",
        )
    };
    assert_eq!(run(&sshd.target(), request).await.unwrap().stdout.text(), "0\ns3cr3t-value\n");
}

#[tokio::test]
async fn large_scripts_and_outputs_pass() {
    let Some(sshd) = sshd() else { return };
    let text = format!("{}\nhead -c 5000000 /dev/zero | tr '\\0' x; echo", "# comment\n".repeat(40_000));
    let finished = run(&sshd.target(), script(&text)).await.unwrap();
    assert_eq!(finished.ended, Ended::Code(0), "{}", finished.stderr.text());
    assert_eq!(finished.stdout.dropped_bytes, 5_000_001 - 65_536);
}

#[tokio::test]
async fn a_command_that_exits_255_is_told_from_a_failure_of_ssh() {
    let Some(sshd) = sshd() else { return };
    let finished = run(&sshd.target(), script("echo Connection refused >&2; exit 255")).await.unwrap();
    assert_eq!((finished.ended, finished.stderr.text().as_str()), (Ended::Code(255), "Connection refused\n"));
}

#[tokio::test]
async fn each_way_not_to_get_there_has_its_own_error() {
    use_the_shim();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = Target { port: Some(closed), ..Target::new("127.0.0.1") };
    let refused = run(&nobody, script("true")).await;
    assert!(matches!(refused, Err(SshError::Refused { .. })), "{refused:?}");

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = Some(silent.local_addr().unwrap().port());
    let hangs = Target { port, connect_timeout: Span::seconds(1), ..Target::new("127.0.0.1") };
    let unreachable = run(&hangs, script("true")).await;
    assert!(matches!(unreachable, Err(SshError::Unreachable { .. })), "{unreachable:?}");

    let Some(sshd) = sshd() else { return };
    let unknown = Target { host_keys: HostKeys::Strict, ..sshd.target() };
    let error = run(&unknown, script("true")).await;
    assert!(matches!(error, Err(SshError::HostKey { .. })), "{error:?}");

    let other_key = std::fs::read_to_string(sshd.path("other.pub")).unwrap();
    std::fs::write(sshd.path("changed"), format!("[127.0.0.1]:{} {other_key}", sshd.port)).unwrap();
    let changed = Target { known_hosts: Some(sshd.path("changed")), ..sshd.target() };
    let error = run(&changed, script("true")).await;
    assert!(matches!(error, Err(SshError::HostKey { .. })), "{error:?}");

    let stranger = Target { key: Some(sshd.path("other")), ..sshd.target() };
    let error = run(&stranger, script("true")).await;
    assert!(matches!(error, Err(SshError::Authentication { .. })), "{error:?}");

    assert!(run(&sshd.target(), script("true")).await.unwrap().success());
    let known = Target { host_keys: HostKeys::Strict, ..sshd.target() };
    assert!(run(&known, script("true")).await.unwrap().success());
}

#[tokio::test]
async fn a_connection_that_breaks_is_told() {
    let Some(sshd) = sshd() else { return };
    use_the_shim();
    // The far end kills its own sshd, as a host that goes down would.
    let text = "pid=$$; while [ $pid -gt 1 ]; do name=$(cat /proc/$pid/comm); case $name in sshd*) kill -9 $pid; sleep 100;; esac; \
                pid=$(awk '/^PPid/{print $2}' /proc/$pid/status); done";
    let broken = run(&sshd.target(), script(text)).await;
    assert!(matches!(broken, Err(SshError::Lost { .. })), "{broken:?}");
}

/// Waits until no process of this number sleeps as the scripts here do: the number itself may soon be somebody else's.
async fn until_gone(pid: &str) {
    let began = Instant::now();
    let sleeps = |line: Vec<u8>| String::from_utf8_lossy(&line).replace('\0', " ").contains("sleep 1000");
    while std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(sleeps) {
        assert!(began.elapsed() < Duration::from_secs(20), "{pid} lives on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn cancel_and_timeout_end_the_remote_command() {
    let Some(sshd) = sshd() else { return };
    use_the_shim();
    let cancel = CancellationToken::new();
    let asked = cancel.clone();
    let mut pid = String::new();
    let mut on_line = |_: Stream, line: &[u8]| {
        pid = String::from_utf8_lossy(line).into_owned();
        asked.cancel();
    };
    let finished =
        ssh::run(&sshd.target(), script("sleep 1000 & echo $!; wait"), &mut on_line, &cancel).await.unwrap();
    assert_eq!(finished.ended, Ended::Cancelled);
    until_gone(&pid).await;

    // Whoever ignores SIGTERM is killed, and that is waited for.
    let stubborn = "sh -c \"trap '' TERM; echo \\$\\$; while :; do sleep 1000; done\" & wait";
    let request = Request { timeout: Some(Span(700)), ..script(stubborn) };
    let finished = run(&sshd.target(), request).await.unwrap();
    assert_eq!(finished.ended, Ended::TimedOut);
    until_gone(finished.stdout.text().trim()).await;

    let request = Request { timeout: Some(Span(700)), ..script("echo $$; exec sleep 1000") };
    let finished = run(&sshd.target(), request).await.unwrap();
    assert_eq!(finished.ended, Ended::TimedOut);
    until_gone(finished.stdout.text().trim()).await;
}

#[tokio::test]
async fn dropping_the_call_ends_the_remote_command() {
    let Some(sshd) = sshd() else { return };
    use_the_shim();
    let (told, pid) = tokio::sync::oneshot::channel();
    let (target, mut told) = (sshd.target(), Some(told));
    let task = tokio::spawn(async move {
        let mut on_line = |_: Stream, line: &[u8]| {
            if let Some(told) = told.take() {
                told.send(String::from_utf8_lossy(line).into_owned()).unwrap();
            }
        };
        ssh::run(&target, script("echo $$; exec sleep 1000"), &mut on_line, &CancellationToken::new()).await
    });
    let pid = pid.await.unwrap();
    task.abort();
    until_gone(&pid).await;
}

#[tokio::test]
async fn files_are_copied_whole_or_not_at_all() {
    let Some(sshd) = sshd() else { return };
    use_the_shim();
    let cancel = CancellationToken::new();
    let place = sshd.path("it's a $(file)");
    let content: Vec<u8> = (0..3_000_000u32).map(|number| (number % 251) as u8).collect();
    ssh::copy(&sshd.target(), content.clone(), place.to_str().unwrap(), 0o640, None, &cancel).await.unwrap();
    assert_eq!(std::fs::read(&place).unwrap(), content);
    let nowhere = ssh::copy(&sshd.target(), content, "/no/such/directory/file", 0o640, None, &cancel).await;
    assert!(matches!(nowhere, Err(SshError::Copy { .. })), "{nowhere:?}");
}

#[tokio::test]
async fn the_next_attempt_waits_until_the_remote_end_of_the_one_before() {
    let Some(sshd) = sshd() else { return };
    use_the_shim();
    let lock = Some(sshd.path("lock"));
    let (told, pid) = tokio::sync::oneshot::channel();
    let (target, mut told) = (sshd.target(), Some(told));
    let slow = Request {
        lock: lock.clone(),
        ..script("trap 'sleep 1; exit' TERM; echo $$; exec >/dev/null 2>&1; while :; do sleep 0.05; done")
    };
    let task = tokio::spawn(async move {
        let mut on_line = |_: Stream, line: &[u8]| {
            if let Some(told) = told.take() {
                told.send(String::from_utf8_lossy(line).into_owned()).unwrap();
            }
        };
        ssh::run(&target, slow, &mut on_line, &CancellationToken::new()).await
    });
    let pid = pid.await.unwrap();
    task.abort();
    let look = format!("grep -sq ^VmSize /proc/{pid}/status && echo beside; echo next");
    let next = run(&sshd.target(), Request { lock, ..script(&look) }).await.unwrap();
    assert_eq!((next.stdout.text().as_str(), next.stderr.text().as_str()), ("next\n", ""));
}
