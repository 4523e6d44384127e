"""The Hugging Face Hub, and whatever speaks its protocol, through huggingface_hub (imported on first use).

What huggingface_hub leaves open is closed here:

* it checks the size of a download and nothing else: here each file is hashed against the hub's own value and against
  ``manifest.json``, a damaged copy is taken out of the cache and fetched once more, and then refused with both hashes;
* a commit is resolved once and all files come from it; a commit that is in the cache needs no request;
* it waits up to 23 s before it says that the hub is down, up to 100 s within hf_xet, and for ever for a lock: here one
  look with a short timeout goes first (``HF_HUB_ETAG_TIMEOUT`` seconds, 4 at most to connect), a busy hub is asked
  three times, a download is watched (:mod:`zoo.hub.transfer`), and a complete copy in the cache is used, with a notice,
  where the hub does not answer;
* pickles and scripts are never downloaded; names, sizes and the room on the disk are checked before the first byte
  (:mod:`zoo.hub.contents`).

``HF_TOKEN`` and the stored login go to the hub that ``HF_ENDPOINT`` names (huggingface.co by default). A hub given by
its URL gets ``HF_TOKEN`` only, never the stored login, and a cache folder of its own (``HF_HOME/hubs/HOST``).
"""

from __future__ import annotations

import contextlib
import fnmatch
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from zoo_registry.errors import HubError, IntegrityError, UsageError, did_you_mean

from zoo.hub.base import TAG, FetchedFile, Progress, Pulled, Pushed, RepoFile, RepoInfo
from zoo.hub.contents import check_content, check_files
from zoo.hub.files import MANIFEST, NOT_BINDING, check_listed, is_safe, mismatch, only_pickles, read_manifest
from zoo.hub.hf_cache import Cache
from zoo.hub.hf_errors import Asked, MissingRepoError, UnreachableError, attempt
from zoo.hub.hf_info import check_told, repo_info
from zoo.hub.meter import Meter
from zoo.hub.names import check_name, check_path, check_revision
from zoo.hub.tags import hf_tags, hf_write_tag
from zoo.hub.transfer import Transfer, on_bytes

if TYPE_CHECKING:
    from zoo.deadline import Deadline

log = logging.getLogger("zoo.hub")
_CONNECT_SECONDS = 4.0
_READ_SECONDS = 60.0
_LISTED = 200
_SHA = re.compile(r"[0-9a-f]{40}")


