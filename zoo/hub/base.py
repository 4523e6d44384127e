"""What a hub is: named repos of immutable revisions, each a folder of files with one commit id.

Two implementations: :class:`zoo.hub.folder.FolderHub` (a plain folder, for air-gapped clusters and shared disks) and
:class:`zoo.hub.huggingface.HfHub` (the Hugging Face Hub, through huggingface_hub). Both promise the same:

* a revision is one commit; all files of a pull come from it, and the sha256 of each is checked where one is known;
* a push publishes a whole folder as one commit or nothing, and never overwrites somebody else's;
* errors are :class:`~zoo_registry.errors.HubError` (4: unreachable, not cached, refused),
  :class:`~zoo_registry.errors.IntegrityError` (5), :class:`~zoo_registry.errors.ConflictError` (6), one line each.

Nothing here imports huggingface_hub, torch or a plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from zoo.deadline import Deadline

Progress = Callable[[str, int, int], None]
"""``progress(filename, done, total)``: bytes of the whole transfer so far, and in all."""

TAG = "zoo"
"""The tag that marks a repo as one of ours, in the card's ``tags``."""


@dataclass(frozen=True, kw_only=True)
class RepoFile:
    """One file of a revision.

    Attributes:
        path: relative, with forward slashes.
        size: bytes.
        sha256: hex digest, or None where the hub keeps none (small files of the Hugging Face Hub).
        git_sha1: git's blob id of small files there, or None.
    """

    path: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None


@dataclass(frozen=True, kw_only=True)
class RepoInfo:
    """What a hub says of one revision of a repo.

    Attributes:
        name: ``owner/name``.
        revision: the full commit id.
        files: all files of the revision; empty where a listing did not ask for them.
        tags: the card's tags, and what the hub derives.
        private: as the hub says; a folder hub records the wish, who may read is up to the disk.
        modified: ISO 8601 time of the last commit, or None.
        url: where to look: a web address or a folder.
        metadata: the card's front matter (``license``, ``base_model``, ``model-index``...).
    """

    name: str
    revision: str
    files: tuple[RepoFile, ...] = ()
    tags: tuple[str, ...] = ()
    private: bool = False
    modified: str | None = None
    url: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """A complete local copy of one revision. ``path`` is for reading only: it is the hub's or the cache's own.

    ``path`` may hold more than was pulled (another client's downloads): read what ``files`` names, nothing else.
    ``contents``: path -> size and sha256 of the bytes that came from the hub, computed here.
    """

    name: str
    revision: str
    path: Path
    files: tuple[str, ...] = ()
    contents: Mapping[str, RepoFile] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FetchedFile:
    """One file of a repo at one commit; ``sha256`` is that of the bytes at ``path``, computed here."""

    path: Path
    repo: str
    filename: str
    revision: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What a push left on the hub. ``created`` is False where the head already had exactly these files."""

    name: str
    revision: str
    url: str
    files: tuple[str, ...]
    created: bool = True


class Hub(Protocol):
    """Where models are published and found. ``location`` is what messages call it: a URL or a folder."""

    location: str

    def info(self, name: str, revision: str | None = None) -> RepoInfo:
        """The revision (branch, tag, commit id or its first 7 or more digits; None: the head), resolved to one commit.

        Raises:
            UsageError: the name cannot be one of a repo.
            HubError: no such repo or revision, no access, or the hub is unreachable.
        """
        ...

    def models(self, pattern: str | None = None) -> list[RepoInfo]:
        """The repos tagged ``zoo``, newest first, files not always told; ``pattern``: a part of the name, or a glob."""
        ...

    def pull(
        self, name: str, revision: str | None = None, *, offline: bool = False, progress: Progress | None = None
    ) -> Pulled:
        """A verified local copy of one revision.

        Raises:
            HubError: as :meth:`info`; offline and not in the cache; no safe weights in the repo.
            IntegrityError: a file is not what the hub or ``manifest.json`` says.
        """
        ...

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
        """One verified file, for example the weights behind a backbone; ``sha256`` is what it must be, if known."""
        ...

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
        """Publish the folder as one commit; unchanged content makes none.

        ``parent`` is the revision the content was made from; None: whatever the head is when the push begins.
        ``deadline`` ends all waiting for the hub; None: :func:`zoo.deadline.push_deadline`.

        Raises:
            ConflictError: the head is not ``parent``, or moved during the push. Nothing was published.
            IntegrityError: the folder is not what its ``manifest.json`` says.
            DataError: the folder holds what may not be published (pickles, scripts, links), or nothing.
            HubError: no access, or the hub is unreachable.
        """
        ...

    def tags(self, name: str) -> dict[str, str]:
        """Tag -> full commit id of a repo, sorted by tag; empty where the repo has none, or is none.

        Raises:
            UsageError: the name cannot be one of a repo.
            HubError: the hub is unreachable, or denies access.
        """
        ...

    def tag(self, name: str, tag: str, revision: str) -> bool:
        """Name one revision; a tag is never moved. False where it named this revision already.

        Raises:
            ConflictError: the tag names another revision.
            UsageError: the tag cannot be one.
            HubError: no such revision, no access, or the hub is unreachable.
        """
        ...

    def check_push(self, name: str, deadline: Deadline | None = None) -> None:
        """Raise what :meth:`push` would raise for want of access or for a bad name; change nothing."""
        ...
