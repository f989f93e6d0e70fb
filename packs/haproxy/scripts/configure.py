#!/usr/bin/env python3
"""Changes HAProxy's configuration file so that HAProxy has either the new one or the old one, and the file says which.

Input: JSON on stdin; output: JSON on descriptor 3. SOCKET names HAProxy's runtime socket.

Beside the file: `FILE.before`, what HAProxy had before the last change that went well; `.FILE.siskin-new`, the candidate; `.FILE.siskin-pending`, what HAProxy
had, from before the file is replaced until HAProxy is known to have taken up the new one (so that whoever comes after a crash reloads, and knows what was good;
empty when there was no file); `.FILE.siskin-lock`.
"""

import difflib
import fcntl
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}
LOOK_AGAIN_SECONDS = 0.1
# A process that ends at once after its start may answer before it does.
SETTLE_SECONDS = 0.5
COMMAND_SECONDS = 120
DIFF_LINES = 200
NEW_FILE_MODE = 0o640
# What HAProxy says after it has said what is wrong.
EMPTY_WORDS = re.compile(r"Error\(s\) found in configuration file|Fatal errors found in configuration")


class Failed(Exception):
    """HAProxy did not do what it was told; the text says why."""


def fail(message):
    """In one line: the last line of a script is what its run says of why it failed."""
    sys.exit(" ".join(str(message).split("\n")))


def seconds(text):
    """Of a duration such as 90s or 1m30s."""
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(r"([0-9.]+)(ms|[dhms])", str(text)))


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def read(path):
    """The bytes of a file; None when it is not there."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def sync_folder(path):
    descriptor = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path, data, like):
    """A new file with this mode and owner, on the disk when this returns. Nobody else can read it before that."""
    remove(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        mode = NEW_FILE_MODE
        if like:
            mode = like.st_mode & 0o7777
            mine = os.fstat(descriptor)
            if (mine.st_uid, mine.st_gid) != (like.st_uid, like.st_gid):
                os.fchown(descriptor, like.st_uid, like.st_gid)
        os.fchmod(descriptor, mode)
        file.flush()
        os.fsync(descriptor)


def put(path, data, like):
    """In place of what is there, at once."""
    beside = hidden(path, "part")
    write(beside, data, like)
    os.replace(beside, path)
    sync_folder(path)


def remove(path):
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def hidden(path, what):
    """A name beside the file that an HAProxy which reads all `*.cfg` of a folder does not read."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.siskin-{what}")


