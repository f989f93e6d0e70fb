//! What starting programs promises, with real programs.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use siskin::model::Span;
use siskin::process::{self, Command, Ended, Finished, ProcessError, Stream};
use tokio_util::sync::CancellationToken;

fn use_the_shim() {
    process::set_shim(PathBuf::from(env!("CARGO_BIN_EXE_siskin")));
}

fn shell(script: &str) -> Command {
    Command::new("/bin/sh").args(["-c", script]).grace(Span(300))
}

async fn run(command: Command) -> Result<Finished, ProcessError> {
    use_the_shim();
    process::output(command, &CancellationToken::new(), Some(Span::seconds(60))).await
}

/// Waits until `holds`, which must become true soon.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn alive(pid: i32) -> bool {
    // A zombie of somebody else's is dead.
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    !stat.rsplit(')').next().unwrap().trim_start().starts_with(['Z', 'X'])
}

fn read_pids(path: &Path) -> Vec<i32> {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .collect()
}

/// A script that starts a grandchild that has left session and group, ignores SIGTERM, and is nobody's child.
const ESCAPE: &str = r#"setsid sh -c 'setsid sh -c "trap : TERM HUP INT; echo \$\$ >>$PIDS; while :; do sleep 1000; done" </dev/null >/dev/null 2>&1 &' &"#;

#[tokio::test]
async fn codes_and_signals_are_told_apart() {
    assert_eq!(run(shell("exit 0")).await.unwrap().ended, Ended::Code(0));
    assert_eq!(run(shell("exit 143")).await.unwrap().ended, Ended::Code(143));
    assert_eq!(run(shell("kill -TERM $$")).await.unwrap().ended, Ended::Signal(15));
    assert_eq!(run(shell("kill -KILL $$")).await.unwrap().ended, Ended::Signal(9));
}

