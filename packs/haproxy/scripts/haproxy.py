#!/usr/bin/env python3
"""Speaks with HAProxy's runtime socket, which is named by SOCKET. Input: JSON on stdin; output: JSON on descriptor 3."""

import csv
import json
import os
import re
import socket
import sys
import time

UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}
NAME = re.compile(r"^[A-Za-z0-9_.:-]+$")
WEIGHT = re.compile(r"^[0-9]{1,3}%?$")
# Bits of `srv_admin_state`: what was said by the socket, by the configuration, or follows from another server.
MAINT = 0x01 | 0x02 | 0x04 | 0x20 | 0x40
DRAIN = 0x08 | 0x10
LOOK_AGAIN_SECONDS = 0.2


def fail(message):
    sys.exit(message)


def seconds(text):
    """Of a duration such as 90s or 1m30s."""
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(r"([0-9.]+)(ms|[dhms])", str(text)))


def ask(command):
    """One command, one connection: HAProxy closes it after its answer."""
    where = os.environ["SOCKET"]
    try:
        if "/" in where:
            stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            stream.settimeout(10)
            stream.connect(where)
        else:
            host, _, port = where.rpartition(":")
            if not host or not port.isdigit():
                fail(f"`{where}` is no socket: it must be the path of one, or HOST:PORT")
            stream = socket.create_connection((host.strip("[]"), int(port)), timeout=10)
        with stream:
            stream.sendall(command.encode() + b"\n")
            parts = []
            while part := stream.recv(65536):
                parts.append(part)
    except OSError as error:
        fail(f"HAProxy's socket {where} can't be used: {error.strerror or error}; does HAProxy run, and may this user use it?")
    answer = b"".join(parts).decode(errors="replace").strip()
    if "ermission denied" in answer:
        fail(f"HAProxy refuses `{command}`: its socket {where} needs `level admin`")
    return answer


def tell(command):
    """A command that says nothing when it is done."""
    answer = ask(command)
    if answer:
        fail(f"HAProxy refuses `{command}`: {answer}")


def names(given, *keys):
    """Texts of the input that become words of a command: nothing in them may end the word."""
    for key in keys:
        if not NAME.match(given[key]):
            fail(f"`{given[key]}` can't be the name of a {key}")
    return [given[key] for key in keys]


def servers_of(backend):
    """Its servers by name, from the two lists that each tell a half."""
    text = ask(f"show servers state {backend}")
    lines = text.splitlines()
    header = next((line[1:].split() for line in lines if line.startswith("#")), None)
    if header is None:
        if "find backend" in text or "No such backend" in text:
            fail(f"HAProxy has no backend `{backend}`; it has {', '.join(backends()) or 'none'}")
        fail(f"HAProxy does not say how the servers of `{backend}` are: {text[:200]}")
    rows = [dict(zip(header, line.split())) for line in lines if line and not line.startswith("#") and " " in line]
    stats = {row["svname"]: row for row in statistics() if row["pxname"] == backend}
    found = {}
    for row in rows:
        name = row["srv_name"]
        stat = stats.get(name, {})
        admin, status = int(row["srv_admin_state"]), stat.get("status", "")
        state = "maint" if admin & MAINT else "drain" if admin & DRAIN else "down" if status.startswith(("DOWN", "NOLB")) else "up"
        found[name] = {
            "name": name,
            "address": f"{row['srv_addr']}:{row.get('srv_port', '')}".rstrip(":"),
            "state": state,
            "status": status,
            "weight": int(row["srv_uweight"]),
            "configured_weight": int(row["srv_iweight"]),
            "sessions": int(stat.get("scur") or 0),
        }
    return found


def statistics():
    text = ask("show stat")
    return list(csv.DictReader(text.removeprefix("# ").splitlines()))


def backends():
    return sorted({row["pxname"] for row in statistics() if row["svname"] == "BACKEND"})


def server_of(backend, server):
    servers = servers_of(backend)
    if server not in servers:
        fail(f"the backend `{backend}` has no server `{server}`; it has {', '.join(sorted(servers)) or 'none'}")
    return servers[server]


def change(given, command, is_set, is_done=lambda server: True):
    """Says it unless it was said already, and waits until it has come true."""
    backend, server = names(given, "backend", "server")
    before = server_of(backend, server)
    changed = not is_set(before)
    if changed:
        tell(f"set server {backend}/{server} {command}")
    end = time.monotonic() + seconds(given["wait"])
    now, told = server_of(backend, server), None
    while not (is_set(now) and is_done(now)):
        if time.monotonic() > end:
            fail(f"`{backend}/{server}` did not become as asked within {given['wait']}: it is {now['status']}, weight {now['weight']}, with {now['sessions']} sessions")
        line = f"{now['status']}, {now['sessions']} sessions"
        if line != told:
            print(line, flush=True)
            told = line
        time.sleep(LOOK_AGAIN_SECONDS)
        now = server_of(backend, server)
    output = {key: now[key] for key in ("state", "status", "weight", "sessions")}
    return output | {"was": {"state": before["state"], "weight": before["weight"]}, "changed": changed}


def drain(given):
    return change(
        given,
        "state drain",
        lambda server: server["state"] == "drain",
        lambda server: server["sessions"] <= given["sessions"],
    )


def ready(given):
    return change(
        given,
        "state ready",
        lambda server: server["state"] in ("up", "down"),
        lambda server: server["status"] in ("UP", "no check"),
    )


def maint(given):
    return change(given, "state maint", lambda server: server["state"] == "maint")


def weight(given):
    text = given["weight"]
    if not WEIGHT.match(text):
        fail(f"`{text}` is no weight: 0 to 256, or a percentage")

    def is_set(server):
        wanted = int(text.rstrip("%"))
        if text.endswith("%"):
            wanted = min(server["configured_weight"] * wanted // 100, 256)
        return server["weight"] == wanted

    return change(given, f"weight {text}", is_set)


def servers(given):
    (backend,) = names(given, "backend")
    found = list(servers_of(backend).values())
    for server in found:
        del server["configured_weight"]
    return {"servers": found, "up": [server["name"] for server in found if server["state"] == "up"], "count": len(found)}


def main():
    action = {"drain": drain, "ready": ready, "maint": maint, "weight": weight, "servers": servers}[sys.argv[1]]
    output = action(json.load(sys.stdin))
    with os.fdopen(3, "w") as result:
        json.dump(output, result)


main()
