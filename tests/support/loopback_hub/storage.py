"""Repos on disk: ``ROOT/repos/<owner>/<name>/{repo.json, commits/<sha>.json, blobs/<sha256>, incoming/<oid>}``."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import threading
from datetime import UTC, datetime
from pathlib import Path

from loopback_hub.xet_store import LocalCas

LFS_SUFFIXES = (
    ".safetensors .bin .pt .pth .ckpt .onnx .h5 .npy .npz .msgpack .tflite .tar .gz .zip .7z .bz2 .xz .zst"
    " .model .pkl .pickle .joblib .parquet .arrow .gguf .ot .pb .mlmodel .wasm"
).split()
GITATTRIBUTES = "".join(f"*{s} filter=lfs diff=lfs merge=lfs -text\n" for s in LFS_SUFFIXES).encode()
LFS_SIZE = 10 * 1024 * 1024
SHA40 = re.compile(r"[0-9a-f]{40}")
NAME_OK = re.compile(r"(?!\.)[\w.-]{1,96}(?<![.-])")


def now_iso() -> str:
    t = datetime.now(UTC)
    return t.strftime("%Y-%m-%dT%H:%M:%S.") + f"{t.microsecond // 1000:03d}Z"


def git_blob_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def lfs_pointer(oid: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()


def write_atomic(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    tmp.write_bytes(data)
    os.replace(tmp, path)


class Refused(Exception):
    def __init__(self, status: int, message: str, code: str | None = None, headers: dict | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}


class Store:
    """ROOT/repos/<ns>/<name>/{repo.json, commits/<sha>.json, blobs/<sha256>, incoming/<oid>}."""

    def __init__(self, root: Path):
        self.root = root
        self.repos = root / "repos"
        self.repos.mkdir(parents=True, exist_ok=True)
        self.lock = threading.RLock()
        self.cas: LocalCas | None = None

    def dir(self, repo: str) -> Path:
        ns, _, name = repo.partition("/")
        if not (NAME_OK.fullmatch(ns) and NAME_OK.fullmatch(name)) or "--" in name or ".." in name:
            raise Refused(404, "Repository not found", "RepoNotFound")
        return self.repos / ns / name

    def load(self, repo: str) -> dict | None:
        p = self.dir(repo) / "repo.json"
        try:
            return json.loads(p.read_text())
        except FileNotFoundError:
            return None

    def save(self, meta: dict) -> None:
        write_atomic(self.dir(meta["id"]) / "repo.json", json.dumps(meta, indent=1).encode())

    def all(self) -> list[dict]:
        return [json.loads(p.read_text()) for p in sorted(self.repos.glob("*/*/repo.json"))]

    def commit(self, repo: str, sha: str) -> dict:
        return json.loads((self.dir(repo) / "commits" / f"{sha}.json").read_text())

    def has_commit(self, repo: str, sha: str) -> bool:
        return (self.dir(repo) / "commits" / f"{sha}.json").exists()

    def blob(self, repo: str, sha256: str) -> Path:
        return self.dir(repo) / "blobs" / sha256

    def put_blob(self, repo: str, data: bytes) -> dict:
        sha = hashlib.sha256(data).hexdigest()
        if not self.blob(repo, sha).exists():
            write_atomic(self.blob(repo, sha), data)
        return {"size": len(data), "sha256": sha, "oid": git_blob_sha1(data), "lfs": False}

    def lfs_entry(self, oid: str, size: int) -> dict:
        ptr = lfs_pointer(oid, size)
        return {"size": size, "sha256": oid, "oid": git_blob_sha1(ptr), "lfs": True, "pointerSize": len(ptr)}

    def accept_incoming(self, repo: str, oid: str, size: int | None) -> None:
        """Check an uploaded object and make it a blob. Raises Refused when it is missing or wrong."""
        if not re.fullmatch(r"[0-9a-f]{64}", str(oid)):
            raise Refused(400, "bad LFS oid")
        inc, dst = self.dir(repo) / "incoming" / oid, self.blob(repo, oid)
        if dst.exists():
            if size is not None and dst.stat().st_size != size:
                raise Refused(400, f"size mismatch for {oid}")
            return
        found = self.cas.find(oid) if self.cas and not inc.exists() else None
        if found:
            write_atomic(inc, self.cas.read(found[1]))
        if not inc.exists():
            raise Refused(404, f"LFS object {oid} was never uploaded")
        h, n = hashlib.sha256(), 0
        with inc.open("rb") as f:
            while chunk := f.read(1 << 20):
                h.update(chunk)
                n += len(chunk)
        if h.hexdigest() != oid or (size is not None and n != size):
            inc.unlink()
            raise Refused(400, f"LFS object {oid}: uploaded content has sha256 {h.hexdigest()} and size {n}")
        dst.parent.mkdir(parents=True, exist_ok=True)
        os.replace(inc, dst)
        if found:
            write_atomic(self.dir(repo) / "xet" / oid, found[0].encode())

    def xet_hash(self, repo: str, entry: dict) -> str | None:
        p = self.dir(repo) / "xet" / entry["sha256"]
        return p.read_text() if self.cas and entry["lfs"] and p.exists() else None

    def make_commit(self, repo, files, parent, title, message, author) -> str:
        body = {
            "parent": parent,
            "title": title,
            "message": message,
            "author": author,
            "date": now_iso(),
            "files": dict(sorted(files.items())),
            "nonce": secrets.token_hex(8),
        }
        sha = hashlib.sha1(json.dumps(body, sort_keys=True).encode()).hexdigest()
        body = {"sha": sha, **body}
        write_atomic(self.dir(repo) / "commits" / f"{sha}.json", json.dumps(body, indent=1).encode())
        return sha

    def create(self, repo: str, private: bool, author: str) -> dict:
        files = {".gitattributes": self.put_blob(repo, GITATTRIBUTES)}
        sha = self.make_commit(repo, files, None, "initial commit", "", "system")
        meta = {
            "id": repo,
            "_id": secrets.token_hex(12),
            "private": private,
            "gated": False,
            "createdAt": now_iso(),
            "author": repo.split("/")[0],
            "branches": {"main": sha},
            "tags": {},
        }
        self.save(meta)
        return meta

    def resolve(self, meta: dict, rev: str) -> str:
        for ref in (rev, re.sub(r"^refs/(heads|tags)/", "", rev)):
            for kind in ("branches", "tags"):
                if ref in meta[kind]:
                    return meta[kind][ref]
        if SHA40.fullmatch(rev) and self.has_commit(meta["id"], rev):
            return rev
        if re.fullmatch(r"[0-9a-f]{7,39}", rev):
            hits = list((self.dir(meta["id"]) / "commits").glob(rev + "*.json"))
            if len(hits) == 1:
                return hits[0].stem
        raise Refused(404, f"Invalid rev id: {rev}", "RevisionNotFound")
