"""A small model hub on the loopback interface, for tests that drive the real clients.

It speaks the part of the Hugging Face Hub's HTTP protocol that huggingface_hub, timm and transformers use to push and
pull model repos, and can be told to fail (:mod:`loopback_hub.faults`)::

    with LoopbackHub(folder, tokens=["hf_x", "bob=hf_b:read"], orgs=["lab"], xet=True) as hub:
        hub.url; hub.set_faults("resolve[model.safetensors]:corrupt:1,commit:503:1"); hub.log()

A client needs ``HF_ENDPOINT=hub.url``, a private ``HF_HOME`` and, without ``xet``, ``HF_HUB_DISABLE_XET=1``; it reads
these when huggingface_hub is imported, so each configuration is a process of its own.

Modes: plain (LFS batch, PUT, verify, GET); ``cdn``: large files are redirected to a second origin, as the real hub
does; ``xet``: the token routes hand hf_xet a ``local://`` store, so that its own code moves the bytes, and commits
check what lies there. Tokens: ``TOKEN`` (user ``me``), ``USER=TOKEN`` or ``USER=TOKEN:read``; without any, every
bearer token is ``me``. An unknown token is a 401 everywhere; no token may read public repos only.

``log()`` has a row a request (never a token): ``n t method path query class target repo status auth user req_bytes
resp_bytes range cdn fault ua ms``; status 0 is a reset before any answer.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from pathlib import Path

from loopback_hub.downloads import Downloads
from loopback_hub.faults import Faults
from loopback_hub.plumbing import Server
from loopback_hub.reads import Reads
from loopback_hub.storage import Store
from loopback_hub.writes import Writes
from loopback_hub.xet_store import LocalCas

__all__ = ["LoopbackHub"]


class Handler(Reads, Writes, Downloads):
    """All routes."""


class LoopbackHub:
    """The hub; a context manager. ``root`` keeps its repos and its log, and survives it."""

    def __init__(self, root, *, port=0, tokens=(), orgs=(), faults="", cdn=False, xet=False, page_size=1000):
        self.root = Path(root).resolve()
        self.root.mkdir(parents=True, exist_ok=True)
        self.store, self.faults = Store(self.root), Faults(faults)
        self.store.cas = LocalCas(self.root / "cas") if xet else None
        self.tokens: dict[str, tuple[str, str]] = {}
        for spec in tokens:
            user, sep, token = spec.rpartition("=")
            token, _, role = token.partition(":")
            self.tokens[token] = (user if sep else "me", role or "write")
        self.orgs, self.page_size = set(orgs), int(page_size)
        self.secret, self.log_path = secrets.token_bytes(16), self.root / "requests.jsonl"
        self.log_lock, self.count = threading.Lock(), 0
        self.log_path.touch()
        self.server = Server(("127.0.0.1", port), self, False, Handler)
        self.cdn_server = Server(("127.0.0.1", 0), self, True, Handler) if cdn else None
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def blob_url(self) -> str:
        return f"http://127.0.0.1:{self.cdn_server.server_address[1]}" if self.cdn_server else self.url

    def sig(self, repo: str, oid: str) -> str:
        return hashlib.sha256(self.secret + f"{repo}/{oid}".encode()).hexdigest()[:24]

    def next_n(self) -> int:
        with self.log_lock:
            self.count += 1
            return self.count

    def write_log(self, row: dict) -> None:
        with self.log_lock, self.log_path.open("a") as f:
            f.write(json.dumps(row) + "\n")

    def log(self, cls: str | None = None) -> list[dict]:
        """The requests so far, of one class where given."""
        with self.log_lock:
            rows = [json.loads(x) for x in self.log_path.read_text().splitlines()]
        return [row for row in rows if "event" not in row and cls in (None, row["class"])]

    def clear_log(self) -> None:
        with self.log_lock:
            self.log_path.write_text("")

    def set_faults(self, spec: str) -> None:
        self.faults.set(spec)

    def change(self, repo: str, **values) -> None:
        """Set what a repo's owner would on its page: ``gated=True``, ``private=False``."""
        with self.store.lock:
            meta = self.store.load(repo)
            self.store.save({**meta, **values})

    def commit_files(self, repo: str, files: dict[str, bytes], private: bool = False) -> str:
        """Put files into a repo behind the protocol's back, as a stranger would; returns the new head."""
        with self.store.lock:
            meta = self.store.load(repo) or self.store.create(repo, private, repo.split("/")[0])
            head = meta["branches"]["main"]
            table = dict(self.store.commit(repo, head)["files"])
            for path, data in files.items():
                entry = self.store.put_blob(repo, data)
                table[path] = entry if len(data) < 1024 else self.store.lfs_entry(entry["sha256"], len(data))
            meta["branches"]["main"] = self.store.make_commit(repo, table, head, "by hand", "", "stranger")
            self.store.save(meta)
            return meta["branches"]["main"]

    def start(self) -> LoopbackHub:
        for s in filter(None, (self.server, self.cdn_server)):
            threading.Thread(target=s.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def stop(self) -> None:
        for s in filter(None, (self.server, self.cdn_server)):
            s.shutdown()
            s.server_close()

    __enter__ = start

    def __exit__(self, *a):
        self.stop()
