"""Options: one frozen dataclass is the schema of ``--set``, ``zoo show``, recipe TOML, saved JSON and the docs.

::

    @dataclass(frozen=True, kw_only=True)
    class MlpOptions:
        hidden: int = option(256, help="width of the hidden layer", low=1)
        activation: str = option("gelu", help="non-linearity", choices=("gelu", "relu"))
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo_registry.errors import PluginError, UsageError, did_you_mean

Schema = type | str
"""An options class, or a reference to one (``"package.module:Class"``), imported when the options are looked at."""


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """The schema of a spec without options."""


@dataclass(frozen=True)
class OptionInfo:
    """One option as shown to a person: name, type in words, default, help and allowed range."""

    name: str
    type: str
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = ()
    required: bool = False
    also: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        """The allowed values in words, empty where the type says it all."""
        if self.required:
            return "must be given"
        if self.choices:
            return "one of " + ", ".join(map(str, self.choices))
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        if self.low is not None:
            return f"at least {self.low:g}"
        return f"at most {self.high:g}" if self.high is not None else ""


def option(
    default: Any,
    *,
    help: str,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[Any] = (),
    required: bool = False,
    also: Sequence[str] = (),
) -> Any:
    """A dataclass field with a default, a help text and an allowed range (bounds are inclusive).

    With ``required`` a recipe must give a value (the name of a teacher); the default only lets the class be built.
    ``also`` are names that others give it: they are not taken, but whoever writes one is told the right one.
    """
    allowed = {"low": low, "high": high, "choices": tuple(choices), "required": required, "also": tuple(also)}
    return field(default=default, metadata={"help": help, **allowed})


def load_schema(schema: Schema) -> type:
    """The options class that ``schema`` is, or refers to.

    Raises:
        PluginError: the reference leads to nothing, or to what is no class.
    """
    if isinstance(schema, type):
        return schema
    from zoo_registry.references import load_reference

    found = load_reference(schema, owner="options")
    if not isinstance(found, type):
        raise PluginError(f"options {schema!r} is no class")
    return found


def describe_options(schema: Schema) -> list[OptionInfo]:
    """The options of ``schema`` in order.

    Raises:
        PluginError: the schema is not a dataclass whose types can be read.
    """
    schema = load_schema(schema)
    hints = _hints(schema)
    return [
        OptionInfo(
            name=f.name,
            type=_type_name(hints[f.name]),
            default=f.default if f.default_factory is dataclasses.MISSING else f.default_factory(),
            help=f.metadata.get("help", ""),
            low=f.metadata.get("low"),
            high=f.metadata.get("high"),
            choices=f.metadata.get("choices", ()),
            required=f.metadata.get("required", False),
            also=f.metadata.get("also", ()),
        )
        for f in dataclasses.fields(schema)
    ]


def parse_options(schema: Schema, values: Mapping[str, Any], *, where: str) -> Any:
    """Build ``schema`` from ``values`` (strings from a command line, or typed values from TOML and JSON).

    Raises:
        UsageError: names every unknown option, wrong type and out-of-range value at once, each prefixed by ``where``.
    """
    built, problems = check_options(schema, values, where=where)
    if problems:
        raise UsageError("; ".join(problems), hint=f"options: {', '.join(o.name for o in describe_options(schema))}")
    return built


def _closest(name: str, infos: Mapping[str, OptionInfo]) -> str | None:
    """As :func:`did_you_mean`, with the names that others give to options taken for those options."""
    close = did_you_mean(name, infos)
    other = {also: info.name for info in infos.values() for also in info.also}
    near = difflib.get_close_matches(name, other, n=1, cutoff=0.6) if close is None else []
    return f"did you mean {other[near[0]]!r}?" if near else close


def check_options(schema: Schema, values: Mapping[str, Any], *, where: str) -> tuple[Any, list[str]]:
    """Like :func:`parse_options`, but returns ``(options or None, problems)`` so that callers can gather problems."""
    schema = load_schema(schema)
    infos = {o.name: o for o in describe_options(schema)}
    hints = _hints(schema)
    problems: list[str] = []
    good: dict[str, Any] = {}
    for name, raw in values.items():
        if name not in infos:
            close = _closest(name, infos)
            has = f"options: {', '.join(infos)}" if infos else "it has no options"
            problems.append(f"unknown option '{where}.{name}' ({close or has})")
            continue
        try:
            good[name] = _check_range(infos[name], _convert(raw, hints[name]))
        except ValueError as error:
            problems.append(f"{where}.{name}: {error}")
    problems += [f"{where}.{n}: a value is needed" for n, o in infos.items() if _missing(o) and n not in values]
    if problems:
        return None, problems
    try:
        return schema(**good), []
    except ValueError as error:  # a schema's own __post_init__ checks what one field cannot
        return None, [f"{where}: {error}"]


def options_to_dict(options: Any) -> dict[str, Any]:
    """The options as plain JSON and TOML values, such that :func:`parse_options` gives the same options back.

    Tuples become lists. TOML has no null: None is left out where it is the default, else written ``"none"``.
    """
    plain: dict[str, Any] = {}
    for info in describe_options(type(options)):
        value = getattr(options, info.name)
        if value is None and info.default is None:
            continue
        plain[info.name] = "none" if value is None else list(value) if isinstance(value, tuple) else value
    return plain


def _hints(schema: type) -> dict[str, Any]:
    try:
        if not dataclasses.is_dataclass(schema):
            raise TypeError("not a dataclass")
        return typing.get_type_hints(schema)
    except Exception as error:  # a name that exists under TYPE_CHECKING alone
        raise PluginError(f"options class {schema!r} cannot be read: {type(error).__name__}: {error}") from error


def _missing(info: OptionInfo) -> bool:
    return info.required or info.default is dataclasses.MISSING


def _is_union(hint: Any) -> bool:
    return isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union


def _type_name(hint: Any) -> str:
    if _is_union(hint):
        return " or ".join(_type_name(a) for a in typing.get_args(hint))
    if hint is type(None):
        return "none"
    if typing.get_origin(hint) is tuple:
        first, *rest = typing.get_args(hint)
        return ("list of " if Ellipsis in rest else f"list of {len(rest) + 1} times ") + _type_name(first)
    name = getattr(hint, "__name__", str(hint))
    return {"int": "integer", "float": "number", "str": "text", "bool": "true or false"}.get(name, name)


def _convert(raw: Any, hint: Any) -> Any:
    """``raw`` as ``hint``; a ValueError says in words what was wanted."""
    if _is_union(hint):
        return _convert_union(raw, typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return _convert_tuple(raw, hint)
    converter = {bool: _to_bool, int: _to_int, float: _to_float, str: _to_str}.get(hint)
    if converter is None:
        raise ValueError(f"options of type {hint!r} are not supported")
    return converter(raw)


def _convert_tuple(raw: Any, hint: Any) -> tuple[Any, ...]:
    """``tuple[T, ...]`` of any length or ``tuple[T, T]`` of a fixed one, from a list or from ``"a,b"``."""
    items = [i.strip() for i in raw.split(",") if raw.strip()] if isinstance(raw, str) else raw
    members = typing.get_args(hint)
    if not isinstance(items, list | tuple):
        raise ValueError(f"{raw!r} is not a {_type_name(hint)}")
    if Ellipsis not in members and len(items) != len(members):
        raise ValueError(f"{raw!r} has {len(items)} values where {len(members)} are needed")
    return tuple(_convert(item, members[0] if Ellipsis in members else members[k]) for k, item in enumerate(items))


def _convert_union(raw: Any, members: tuple[Any, ...]) -> Any:
    if type(None) in members and (raw is None or (isinstance(raw, str) and raw.lower() == "none")):
        return None
    reasons = []
    for member in members:
        if member is not type(None):
            try:
                return _convert(raw, member)
            except ValueError as error:
                reasons.append(str(error))
    raise ValueError(reasons[0])


def _to_bool(raw: Any) -> bool:
    if isinstance(raw, bool):
        return raw
    words = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}
    if isinstance(raw, str) and raw.lower() in words:
        return words[raw.lower()]
    raise ValueError(f"{raw!r} is not true or false")


def _to_int(raw: Any) -> int:
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    try:
        if isinstance(raw, str):
            return int(raw)
    except ValueError:
        pass
    raise ValueError(f"{raw!r} is not an integer")


def _to_float(raw: Any) -> float:
    try:
        if isinstance(raw, int | float | str) and not isinstance(raw, bool):
            value = float(raw)
            if math.isfinite(value):
                return value
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{raw!r} is not a finite number")


def _to_str(raw: Any) -> str:
    if isinstance(raw, str):
        return raw
    raise ValueError(f"{raw!r} is not a text")


def _check_range(info: OptionInfo, value: Any) -> Any:
    if value is None:
        return value
    for number in value if isinstance(value, tuple) else (value,):
        if info.choices and number not in info.choices:
            close = did_you_mean(str(number), map(str, info.choices))
            raise ValueError(f"{number!r} is not {info.allowed}" + (f" ({close})" if close else ""))
        if isinstance(number, int | float):
            too_low = info.low is not None and number < info.low
            too_high = info.high is not None and number > info.high
            if too_low or too_high:
                raise ValueError(f"{number!r} is out of range ({info.allowed})")
    return value
