"""Faults on request: ``CLASS[GLOB]:KIND:COUNT``, comma separated.

They strike the first COUNT matching requests (default 1, ``*`` for ever; ``+K`` after the count lets K pass first).

CLASS  whoami create info list tree paths refs branch tag preupload batch put verify commit commits validate xet,
       head (HEAD of resolve), resolve (GET of resolve, the other origin included), or any. GLOB matches the file path
       (head, resolve), the oid (put) or the request path (all others).
KIND   4xx or 5xx; 429=SECS and 503=SECS send Retry-After (429 alone sends 1)
       reset[@F]     connection reset after fraction F of the response body (0.5); on a request without a response
                     body, or @0, before any byte. Uploads and commits are not applied.
       lost          the request is applied, then the connection is reset: no response
       mangled       the request is applied, and the answer is broken JSON
       truncate[@F]  Content-Length of the whole body, connection closed after F (0.5)
       short[@F]     consistent but too short: Content-Length is F of the real size
       corrupt[@F]   same length, the byte at F (0.75) has its bits flipped; on put as it is stored
       slow=S        the body takes S seconds     delay=S  S seconds before the response
       hang[@F]=S    F (0.5) of the body, then silence for S seconds, then a reset
       html          200 with an HTML page (a login page in between)     badjson  200 with broken JSON
"""

from __future__ import annotations

import fnmatch
import re
import threading


class Fault:
    def __init__(self, text: str):
        m = re.fullmatch(
            r"(?P<cls>[a-z]+)(\[(?P<glob>[^\]]+)\])?:(?P<kind>[a-z0-9]+)(@(?P<at>[0-9.]+))?(=(?P<arg>[0-9.]+))?"
            r"(:(?P<count>\d+|\*))?(\+(?P<skip>\d+))?",
            text.strip(),
        )
        if not m:
            raise ValueError(f"bad fault {text!r}")
        self.text, self.cls, self.glob, self.kind = text.strip(), m["cls"], m["glob"], m["kind"]
        known = {"reset", "lost", "mangled", "truncate", "short", "corrupt", "slow", "delay", "hang", "html", "badjson"}
        if self.kind not in known and not re.fullmatch(r"[45]\d\d", self.kind):
            raise ValueError(f"unknown fault kind {self.kind!r} in {text!r}")
        self.at = None if m["at"] is None else float(m["at"])
        self.arg = None if m["arg"] is None else float(m["arg"])
        self.left = -1 if m["count"] == "*" else int(m["count"] or 1)
        self.skip = int(m["skip"] or 0)

    def state(self) -> dict:
        return {"fault": self.text, "left": self.left, "skip": self.skip}


class Faults:
    def __init__(self, spec: str = ""):
        self.lock = threading.Lock()
        self.set(spec)

    def set(self, spec: str) -> None:
        items = [Fault(x) for x in (spec or "").split(",") if x.strip()]
        with self.lock:
            self.items = items

    def take(self, cls: str, target: str):
        with self.lock:
            for f in self.items:
                if f.left == 0 or f.cls not in (cls, "any"):
                    continue
                if f.glob and not fnmatch.fnmatch(target, f.glob):
                    continue
                if f.skip > 0:
                    f.skip -= 1
                    continue
                if f.left > 0:
                    f.left -= 1
                return f
        return None
