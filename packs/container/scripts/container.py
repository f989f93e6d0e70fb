#!/usr/bin/env python3
"""Speaks with Docker or Podman over its unix socket, SOCKET. Input: JSON on stdin; output: JSON on descriptor 3."""

import base64
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import struct
import sys
import tarfile
import tempfile
import threading
import time
import urllib.parse

ENGINES = ["/run/docker.sock", "/var/run/docker.sock", "/run/podman/podman.sock"]
UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}
SIZES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
TAIL_BYTES = 4000
# How long the engine may be silent where it only has to answer.
PATIENCE_SECONDS = 120
ENDING = {signal.SIGTERM, signal.SIGINT}
NAME = re.compile(r"^[a-z0-9][a-z0-9_.-]{0,62}$")
DIGEST = re.compile(r"^(sha256:)?[0-9a-f]{12,64}$")
# What Docker's own registry is called, and what an engine wants to be told for it.
HUBS = ("docker.io", "index.docker.io", "registry-1.docker.io")
HUB = "https://index.docker.io/v1/"


class Refused(Exception):
    """What the engine answered in place of doing it."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class Late(SystemExit):
    """The engine did not answer in time."""


class Ended(Exception):
    """The step was cancelled, or its time is up."""


def fail(message):
    # The last line is what a step's error quotes.
    sys.exit(" ".join(line.strip() for line in str(message).splitlines() if line.strip()))


def note(message):
    print(message, file=sys.stderr, flush=True)


def seconds(text):
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(r"([0-9.]+)(ms|[dhms])", str(text)))


def engine_socket():
    said = os.environ.get("SOCKET", "")
    if said:
        return said.removeprefix("unix://")
    own = os.environ.get("XDG_RUNTIME_DIR")
    for path in ENGINES + ([own + "/podman/podman.sock"] if own else []):
        if os.path.exists(path):
            return path
    fail(f"there is no container engine here: none of {', '.join(ENGINES)}; say its socket in `config: {{container: {{socket: ..}}}}`")


class Connection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("engine", timeout=timeout)
        self.path = path

    def connect(self):
        # An answer takes `sock` away, and how long it is waited for changes.
        self.wire = self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self.path)
        except OSError as error:
            fail(f"the container engine's socket {self.path} can't be used: {error.strerror or error}; does it run, and may this user use it?")


@contextlib.contextmanager
def heard(what):
    """An answer that is late, breaks off or makes no sense, in words."""
    try:
        yield
    except TimeoutError:
        raise Late(f"the container engine did not answer {what} in time") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        fail(f"the connection to the container engine broke ({what}): {error}")


def send(method, path, query=None, body=None, headers=None, timeout=PATIENCE_SECONDS):
    """An answer whose body is still to be read."""
    if query:
        path += "?" + urllib.parse.urlencode(query)
    headers = dict(headers or {})
    if isinstance(body, (dict, list)):
        body = json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
    connection = Connection(engine_socket(), timeout)
    with heard(f"{method} {path.split('?')[0]}"):
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
    answer.wire = connection.wire
    if answer.status >= 400:
        with heard(f"{method} {path.split('?')[0]}"):
            text = answer.read(65536).decode(errors="replace")
        try:
            text = json.loads(text)["message"]
        except (ValueError, KeyError, TypeError):
            pass
        raise Refused(answer.status, text.strip())
    return answer


def ask(method, path, query=None, body=None, **more):
    answer = send(method, path, query, body, **more)
    with heard(f"{method} {path}"):
        text = answer.read()
        return json.loads(text) if text.strip() else None


def lines_of(answer):
    """The JSON objects of an answer that comes bit by bit."""
    rest = b""
    with heard("its reports"):
        while part := answer.read1(65536):
            *whole, rest = (rest + part).split(b"\n")
            yield from (json.loads(line) for line in whole if line.strip())
        if rest.strip():
            yield json.loads(rest)


def quoted(name):
    return urllib.parse.quote(name, safe="")


# What belongs to whom.


def process_started(pid):
    """When a process began, by the kernel's count: with its number it names no other."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def here():
    """This boot of this machine, and the space of process numbers in it."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    return socket.gethostname(), boot, os.readlink("/proc/self/ns/pid")


def labels():
    machine, boot, space = here()
    return {
        "siskin.run": os.environ.get("SISKIN_RUN", ""),
        "siskin.step": os.environ.get("SISKIN_STEP", ""),
        "siskin.machine": machine,
        "siskin.boot": boot,
        "siskin.space": space,
        "siskin.process": f"{os.getpid()}/{process_started(os.getpid())}",
    }


def is_left(found):
    """Whether what bears these labels was left by a process that is gone."""
    machine, boot, space = here()
    if found.get("siskin.machine") != machine:
        return False
    if found.get("siskin.boot") != boot:
        return True
    if found.get("siskin.space") != space:
        return False
    pid, _, started = found.get("siskin.process", "").partition("/")
    return pid.isdigit() and process_started(pid) != started


def sweep():
    """Removes what was left; its names."""
    ours = json.dumps({"label": ["siskin.run", "siskin.process"]})
    removed = []
    for container in ask("GET", "/containers/json", {"all": 1, "filters": ours}) or []:
        if is_left(container.get("Labels") or {}):
            remove_container(container["Id"])
            removed.append((container.get("Names") or [container["Id"]])[0].lstrip("/"))
    for network in ask("GET", "/networks", {"filters": ours}) or []:
        if is_left(network.get("Labels") or {}):
            remove_network(network["Id"])
            removed.append(network["Name"])
    for name in removed:
        note(f"removed {name}, which a worker that was killed had left")
    return removed


def remove_container(id):
    try:
        ask("DELETE", f"/containers/{id}", {"force": "true", "v": "true"})
    except Refused as refused:
        # Gone, or going.
        if refused.status not in (404, 409):
            note(f"the container {id[:12]} can't be removed: {refused}")


def remove_network(id):
    for _ in range(20):
        try:
            return ask("DELETE", f"/networks/{id}")
        except Refused as refused:
            if refused.status == 404:
                return None
            problem = refused
            time.sleep(0.1)
    note(f"the network {id[:12]} can't be removed: {problem}")


# Paths.


def workspace():
    return os.path.realpath(os.environ.get("SISKIN_WORKSPACE") or os.getcwd())


def inside(path, what):
    """The real path of something in the workspace."""
    base = workspace()
    real = os.path.realpath(os.path.join(base, path))
    if real != base and not real.startswith(base + os.sep):
        fail(f"{what} `{path}` leads out of the workspace; only what is in it may be used")
    if not os.path.exists(real):
        fail(f"{what} `{path}` is not in the workspace")
    return real


# Building.


def ignored(context):
    """What .dockerignore leaves out: a function of a path relative to the context."""
    try:
        with open(os.path.join(context, ".dockerignore"), encoding="utf-8") as file:
            said = [line.strip() for line in file]
    except OSError:
        return lambda path: False
    rules = []
    for line in said:
        if not line or line.startswith("#"):
            continue
        keeps = line.startswith("!")
        pattern = os.path.normpath(line.lstrip("!").strip()).lstrip("/")
        expression = "".join(translated(part) for part in re.split(r"(\*\*/?|\*|\?|\\.|\[\^?\]?(?:\\.|[^\]\\])*\])", pattern))
        try:
            rules.append((keeps, re.compile(expression + r"(?:/.*)?\Z")))
        except re.error as error:
            fail(f".dockerignore has a pattern that is none, `{line}`: {error}")

    def is_ignored(path):
        out = False
        for keeps, pattern in rules:
            if pattern.match(path):
                out = not keeps
        return out

    return is_ignored


def translated(part):
    """What a part of a pattern of .dockerignore is as a regular expression."""
    if part.startswith("[") and part.endswith("]") and len(part) > 1:
        # As Docker has it: a class of a regular expression. What is more than that in one of Python is escaped.
        return "[" + re.sub(r"(\\.)|([\[&|~])", lambda found: found.group(1) or "\\" + found.group(2), part[1:])
    if part.startswith("\\") and len(part) == 2:
        return re.escape(part[1])
    return {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part))


def packed(context, dockerfile):
    """The context as a tar file, links as links, without who owned it."""
    is_ignored = ignored(context)
    file = tempfile.TemporaryFile(dir=workspace())
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for folder, folders, files in os.walk(context):
            folders.sort()
            for name in sorted(folders + files):
                path = os.path.join(folder, name)
                relative = os.path.relpath(path, context)
                # The engine needs these two, whatever is ignored.
                if is_ignored(relative) and relative not in (dockerfile, ".dockerignore"):
                    continue
                entry = tar.gettarinfo(path, relative)
                if entry is None:
                    continue
                entry.uid = entry.gid = 0
                entry.uname = entry.gname = ""
                if entry.isreg():
                    with open(path, "rb") as source:
                        tar.addfile(entry, source)
                else:
                    tar.addfile(entry)
    file.seek(0)
    return file


def build(given):
    context = inside(given["context"], "the context")
    if not os.path.isdir(context):
        fail(f"the context `{given['context']}` is no folder")
    dockerfile = os.path.normpath(given["dockerfile"])
    if dockerfile.startswith(("..", "/")):
        fail(f"the Dockerfile `{given['dockerfile']}` leads out of the context")
    if not os.path.isfile(os.path.join(context, dockerfile)):
        fail(f"there is no Dockerfile `{given['dockerfile']}` in `{given['context']}`")
    inside(os.path.join(context, dockerfile), "the Dockerfile")
    tags = given["tags"]
    for tag in tags:
        tag_of(tag)
    query = [("t", tag) for tag in tags]
    query += [("dockerfile", dockerfile), ("rm", "1"), ("forcerm", "1"), ("version", "1")]
    query += [("buildargs", json.dumps(texts(given["args"])))]
    query += [("labels", json.dumps(texts(given["labels"])))]
    if given["target"]:
        query.append(("target", given["target"]))
    if given["pull"]:
        query.append(("pull", "1"))
    if given["no_cache"]:
        query.append(("nocache", "1"))
    headers = {"Content-Type": "application/x-tar"}
    image = None
    with packed(context, dockerfile) as body:
        headers["Content-Length"] = str(os.fstat(body.fileno()).st_size)
        try:
            answer = send("POST", "/build", query, body, headers, timeout=None)
        except Refused as refused:
            fail(f"the engine does not build it: {refused}")
        for said in lines_of(answer):
            if "stream" in said:
                sys.stdout.write(said["stream"])
                sys.stdout.flush()
                # What Podman says, and old engines.
                match = re.match(r"(?:Successfully built )?([0-9a-f]{12,64})\s*\Z", said["stream"])
                image = match.group(1) if match and not image else image
            elif "status" in said and "progressDetail" not in said:
                print(said["status"], flush=True)
            if "error" in said:
                fail(f"the build failed: {said['error'].strip()}")
            if (said.get("aux") or {}).get("ID"):
                image = said["aux"]["ID"]
    if not image:
        fail("the engine ended the build without an image; its log is above")
    built = ask("GET", f"/images/{quoted(image)}/json")
    return {"image": with_algorithm(built["Id"]), "tags": tags, "size": built.get("Size", 0)}


def with_algorithm(id):
    return id if id.startswith("sha256:") else "sha256:" + id


def texts(given):
    return {str(name): value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}


# Registries.


def tag_of(reference):
    """Repository and tag of a name."""
    repository, colon, tag = reference.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = reference, "latest"
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", tag):
        fail(f"`{reference}` has no valid tag: letters, digits, `_`, `.` and `-`, 128 at most, `.` and `-` not first")
    if not repository or "@" in repository or re.search(r"\s|//", repository):
        fail(f"`{reference}` is no name of an image; write HOST/REPOSITORY:TAG")
    return repository, tag


def host_of(repository):
    first, slash, _ = repository.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost")
    return first.lower() if is_host and first.lower() not in HUBS else HUB


def host_of_login():
    """Whose user and password the configuration has, where it says so."""
    host = os.environ.get("REGISTRY", "").rpartition("://")[2].partition("/")[0].lower()
    return HUB if host in HUBS else host


def plain_if_here(repository):
    """Docker takes a registry on its own machine to speak plain HTTP; Podman has to be told."""
    host = repository.partition("/")[0].rpartition(":")[0]
    return {"tlsVerify": "false"} if host == "localhost" or host.startswith("127.") else {}


def login_of(repository, host):
    """The login at the registry of a repository: ours at `host`, and none at another, which could keep what it sees."""
    login = {"serveraddress": host_of(repository)}
    user, password = os.environ.get("REGISTRY_USER", ""), os.environ.get("REGISTRY_PASSWORD", "")
    if (user or password) and host == host_of(repository):
        login.update(username=user, password=password)
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(login).encode()).decode()}


def push(given):
    repository, tag = tag_of(given["to"])
    image = given["image"]
    try:
        ask("POST", f"/images/{quoted(image)}/tag", {"repo": repository, "tag": tag})
    except Refused as refused:
        fail(f"the engine has no image `{image}`" if refused.status == 404 else f"`{image}` can't be called `{given['to']}`: {refused}")
    try:
        query, login = {"tag": tag, **plain_if_here(repository)}, login_of(repository, host_of_login() or host_of(repository))
        answer = send("POST", f"/images/{urllib.parse.quote(repository)}/push", query, b"", login, timeout=None)
    except Refused as refused:
        fail(f"`{given['to']}` was not pushed: {refused}{hint(str(refused), repository)}")
    digest, shown = None, None
    for said in lines_of(answer):
        if "error" in said:
            fail(f"`{given['to']}` was not pushed: {said['error'].strip()}{hint(said['error'], repository)}")
        if (said.get("aux") or {}).get("Digest"):
            digest = said["aux"]["Digest"]
        status = said.get("status", "")
        if match := re.search(r"digest: (sha256:[0-9a-f]{64})", status):
            digest = digest or match.group(1)
        if status and status != shown and "progress" not in said:
            print(f"{said['id']}: {status}" if said.get("id") else status, flush=True)
            shown = status
    if not digest:
        digest = digest_known(image, repository)
    if not digest:
        fail(f"`{given['to']}` was pushed, but the engine does not say under which digest")
    return {"digest": digest, "reference": f"{repository}@{digest}"}


def digest_known(image, repository):
    for known in ask("GET", f"/images/{quoted(image)}/json").get("RepoDigests") or []:
        name, _, digest = known.partition("@")
        if name == repository:
            return digest
    return None


def hint(error, repository):
    if not re.search(r"unauthori[sz]ed|denied|no basic auth|authentication required", error, re.IGNORECASE):
        return ""
    host = "docker.io" if host_of(repository) == HUB else host_of(repository)
    return f"; say `user` and `password_secret` in `config: {{container: ..}}`, and `registry: {host}` if they are for that one"


def fetched(image, when):
    """The digest of an image that the engine has, fetched before where that is wanted."""
    def known():
        try:
            return with_algorithm(ask("GET", f"/images/{quoted(image)}/json")["Id"])
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    found = known()
    if found and when != "always" or DIGEST.match(image):
        if not found:
            fail(f"the engine has no image `{image}`; was it built on another machine?")
        return found
    if when == "never":
        fail(f"the engine has no image `{image}`, and may not fetch it (`pull: never`)")
    name, tag = image.split("@") if "@" in image else tag_of(image)
    try:
        answer = send("POST", "/images/create", {"fromImage": name, "tag": tag}, b"", login_of(name, host_of_login()), timeout=None)
    except Refused as refused:
        fail(f"the image `{image}` can't be fetched: {refused}{hint(str(refused), name)}")
    for said in lines_of(answer):
        if "error" in said:
            fail(f"the image `{image}` can't be fetched: {said['error'].strip()}{hint(said['error'], name)}")
    return known() or fail(f"the image `{image}` was fetched, and is not there")


# Running.


class Tail:
    """The end of what was printed."""

    def __init__(self):
        self.bytes = b""

    def add(self, part):
        self.bytes = (self.bytes + part)[-TAIL_BYTES:]

    def text(self):
        return self.bytes.decode(errors="replace").strip()


def frames(answer):
    """What a container without a terminal prints: its stream and its bytes."""
    while header := exactly(answer, 8):
        stream, size = struct.unpack(">BxxxL", header)
        yield stream, exactly(answer, size)


def exactly(answer, size):
    parts = []
    while size:
        part = answer.read(size)
        if not part:
            return b""
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class Uninterrupted:
    """A signal waits: what was made in between would be known to nobody."""

    def __enter__(self):
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)

    def __exit__(self, *_):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


class World:
    """What one step starts, and how all of it is removed."""

    def __init__(self):
        self.containers, self.networks, self.names = [], [], {}

    def create(self, name, body):
        body.setdefault("Labels", {}).update(labels())
        with Uninterrupted():
            made = self.created(name, body)
            self.containers.append(made["Id"])
        return made["Id"]

    @staticmethod
    def created(name, body):
        try:
            return ask("POST", "/containers/create", {"name": name}, body)
        except Refused as refused:
            # An engine without the small program that would be the first process; then the command is it.
            if "init" not in str(refused) or not body["HostConfig"].get("Init"):
                raise
            body["HostConfig"]["Init"] = False
            return ask("POST", "/containers/create", {"name": name}, body)

    def network(self, name):
        with Uninterrupted():
            made = ask("POST", "/networks/create", body={"Name": name, "Labels": labels(), "CheckDuplicate": True})
            self.networks.append(made["Id"])
        return name

    def close(self):
        for id in reversed(self.containers):
            remove_container(id)
        for id in self.networks:
            remove_network(id)


def words(command):
    if command is None:
        return None
    if isinstance(command, str):
        return ["sh", "-ec", command]
    if isinstance(command, list) and command and all(isinstance(word, (str, int, float)) for word in command):
        return [str(word) for word in command]
    fail("`command` must be a list of words, or a text for the shell")


def body_of(image, given):
    body = {"Image": image, "Env": [f"{name}={value}" for name, value in texts(given.get("env") or {}).items()]}
    if (command := words(given.get("command"))) is not None:
        body["Cmd"] = command
    if given.get("entrypoint"):
        body["Entrypoint"] = [str(word) for word in given["entrypoint"]]
    elif isinstance(given.get("command"), str):
        # An entrypoint of the image would take our shell for its argument. An empty list leaves it with Podman; one empty word is none for both.
        body["Entrypoint"] = [""]
    return body


def binds_of(given):
    binds = []
    if given["workspace"]:
        binds.append({"Type": "bind", "Source": workspace(), "Target": target(given["workspace"])})
    for mount in given["mounts"]:
        if not isinstance(mount, dict) or set(mount) - {"from", "to", "read_only"} or not {"from", "to"} <= set(mount):
            fail(f"a mount is {{from, to, read_only}}, not {json.dumps(mount)}")
        source = inside(mount["from"], "the mount")
        binds.append({"Type": "bind", "Source": source, "Target": target(mount["to"]), "ReadOnly": bool(mount.get("read_only"))})
    return binds


def target(path):
    if not path.startswith("/") or os.path.normpath(path) == "/":
        fail(f"`{path}` is no place for a mount: it must be an absolute path, and not /")
    return os.path.normpath(path)


def size_of(text):
    match = re.fullmatch(r"([0-9]+)\s*([bkmgt]?)b?", text.strip().lower())
    if not match:
        fail(f"`memory` must be as 512m or 2g, not `{text}`")
    return int(match.group(1)) * SIZES[match.group(2)]


def limits(given, is_podman):
    host = {"Init": True, "PidsLimit": given["pids"], "SecurityOpt": ["no-new-privileges"]}
    if not is_podman:
        # Whatever the engine's own driver is, this one can be read.
        host["LogConfig"] = {"Type": "json-file", "Config": {"max-size": "256m"}}
    if given["memory"]:
        host["Memory"] = host["MemorySwap"] = size_of(given["memory"])
    if given.get("cpus"):
        host["NanoCpus"] = int(float(given["cpus"]) * 1e9)
    return host


def is_podman():
    version = ask("GET", "/version")
    return any("podman" in part.get("Name", "").lower() for part in version.get("Components") or [])


def start(id, what):
    try:
        ask("POST", f"/containers/{id}/start")
    except Refused as refused:
        fail(f"{what} does not start: {refused}")


def log_of(id):
    tail = Tail()
    query = {"stdout": "true", "stderr": "true", "tail": "200"}
    try:
        with heard("the log"):
            for _, part in frames(send("GET", f"/containers/{id}/logs", query)):
                tail.add(part)
    except (Refused, SystemExit) as error:
        # Why it is asked for is what is to be said.
        note(error)
    return tail.text()


def state_of(id):
    return ask("GET", f"/containers/{id}/json")["State"]


def is_ready(id, command, deadline):
    """Whether a command in a service succeeds; None where it does not end in time."""
    made = ask("POST", f"/containers/{id}/exec", body={"Cmd": words(command), "AttachStdout": True, "AttachStderr": True})
    deadline = max(deadline, time.monotonic() + 1)
    try:
        body = {"Detach": False, "Tty": False}
        answer = send("POST", f"/exec/{made['Id']}/start", body=body, timeout=deadline - time.monotonic())
        with heard("the command `ready`"):
            # One that prints without end does not end either.
            while (left := deadline - time.monotonic()) > 0:
                answer.wire.settimeout(left)
                if not answer.read1(65536):
                    break
            else:
                return None
    except Late:
        return None
    return ask("GET", f"/exec/{made['Id']}/json").get("ExitCode") == 0


def wait_until_ready(id, service):
    name, patience = service["name"], seconds(service.get("timeout") or "1m")
    began = time.monotonic()
    while True:
        state = state_of(id)
        if not state["Running"]:
            died(id, name, state)
        health = (state.get("Health") or {}).get("Status") or ""
        if service.get("ready"):
            try:
                ready = is_ready(id, service["ready"], began + patience)
            except Refused:
                # It ended in this moment; that is seen above.
                ready = False
        else:
            ready = health in ("", "none", "healthy")
        if ready:
            note(f"the service {name} is ready after {time.monotonic() - began:.1f} s")
            return
        if ready is None or time.monotonic() - began > patience:
            hangs = "; its command `ready` did not end" if ready is None else ""
            fail(f"the service {name} was not ready within {patience:g} s: {last_words(id, name)}{hangs}")
        time.sleep(0.2 if time.monotonic() - began < 5 else 1)


def died(id, name, state):
    why = "it ran out of memory" if state.get("OOMKilled") else f"exit status {state.get('ExitCode')}"
    fail(f"the service {name} ended ({why}): {last_words(id, name)}")


def last_words(id, name):
    """Shows the log of a service; its last line."""
    log = log_of(id)
    note(f"the log of the service {name}:\n{log}")
    return last_line(log)


def last_line(text):
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it printed nothing")
    return last[:500]


def check_services(services):
    names = set()
    known = {"name", "image", "env", "command", "entrypoint", "ready", "timeout"}
    for service in services:
        if not isinstance(service, dict) or not {"name", "image"} <= set(service):
            fail(f"a service needs `name` and `image`, not {json.dumps(service)}")
        if set(service) - known:
            fail(f"`{sorted(set(service) - known)[0]}` is no key of a service; it has {', '.join(sorted(known))}")
        if not NAME.match(service["name"]) or service["name"] in names:
            fail(f"`{service['name']}` can't be the name of a service, or another has it")
        names.add(service["name"])


def run(given):
    services = given["services"]
    check_services(services)
    if services and given["network"] != "own":
        fail(f"services are reached by the network `own`, not by `{given['network']}`")
    binds = binds_of(given)
    podman = is_podman()
    image = fetched(given["image"], given["pull"])
    world = World()
    prefix = f"siskin-{os.environ.get('SISKIN_RUN', '0')}-{os.getpid()}"
    try:
        network = given["network"]
        if network == "own":
            # Also without services: on the engine's common one are the containers of others.
            network = world.network(prefix)
        running = {}
        for service in services:
            body = body_of(fetched(service["image"], given["pull"]), service)
            body["HostConfig"] = {**limits(given, podman), "NetworkMode": network}
            body["NetworkingConfig"] = {"EndpointsConfig": {network: {"Aliases": [service["name"]]}}}
            body["Hostname"] = service["name"]
            id = world.create(f"{prefix}-{service['name']}", body)
            running[service["name"]] = id
            start(id, f"the service {service['name']}")
            wait_until_ready(id, service)
        body = body_of(image, given)
        body["HostConfig"] = {**limits(given, podman), "NetworkMode": network, "Mounts": binds}
        if given["workdir"] or given["workspace"]:
            body["WorkingDir"] = given["workdir"] or target(given["workspace"])
        if user := given["user"] or (f"{os.getuid()}:{os.getgid()}" if os.getuid() and binds else ""):
            body["User"] = user
        id = world.create(prefix, body)
        start(id, "the container")
        tail = followed(id, running)
        state = state_of(id)
        code = state.get("ExitCode", -1)
        result = {"code": code, "image": image, "tail": tail.text()}
        if code == 0:
            return result
        told(result)
        why = " (it ran out of memory)" if state.get("OOMKilled") else ""
        fail(f"the container ended with exit status {code}{why}: {last_line(tail.text())}")
    finally:
        # A second signal must not stop what the first has begun.
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        world.close()


def followed(id, services):
    """Prints what a container prints until it ends; fails when one of the services does so first."""
    tail, over = Tail(), threading.Event()
    problem = []

    def follow():
        try:
            query = {"follow": "true", "stdout": "true", "stderr": "true"}
            for stream, part in frames(send("GET", f"/containers/{id}/logs", query, timeout=None)):
                out = sys.stderr if stream == 2 else sys.stdout
                out.buffer.write(part)
                out.flush()
                tail.add(part)
        except (Refused, OSError, SystemExit, http.client.HTTPException, ValueError) as error:
            problem.append(error)
        finally:
            over.set()

    threading.Thread(target=follow, daemon=True).start()
    while not over.wait(0.5):
        for name, service in services.items():
            state = state_of(service)
            # One that ends after the container is no loss.
            if not state["Running"] and state_of(id)["Running"]:
                died(service, name, state)
    while state_of(id)["Running"]:
        if problem:
            fail(f"what the container prints can't be read: {problem[0]}")
        time.sleep(0.1)
    if problem:
        note(f"the end of what the container printed is lost: {problem[0]}")
    return tail


def told(output):
    with os.fdopen(os.dup(3), "w") as result:
        json.dump(output, result)


def ended(number, _frame):
    raise Ended(signal.Signals(number).name)


def main():
    # Where the worker is killed, nothing says so to the engine: the next one sweeps.
    for number in ENDING:
        signal.signal(number, ended)
    what = sys.argv[1]
    given = json.load(sys.stdin)
    try:
        swept = sweep()
        if what == "sweep":
            told({"removed": swept})
        else:
            told({"build": build, "push": push, "run": run}[what](given))
    except Ended as signal_name:
        fail(f"ended by {signal_name}; what it had started is removed")
    except Refused as refused:
        fail(f"the container engine answered {refused.status}: {refused}")


if __name__ == "__main__":
    main()