def lock(path, patience):
    """Held until this process ends, however it ends."""
    descriptor = os.open(hidden(path, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    end, told = time.monotonic() + patience, False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > end:
                fail(f"somebody else is changing {path}, and was not done within `wait`; nothing was changed")
        if not told:
            print(f"{path} is being changed by somebody else; waiting", flush=True)
            told = True
        time.sleep(LOOK_AGAIN_SECONDS)


def run(command):
    """Exit status and all that it said. What it starts does not inherit the lock."""
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_SECONDS,
            env=os.environ | {"PATH": path.lstrip(":")},
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"`{' '.join(command)}` did not end within {COMMAND_SECONDS} s") from None
    except OSError as error:
        raise Failed(f"`{command[0]}` can't be started here: {error.strerror}") from None
    return done.returncode, done.stdout.decode(errors="replace").strip()


def said_of(output, candidate, path):
    """HAProxy's own lines, without what it says of itself and of its process."""
    lines = []
    for line in output.splitlines():
        kind = re.match(r"\[(\w+)\]\s+(?:\S+\s+)?\(\d+\) : (?:config : )?(.*)", line)
        if kind and kind[1] == "NOTICE":
            continue
        lines.append((f"{kind[1].lower()}: {kind[2]}" if kind else line).replace(candidate, path))
    return [line for line in lines if line.strip()]


def check(given, path, candidate, data):
    """HAProxy's warnings; ends when it refuses."""
    command = [candidate if word == "FILE" else str(word) for word in given["check"]]
    if candidate not in command:
        fail("`check` must have the word FILE, which stands for the file that is to be checked")
    try:
        status, output = run(command)
    except Failed as error:
        fail(f"the new configuration can't be checked: {error}; nothing was changed")
    lines = said_of(output, candidate, path)
    if status == 0:
        return [line for line in lines if line.startswith("warning")]
    print("\n".join(lines), flush=True)
    text = data.decode(errors="replace").splitlines()
    meant = [with_its_line(line, text) for line in lines if not line.startswith("warning") and not EMPTY_WORDS.search(line)]
    said = "; ".join(meant[:5]) + (f"; and {len(meant) - 5} more, in the step's log" if len(meant) > 5 else "")
    fail(f"HAProxy refuses the new configuration: {said or f'exit status {status}'}. {path} is as it was, and nothing was reloaded")


def with_its_line(said, text):
    """What HAProxy says of a line, with that line: the file that it means is not kept."""
    number = re.search(r":(\d+)\]", said)
    if not number or not 0 < int(number[1]) <= len(text):
        return said
    return f"{said} (line {number[1]}: `{text[int(number[1]) - 1].strip()}`)"


def process():
    """Which process answers at the runtime socket, and None when none does."""
    where = os.environ["SOCKET"]
    try:
        if "/" in where:
            stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            stream.settimeout(5)
            stream.connect(where)
        else:
            host, _, port = where.rpartition(":")
            stream = socket.create_connection((host.strip("[]"), int(port)), timeout=5)
        with stream:
            stream.sendall(b"show info\n")
            parts = []
            while part := stream.recv(65536):
                parts.append(part)
    except (OSError, ValueError):
        return None
    found = re.search(r"^Pid: (\d+)", b"".join(parts).decode(errors="replace"), re.MULTILINE)
    return int(found[1]) if found else None


def master(pid_file):
    """The process that a file of ids names first, if it is an HAProxy."""
    try:
        with open(pid_file) as file:
            pid = int(file.read().split()[0])
        with open(f"/proc/{pid}/comm") as file:
            name = file.read().strip()
    except (OSError, ValueError, IndexError):
        raise Failed(f"{pid_file} names no process that runs (HAProxy must be started with -W -p {pid_file})") from None
    if not name.startswith("haproxy"):
        raise Failed(f"{pid_file} names process {pid}, which is `{name}` and no HAProxy")
    return pid


def reload(given):
    """Has HAProxy read its file anew; the process that serves then."""
    before = process() if given["confirm"] else None
    if given["signal"]:
        how = f"SIGUSR2 by {given['signal']['pid_file']}"
        try:
            os.kill(master(given["signal"]["pid_file"]), signal.SIGUSR2)
        except OSError as error:
            raise Failed(f"{how}: {error.strerror}") from None
    else:
        command = [str(word) for word in given["reload"]] or ["systemctl", "reload", "haproxy"]
        how = f"`{' '.join(command)}`"
        status, output = run(command)
        if status != 0:
            raise Failed(f"{how} ended with {status}: {output[-2000:] or 'it said nothing'}")
    if not given["confirm"]:
        return None
    return taken_up(given, before, how)


def taken_up(given, before, how):
    end = time.monotonic() + seconds(given["wait"])
    while True:
        now = process()
        if now is not None and now != before:
            time.sleep(SETTLE_SECONDS)
            if process() == now:
                return now
        if time.monotonic() > end:
            break
        time.sleep(LOOK_AGAIN_SECONDS)
    where = os.environ["SOCKET"]
    if now is None:
        raise Failed(f"after {how} no HAProxy answers at {where} within {given['wait']} (`confirm: false` if it has no such socket)")
    raise Failed(f"after {how} the process from before, {now}, still serves at {where} after {given['wait']}: HAProxy could not start with it (a port that is taken?); its log says why")


def put_back(given, path, old, like, why):
    """After a reload that went wrong. Never returns."""
    new = f"HAProxy did not take up the new configuration: {why}."
    if old is None:
        remove(path)
        remove(hidden(path, "pending"))
        fail(f"{new} There was none before, so {path} is gone again.")
    put(path, old, like)
    try:
        pid = reload(given)
    except Failed as error:
        # What HAProxy has now is not known: the mark stays, so that the next one reloads.
        fail(f"{new} The old one is in {path} again, but HAProxy could not be reloaded with it either: {error}. Look after it now.")
    remove(hidden(path, "pending"))
    fail(f"{new} The old one is in {path} again, and HAProxy was reloaded with it" + (f" (process {pid})." if pid else "."))


def diff_of(old, new, path):
    lines = [(data or b"").decode(errors="replace").splitlines() for data in (old, new)]
    diff = list(difflib.unified_diff(*lines, f"{path}.before", path, lineterm="", n=2))
    more = len(diff) - DIFF_LINES
    return "\n".join(diff[:DIFF_LINES] + ([f"... and {more} lines more"] if more > 0 else []))


def replace(given, path, data):
    """What both actions do; the lock is held."""
    pending, candidate, before = hidden(path, "pending"), hidden(path, "new"), f"{path}.before"
    now = read(path)
    unfinished = read(pending)
    if now == data and unfinished is None:
        return {"changed": False, "diff": "", "warnings": [], "pid": None, "sha256": sha256(data), "was": None}
    old = now
    if unfinished is not None:
        # After a crash the file itself is not known to be good.
        print("the last change was not finished: HAProxy is reloaded in any case", flush=True)
        old = unfinished or None
    if given["signal"]:
        try:
            master(given["signal"]["pid_file"])
        except Failed as error:
            fail(f"HAProxy can't be told to reload: {error}; nothing was changed")
    like = os.stat(path) if now is not None else None
    try:
        write(candidate, data, like)
        warnings = check(given, path, candidate, data)
        if unfinished is None:
            put(pending, old or b"", like)
        os.replace(candidate, path)
        sync_folder(path)
    except OSError as error:
        fail(f"{path} can't be changed: {error.strerror} ({error.filename or path})")
    finally:
        remove(candidate)
    for line in warnings:
        print(line, flush=True)
    try:
        pid = reload(given)
    except Failed as error:
        put_back(given, path, old, like, error)
    if old is not None and old != data:
        put(before, old, like)
    remove(pending)
    was = sha256(old) if old is not None and old != data else None
    return {"changed": True, "diff": diff_of(old, data, path), "warnings": warnings, "pid": pid, "sha256": sha256(data), "was": was}


def configure(given, path):
    text = given["text"]
    if not text.strip():
        fail("`text` is empty: that is no configuration; nothing was changed")
    return replace(given, path, (text if text.endswith("\n") else f"{text}\n").encode())


def restore(given, path):
    now, was = read(path), given.get("was")
    if not was or (now is not None and sha256(now) == was and read(hidden(path, "pending")) is None):
        return {"changed": False, "diff": "", "warnings": [], "pid": None, "sha256": sha256(now or b""), "was": None}
    for data in (now, read(f"{path}.before")):
        if data is not None and sha256(data) == was:
            return replace(given, path, data)
    fail(f"what is to be put back (SHA-256 {was}) is neither {path} nor {path}.before: somebody has changed it again since; nothing was changed")


def main():
    given = json.load(sys.stdin)
    if given["signal"] and given["reload"]:
        fail("`reload` and `signal` are two ways to reload: say one")
    if given["signal"] and set(given["signal"]) != {"pid_file"}:
        fail("`signal` is {pid_file: PATH}")
    # Of a link, what it leads to is changed.
    path = os.path.realpath(given["path"])
    try:
        held = lock(path, seconds(given["wait"]))
    except OSError as error:
        fail(f"{os.path.dirname(path)} can't be written to: {error.strerror}; it must be, by the user that does this step")
    output = {"configure": configure, "restore": restore}[sys.argv[1]](given, path)
    os.close(held)
    with os.fdopen(3, "w") as result:
        json.dump(output, result)


main()
