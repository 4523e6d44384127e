"""What clients ask: who they are, repos, listings, trees, refs, commits."""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import time
from urllib.parse import parse_qs, quote

from loopback_hub.card import as_list, card_tags, read_card
from loopback_hub.plumbing import API, Plumbing, route
from loopback_hub.storage import Refused


class Reads(Plumbing):
    """The routes that change nothing."""

    # ---- account and misc

    @route("GET", r"/api/whoami-v2", "whoami")
    def whoami(self):
        self.need_user()
        self.json(
            {
                "type": "user",
                "id": "0" * 24,
                "name": self.user,
                "fullname": self.user,
                "email": None,
                "isPro": False,
                "canPay": False,
                "avatarUrl": "",
                "orgs": [
                    {"type": "org", "id": o, "name": o, "fullname": o, "roleInOrg": "write"}
                    for o in sorted(self.hub.orgs)
                ],
                "auth": {"type": "access_token", "accessToken": {"displayName": "loopback", "role": self.role}},
            }
        )

    @route("GET", r"/api/agent-harnesses", "misc")
    def harnesses(self):
        self.json({"standardEnvVars": [], "harnesses": {}})

    @route("POST", r"/api/validate-yaml", "validate")
    def validate_yaml(self):
        card, err = read_card(str(self.json_body().get("content", "")))
        if err:
            return self.json({"errors": [{"message": err}], "warnings": [], "error": err}, 400)
        warn = [] if card else [{"message": "empty or missing yaml metadata in repo card"}]
        self.json({"errors": [], "warnings": warn})

    @route("GET", API + r"/xet-(read|write)-token/[^/]+", "xet")
    def xet_token(self, repo):
        self.get_repo(repo, write="xet-write-token" in self.rawpath)
        if not self.store.cas:
            raise Refused(501, "this hub runs without xet: set HF_HUB_DISABLE_XET=1")
        url, exp, token = f"local://{self.store.cas.root}", int(time.time()) + 3600, secrets.token_hex(8)
        self.json(
            {"casUrl": url, "exp": exp, "accessToken": token},
            200,
            {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": exp},
        )

    @route("GET", API + r"/auth-check(/write)?", "info")
    def auth_check(self, repo):
        self.get_repo(repo, write=self.rawpath.endswith("/write"))
        self.json({})

    def model_json(self, meta: dict, sha: str, full: bool, card_data: bool, blobs=False) -> dict:
        c, repo = self.store.commit(meta["id"], sha), meta["id"]
        files, card, config = c["files"], {}, None
        if "README.md" in files:
            text = self.store.blob(repo, files["README.md"]["sha256"]).read_text("utf-8", "replace")
            card = read_card(text)[0] or {}
        out = {
            "_id": meta["_id"],
            "id": repo,
            "modelId": repo,
            "author": meta["author"],
            "sha": sha,
            "lastModified": c["date"],
            "createdAt": meta["createdAt"],
            "private": meta["private"],
            "gated": meta["gated"],
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": card_tags(card, files),
        }
        for k in ("library_name", "pipeline_tag"):
            if card.get(k):
                out[k] = card[k]
        if card_data:
            out["cardData"] = card
            if card.get("model-index"):
                out["model-index"] = card["model-index"]
        if full:
            sib = []
            for path, e in files.items():
                s = {"rfilename": path}
                if blobs:
                    s |= {"blobId": e["oid"], "size": e["size"]}
                    if e["lfs"]:
                        s["lfs"] = {"sha256": e["sha256"], "size": e["size"], "pointerSize": e["pointerSize"]}
                sib.append(s)
            out["siblings"] = sib
            out["usedStorage"] = sum(e["size"] for e in files.values())
            if "config.json" in files and files["config.json"]["size"] < 1 << 20:
                with contextlib.suppress(ValueError):
                    config = json.loads(self.store.blob(repo, files["config.json"]["sha256"]).read_bytes())
            if isinstance(config, dict):
                out["config"] = {k: config[k] for k in ("architectures", "model_type", "architecture") if k in config}
        return out

    @route("GET", API + r"(/revision/(?P<rev>[^/]+))?", "info")
    def model_info(self, repo, rev):
        meta, sha, _ = self.at(repo, rev)
        out = self.model_json(meta, sha, True, True, self.flag("blobs"))
        expand = self.query.get("expand", []) + self.query.get("expand[]", [])
        if expand:
            keep = set(expand) | {"_id", "id"}
            out = {k: v for k, v in out.items() if k in keep}
        self.json(out)

    @route("GET", r"/api/models", "list")
    def list_models(self):
        want = [w for f in self.query.get("filter", []) for w in f.split(",") if w]
        want += [t for t in self.query.get("tags", []) if t]
        if self.q("library"):
            want.append(self.q("library"))
        author, search, pipe = self.q("author"), (self.q("search") or "").lower(), self.q("pipeline_tag")
        expand = self.query.get("expand", []) + self.query.get("expand[]", [])
        rows = []
        for meta in self.store.all():
            if meta["private"] and not self.owns(meta["author"]):
                continue
            if (author and meta["author"] != author) or (search and search not in meta["id"].lower()):
                continue
            m = self.model_json(
                meta, meta["branches"]["main"], self.flag("full") or bool(expand), self.flag("cardData") or bool(expand)
            )
            if (pipe and m.get("pipeline_tag") != pipe) or any(w not in m["tags"] for w in want):
                continue
            rows.append(m)
        sort = self.q("sort") or "lastModified"
        rows.sort(key=lambda m: str(m.get(sort, "")), reverse=True)
        if expand:
            keep = set(expand) | {"_id", "id"}
            rows = [{k: v for k, v in m.items() if k in keep} for m in rows]
        self.page(rows, int(self.q("limit") or self.hub.page_size))

    def page(self, rows: list, size: int):
        size = max(1, min(size, self.hub.page_size))
        start = int(self.q("cursor") or 0)
        h = {}
        if start + size < len(rows):
            rest = "&".join(f"{quote(k)}={quote(v)}" for k, vs in self.query.items() if k != "cursor" for v in vs)
            h["Link"] = f'<{self.hub.url}{self.rawpath}?{rest + "&" if rest else ""}cursor={start + size}>; rel="next"'
        self.json(rows[start : start + size], 200, h)

    # ---- git-like reads

    def entry_json(self, repo, path, e, commit=None):
        if e is None:
            d = {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}
        else:
            d = {"type": "file", "oid": e["oid"], "size": e["size"], "path": path}
            if e["lfs"]:
                d["lfs"] = {"oid": e["sha256"], "size": e["size"], "pointerSize": e["pointerSize"]}
                if xet := self.store.xet_hash(repo, e):
                    d["xetHash"] = xet
        if commit:
            d["lastCommit"] = {"id": commit["sha"], "title": commit["title"], "date": commit["date"]}
        return d

    @staticmethod
    def with_dirs(files: dict) -> dict:
        out = dict(files)
        for p in files:
            parts = p.split("/")
            for i in range(1, len(parts)):
                out.setdefault("/".join(parts[:i]), None)
        return dict(sorted(out.items()))

    @route("GET", API + r"/tree/(?P<rev>[^/]+)(/(?P<path>.*))?", "tree")
    def tree(self, repo, rev, path):
        _, sha, c = self.at(repo, rev)
        every, base = self.with_dirs(c["files"]), path.strip("/")
        if base and every.get(base, 0) == 0:
            raise Refused(404, f'{base} does not exist on "{rev}"', "EntryNotFound", {"X-Repo-Commit": sha})
        pre = base + "/" if base else ""
        rows = [
            self.entry_json(repo, p, e, c if self.flag("expand") else None)
            for p, e in every.items()
            if p.startswith(pre) and (self.flag("recursive") or "/" not in p[len(pre) :])
        ]
        self.page(rows, int(self.q("limit") or self.hub.page_size))

    @route("POST", API + r"/paths-info/(?P<rev>[^/]+)", "paths")
    def paths_info(self, repo, rev):
        _, _, c = self.at(repo, rev)
        raw = self.body()
        if "json" in (self.headers.get("Content-Type") or ""):
            d = json.loads(raw or b"{}")
            paths, expand = as_list(d.get("paths")), bool(d.get("expand"))
        else:
            d = parse_qs(raw.decode())
            paths, expand = d.get("paths", []), d.get("expand", [""])[0].lower() == "true"
        every = self.with_dirs(c["files"])
        self.json(
            [
                self.entry_json(repo, p, every[p], c if expand else None)
                for p in dict.fromkeys(x.strip("/") for x in paths)
                if p in every
            ]
        )

    @route("GET", API + r"/refs", "refs")
    def refs(self, repo):
        meta = self.get_repo(repo)

        def rows(kind, prefix):
            return [{"name": n, "ref": f"{prefix}{n}", "targetCommit": s} for n, s in meta[kind].items()]

        self.json(
            {
                "branches": rows("branches", "refs/heads/"),
                "tags": rows("tags", "refs/tags/"),
                "converts": [],
                "pullRequests": [],
            }
        )

    @route("GET", API + r"/commits/(?P<rev>[^/]+)", "commits")
    def commits(self, repo, rev):
        _, sha, _ = self.at(repo, rev)
        rows = []
        while sha:
            c = self.store.commit(repo, sha)
            rows.append(
                {
                    "id": sha,
                    "title": c["title"],
                    "message": c["message"],
                    "date": c["date"],
                    "authors": [{"user": c["author"], "avatar": ""}],
                }
            )
            sha = c["parent"]
        self.page(rows, self.hub.page_size)
