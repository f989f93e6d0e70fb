#!/usr/bin/env python3
"""Speaks with container registries by the distribution API. Input: JSON on stdin; output: JSON on descriptor 3."""

import base64
import hashlib
import http.client
import json
import os
import random
import re
import ssl
import sys
import tempfile
import time
import urllib.parse

MANIFESTS = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
]
LISTS = MANIFESTS[:2]
LARGEST_MANIFEST = 8 << 20
CHUNK = int(os.environ.get("SISKIN_REGISTRY_CHUNK") or 8 << 20)
TRIES = 8
LONGEST_PAUSE_SECONDS = 30
PATIENCE_SECONDS = 60
REDIRECTS = 5
REFERENCE = re.compile(
    r"^(?P<host>[A-Za-z0-9.-]+(?::[0-9]+)?)/(?P<repository>[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?$"
)
TAG = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")


def fail(message):
    # The last line is what a step's error quotes.
    sys.exit(" ".join(line.strip() for line in str(message).splitlines() if line.strip()))


def note(message):
    print(message, file=sys.stderr, flush=True)


class Reference:
    def __init__(self, text, what):
        match = REFERENCE.match(text)
        if not match:
            fail(f"{what} `{text}` is no reference of an image; write HOST/REPOSITORY:TAG or HOST/REPOSITORY@sha256:..")
        self.text, self.host, self.repository = text, match["host"], match["repository"]
        self.tag, self.digest = match["tag"], match["digest"]

    def version(self):
        return self.digest or self.tag or "latest"


class Broken(Exception):
    """The connection broke, or the answer says to come again; `after` is when."""

    def __init__(self, why, after=None):
        super().__init__(why)
        self.after = after


class Answer:
    def __init__(self, response, url):
        self.status, self.headers, self.url, self.response = response.status, response.headers, url, response

    def body(self, most=LARGEST_MANIFEST):
        try:
            body = self.response.read(most + 1)
        except (OSError, http.client.HTTPException) as error:
            raise Broken(f"the answer broke off: {error}") from error
        if len(body) > most:
            fail(f"the answer of {self.url.netloc} is larger than {most >> 20} MiB")
        return body

    def said(self):
        try:
            errors = json.loads(self.body(65536))["errors"]
            return "; ".join(str(error.get("message") or error.get("code")) for error in errors)
        except (ValueError, KeyError, TypeError, AttributeError, Broken):
            return http.client.responses.get(self.status, "nothing more")


