#!/usr/bin/env python3
"""Puts packages into a repository of reprepro, aptly or Freight. Input: JSON on stdin; output: JSON on descriptor 3.

Programs are started by lists of arguments, never by a shell: no value can become a command, or two.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile


def fail(message):
    sys.exit(message)


def run(words, **more):
    """What a program prints; it must succeed."""
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, errors="replace", check=False, **more)
    except OSError as error:
        fail(f"{words[0]} can't be started: {error.strerror}; is it installed on this worker?")
    sys.stderr.write(done.stderr)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        fail(f"{words[0]} {words_shown(words)} failed with {done.returncode}: {'; '.join(said[-3:])}")
    return done.stdout


def words_shown(words):
    return " ".join(word for word in words[1:] if not word.startswith("-"))[:200]


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else hashlib.sha256(file.read()).hexdigest()


def inspect(path):
    """Name, version, architecture and digest of a package; dpkg judges whether it is one."""
    text = run(["dpkg-deb", "--show", "--showformat", "${Package}\n${Version}\n${Architecture}\n", "--", path])
    fields = text.splitlines()
    if len(fields) < 3 or not all(fields[:3]):
        fail(f"{path} says no name, version or architecture")
    name, version, architecture = fields[:3]
    return {"path": path, "name": name, "version": version, "architecture": architecture, "sha256": digest(path)}


def identity(package):
    return package["name"], package["version"], package["architecture"]


def refuse(package, suite, known):
    fail(f"{package['name']} {package['version']} ({package['architecture']}) is in {suite} already with other bytes: published sha256 {known}, "
         f"given sha256 {package['sha256']}; give the new package a new version")


def absolute(values, name):
    path = values[name]
    if path and not os.path.isabs(path):
        fail(f"`{name}` must be an absolute path, not `{path}`")
    return path


def unknown(suite, known):
    fail(f"`{suite}` is no suite of this repository, which has {', '.join(sorted(known)) or 'none'}")


def paragraphs(text):
    for paragraph in re.split(r"\n\s*\n", text):
        fields = {}
        for line in paragraph.splitlines():
            name, colon, value = line.partition(":")
            if colon and not line.startswith((" ", "\t", "#")):
                fields[name.strip().lower()] = value.strip()
        if fields:
            yield fields


class Reprepro:
    def __init__(self, values):
        self.directory = absolute(values, "directory") or fail("`directory` is missing: the base directory of reprepro")
        self.component = values["component"]
        self.options = ["--gnupghome", values["gnupg_home"]] if values["gnupg_home"] else []

    def call(self, *words):
        return run(["reprepro", "--basedir", self.directory, *self.options, *words])

    def suites(self):
        try:
            with open(os.path.join(self.directory, "conf/distributions"), encoding="utf-8") as file:
                found = list(paragraphs(file.read()))
        except OSError as error:
            fail(f"{self.directory} is no directory of reprepro: conf/distributions can't be read ({error.strerror})")
        return {name for fields in found for name in (fields.get("codename"), fields.get("suite")) if name}

    def held(self, suite, package):
        """Version and digest of what the suite has under the name and architecture."""
        listed = self.call("--list-format", "${Version} ${Architecture} ${SHA256}\n", "list", suite, package["name"])
        for line in listed.splitlines():
            version, architecture, *sums = line.split()
            if architecture == package["architecture"]:
                yield version, sums[0] if sums else ""

    def check(self, suite, package):
        for version, known in self.held(suite, package):
            if version == package["version"] and known and known != package["sha256"]:
                refuse(package, suite, known)

    def add(self, suite, packages):
        component = ["--component", self.component] if self.component else []
        for package in packages:
            self.call(*component, "includedeb", suite, package["path"])
            # An older version than the one that is there is passed over without an error.
            held = list(self.held(suite, package))
            if (package["version"], package["sha256"]) not in held:
                fail(f"reprepro did not take {package['name']} {package['version']} into {suite}, which has {', '.join(version for version, _ in held) or 'none'}: "
                     f"it keeps one version only, the highest")


class Aptly:
    def __init__(self, values):
        self.configuration = absolute(values, "configuration")
        self.prefix = values["prefix"]
        self.repositories = values["repositories"]
        self.key = values["key"]

    def call(self, *words):
        options = [f"-config={self.configuration}"] if self.configuration else []
        return run(["aptly", *options, *words])

    def repository(self, suite):
        name = str(self.repositories.get(suite, suite))
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+~-]*", name):
            fail(f"`{name}` can't be the name of a repository of aptly")
        return name

    def suites(self):
        prefix = self.prefix.rstrip("/") or "."
        published = set()
        for line in self.call("publish", "list", "-raw").splitlines():
            where, _, suite = line.strip().rpartition(" ")
            if where.rstrip("/") == prefix:
                published.add(suite)
        known = set(self.call("repo", "list", "-raw").split())
        return {suite for suite in published if self.repository(suite) in known}

    def check(self, suite, package):
        query = f"{package['name']} (= {package['version']}) {{{package['architecture']}}}"
        shown = run_quietly(["aptly", *([f"-config={self.configuration}"] if self.configuration else []), "package", "show", query])
        for fields in paragraphs(shown):
            known = fields.get("sha256", "")
            if known and known != package["sha256"]:
                refuse(package, suite, known)

    def add(self, suite, packages):
        self.call("repo", "add", self.repository(suite), *[package["path"] for package in packages])
        key = [f"-gpg-key={self.key}"] if self.key else []
        prefix = [self.prefix] if self.prefix else []
        self.call("publish", "update", "-batch", *key, suite, *prefix)


def run_quietly(words):
    """As `run`, of a question whose answer may be that there is nothing."""
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace", check=False)
    return done.stdout if done.returncode == 0 else ""


class Freight:
    def __init__(self, values):
        self.configuration = absolute(values, "configuration") or "/etc/freight.conf"
        self.component = values["component"]
        self.library = self.setting("VARLIB") or "/var/lib/freight"
        self.known = {}

    def setting(self, name):
        try:
            with open(self.configuration, encoding="utf-8") as file:
                found = re.findall(rf"^\s*{name}=[\"']?([^\"'\n]*)[\"']?\s*$", file.read(), re.MULTILINE)
        except OSError as error:
            fail(f"Freight's configuration {self.configuration} can't be read: {error.strerror}")
        return found[-1] if found else None

    def folder(self, suite):
        return os.path.join(self.library, "apt", suite, *([self.component] if self.component else []))

    def suites(self):
        try:
            return {entry.name for entry in os.scandir(os.path.join(self.library, "apt")) if entry.is_dir()}
        except OSError as error:
            fail(f"{self.library}/apt can't be read: {error.strerror}; make a folder for each suite there")

    @staticmethod
    def file_name(package):
        # As dpkg-name calls it: the epoch is not part of it.
        return f"{package['name']}_{package['version'].rpartition(':')[2]}_{package['architecture']}.deb"

    def held(self, suite):
        """All packages of a suite; looked at once, for it takes a process for each."""
        if suite not in self.known:
            folder = self.folder(suite)
            names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
            self.known[suite] = [inspect(os.path.join(folder, name)) for name in names if name.endswith(".deb")]
        return self.known[suite]

    def check(self, suite, package):
        # Freight itself goes by the name of the file, which may be any: it would take the same version twice, or keep the old bytes and say that all is well.
        for held in self.held(suite):
            is_same = held["sha256"] == package["sha256"]
            if identity(held) == identity(package) and not is_same:
                refuse(package, suite, held["sha256"])
            if os.path.basename(held["path"]) == self.file_name(package) and not is_same:
                fail(f"{held['path']} is {held['name']} {held['version']} ({held['architecture']}), and stands in the way of {package['name']} {package['version']}")

    def add(self, suite, packages):
        target = "/".join(part for part in ("apt", suite, self.component) if part)
        there = {held["sha256"] for held in self.held(suite)}
        with tempfile.TemporaryDirectory() as folder:
            for package in packages:
                if package["sha256"] in there:
                    continue
                given = os.path.join(folder, self.file_name(package))
                shutil.copyfile(package["path"], given)
                # One suite a call: a list would become the name of one folder, with a blank in it.
                run(["freight-add", "-c", self.configuration, given, target])
                place = os.path.join(self.folder(suite), self.file_name(package))
                if not os.path.exists(place) or digest(place) != package["sha256"]:
                    fail(f"freight did not take {package['path']} into {suite}")
        run(["freight-cache", "-c", self.configuration, f"apt/{suite}"])


TOOLS = {"reprepro": Reprepro, "aptly": Aptly, "freight": Freight}


def main():
    values = json.load(sys.stdin)
    if values["gnupg_home"]:
        os.environ["GNUPGHOME"] = absolute(values, "gnupg_home")
    os.environ["LC_ALL"] = "C"
    tool = TOOLS[values["tool"]](values)
    paths = [os.path.abspath(path) for path in values["packages"]]
    # A lock of ours, so that what is looked at stays so until it is changed: not all of the tools have one.
    place = getattr(tool, "directory", "") or getattr(tool, "library", "") or os.path.expanduser("~")
    with open(os.path.join(place, ".siskin-drive.lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        packages = [inspect(path) for path in paths]
        known = tool.suites()
        suites = list(dict.fromkeys(values["suites"]))
        for suite in suites:
            if suite not in known:
                unknown(suite, known)
        for suite in suites:
            for package in packages:
                tool.check(suite, package)
        for suite in suites:
            tool.add(suite, packages)
    added = [{"suite": suite, **{name: value for name, value in package.items() if name != "path"}} for suite in suites for package in packages]
    with open(3, "w", encoding="utf-8") as out:
        json.dump({"added": added, "suites": suites}, out)


main()
