"""The HTTP side: dispatch, authentication, the log, and answers that go wrong when a fault says so."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import sys
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from loopback_hub.storage import Refused, Store

if TYPE_CHECKING:
    from loopback_hub import LoopbackHub

CHUNK = 256 * 1024
REPO = r"(?P<repo>[^/]+/[^/]+)"
API = r"/api/models/" + REPO


class _Drop(Exception):
    """Stop now; the connection is to be closed."""


class _Answered(Exception):
    """The response has been sent already; the connection stays open."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    allow_reuse_address = True

    def __init__(self, addr, hub: LoopbackHub, is_cdn: bool, handler: type[Plumbing]):
        self.hub, self.is_cdn, self.to_reset, self.live = hub, is_cdn, set(), set()
        super().__init__(addr, handler)

    def get_request(self):
        request, address = super().get_request()
        self.live.add(request)
        return request, address

    def server_close(self):
        super().server_close()
        for request in list(self.live):  # a hub that is down keeps no connection open
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request):
        self.live.discard(request)
        if id(request) in self.to_reset:  # SO_LINGER 0 is set: close() sends RST, no FIN first
            self.to_reset.discard(id(request))
            with contextlib.suppress(OSError):
                request.close()
            return
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


ROUTES: list[tuple[str, re.Pattern, str, str]] = []


def route(methods: str, pattern: str, cls: str):
    def deco(fn):
        for m in methods.split():
            ROUTES.append((m, re.compile(pattern), cls, fn.__name__))
        return fn

    return deco