class Registry:
    def __init__(self, host, user, password, keys="`user` and `password_secret`"):
        self.host, self.user, self.password, self.keys = host, user, password, keys
        self.authorization = {}
        plain = is_here(host) or host in filter(None, os.environ.get("INSECURE", "").split(","))
        self.base = f"{'http' if plain else 'https'}://{host}"

    def send(self, method, path, body=None, headers=None, scope="pull", beside=None):
        """One request, over redirects, with a token got where one is wanted. Breaks by `Broken`."""
        url = self.place(self.base, path)
        repository = self.repository_of(url.path)
        known = (repository, scope, beside)
        for attempt in range(2):
            answer = self.once(method, url, body, headers, self.authorization.get(known))
            # Another that is led to could ask for our password by a challenge.
            if answer.status != 401 or attempt or not self.is_own(answer.url):
                break
            challenge = answer.headers.get("WWW-Authenticate", "")
            answer.body(65536)
            self.authorization[known] = self.authorized(challenge, repository, scope, beside)
            if hasattr(body, "seek"):
                body.seek(0)
        if answer.status in (401, 403):
            who = f"the user `{self.user}`" if self.user else f"whoever has not logged in; say {self.keys}"
            fail(f"{self.host} forbids {who} this ({method} {repository or path}): {answer.said()}")
        if answer.status in (408, 429) or answer.status >= 500:
            raise Broken(f"{self.host} answered {answer.status} ({answer.said()})", retry_after(answer))
        return answer

    def is_own(self, url):
        return f"{url.scheme}://{url.netloc}" == self.base

    def place(self, base, location):
        """Where a location leads to; one behind a proxy may take itself for plain HTTP, which must not show a token."""
        url = urllib.parse.urlsplit(urllib.parse.urljoin(base, location))
        is_plain = url.scheme == "http" and url.netloc == self.host and self.base.startswith("https:")
        return url._replace(scheme="https") if is_plain else url

    @staticmethod
    def repository_of(path):
        match = re.match(r"/v2/(.+?)/(?:manifests|blobs|tags)/", path)
        return match.group(1) if match else ""

    def once(self, method, url, body, headers, authorization):
        for _ in range(REDIRECTS + 1):
            sent = {"User-Agent": "siskin", **(headers or {})}
            # Where blobs really lie is somebody else, who must not see our token.
            if authorization and self.is_own(url):
                sent["Authorization"] = authorization
            connection = connect(url)
            try:
                connection.request(method, (url.path or "/") + (f"?{url.query}" if url.query else ""), body=body, headers=sent)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, ssl.SSLCertVerificationError):
                    fail(f"the certificate of {url.netloc} is not trusted: {error.verify_message}; say `ca`")
                raise Broken(f"{url.netloc} does not answer: {error or type(error).__name__}") from error
            if method in ("GET", "HEAD") and response.status in (301, 302, 303, 307, 308) and response.headers.get("Location"):
                url = self.place(url.geturl(), response.headers["Location"])
                continue
            return Answer(response, url)
        fail(f"{self.host} leads from one address to another without end")

    def authorized(self, challenge, repository, scope, beside):
        """What the header `Authorization` says after this challenge; `beside` is a repository that is read too."""
        kind, _, rest = challenge.partition(" ")
        basic = "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode() if self.user or self.password else None
        if kind.lower() == "basic":
            if not basic:
                fail(f"{self.host} wants a user; say {self.keys} in `config: {{registry: ..}}`")
            return basic
        if kind.lower() != "bearer":
            fail(f"{self.host} wants to be logged in to in a way that is not known here: {challenge[:100] or 'it does not say which'}")
        said = dict(re.findall(r'([a-z]+)="([^"]*)"', rest))
        realm = urllib.parse.urlsplit(said.get("realm", ""))
        if realm.scheme not in ("http", "https") or (realm.scheme == "http" and self.base.startswith("https:")):
            fail(f"{self.host} sends for a token to `{said.get('realm', '')[:100]}`, which is no address that may see a password")
        query = urllib.parse.parse_qsl(realm.query)
        if "service" in said:
            query.append(("service", said["service"]))
        scopes = (said.get("scope") or f"repository:{repository}:{scope}").split()
        if beside and not any(f":{beside}:" in wanted for wanted in scopes):
            scopes.append(f"repository:{beside}:pull")
        query += [("scope", wanted) for wanted in scopes]
        url = realm._replace(query=urllib.parse.urlencode(query))
        connection = connect(url)
        try:
            connection.request("GET", f"{url.path}?{url.query}", headers={"User-Agent": "siskin", **({"Authorization": basic} if basic else {})})
            answer = Answer(connection.getresponse(), url)
        except (OSError, http.client.HTTPException) as error:
            raise Broken(f"{url.netloc}, which gives tokens, does not answer: {error}") from error
        if answer.status == 429 or answer.status >= 500:
            raise Broken(f"{url.netloc}, which gives tokens, answered {answer.status}", retry_after(answer))
        if answer.status != 200:
            fail(f"{url.netloc} gives {'the user `' + self.user + '`' if basic else 'nobody'} no token for {repository}: {answer.said()}")
        granted = json.loads(answer.body(1 << 20))
        token = granted.get("token") or granted.get("access_token") or fail(f"{url.netloc} gave no token")
        return "Bearer " + token

    def ask(self, *args, **more):
        return again(lambda: self.send(*args, **more))

    # Manifests.

    def manifest(self, repository, version):
        """Bytes, media type and digest, verified; or nothing."""

        def once():
            answer = self.send("GET", f"/v2/{repository}/manifests/{version}", headers={"Accept": ", ".join(MANIFESTS)})
            if answer.status == 404:
                return None
            if answer.status != 200:
                fail(f"{self.host} answered {answer.status} for {repository}:{version}: {answer.said()}")
            return answer, answer.body()

        found = again(once)
        if found is None:
            return None
        answer, body = found
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        said = answer.headers.get("Docker-Content-Digest")
        if version.startswith("sha256:") and digest != version or said and said != digest:
            fail(f"what {self.host} gives for {repository}@{said or version} has the digest {digest}: it is not that image")
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        return body, kind if kind in MANIFESTS else json.loads(body).get("mediaType", kind), digest

    def digest(self, repository, version):
        found = self.manifest(repository, version)
        return found[2] if found else None

    def put_manifest(self, repository, version, body, kind):
        answer = self.ask("PUT", f"/v2/{repository}/manifests/{version}", body, {"Content-Type": kind}, scope="pull,push")
        if answer.status not in (200, 201, 202):
            fail(f"{self.host} does not take the manifest of {repository}:{version}: {answer.status} {answer.said()}")

    # Layers.

    def has_blob(self, repository, digest):
        answer = self.ask("HEAD", f"/v2/{repository}/blobs/{digest}", scope="pull,push")
        return answer.status == 200

    def fetch_blob(self, repository, digest, file):
        """Into a file, going on where it broke off."""
        state = {"hash": hashlib.sha256()}

        def once():
            size = file.tell()
            headers = {"Range": f"bytes={size}-"} if size else {}
            answer = self.send("GET", f"/v2/{repository}/blobs/{digest}", headers=headers)
            if answer.status not in (200, 206):
                fail(f"{self.host} answered {answer.status} for the layer {digest} of {repository}: {answer.said()}")
            if size and answer.status == 200:
                file.seek(0)
                file.truncate()
                state["hash"] = hashlib.sha256()
            expected = answer.headers.get("Content-Length")
            got = 0
            try:
                while part := answer.response.read(1 << 20):
                    file.write(part)
                    state["hash"].update(part)
                    got += len(part)
            except (OSError, http.client.HTTPException) as error:
                raise Broken(f"the layer {digest[:19]} broke off: {error}") from error
            if expected and got != int(expected):
                raise Broken(f"the layer {digest[:19]} broke off after {got} of {expected} bytes")

        again(once)
        if "sha256:" + state["hash"].hexdigest() != digest:
            fail(f"what {self.host} gives for the layer {digest} of {repository} is something else")

    def mount(self, repository, digest, source):
        """Whether the registry took it from another of its repositories; else where it may be sent to."""
        query = "?" + urllib.parse.urlencode({"mount": digest, "from": source}) if source else ""
        answer = self.ask("POST", f"/v2/{repository}/blobs/uploads/{query}", b"", {"Content-Length": "0"}, scope="pull,push", beside=source)
        if answer.status == 201:
            return None
        if answer.status != 202 or not answer.headers.get("Location"):
            fail(f"{self.host} does not take a layer of {repository}: {answer.status} {answer.said()}")
        return urllib.parse.urljoin(self.base, answer.headers["Location"])

    def push_blob(self, repository, digest, file, where):
        """In parts; after a break from where the registry says that it got to."""
        size = file.seek(0, os.SEEK_END)
        state = {"where": where, "at": 0}

        def part():
            if state["at"] < 0:
                self.ask_where(state, repository)
            file.seek(state["at"])
            data = file.read(CHUNK)
            headers = {"Content-Type": "application/octet-stream", "Content-Range": f"{state['at']}-{state['at'] + len(data) - 1}", "Content-Length": str(len(data))}
            try:
                answer = self.send("PATCH", state["where"], data, headers, scope="pull,push")
            except Broken:
                state["at"] = -1
                raise
            if answer.status == 416:
                state["at"] = -1
                raise Broken("the registry has another part than that")
            if answer.status != 202:
                fail(f"{self.host} does not take a part of the layer {digest} of {repository}: {answer.status} {answer.said()}")
            state["where"] = urllib.parse.urljoin(self.base, answer.headers.get("Location", state["where"]))
            # It may have taken less than it was sent.
            taken = re.fullmatch(r"(?:bytes=)?0-([0-9]+)", answer.headers.get("Range", ""))
            state["at"] = int(taken.group(1)) + 1 if taken else state["at"] + len(data)

        while state["at"] < size:
            again(part)

        def finish():
            url = urllib.parse.urlsplit(state["where"])
            query = urllib.parse.parse_qsl(url.query, keep_blank_values=True) + [("digest", digest)]
            url = url._replace(query=urllib.parse.urlencode(query))
            answer = self.send("PUT", url.geturl(), b"", {"Content-Length": "0"}, scope="pull,push")
            if answer.status == 404 and self.has_blob(repository, digest):
                return
            if answer.status not in (201, 204):
                fail(f"{self.host} does not take the layer {digest} of {repository}: {answer.status} {answer.said()}")

        again(finish)

    def ask_where(self, state, repository):
        """How far an upload has come that broke off."""
        answer = self.send("GET", state["where"], scope="pull,push")
        if answer.status not in (200, 204):
            # Forgotten, or broken off in the middle of a part, which some registries do not take up: it begins anew.
            state["where"], state["at"] = self.mount(repository, "", None), 0
            return
        state["where"] = urllib.parse.urljoin(self.base, answer.headers.get("Location", state["where"]))
        taken = re.fullmatch(r"(?:bytes=)?0-([0-9]+)", answer.headers.get("Range", ""))
        # An upload that has nothing yet says 0-0, as one of one byte does.
        state["at"] = int(taken.group(1)) + 1 if taken and taken.group(1) != "0" else 0
        note(f"the upload goes on at byte {state['at']}")


