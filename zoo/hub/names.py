"""Names on a hub: repos, revisions and file paths. All come from outside, so all are checked before use."""

from __future__ import annotations

import re

from zoo_registry.errors import IntegrityError, UsageError

_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,254}")
_SHA = re.compile(r"[0-9a-f]{7,64}")
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


def check_name(name: str) -> tuple[str, str]:
    """``owner/name`` split in two.

    The rules are those of the Hugging Face Hub, so that a repo can move between hubs: letters, digits, ``.``, ``_``
    and ``-`` within, no ``--`` or ``..``, 96 characters in all at most, not ending in ``.git``.

    Raises:
        UsageError: it is none.
    """
    owner, slash, local = name.partition("/")
    fine = bool(slash) and _PART.fullmatch(owner) and _PART.fullmatch(local) and len(name) <= 96
    if not fine or "--" in name or ".." in name or local.endswith((".git", ".ipynb")):
        raise UsageError(
            f"{name!r} is no repo name",
            "a name reads owner/name: letters, digits, '.', '_' and '-', no '--' or '..', at most 96 characters",
        )
    return owner, local


def split_revision(text: str) -> tuple[str, str | None]:
    """``owner/name[@revision]`` as (name, revision or None), both checked.

    Raises:
        UsageError: the name or the revision cannot be one.
    """
    name, at, revision = text.partition("@")
    check_name(name)
    return name, check_revision(revision) if at else None


def check_revision(revision: str) -> str:
    """The revision, if it can be one (branch, tag, commit id).

    Raises:
        UsageError: it cannot.
    """
    if not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision or revision.endswith(("/", ".lock")):
        raise UsageError(f"{revision!r} is no revision", "a branch, a tag, or a commit id of 7 digits or more")
    return revision


def is_sha(revision: str) -> bool:
    """Whether the text can be a commit id or the start of one."""
    return bool(_SHA.fullmatch(revision))


def check_path(path: str) -> str:
    """The relative path of a file in a repo, if it is harmless under every operating system's rules.

    Raises:
        IntegrityError: absolute, with ``..``, ``.``, ``.git``, empty parts, backslashes, colons or control characters.
    """
    parts = path.split("/")
    bad = (
        not path
        or len(path) > 1024
        or any(c in path for c in "\\:")
        or not path.isprintable()
        or any(p in ("", ".", "..") or p.lower() == ".git" or p != p.strip() for p in parts)
        or any(_RESERVED.fullmatch(p) for p in parts)
    )
    if bad:
        raise IntegrityError(f"the repo names a file {path!r}, which is not a safe path", "do not use this repo")
    return path