#[tokio::test]
async fn stdin_arguments_and_environment_arrive_as_they_are() {
    let hostile = "a b\n$(id) 'q' \"d\" ü \\ ;";
    let command = Command::new("sh").args(["-c", r#"printf '%s|%s|' "$1" "$VALUE"; cat"#, "sh", hostile]);
    let finished = run(command.env("VALUE", hostile).stdin(vec![0, 255, b'\n'])).await.unwrap();
    let mut expected = format!("{hostile}|{hostile}|").into_bytes();
    expected.extend([0, 255, b'\n']);
    assert_eq!(finished.stdout.bytes, expected);
    let large = vec![b'x'; 3_000_000];
    assert_eq!(
        run(Command::new("wc").arg("-c").stdin(large.clone())).await.unwrap().stdout.text().trim(),
        "3000000"
    );
    // A program that does not read it is no failure.
    assert!(run(Command::new("true").stdin(large)).await.unwrap().success());
}

#[tokio::test]
async fn the_environment_and_descriptors_of_the_server_do_not_leak() {
    let _leaky = std::fs::File::open("/dev/zero").unwrap();
    let finished = run(shell("env; ls -l /proc/self/fd; tr '\\0' '\\n' </proc/$PPID/environ")).await.unwrap();
    let text = finished.stdout.text();
    assert!(!text.contains("CARGO") && !text.contains("NEXTEST"), "{text}");
    assert!(!text.contains("/dev/zero") && !text.contains("socket:"), "{text}");
    assert!(text.contains("PATH="), "{text}");
}

#[tokio::test]
async fn lines_arrive_as_bytes_and_in_order() {
    use_the_shim();
    let mut lines = Vec::new();
    let script = r"printf 'a\r\n\n\377\033[1mb\nlast'; printf 'oops\n' >&2";
    let finished = process::run(
        shell(script),
        &mut |stream, line| lines.push((stream, line.to_vec())),
        &CancellationToken::new(),
        None,
    )
    .await
    .unwrap();
    let of = |wanted| {
        lines.iter().filter(|(stream, _)| *stream == wanted).map(|(_, line)| line.clone()).collect::<Vec<_>>()
    };
    assert_eq!(of(Stream::Stdout), [b"a\r".to_vec(), Vec::new(), b"\xff\x1b[1mb".to_vec(), b"last".to_vec()]);
    assert_eq!(of(Stream::Stderr), [b"oops".to_vec()]);
    assert_eq!(finished.stderr.text(), "oops\n");
}

#[tokio::test]
async fn a_hundred_megabytes_pass_and_are_not_kept() {
    use_the_shim();
    let before = resident_kilobytes();
    let mut seen = 0u64;
    let command = shell("head -c 100000000 /dev/zero; echo end").keep(100_000);
    let finished =
        process::run(command, &mut |_, line| seen += line.len() as u64, &CancellationToken::new(), None)
            .await
            .unwrap();
    assert_eq!(seen, 100_000_003);
    assert!(finished.stdout.bytes.len() < 101_000);
    assert_eq!(finished.stdout.dropped_bytes, 100_000_004 - 100_000);
    assert!(finished.stdout.bytes.ends_with(b"end\n"));
    assert!(resident_kilobytes() < before + 30_000, "{before} -> {}", resident_kilobytes());
}

fn resident_kilobytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn descriptor_three_brings_the_result() {
    let finished = run(shell(r#"echo chatter; printf '{"a":1}' >&3"#).wants_result()).await.unwrap();
    assert_eq!(finished.result.as_deref(), Some(br#"{"a":1}"#.as_slice()));
    assert_eq!(finished.stdout.text(), "chatter\n");
    assert_eq!(run(shell("exit 4").wants_result()).await.unwrap().result, None);
    // Not offered: writing to it fails, and reaches nothing of ours.
    assert_ne!(run(shell("echo x >&3")).await.unwrap().ended, Ended::Code(0));
    let large = run(shell("head -c 20000000 /dev/zero >&3; echo done").wants_result()).await.unwrap();
    assert!(large.result_overflowed && large.result.is_none());
    assert_eq!(large.stdout.text(), "done\n");
}

#[tokio::test]
async fn a_timeout_ends_a_program_that_ignores_sigterm() {
    use_the_shim();
    let command = shell("trap '' TERM; echo on; while :; do sleep 1000; done");
    let began = Instant::now();
    let finished = process::output(command, &CancellationToken::new(), Some(Span(400))).await.unwrap();
    assert_eq!(finished.ended, Ended::TimedOut);
    assert_eq!(finished.stdout.text(), "on\n");
    assert!(began.elapsed() >= Duration::from_millis(700) && began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn cancel_lets_a_program_clean_up_within_its_grace() {
    use_the_shim();
    let cancel = CancellationToken::new();
    let command = shell("trap 'echo cleaned; exit 3' TERM; echo ready; while :; do sleep 0.05; done")
        .grace(Span::seconds(20));
    let asked = cancel.clone();
    let mut on_line = move |_, line: &[u8]| {
        if line == b"ready" {
            asked.cancel();
        }
    };
    let finished = process::run(command, &mut on_line, &cancel, None).await.unwrap();
    assert_eq!(finished.ended, Ended::Cancelled);
    assert_eq!(finished.stdout.text(), "ready\ncleaned\n");
    let never = process::output(shell("echo x"), &cancel, None).await.unwrap();
    assert_eq!((never.ended, never.stdout.text().as_str()), (Ended::Cancelled, ""));
}

#[tokio::test]
async fn who_left_the_group_is_ended_too() {
    use_the_shim();
    let folder = tempfile::tempdir().unwrap();
    for (name, ending) in [("normal", "exit 5"), ("timeout", "sleep 1000")] {
        let pids = folder.path().join(name);
        let script = format!("{ESCAPE}\nwhile [ ! -s \"$PIDS\" ]; do sleep 0.01; done; {ending}");
        let command = shell(&script).env("PIDS", pids.to_str().unwrap());
        let finished = process::output(command, &CancellationToken::new(), Some(Span(1500))).await.unwrap();
        let expected = if name == "normal" { Ended::Code(5) } else { Ended::TimedOut };
        assert_eq!(finished.ended, expected);
        let escaped = read_pids(&pids);
        assert_eq!(escaped.len(), 1);
        assert!(!alive(escaped[0]), "{name}: {} lives on", escaped[0]);
        assert!(finished.leftovers.is_empty());
    }
}

#[tokio::test]
async fn dropping_the_call_kills_everything() {
    use_the_shim();
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    let script = format!("{ESCAPE}\necho $$ >>$PIDS; exec sleep 1000");
    let command = shell(&script).env("PIDS", pids.to_str().unwrap()).grace(Span::hours(1));
    let task = tokio::spawn(async move { process::output(command, &CancellationToken::new(), None).await });
    until("both wrote their pids", || read_pids(&pids).len() == 2).await;
    task.abort();
    until("all are dead", || read_pids(&pids).into_iter().all(|pid| !alive(pid))).await;
}

/// Stands for a server: tells a shim what to run, then waits. The parent of the shim is a process that a test may kill.
#[tokio::test]
async fn kill_minus_nine_of_the_server_ends_everything_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    let mut server = start_server(&pids, folder.path());
    until("both wrote their pids", || read_pids(&pids).len() == 2).await;
    server.kill().unwrap();
    server.wait().unwrap();
    until("all are dead", || read_pids(&pids).into_iter().all(|pid| !alive(pid))).await;
    // The lock of what died is free.
    let next = run(shell("echo next").lock(folder.path().join("lock"))).await.unwrap();
    assert_eq!(next.stdout.text(), "next\n");
}

#[tokio::test]
async fn leftovers_of_a_killed_shim_are_ended_before_the_next_begins() {
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    let mut server = start_server(&pids, folder.path());
    until("both wrote their pids", || read_pids(&pids).len() == 2).await;
    let shims: HashSet<i32> = children_of(server.id()).into_iter().collect();
    for shim in &shims {
        kill(Pid::from_raw(*shim), Signal::SIGKILL).unwrap();
    }
    server.kill().unwrap();
    server.wait().unwrap();
    // Without memory it runs no more, though init may not have reaped it yet.
    let script = r#"for pid in $(cat "$PIDS"); do grep -sq ^VmSize /proc/$pid/status && echo beside $pid; done; echo next"#;
    let next = shell(script).env("PIDS", pids.to_str().unwrap()).lock(folder.path().join("lock"));
    assert_eq!(run(next).await.unwrap().stdout.text(), "next\n");
    assert!(read_pids(&pids).into_iter().all(|pid| !alive(pid)));
}

/// Runs this very test binary with one ignored test, which acts as a server that never ends.
fn start_server(pids: &Path, folder: &Path) -> std::process::Child {
    std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process::act_as_a_server", "--ignored", "--nocapture"])
        .env("PIDS", pids)
        .env("FOLDER", folder)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
#[ignore = "no test: the server that other tests kill"]
async fn act_as_a_server() {
    use_the_shim();
    let Ok(pids) = std::env::var("PIDS") else { return };
    let folder = PathBuf::from(std::env::var("FOLDER").unwrap());
    let script = format!("{ESCAPE}\ntrap '' TERM; echo $$ >>$PIDS; while :; do sleep 1000; done");
    let command = shell(&script).env("PIDS", pids).lock(folder.join("lock")).grace(Span::hours(1));
    process::output(command, &CancellationToken::new(), None).await.unwrap();
}

fn children_of(parent: u32) -> Vec<i32> {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit(')').next().unwrap().split_ascii_whitespace().nth(1) == Some(&parent.to_string())
        })
        .collect()
}

#[tokio::test]
async fn two_of_one_lock_never_run_beside_each_other() {
    use_the_shim();
    let folder = tempfile::tempdir().unwrap();
    let (lock, busy) = (folder.path().join("lock"), folder.path().join("busy"));
    let script = r#"mkdir "$BUSY" || exit 9; sleep 0.05; rmdir "$BUSY""#;
    let runs = (0..6).map(|_| {
        let command = shell(script).env("BUSY", busy.to_str().unwrap()).lock(&lock);
        tokio::spawn(run(command))
    });
    for task in runs.collect::<Vec<_>>() {
        assert_eq!(task.await.unwrap().unwrap().ended, Ended::Code(0));
    }
}

#[tokio::test]
async fn waiting_for_a_lock_can_be_cancelled() {
    use_the_shim();
    let folder = tempfile::tempdir().unwrap();
    let lock = folder.path().join("lock");
    let (first, second) = (CancellationToken::new(), CancellationToken::new());
    let (ready, began) = tokio::sync::oneshot::channel();
    let mut ready = Some(ready);
    let (command, cancel) = (shell("echo ready; sleep 1000").lock(&lock), first.clone());
    let holder = tokio::spawn(async move {
        let mut on_line = |_, _: &[u8]| {
            let _ = ready.take().map(|ready| ready.send(()));
        };
        process::run(command, &mut on_line, &cancel, None).await
    });
    began.await.unwrap();
    let timed_out = process::output(shell("echo x").lock(&lock), &second, Some(Span(300))).await.unwrap();
    assert_eq!((timed_out.ended, timed_out.stdout.text().as_str()), (Ended::TimedOut, ""));
    first.cancel();
    assert_eq!(holder.await.unwrap().unwrap().ended, Ended::Cancelled);
}

#[tokio::test]
async fn a_program_that_cannot_be_started_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("plain"), "#!/bin/sh\n").unwrap();
    let mut script =
        std::fs::File::options().create(true).write(true).mode_755().open(path("script")).unwrap();
    script.write_all(b"#!/no/such/interpreter\n").unwrap();
    drop(script);

    let message = |error: Result<Finished, ProcessError>| error.unwrap_err().to_string();
    let missing = run(Command::new("no-such-program")).await;
    assert!(matches!(missing, Err(ProcessError::NotFound(_))), "{missing:?}");
    assert!(message(missing).contains("`no-such-program` not found"));
    assert!(matches!(run(Command::new(path("plain"))).await, Err(ProcessError::NotExecutable(_))));
    assert!(matches!(run(Command::new(path("script"))).await, Err(ProcessError::NoInterpreter(_))));
    assert!(matches!(
        run(Command::new("true").cwd(path("nowhere"))).await,
        Err(ProcessError::NoDirectory(_))
    ));
    assert!(matches!(
        run(Command::new("true").arg("x".repeat(3_000_000))).await,
        Err(ProcessError::TooLarge(_))
    ));
    assert!(matches!(run(Command::new("true").arg("a\0b")).await, Err(ProcessError::NulByte(_))));
    let nowhere = run(Command::new("true").lock(path("nowhere/lock"))).await;
    assert!(matches!(nowhere, Err(ProcessError::Lock { .. })), "{nowhere:?}");
}

#[tokio::test]
async fn a_script_that_is_still_open_for_writing_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("script");
    let mut script = std::fs::File::options().create(true).write(true).mode_755().open(&path).unwrap();
    script.write_all(b"#!/bin/sh\necho ran\n").unwrap();
    let task = tokio::spawn(run(Command::new(path.to_str().unwrap())));
    until("the shim runs", || !children_of(std::process::id()).is_empty()).await;
    drop(script);
    assert_eq!(task.await.unwrap().unwrap().stdout.text(), "ran\n");
}

trait Mode {
    fn mode_755(&mut self) -> &mut Self;
}
impl Mode for std::fs::OpenOptions {
    fn mode_755(&mut self) -> &mut Self {
        std::os::unix::fs::OpenOptionsExt::mode(self, 0o755)
    }
}

#[tokio::test]
async fn the_shim_by_hand_refuses_and_a_sigterm_to_it_ends_the_program() {
    let by_hand = std::process::Command::new(env!("CARGO_BIN_EXE_siskin"))
        .arg("__shim")
        .stdin(std::process::Stdio::null())
        .status();
    assert!(!by_hand.unwrap().success());
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    let command =
        shell("echo $$ $PPID | tr ' ' '\\n' >>$PIDS; exec sleep 1000").env("PIDS", pids.to_str().unwrap());
    let task = tokio::spawn(run(command));
    until("both pids are known", || read_pids(&pids).len() == 2).await;
    kill(Pid::from_raw(read_pids(&pids)[1]), Signal::SIGTERM).unwrap();
    assert_eq!(task.await.unwrap().unwrap().ended, Ended::Signal(15));
}

#[tokio::test]
async fn killing_the_shim_ends_the_program_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    let command = shell("echo $$ $PPID | tr ' ' '\\n' >>$PIDS; sleep 1000; sleep 1000")
        .env("PIDS", pids.to_str().unwrap());
    let task = tokio::spawn(run(command));
    until("both pids are known", || read_pids(&pids).len() == 2).await;
    kill(Pid::from_raw(read_pids(&pids)[1]), Signal::SIGKILL).unwrap();
    let ended = task.await.unwrap();
    assert!(matches!(ended, Err(ProcessError::ShimDied(..))), "{ended:?}");
    until("the program is dead", || !alive(read_pids(&pids)[0])).await;
}

/// A shell that has no descriptors left can't start anything; neither can we, and say so.
#[tokio::test]
async fn running_out_of_descriptors_is_said() {
    let server = std::process::Command::new("/bin/sh")
        .args(["-c", r#"ulimit -n 12; exec "$@""#, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "process::act_without_descriptors", "--ignored", "--nocapture", "--test-threads=1"])
        .env("ACT", "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let text = String::from_utf8(server.wait_with_output().unwrap().stdout).unwrap();
    assert!(text.contains("no file descriptors left"), "{text}");
}

#[tokio::test]
#[ignore = "no test: a process without descriptors that another test starts"]
async fn act_without_descriptors() {
    if std::env::var("ACT").is_err() {
        return;
    }
    let mut held = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        held.push(file);
    }
    let error = run(Command::new("true")).await.unwrap_err();
    drop(held);
    println!("{error}");
}

/// Not a measurement: a bound that only a mistake (a wait, a poll) can break.
#[tokio::test]
async fn starting_a_program_costs_no_waits() {
    run(Command::new("true")).await.unwrap();
    let began = Instant::now();
    for _ in 0..50 {
        run(Command::new("true")).await.unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    println!("50 programs in {:?}", began.elapsed());
}

#[tokio::test]
async fn a_program_gets_its_signals_in_the_usual_state() {
    let text = run(shell("grep -E 'Sig(Blk|Ign)' /proc/self/status")).await.unwrap().stdout.text();
    // Signals 32 and 33 are the C library's own; whoever started us may have touched them.
    let usual =
        |line: &str| u64::from_str_radix(line.rsplit('\t').next().unwrap(), 16).unwrap() & 0x7fff_ffff == 0;
    assert!(text.lines().all(usual), "{text}");
}

#[tokio::test]
async fn held_stdin_is_closed_to_ask_for_the_end() {
    use_the_shim();
    let command = shell("trap 'echo told' TERM; cat; echo closed")
        .stdin("first\n")
        .holds_stdin()
        .grace(Span::seconds(20));
    let finished = process::output(command, &CancellationToken::new(), Some(Span(300))).await.unwrap();
    assert_eq!((finished.ended, finished.stdout.text().as_str()), (Ended::TimedOut, "first\nclosed\n"));
}