def retry_after(answer):
    said = answer.headers.get("Retry-After", "")
    return int(said) if said.isdigit() else None


def connect(url):
    if url.scheme == "http":
        return http.client.HTTPConnection(url.hostname, url.port, timeout=PATIENCE_SECONDS)
    try:
        context = ssl.create_default_context(cafile=os.environ.get("REGISTRY_CA") or None)
    except OSError as error:
        fail(f"the certificate `{os.environ.get('REGISTRY_CA')}` can't be read: {error}")
    return http.client.HTTPSConnection(url.hostname, url.port, timeout=PATIENCE_SECONDS, context=context)


def again(once):
    """Tries until it does not break any more, with longer and longer pauses."""
    for attempt in range(TRIES):
        try:
            return once()
        except Broken as broken:
            if attempt + 1 == TRIES:
                fail(f"{broken}; it was tried {TRIES} times")
            pause = broken.after if broken.after is not None else 0.25 * 2**attempt * random.uniform(0.5, 1)
            note(f"{broken}; again in {min(pause, LONGEST_PAUSE_SECONDS):.1f} s")
            time.sleep(min(pause, LONGEST_PAUSE_SECONDS))


def is_here(host):
    """Whether it is a registry on this machine."""
    name = host.rpartition(":")[0] or host
    return name == "localhost" or re.fullmatch(r"127(\.[0-9]{1,3}){3}", name) is not None


