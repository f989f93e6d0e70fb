#!/usr/bin/env python3
"""One look at a URL. Input: JSON on stdin; output: JSON on descriptor 3. Whatever comes of it is an answer, not a failure."""

import json
import os
import re
import sys
import time
import urllib.error
import urllib.request

UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}
READ_BYTES = 1 << 20


def seconds(text):
    """Of a duration such as 90s or 1m30s."""
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(r"([0-9.]+)(ms|[dhms])", str(text)))


def look(given):
    """Status and body, or why there is none."""
    try:
        request = urllib.request.Request(given["url"], headers={name: str(value) for name, value in given["headers"].items()})
        with urllib.request.urlopen(request, timeout=seconds(given["within"])) as answer:
            return answer.status, answer.read(READ_BYTES).decode(errors="replace"), None
    except urllib.error.HTTPError as error:
        return error.code, error.read(READ_BYTES).decode(errors="replace"), None
    except (OSError, ValueError) as error:
        return None, "", str(getattr(error, "reason", error))
    except Exception as error:  # What speaks no HTTP is no failure of ours.
        return None, "", f"no HTTP answer: {error!r}"


def main():
    given = json.load(sys.stdin)
    begun = time.monotonic()
    status, body, problem = look(given)
    took = round((time.monotonic() - begun) * 1000)
    if problem is None and status not in given["status"]:
        problem = f"status {status}, not {' or '.join(map(str, given['status']))}"
    if problem is None and (given.get("contains") or "") not in body:
        problem = f"the body does not hold `{given['contains']}`"
    print(problem or f"ok, {status} after {took} ms")
    with os.fdopen(3, "w") as result:
        json.dump({"ok": problem is None, "status": status, "problem": problem, "milliseconds": took}, result)


main()
