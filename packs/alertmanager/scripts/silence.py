#!/usr/bin/env python3
"""Makes and ends silences of an Alertmanager. Input: JSON on stdin; output: JSON on descriptor 3; URL and TOKEN in the environment."""

import datetime
import json
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request

MATCHER = re.compile(r"^\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*(.*?)\s*$", re.DOTALL)
UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}


def fail(message):
    sys.exit(message)


def ask(method, path, body=None):
    """An answer as status and data; every status is an answer."""
    url = os.environ["URL"].rstrip("/") + "/api/v2/" + path
    request = urllib.request.Request(url, method=method)
    request.add_header("Accept", "application/json")
    if os.environ.get("TOKEN"):
        request.add_header("Authorization", "Bearer " + os.environ["TOKEN"])
    if body is not None:
        request.add_header("Content-Type", "application/json")
        request.data = json.dumps(body).encode()
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            status, text = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read().decode(errors="replace")
    except (urllib.error.URLError, OSError) as error:
        fail(f"Alertmanager can't be reached: {getattr(error, 'reason', error)}; is `url` right?")
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text


def want(status, answer, doing):
    if status != 200:
        fail(f"Alertmanager would not {doing}: {status} {str(answer)[:300]}")
    return answer


def matcher(text):
    found = MATCHER.match(text)
    if not found:
        fail(f"`{text}` is no matcher; write one as app=\"shop\" or instance=~\"web.*\"")
    name, operator, value = found.groups()
    if len(value) >= 2 and value[0] == value[-1] == '"':
        try:
            value = json.loads(value)
        except ValueError:
            fail(f"the value in `{text}` is no quoted text")
    return {"name": name, "value": value, "isRegex": "~" in operator, "isEqual": operator[0] == "="}


def seconds(text):
    """Of a duration such as 90s or 1h30m."""
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(r"([0-9.]+)(ms|[dhms])", str(text)))


def moment(when):
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def create(given):
    matchers = [matcher(text) for text in given["matchers"]]
    comment = f"{given['comment']} (run {os.environ['SISKIN_RUN']}, step {os.environ['SISKIN_STEP']})"
    silences = want(*ask("GET", "silences"), "list its silences")

    def key(entries):
        return sorted((m["name"], m["value"], m["isRegex"], m.get("isEqual", True)) for m in entries)

    for silence in silences:
        is_ours = silence["comment"] == comment and key(silence["matchers"]) == key(matchers)
        if is_ours and silence["status"]["state"] != "expired":
            return {"id": silence["id"], "ends_at": silence["endsAt"], "created": False}
    now = datetime.datetime.now(datetime.timezone.utc)
    ends_at = moment(now + datetime.timedelta(seconds=seconds(given["for"])))
    silence = {"matchers": matchers, "startsAt": moment(now), "endsAt": ends_at, "createdBy": given["created_by"], "comment": comment}
    made = want(*ask("POST", "silences", silence), "make the silence")
    return {"id": made["silenceID"], "ends_at": ends_at, "created": True}


def expire(given):
    path = "silence/" + urllib.parse.quote(given["id"], safe="")
    status, silence = ask("GET", path)
    # 422: what is no id at all.
    if status in (404, 422):
        fail(f"Alertmanager knows no silence {given['id']}")
    if want(status, silence, "show the silence")["status"]["state"] == "expired":
        return {"expired": False}
    want(*ask("DELETE", path), "end the silence")
    return {"expired": True}


def main():
    output = {"create": create, "expire": expire}[sys.argv[1]](json.load(sys.stdin))
    with os.fdopen(3, "w") as result:
        json.dump(output, result)


main()
