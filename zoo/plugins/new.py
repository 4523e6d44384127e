"""``zoo plugin new``: a working, tested plugin package, written from the template beside this module."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath

from zoo_registry import CONTRACT_VERSION, ConflictError, Registry, UsageError

from zoo.files import write_folder

TEMPLATE = "template"
SUFFIX = ".tmpl"
WEIGHTS = "src/package/filters.safetensors"

_NAME = re.compile(r"^[a-z][a-z0-9]*(-[a-z0-9]+)*\Z")


@dataclass(frozen=True, kw_only=True)
class NewPlugin:
    """A plugin package that was just written.

    Attributes:
        namespace, distribution, package: its three names: ``birds``, ``zoo-birds``, ``zoo_birds``.
        folder: where it lies.
        files: paths within ``folder``, sorted.
    """

    namespace: str
    distribution: str
    package: str
    folder: Path
    files: tuple[str, ...]

    @property
    def next_steps(self) -> tuple[str, ...]:
        """Commands to try, in order."""
        return (
            f"pip install -e {self.folder}",
            f"zoo plugin check {self.namespace}",
            f"zoo finetune digits: --backbone {self.namespace}/gabor --head {self.namespace}/standardised "
            f"--strategy linear:5,full+{self.namespace}/noise:5 --out run",
        )


def create_plugin(name: str, folder: Path | None = None, *, registry: Registry | None = None) -> NewPlugin:
    """Write a new plugin package.

    Args:
        name: the namespace (``birds``), or the distribution that begins with ``zoo-`` (``zoo-birds``).
        folder: where to; ``./zoo-<namespace>`` by default. It must not exist.
        registry: whose plugins' namespaces are taken; the installed ones by default.

    Raises:
        UsageError: ``name`` is no namespace.
        ConflictError: the folder exists, or somebody installed has the namespace or the package's name.
    """
    namespace = name.removeprefix("zoo-")
    if not _NAME.match(namespace):
        raise UsageError(
            f"{name!r} is no plugin name: lower-case letters, digits and single '-', starting with a letter",
            hint="for example: zoo plugin new bird-songs",
        )
    distribution = f"zoo-{namespace}"
    package = distribution.replace("-", "_")
    _refuse_taken(namespace, package, registry or Registry())
    target = folder or Path(distribution)
    if target.exists() or target.is_symlink():
        raise ConflictError(f"{str(target)!r} exists already", hint="choose another place with --out")
    rendered = render(namespace, distribution, package)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_folder(target, lambda fresh: _write(fresh, rendered))
    except OSError as error:
        reason = f"cannot write {str(target)!r}: {error.strerror}"
        raise UsageError(reason, hint="choose another place with --out") from error
    return NewPlugin(
        namespace=namespace,
        distribution=distribution,
        package=package,
        folder=target,
        files=tuple(sorted(rendered)),
    )


def render(namespace: str, distribution: str, package: str) -> dict[str, bytes]:
    """The files of a new package: path with ``/`` -> content."""
    source = _template_files(files("zoo.plugins") / TEMPLATE)
    values = {
        "NAMESPACE": namespace,
        "DISTRIBUTION": distribution,
        "PACKAGE": package,
        "CONTRACT": str(CONTRACT_VERSION),
        "REGISTRY_VERSION": version("zoo-registry"),
        "SHA256": hashlib.sha256(source[WEIGHTS]).hexdigest(),
    }
    rendered = {}
    for path, content in source.items():
        parts = [package if part == "package" else part for part in PurePosixPath(path).parts]
        if path.endswith(SUFFIX):
            parts[-1] = parts[-1].removesuffix(SUFFIX)
            content = _fill(content.decode(), values).encode()
        parts[-1] = ".gitignore" if parts[-1] == "gitignore" else parts[-1]
        rendered["/".join(parts)] = content
    return rendered


def _fill(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\{\{([A-Z0-9_]+)\}\}", lambda match: values[match.group(1)], text)


def _template_files(folder: Traversable, prefix: str = "") -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for child in folder.iterdir():
        path = f"{prefix}{child.name}"
        if child.is_dir():
            found |= _template_files(child, f"{path}/")
        elif child.name.endswith((SUFFIX, ".safetensors")):
            found[path] = child.read_bytes()
    return found


def _refuse_taken(namespace: str, package: str, registry: Registry) -> None:
    for plugin in registry.plugins:
        if plugin.namespace == namespace:
            raise ConflictError(
                f"the namespace {namespace!r} belongs to {plugin.distribution}, which is installed",
                hint="choose another name; zoo plugin list shows those that are taken",
            )
    if importlib.util.find_spec(package) is not None:
        raise ConflictError(f"a package {package!r} is installed already", hint="choose another name")


def _write(folder: Path, rendered: dict[str, bytes]) -> None:
    for path, content in rendered.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
