"""What clients change: repos, branches and tags, uploads and commits."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
from pathlib import Path
from urllib.parse import quote

from loopback_hub.card import read_card
from loopback_hub.plumbing import API, REPO, Plumbing, route
from loopback_hub.storage import LFS_SIZE, LFS_SUFFIXES, Refused


class Writes(Plumbing):
    """The routes that change something."""

    # ---- repos

    @route("POST", r"/api/repos/create", "create")
    def create_repo(self):
        d = self.json_body()
        self.need_user()
        if d.get("type") not in (None, "model"):
            raise Refused(400, "only model repos here")
        ns = d.get("organization") or self.user
        repo = f"{ns}/{d.get('name')}"
        self.need_write(ns, "a model")
        private = d["private"] is True if "private" in d else d.get("visibility") == "private"
        url = f"{self.hub.url}/{repo}"
        with self.store.lock:
            try:
                exists = self.store.load(repo) is not None
            except Refused as e:
                raise Refused(400, f"Invalid repo name: {repo}") from e
            if exists:
                return self.json(
                    {"error": "You already created this model repo", "url": url},
                    409,
                    {"X-Error-Message": "You already created this model repo"},
                )
            meta = self.store.create(repo, private, self.user)
        self.json({"url": url, "name": repo, "id": meta["_id"]})

    @route("POST", API + r"/branch/(?P<branch>[^/]+)", "branch")
    def create_branch(self, repo, branch):
        d = self.json_body()
        with self.store.lock:
            meta = self.get_repo(repo, write=True)
            if branch in meta["branches"]:
                raise Refused(409, f"Reference already exists: refs/heads/{branch}")
            meta["branches"][branch] = self.store.resolve(meta, d.get("startingPoint") or "main")
            self.store.save(meta)
        self.json({})

    @route("POST", API + r"/tag/(?P<rev>[^/]+)", "tag")
    def create_tag(self, repo, rev):
        d = self.json_body()
        with self.store.lock:
            meta = self.get_repo(repo, write=True)
            sha = self.store.resolve(meta, rev)
            if d["tag"] in meta["tags"]:
                raise Refused(409, f"Tag {d['tag']} already exists")
            meta["tags"][d["tag"]] = sha
            self.store.save(meta)
        self.json({})

    # ---- uploads

    @route("POST", API + r"/preupload/(?P<rev>[^/]+)", "preupload")
    def preupload(self, repo, rev):
        d = self.json_body()
        meta = self.get_repo(repo, write=True)
        files = self.store.commit(repo, self.store.resolve(meta, rev))["files"]
        out = []
        for f in d.get("files", []):
            sample = base64.b64decode(f.get("sample") or "")
            lfs = f["path"].endswith(tuple(LFS_SUFFIXES)) or f["size"] > LFS_SIZE or b"\0" in sample
            e = files.get(f["path"])
            out.append(
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if lfs else "regular",
                    "shouldIgnore": False,
                    "oid": None if e is None else e["sha256"] if e["lfs"] else e["oid"],
                }
            )
        self.json({"files": out, "commitOid": self.store.resolve(meta, rev)})

    @route("POST", r"/" + REPO + r"\.git/info/lfs/objects/batch", "batch")
    def lfs_batch(self, repo):
        d = self.json_body()
        down = d.get("operation") == "download"
        self.get_repo(repo, write=not down)
        base, objs, lfs = self.hub.blob_url(), [], {"Content-Type": "application/vnd.git-lfs+json"}
        for o in d.get("objects", []):
            oid, size = str(o.get("oid")), o.get("size")
            if not re.fullmatch(r"[0-9a-f]{64}", oid) or not isinstance(size, int):
                objs.append({"oid": oid, "size": size, "error": {"code": 422, "message": "bad oid or size"}})
                continue
            res = {"oid": oid, "size": size}
            path = f"{quote(repo)}/{oid}?sig={self.hub.sig(repo, oid)}"
            have = self.store.blob(repo, oid).exists()
            if down:
                if have:
                    res["actions"] = {"download": {"href": f"{base}/__lfs__/{path}"}}
                else:
                    res["error"] = {"code": 404, "message": "object does not exist"}
            elif not have:
                verify = {"href": f"{self.hub.url}/{repo}.git/info/lfs/objects/verify", "header": {}}
                up = {"href": f"{base}/__lfs__/{path}", "header": {}}
                res |= {"authenticated": True, "actions": {"upload": up, "verify": verify}}
            objs.append(res)
        self.json({"transfer": "basic", "objects": objs}, 200, lfs)

    def receive(self, dst: Path):
        dst.parent.mkdir(parents=True, exist_ok=True)
        tmp = dst.with_name(f"{dst.name}.{secrets.token_hex(4)}.tmp")
        h = hashlib.md5()
        try:
            with tmp.open("wb") as f:
                for chunk in self.read_chunks():
                    h.update(chunk)
                    f.write(chunk)
            k, size = (self.fault.kind if self.fault else None), tmp.stat().st_size
            if k == "corrupt" and size:
                at = min(int(size * (self.fault.at if self.fault.at is not None else 0.75)), size - 1)
                with tmp.open("r+b") as f:
                    f.seek(at)
                    b = f.read(1)[0] ^ 0xFF
                    f.seek(at)
                    f.write(bytes([b]))
            elif k in ("truncate", "short"):
                os.truncate(tmp, int(size * (self.fault.at if self.fault.at is not None else 0.5)))
            os.replace(tmp, dst)
        finally:
            tmp.unlink(missing_ok=True)
        return h.hexdigest()

    @route("PUT", r"/__lfs__/" + REPO + r"/(?P<oid>[0-9a-f]{64})", "put")
    def lfs_put(self, repo, oid):
        self.check_sig(repo, oid)
        etag = self.receive(self.store.dir(repo) / "incoming" / oid)
        self.reply(200, b"", {"ETag": f'"{etag}"'})

    @route("POST", r"/" + REPO + r"\.git/info/lfs/objects/verify", "verify")
    def lfs_verify(self, repo):
        d = self.json_body()
        self.get_repo(repo, write=True)
        self.store.accept_incoming(repo, str(d.get("oid")), d.get("size"))
        self.json({"message": "OK"})

    @route("POST", API + r"/commit/(?P<rev>[^/]+)", "commit")
    def commit(self, repo, rev):
        header, ops = self.read_commit()
        with self.store.lock:
            meta = self.get_repo(repo, write=True)
            rev = re.sub(r"^refs/heads/", "", rev)
            if rev not in meta["branches"]:
                self.store.resolve(meta, rev)
                raise Refused(400, "can only commit to a branch, not to a tag or a commit")
            head = meta["branches"][rev]
            parent = header.get("parentCommit")
            if parent and not head.startswith(parent):
                raise Refused(412, "A commit has happened since. Please refresh and try again.")
            files = dict(self.store.commit(repo, head)["files"])
            for key, v in ops:
                self.apply(repo, files, key, v)
            sha = self.store.make_commit(repo, files, head, header["summary"], header.get("description", ""), self.user)
            meta["branches"][rev] = sha
            self.store.save(meta)
        url = f"{self.hub.url}/{repo}/commit/{sha}"
        self.json({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def read_commit(self):
        """The header and the operations of a commit's body."""
        header, ops = {}, []
        try:
            for line in self.body().splitlines():
                if line.strip():
                    d = json.loads(line)
                    if d["key"] == "header":
                        header = d["value"]
                    else:
                        ops.append((d["key"], d["value"]))
        except (ValueError, KeyError, TypeError) as e:
            raise Refused(400, "the commit body is not valid ndjson") from e
        if not header.get("summary"):
            raise Refused(400, "a commit needs a header with a summary")
        return header, ops

    def apply(self, repo, files, key, v):
        """One operation of a commit on the file table."""
        path = v.get("path", "")
        if path.startswith("/") or any(p in ("", ".", "..", ".git") for p in path.rstrip("/").split("/")):
            raise Refused(400, f"invalid path {path!r}")
        if key == "file":
            data = base64.b64decode(v["content"]) if v.get("encoding") == "base64" else v["content"].encode()
            if path == "README.md" and (err := read_card(data.decode("utf-8", "replace"))[1]):
                raise Refused(400, f"Invalid metadata in README.md: {err}")
            files[path] = self.store.put_blob(repo, data)
        elif key == "lfsFile":
            try:
                self.store.accept_incoming(repo, v["oid"], v.get("size"))
            except Refused as e:
                raise Refused(400, f"LFS pointer of {path}: {e.message}") from e
            files[path] = self.store.lfs_entry(v["oid"], self.store.blob(repo, v["oid"]).stat().st_size)
        elif key in ("deletedFile", "deletedFolder", "deletedEntry"):
            base = path.rstrip("/")
            gone = [p for p in files if p == base or (key != "deletedFile" and p.startswith(base + "/"))]
            if not gone:
                raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
            for p in gone:
                del files[p]
        else:
            raise Refused(400, f"unknown operation {key!r}")