class HfHub:
    """A hub of the Hugging Face kind; the promises are in this module's docstring.

    Args:
        endpoint: its URL; None: ``HF_ENDPOINT``, else https://huggingface.co.
        offline: send no request; ``HF_HUB_OFFLINE`` says so too.
        cache_dir: where downloads are kept; None: ``HF_HUB_CACHE``.
        token: what to log in with; None: as the module's docstring says.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        offline: bool = False,
        cache_dir: Path | str | None = None,
        token: str | None = None,
    ) -> None:
        from huggingface_hub import HfApi, constants

        own = endpoint is None or endpoint.rstrip("/") == constants.ENDPOINT.rstrip("/")
        self.location = (endpoint or constants.ENDPOINT).rstrip("/")
        if urlsplit(self.location).username is not None:
            raise UsageError("there are credentials in HF_ENDPOINT", "put the token into HF_TOKEN instead")
        self.offline = offline or constants.is_offline_mode()
        if cache_dir is None and not own:
            url = urlsplit(self.location)
            cache_dir = Path(constants.HF_HOME) / "hubs" / f"{url.hostname}_{url.port or url.scheme}"
        self.cache = Cache(cache_dir)
        self.token: str | bool | None = token or (None if own else os.environ.get("HF_TOKEN") or False)
        self.api = HfApi(endpoint=self.location, token=self.token, library_name="transfer-zoo")

    # ------------------------------------------------------------------ finding

    def info(self, name: str, revision: str | None = None) -> RepoInfo:
        """As :meth:`zoo.hub.base.Hub.info`; offline: what is known of it from the cache."""
        check_name(name)
        info, down = self._known(name, revision, offline=self.offline, fresh=True)
        if down is not None and not self.offline:
            log.warning("%s; told from the cache", down.message)
        return info

    def models(self, pattern: str | None = None) -> list[RepoInfo]:
        """As :meth:`zoo.hub.base.Hub.models`: the 200 last changed, those of the login's own private ones included."""
        self._online()
        literal = max(re.split(r"[*?\[\]]", pattern or ""), key=len) or None
        asked = Asked(self.location)

        def call() -> list[Any]:
            rows = self.api.list_models(
                filter=TAG, search=literal, sort="last_modified", limit=_LISTED, full=True, cardData=True
            )
            return list(rows)

        with self._session():
            self._look()
            rows = [self._info(row) for row in attempt(call, asked)]
        globbed = pattern if pattern and literal != pattern else None
        return [row for row in rows if globbed is None or fnmatch.fnmatch(row.name, globbed)]

    def _known(
        self, name: str, revision: str | None, *, offline: bool, fresh: bool = False
    ) -> tuple[RepoInfo, HubError | None]:
        """The revision's info, and why the hub was not asked or did not answer (None: it may be asked for files).

        A full commit id that the cache knows is not asked for, but for ``fresh``.

        Raises:
            HubError: it is neither to be had nor in the cache.
        """
        revision = check_revision(revision) if revision is not None else None
        asked = Asked(self.location, name, revision)
        down: HubError | None = None
        full = revision is not None and _SHA.fullmatch(revision) is not None and not fresh
        pinned = self._cached(name, revision) if offline or full else None
        if offline:
            down = UnreachableError(f"offline, {self.location} is not asked")
        elif pinned is not None:
            return pinned, None
        else:
            try:
                return self._remote_info(name, revision), None
            except UnreachableError as error:
                down, pinned = error, self._cached(name, revision)
            except MissingRepoError as error:
                close = self._closest(name)
                hint = f"{close} Or: {error.hint}" if close else error.hint
                raise MissingRepoError(error.message, hint) from error
        if pinned is None:
            raise HubError(f"{down.message}; {asked} is not in the cache", f"run it once online: zoo pull {asked}")
        return pinned, down

    def _remote_info(self, name: str, revision: str | None) -> RepoInfo:
        def call() -> Any:
            return self.api.model_info(name, revision=revision, files_metadata=True, timeout=_timeout())

        with self._session():
            return self._info(attempt(call, Asked(self.location, name, revision)))

    def _look(self) -> None:
        """One small request that fails at once where huggingface_hub would try for 23 s."""
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        def call() -> None:
            headers = build_hf_headers(token=self.token, library_name="transfer-zoo")
            url = f"{self.location}/api/models"
            hf_raise_for_status(get_session().get(url, params={"limit": 1}, headers=headers, timeout=_timeout()))

        attempt(call, Asked(self.location))

    def _closest(self, name: str) -> str | None:
        """The owner's repos that read alike; silence where that cannot be found out."""
        with contextlib.suppress(Exception), self._session():
            rows = self.api.list_models(author=name.split("/")[0], limit=_LISTED)
            return did_you_mean(name, (row.id for row in rows))
        return None

    def _cached(self, name: str, revision: str | None) -> RepoInfo | None:
        """What the cache knows: the hub's own list where it was noted, else the files another client downloaded."""
        sha = self.cache.resolve(name, revision)
        if sha is None:
            return None
        if (noted := self.cache.recorded(name, sha)) is not None:
            return noted
        folder = self.cache.snapshot(name, sha)
        paths = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
        files = (self.cache.by_blob_name(name, sha, path) for path in paths)
        return RepoInfo(name=name, revision=sha, files=tuple(f for f in files if f), url=str(self.cache.repo(name)))

    def _info(self, model: Any) -> RepoInfo:
        return repo_info(model, self.location)

    # ------------------------------------------------------------------ fetching

    def pull(
        self, name: str, revision: str | None = None, *, offline: bool = False, progress: Progress | None = None
    ) -> Pulled:
        """As :meth:`zoo.hub.base.Hub.pull`: into the cache; with a manifest exactly its files, else all safe ones."""
        check_name(name)
        with self._session():
            info, down = self._known(name, revision, offline=offline or self.offline)
            if down is not None and not (offline or self.offline):
                log.warning("%s; using the copy of %s@%s in the cache", down.message, name, info.revision[:7])
            wanted, listed = self._wanted(info, down)
            if down is None:
                self.cache.room(info.name, wanted.values(), info.revision)
            meter = Meter(progress, sum(f.size for f in wanted.values()))
            present = {}
            for path, file in wanted.items():
                spot = self._fetch(info, file, down, meter)
                present[path] = RepoFile(path=path, size=spot.stat().st_size, sha256=self.cache.sha256(spot))
            if listed is not None:
                check_listed(listed, present, f"{name}@{info.revision[:7]}")
        if down is None:
            self.cache.remember(info, revision)
        folder = self.cache.snapshot(info.name, info.revision)  # a renamed repo answers by its new name
        return Pulled(name=name, revision=info.revision, path=folder, files=tuple(present), contents=present)

    def file(
        self,
        name: str,
        filename: str,
        revision: str | None = None,
        *,
        offline: bool = False,
        sha256: str | None = None,
        progress: Progress | None = None,
    ) -> FetchedFile:
        """As :meth:`zoo.hub.base.Hub.file`: into the cache."""
        check_name(name)
        check_path(filename)
        with self._session():
            info, down = self._known(name, revision, offline=offline or self.offline)
            file = next((f for f in info.files if f.path == filename), None)
            if file is None:
                raise self._no_file(info, filename, down)
            if not is_safe(filename):
                raise _pickled(f"{name}@{info.revision[:7]}", [filename])
            check_files([file], f"{name}@{info.revision[:7]}")
            if down is None:
                self.cache.room(info.name, [file], info.revision)
            if down is not None and not (offline or self.offline):
                log.warning("%s; using %s of %s in the cache", down.message, filename, name)
            spot = self._fetch(info, file, down, Meter(progress, file.size))
            found = self.cache.sha256(spot)
        if sha256 is not None and found != sha256:
            raise mismatch(f"{name}@{info.revision[:7]}: {filename}", sha256, found, "the caller")
        if down is None:
            self.cache.remember(info, revision)
        return FetchedFile(path=spot, repo=name, filename=filename, revision=info.revision, sha256=found)

    def _no_file(self, info: RepoInfo, filename: str, down: HubError | None) -> HubError:
        """Why there is no such file: mistyped, only pickles, or merely not in the cache."""
        at = f"{info.name}@{info.revision[:7]}"
        paths = [f.path for f in info.files]
        if pickles := only_pickles(paths):
            return _pickled(at, pickles)
        if down is not None:
            return HubError(f"{down.message}; {at} has no {filename!r} in the cache", "run it once online")
        return HubError(f"{at} has no file {filename!r} on {self.location}", did_you_mean(filename, paths))

    def _wanted(self, info: RepoInfo, down: HubError | None) -> tuple[dict[str, RepoFile], dict[str, RepoFile] | None]:
        """The files to have, and what the manifest lists of them (None: no manifest)."""
        at = f"{info.name}@{info.revision[:7]}"
        safe = {f.path: f for f in info.files if is_safe(f.path)}
        check_files(safe.values(), at)
        if pickles := only_pickles(f.path for f in info.files):
            raise _pickled(at, pickles)
        if MANIFEST not in safe:
            return safe, None
        listed = read_manifest(self._fetch(info, safe[MANIFEST], down, Meter(None, 0)), at)
        for path in sorted(listed):
            if not is_safe(path):
                raise IntegrityError(f"{at}: {MANIFEST} lists {path!r}, which is never read", "do not use this repo")
            if path not in safe and down is not None:
                raise HubError(f"{down.message}; {path} of {at} is not in the cache", "run it once online")
        keep = {MANIFEST, *NOT_BINDING, *listed}
        return {path: file for path, file in safe.items() if path in keep}, listed

    def _fetch(self, info: RepoInfo, file: RepoFile, down: HubError | None, meter: Meter) -> Path:
        """One verified file of the cache; a damaged one is taken out and fetched once more.

        Raises:
            HubError: not in the cache and not to be had.
            IntegrityError: damaged, and still so when fetched again (or the hub cannot be asked).
        """
        at = f"{info.name}@{info.revision[:7]}"
        meter.begin(file.path, file.size)
        for last in (False, True):
            spot = self.cache.find(info.name, info.revision, file.path)
            if spot is None and down is not None:
                raise HubError(f"{down.message}; {file.path} of {at} is not in the cache", "run it once online")
            spot = spot or self._download(info, file, meter)
            damage = self.cache.check(spot, file)
            if damage is None:
                check_content(spot, file.path, at)
                meter.end()
                return spot
            self.cache.quarantine(info.name, spot)
            if last or down is not None:
                self.cache.forget(spot)
                raise mismatch(f"{at}: {file.path}", *damage, self.location)
            log.warning("%s: %s is damaged in the cache; fetching it again", at, file.path)
        raise AssertionError("unreachable")

    def _download(self, info: RepoInfo, file: RepoFile, meter: Meter) -> Path:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

        at: dict[str, Any] = {"endpoint": self.location, "revision": info.revision}
        url = hf_hub_url(info.name, file.path, **at)
        asked, blob = Asked(self.location, info.name, info.revision, file.path), file.sha256 or file.git_sha1 or "-"

        def call() -> str:
            # The look that fails at once where hf_hub_download would retry for 23 s.
            told = get_hf_file_metadata(url, token=self.token, timeout=_timeout(), endpoint=self.location)
            check_told(told, info, file, asked)
            bar = meter.bar(on_bytes)
            spot: str = hf_hub_download(
                info.name, file.path, **at, token=self.token, cache_dir=self.cache.folder, tqdm_class=bar
            )
            return spot

        def watched() -> str:
            lock = self.cache.lock(info.name, blob)
            transfer: Transfer[str] = Transfer(asked, meter, lambda: self.cache.partial(info.name, blob), lock)
            return transfer.run(call)

        self.cache.sweep(info.name)
        return Path(attempt(watched, asked))

    # ------------------------------------------------------------------ writing

    def check_push(self, name: str, deadline: Deadline | None = None) -> None:
        """As :meth:`zoo.hub.base.Hub.check_push`: logged in, with a token that writes, to a namespace of one's own."""
        from zoo.hub.hf_push import check_access

        check_access(self, name, deadline)

    def push(
        self,
        folder: Path,
        name: str,
        *,
        private: bool = True,
        message: str,
        parent: str | None = None,
        progress: Progress | None = None,
        deadline: Deadline | None = None,
    ) -> Pushed:
        """As :meth:`zoo.hub.base.Hub.push`: one commit on ``main``, made on the head that was read first."""
        from zoo.hub.hf_push import push_folder

        more: dict[str, Any] = {"parent": parent, "progress": progress, "deadline": deadline}
        return push_folder(self, Path(folder), name, private=private, message=message, **more)

    def tags(self, name: str) -> dict[str, str]:
        """As :meth:`zoo.hub.base.Hub.tags`; offline none are known."""
        return hf_tags(self, name)

    def tag(self, name: str, tag: str, revision: str) -> bool:
        """As :meth:`zoo.hub.base.Hub.tag`."""
        return hf_write_tag(self, name, tag, revision)

    # ------------------------------------------------------------------ the connection

    def _online(self) -> None:
        if self.offline:
            raise HubError(f"offline, {self.location} is not asked", "without --offline and HF_HUB_OFFLINE")

    @contextlib.contextmanager
    def _session(self) -> Iterator[None]:
        """huggingface_hub with a time limit on every request (it has none by default) and without its own notices."""
        from huggingface_hub.utils import get_session
        from huggingface_hub.utils import logging as hf_logging

        session, verbosity = get_session(), hf_logging.get_verbosity()
        limit = session.timeout
        session.timeout = _timeout(_READ_SECONDS)
        hf_logging.set_verbosity_error()
        try:
            yield
        finally:
            session.timeout = limit
            hf_logging.set_verbosity(verbosity)


def _pickled(at: str, pickles: list[str]) -> HubError:
    return HubError(
        f"{at} has no safe weights: {pickles[0]} is of a kind that may hold code and is never loaded",
        "another repo or tag with safetensors; or convert it yourself where you trust it",
    )


def _timeout(read: float | None = None) -> Any:
    """Seconds for one request: ``HF_HUB_ETAG_TIMEOUT`` to answer, 4 at most to connect."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    read = read or float(constants.HF_HUB_ETAG_TIMEOUT)
    return type(get_session().timeout)(read, connect=min(read, _CONNECT_SECONDS))