def registry_of(reference, goal=None):
    """A registry with the login that is meant for it; what is copied to `goal` may come from whoever its name says."""
    env = os.environ.get
    login = [env("REGISTRY_USER", ""), env("REGISTRY_PASSWORD", "")]
    if goal and (env("FROM_USER") or env("FROM_PASSWORD")):
        login = [env("FROM_USER", ""), env("FROM_PASSWORD", "")]
    elif goal and reference.host != goal.host and not (is_here(reference.host) and is_here(goal.host)):
        login = ["", "", "`from_user` and `from_password_secret`"]
    return Registry(reference.host, *login)


def may_stand(registry, repository, tag, digest, immutable):
    """Whether a tag is still to be set; fails where it must not be moved."""
    there = registry.digest(repository, tag)
    if there == digest:
        return False
    if there and immutable:
        fail(f"the tag `{tag}` of {registry.host}/{repository} is {there} already, and does not move; choose another, or say `immutable: false`")
    return True


def copy(given):
    source, goal = Reference(given["from"], "`from`"), Reference(given["to"], "`to`")
    if goal.digest:
        fail("`to` is a repository with or without a tag: the digest is the image's own")
    there = registry_of(goal)
    # One whose secrets are the same needs but one token.
    here = there if source.host == goal.host and not (os.environ.get("FROM_USER") or os.environ.get("FROM_PASSWORD")) else registry_of(source, goal)
    found = here.manifest(source.repository, source.version())
    if not found:
        fail(f"there is no image {given['from']}")
    body, kind, digest = found
    counts = {"copied": 0, "mounted": 0, "known": 0}
    is_new = not goal.tag or may_stand(there, goal.repository, goal.tag, digest, given["immutable"])
    if is_new and there.digest(goal.repository, digest) is None:
        copy_manifest(here, source, there, goal, body, kind, counts)
        there.put_manifest(goal.repository, digest, body, kind)
    if is_new and goal.tag:
        there.put_manifest(goal.repository, goal.tag, body, kind)
    stands = there.digest(goal.repository, goal.tag or digest)
    if stands != digest:
        fail(f"{given['to']} is {stands} after the copy, and not {digest}: somebody else set it at the same time")
    return {"digest": digest, "reference": f"{goal.host}/{goal.repository}@{digest}", **counts}


