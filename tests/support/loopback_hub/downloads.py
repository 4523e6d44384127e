"""Files: resolve with HEAD, GET and ranges, and the second origin that large ones are redirected to."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote

from loopback_hub.plumbing import API, REPO, Plumbing, route
from loopback_hub.storage import Refused


class Downloads(Plumbing):
    """The routes that hand out files."""

    # ---- downloads

    def serve(self, path: Path, size: int, etag: str, headers: dict, name: str):
        base = os.path.basename(name)
        ctype = {".json": "application/json", ".md": "text/plain; charset=utf-8", ".txt": "text/plain; charset=utf-8"}
        h = {
            "ETag": etag,
            "Accept-Ranges": "bytes",
            "Content-Type": ctype.get(os.path.splitext(base)[1], "application/octet-stream"),
            "Content-Disposition": f"inline; filename*=UTF-8''{quote(base)}; filename=\"{base}\";",
            **headers,
        }
        match = self.headers.get("If-None-Match")
        if match and (match.strip() == "*" or etag in [m.strip().removeprefix("W/") for m in match.split(",")]):
            return self.reply(304, b"", h)
        rng = self.headers.get("Range")
        if_range = self.headers.get("If-Range")
        m = re.fullmatch(r"\s*bytes\s*=\s*(\d*)-(\d*)\s*", rng or "")
        if m and (m[1] or m[2]) and (not if_range or if_range.strip() == etag):
            start = int(m[1]) if m[1] else max(0, size - int(m[2]))
            end = min(int(m[2]), size - 1) if m[1] and m[2] else size - 1
            if start > end or start >= size:
                return self.reply(416, b"", {**h, "Content-Range": f"bytes */{size}"})
            return self.reply(206, path, {**h, "Content-Range": f"bytes {start}-{end}/{size}"}, start, end - start + 1)
        self.reply(200, path, h, 0, size)

    @route("GET", r"/" + REPO + r"/resolve/(?P<rev>[^/]+)/(?P<path>.+)", "resolve")
    @route("GET", API + r"/resolve/(?P<rev>[^/]+)/(?P<path>.+)", "resolve")
    def resolve(self, repo, rev, path):
        meta, sha, c = self.at(repo, rev)
        h = {"X-Repo-Commit": sha}
        if meta["gated"] and not self.owns(meta["author"]):
            raise Refused(401 if self.user is None else 403, f"Access to model {repo} is restricted", "GatedRepo")
        e = c["files"].get(path)
        if e is None:
            raise Refused(404, "Entry not found", "EntryNotFound", h)
        blob = self.store.blob(repo, e["sha256"])
        if not e["lfs"]:
            return self.serve(blob, e["size"], f'"{e["oid"]}"', h, path)
        h |= {"X-Linked-Etag": f'"{e["sha256"]}"', "X-Linked-Size": e["size"]}
        if xet := self.store.xet_hash(repo, e):
            route = f"{self.hub.url}/api/models/{repo}/xet-read-token/{sha}"
            h |= {"X-Xet-Hash": xet, "X-Xet-Refresh-Route": route, "Link": f'<{route}>; rel="xet-auth"'}
        if self.hub.cdn_server:
            url = (
                f"{self.hub.blob_url()}/__lfs__/{quote(repo)}/{e['sha256']}"
                f"?sig={self.hub.sig(repo, e['sha256'])}&file={quote(path)}"
            )
            return self.reply(302, b"", {**h, "Location": url, "ETag": f'"{e["oid"]}"'})
        self.serve(blob, e["size"], f'"{e["sha256"]}"', h, path)

    @route("GET", r"/__lfs__/" + REPO + r"/(?P<oid>[0-9a-f]{64})", "resolve")
    def lfs_get(self, repo, oid):
        self.check_sig(repo, oid)
        p = self.store.blob(repo, oid)
        if not p.exists():
            raise Refused(404, "NoSuchKey")
        self.serve(p, p.stat().st_size, f'"{oid}"', {}, self.q("file") or oid)

    @route("GET", r"/", "page")
    def front(self):
        self.reply(200, b"loopback hub\n", {"Content-Type": "text/plain"})
