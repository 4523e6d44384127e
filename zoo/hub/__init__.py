"""Hubs: where models are published and found. :func:`open_hub` picks one, :class:`~zoo.hub.base.Hub` is its face."""

from __future__ import annotations

import os
from urllib.parse import unquote, urlsplit

from zoo_registry.errors import UsageError

from zoo.hub.base import FetchedFile, Hub, Progress, Pulled, Pushed, RepoFile, RepoInfo
from zoo.hub.names import check_name, split_revision

__all__ = [
    "FetchedFile",
    "Hub",
    "Progress",
    "Pulled",
    "Pushed",
    "RepoFile",
    "RepoInfo",
    "check_name",
    "open_hub",
    "split_revision",
]

_HUGGING_FACE = ("hf", "huggingface", "huggingface.co", "hf.co")


def open_hub(location: str | None = None, *, offline: bool = False) -> Hub:
    """The hub at ``location``; opens no connection. Within :func:`zoo.lock.only_locked` it gives what is locked alone.

    Args:
        location: a folder (a path or a ``file://`` URL), an ``http(s)://`` URL that speaks the Hub's protocol, or
            ``hf`` for the Hugging Face Hub. None or empty: ``$ZOO_HUB``, else the Hugging Face Hub (``HF_ENDPOINT``,
            ``HF_TOKEN``, ``HF_HOME`` and ``HF_HUB_OFFLINE`` work).
        offline: send no request; answer from the cache.

    Raises:
        UsageError: a URL of another kind.
    """
    from zoo.hub.locked import LockedHub
    from zoo.lock import active

    hub, lock = _open(location, offline), active()
    return LockedHub(hub, lock) if lock is not None else hub


def _open(location: str | None, offline: bool) -> Hub:
    from zoo.hub.folder import FolderHub

    where = location or os.environ.get("ZOO_HUB") or "hf"
    url = urlsplit(where) if "://" in where or where.startswith("file:") else None
    if url is None and where not in _HUGGING_FACE:
        return FolderHub(where)
    if url is not None and url.scheme == "file":
        return FolderHub(unquote(url.path))
    if url is not None and (url.scheme not in ("http", "https") or not url.hostname):
        raise UsageError(f"no hub speaks {url.scheme!r}", "give a folder, an http(s):// URL, or hf")
    if url is not None and url.username is not None:
        raise UsageError(f"credentials in the hub's URL ({url.hostname})", "put the token into HF_TOKEN instead")
    from zoo.hub.huggingface import HfHub

    return HfHub(where if url is not None else None, offline=offline)