def copy_manifest(here, source, there, goal, body, kind, counts):
    """All that a manifest names, before it is put itself."""
    manifest = json.loads(body)
    if kind in LISTS:
        for entry in manifest["manifests"]:
            if there.digest(goal.repository, entry["digest"]):
                continue
            found = here.manifest(source.repository, entry["digest"])
            if not found:
                fail(f"{here.host} lacks {entry['digest']}, which the list of {source.text} names")
            copy_manifest(here, source, there, goal, found[0], found[1], counts)
            there.put_manifest(goal.repository, found[2], found[0], found[1])
        return
    if "layers" not in manifest:
        fail(f"the image {source.text} has a manifest of a kind that is not known here: {kind}")
    for layer in [manifest["config"], *manifest["layers"]]:
        copy_layer(here, source, there, goal, layer, counts)


def copy_layer(here, source, there, goal, layer, counts):
    digest = layer["digest"]
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        fail(f"the layer `{digest[:80]}` has no digest of SHA-256")
    # What lies elsewhere by design is not copied.
    if layer.get("urls"):
        return
    if there.has_blob(goal.repository, digest):
        counts["known"] += 1
        return
    where = there.mount(goal.repository, digest, source.repository if here.host == there.host else None)
    if where is None:
        counts["mounted"] += 1
        return
    with tempfile.TemporaryFile(dir=os.environ.get("SISKIN_WORKSPACE") or None) as file:
        here.fetch_blob(source.repository, digest, file)
        there.push_blob(goal.repository, digest, file, where)
    counts["copied"] += 1
    note(f"copied {digest[:19]}, {layer.get('size', 0)} bytes")


def tag(given):
    image = Reference(given["image"], "`image`")
    for name in given["tags"]:
        if not TAG.match(str(name)):
            fail(f"`{name}` is no tag: letters, digits, `_`, `.` and `-`, 128 at most, `.` and `-` not first")
    registry = registry_of(image)
    found = registry.manifest(image.repository, image.version())
    if not found:
        fail(f"there is no image {given['image']}")
    body, kind, digest = found
    # All are looked at before the first is set.
    changed = [name for name in given["tags"] if may_stand(registry, image.repository, name, digest, given["immutable"])]
    for name in changed:
        registry.put_manifest(image.repository, name, body, kind)
    return {"digest": digest, "changed": changed}


def list_tags(given):
    repository = Reference(given["repository"], "`repository`")
    registry, tags = registry_of(repository), []
    path = f"/v2/{repository.repository}/tags/list"
    while path:
        answer = registry.ask("GET", path)
        if answer.status == 404:
            break
        if answer.status != 200:
            fail(f"{registry.host} does not list {repository.repository}: {answer.status} {answer.said()}")
        tags += json.loads(answer.body()).get("tags") or []
        following = re.search(r'<([^>]+)>;\s*rel="?next"?', answer.headers.get("Link", ""))
        path = following.group(1) if following else None
    return {"tags": tags, "count": len(tags)}


def digest(given):
    image = Reference(given["image"], "`image`")
    found = registry_of(image).manifest(image.repository, image.version())
    if not found:
        return {"found": False}
    return {"found": True, "digest": found[2], "media_type": found[1], "reference": f"{image.host}/{image.repository}@{found[2]}"}


def main():
    given = json.load(sys.stdin)
    output = {"copy": copy, "tag": tag, "list": list_tags, "digest": digest}[sys.argv[1]](given)
    with os.fdopen(3, "w") as result:
        json.dump(output, result)


if __name__ == "__main__":
    main()