class Plumbing(BaseHTTPRequestHandler):
    """What every route needs; the routes are mixed in."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 300
    server: Server

    # ---- plumbing

    def log_message(self, *a):
        pass

    def version_string(self):
        return "loopback-hub"

    @property
    def hub(self) -> LoopbackHub:
        return self.server.hub

    @property
    def store(self) -> Store:
        return self.hub.store

    def do_GET(self):
        self.dispatch()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_GET

    def read_chunks(self):
        """The request body, once; a second call yields nothing."""
        if self._read:
            return
        self._read = True
        if "chunked" in (self.headers.get("Transfer-Encoding") or "").lower():
            while True:
                n = int(self.rfile.readline().split(b";")[0].strip() or b"0", 16)
                if n == 0:
                    while self.rfile.readline().strip():
                        pass
                    return
                while n:
                    data = self.rfile.read(min(n, CHUNK))
                    if not data:
                        raise ConnectionResetError("client went away")
                    n -= len(data)
                    self.req_bytes += len(data)
                    yield data
                self.rfile.readline()
        n = int(self.headers.get("Content-Length") or 0)
        while n:
            data = self.rfile.read(min(n, CHUNK))
            if not data:
                raise ConnectionResetError("client went away")
            n -= len(data)
            self.req_bytes += len(data)
            yield data

    def body(self) -> bytes:
        if self._body is None:
            self._body = b"".join(self.read_chunks())
        return self._body

    def drain(self):
        for _ in self.read_chunks():
            pass

    def json_body(self) -> dict:
        try:
            d = json.loads(self.body() or b"{}")
        except ValueError as e:
            raise Refused(400, "request body is not JSON") from e
        if not isinstance(d, dict):
            raise Refused(400, "request body must be a JSON object")
        return d

    def q(self, key: str, default=None):
        return self.query.get(key, [default])[0]

    def flag(self, key: str) -> bool:
        return str(self.q(key, "")).lower() in ("1", "true", "yes", "on")

    def dispatch(self):
        self.t0 = time.time()
        self.n = self.hub.next_n()
        self.req_bytes, self._body, self._read, self.user, self.role = 0, None, False, None, None
        self.logged, self.fault, self.cls, self.target, self.repo = False, None, "other", "", None
        parts = urlsplit(self.path)
        self.rawpath, self.query = parts.path, parse_qs(parts.query, keep_blank_values=True)
        self.qs = parts.query
        try:
            handler, args = None, {}
            for method, pattern, cls, name in ROUTES:
                m = pattern.fullmatch(self.rawpath)
                if m and (method == self.command or (method == "GET" and self.command == "HEAD")):
                    handler, args = getattr(self, name), {k: unquote(v or "") for k, v in m.groupdict().items()}
                    self.cls = "head" if cls == "resolve" and self.command == "HEAD" else cls
                    break
            self.repo = args.get("repo")
            signed_for = self.q("file") if self.cls == "resolve" else None  # on the cdn port
            self.target = args.get("path") or signed_for or args.get("oid") or self.rawpath
            self.fault = self.hub.faults.take(self.cls, self.target)
            try:
                self.early_fault()
                if handler is None:
                    raise Refused(404, f"no route for {self.command} {self.rawpath}")
                if not self.server.is_cdn and self.cls not in ("put", "cdn"):
                    self.authenticate()
                handler(**args)
                if not self.logged:
                    self.reply(200, b"")
            except Refused as e:
                h = dict(e.headers)
                h["X-Error-Message"] = e.message.splitlines()[0]
                if e.code:
                    h["X-Error-Code"] = e.code
                self.json({"error": e.message}, e.status, h)
        except _Answered:
            pass
        except _Drop:
            self.close_connection = True
        except (ConnectionError, TimeoutError) as e:
            self.close_connection = True
            if not self.logged:
                self.record(0, 0)
            self.hub.write_log({"n": self.n, "event": "client_abort", "why": type(e).__name__})
        except Exception as e:
            traceback.print_exc()
            self.close_connection = True
            if not self.logged:
                self.fault = None
                self.json({"error": f"the loopback hub crashed: {e!r}"}, 500)

    def record(self, status: int, resp_bytes: int):
        self.logged = True
        self.hub.write_log(
            {
                "n": self.n,
                "t": round(self.t0, 4),
                "method": self.command,
                "path": self.rawpath,
                "query": self.qs,
                "class": self.cls,
                "target": unquote(self.target),
                "repo": self.repo,
                "status": status,
                "auth": bool(self.headers.get("Authorization")),
                "user": self.user,
                "req_bytes": self.req_bytes,
                "resp_bytes": resp_bytes,
                "range": self.headers.get("Range"),
                "cdn": self.server.is_cdn,
                "fault": self.fault.text if self.fault else None,
                "ua": self.headers.get("User-Agent"),
                "ms": round((time.time() - self.t0) * 1000, 1),
            }
        )

    def reset_now(self, status=0, sent=0):
        if not self.logged:
            self.record(status, sent)
        time.sleep(0.05)  # let the peer read what was sent before the RST
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.server.to_reset.add(id(self.connection))
        raise _Drop

    def early_fault(self):
        f = self.fault
        if f is None:
            return
        if f.kind.isdigit():
            st = int(f.kind)
            h = {"X-Error-Message": f"injected {st}"}
            if f.arg is not None or st == 429:
                h["Retry-After"] = str(int(f.arg if f.arg is not None else 1))
            self.json({"error": f"injected {st}"}, st, h)
            raise _Answered
        if f.kind == "delay":
            time.sleep(f.arg or 1)
        if f.kind == "reset" and (f.at == 0 or self.command in ("POST", "PUT", "DELETE", "HEAD")):
            self.drain()
            self.reset_now()
        if f.kind in ("html", "badjson"):
            html = f.kind == "html"
            self.reply(
                200,
                b"<!doctype html><title>Sign in to the network</title>" if html else b'{"id": "tru',
                {"Content-Type": "text/html" if html else "application/json"},
            )
            raise _Answered

    def json(self, obj, status=200, headers=None):
        self.reply(
            status, json.dumps(obj).encode(), {"Content-Type": "application/json; charset=utf-8", **(headers or {})}
        )

    def reply(self, status: int, body=b"", headers: dict | None = None, start=0, length: int | None = None):
        """Send bytes, or `length` bytes of the file `body` (a Path) from `start`, applying body faults."""
        self.drain()  # so that the connection stays usable
        if self.fault is not None and self.fault.kind == "mangled" and status == 200:
            body = b'{"success": tru'
        total = len(body) if isinstance(body, bytes) else length
        f, k = self.fault, (self.fault.kind if self.fault else None)
        frac = 0.5 if f is None or f.at is None else f.at
        announce = send = total
        if k == "short":
            announce = send = int(total * frac)
        elif k in ("truncate", "reset", "hang"):
            send = int(total * frac)
        flip = int(total * (0.75 if f.at is None else f.at)) if k == "corrupt" and self.cls != "put" else -1
        flip = min(flip, total - 1) if total else -1
        if k == "lost":
            self.reset_now(status, 0)
        head_only = self.command == "HEAD" or status in (204, 304)
        h = {"Content-Length": str(announce), "X-Request-Id": f"Root=loopback-{self.n}", **(headers or {})}
        if status == 304:
            h.pop("Content-Length")
        self.record(status, 0 if head_only else send)
        self.send_response(status)
        for key, v in h.items():
            self.send_header(key, str(v))
        self.end_headers()
        if head_only:
            return
        chunk = CHUNK if k != "slow" else max(1, send // 20)
        pause = (f.arg or 2) / max(1, -(-send // chunk)) if k == "slow" else 0
        sent, fh = 0, None if isinstance(body, bytes) else body.open("rb")
        try:
            if fh:
                fh.seek(start)
            while sent < send:
                n = min(chunk, send - sent)
                data = fh.read(n) if fh else body[sent : sent + n]
                if sent <= flip < sent + len(data):
                    data = bytearray(data)
                    data[flip - sent] ^= 0xFF
                self.wfile.write(data)
                sent += len(data)
                if pause:
                    time.sleep(pause)
        except (ConnectionError, TimeoutError):
            self.hub.write_log({"n": self.n, "event": "client_abort", "sent": sent})
            self.close_connection = True
            return
        finally:
            if fh:
                fh.close()
        if k == "hang":
            time.sleep(f.arg or 30)
        if k in ("reset", "hang"):
            self.reset_now(status, sent)
        if k == "truncate":
            self.close_connection = True

    # ---- who may do what

    def authenticate(self):
        header = self.headers.get("Authorization")
        if not header:
            return
        kind, _, token = header.partition(" ")
        known = self.hub.tokens
        if kind.lower() == "bearer" and token.strip():
            if not known:
                self.user, self.role = "me", "write"
                return
            if token.strip() in known:
                self.user, self.role = known[token.strip()]
                return
        raise Refused(401, "Invalid credentials in Authorization header")

    def owns(self, ns: str) -> bool:
        return self.user is not None and (ns == self.user or ns in self.hub.orgs)

    def need_user(self):
        if self.user is None:
            raise Refused(401, "Invalid username or password.")

    def need_write(self, ns: str, what="this repo"):
        self.need_user()
        if self.role != "write":
            raise Refused(403, "You must use a token with write permission")
        if not self.owns(ns):
            raise Refused(403, f'You don\'t have the rights to write to {what} under the namespace "{ns}"')

    def get_repo(self, repo: str, write=False) -> dict:
        meta = self.store.load(repo)
        if meta is None or (meta["private"] and not self.owns(meta["author"])):
            # as on the real hub, an anonymous caller is not told missing from private
            raise Refused(401 if self.user is None else 404, "Repository not found", "RepoNotFound")
        if write:
            self.need_write(meta["author"])
        return meta

    def at(self, repo: str, rev: str):
        meta = self.get_repo(repo)
        sha = self.store.resolve(meta, rev or "main")
        return meta, sha, self.store.commit(repo, sha)

    def check_sig(self, repo, oid):
        if self.q("sig") != self.hub.sig(repo, oid):
            raise Refused(403, "SignatureDoesNotMatch")
