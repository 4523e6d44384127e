"""Options: one schema for command line, TOML, JSON and people."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zoo_registry import HeadSpec, NoOptions, PluginError, UsageError, option
from zoo_registry.options import check_options, describe_options, options_to_dict, parse_options

if TYPE_CHECKING:
    from decimal import Decimal


@dataclass(frozen=True, kw_only=True)
class Everything:
    count: int = option(3, help="a count", low=0, high=10**9)
    rate: float = option(0.1, help="a rate", low=0.0)
    on: bool = option(False, help="a switch")
    word: str = option("x", help="a word")
    kind: str = option("a", help="a choice", choices=("a", "b"))
    maybe: int | None = option(None, help="perhaps")
    surely: int | None = option(5, help="perhaps not")
    either: int | float | None = option(None, help="a number")
    sizes: tuple[int, ...] = option((), help="many", low=1)
    betas: tuple[float, float] = option((0.9, 0.999), help="two", low=0.0, high=1.0)
    words: tuple[str, ...] = option(("p",), help="many words")
    colours: tuple[str, ...] = option(("red",), help="chosen", choices=("red", "green"))


finite = st.floats(allow_nan=False, allow_infinity=False)
everything = st.builds(
    Everything,
    count=st.integers(0, 10**9),
    rate=finite.filter(lambda x: x >= 0),
    on=st.booleans(),
    word=st.text(),
    kind=st.sampled_from(["a", "b"]),
    maybe=st.none() | st.integers(),
    surely=st.none() | st.integers(),
    either=st.none() | st.integers() | finite,
    sizes=st.lists(st.integers(1)).map(tuple),
    betas=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    words=st.lists(st.text()).map(tuple),
    colours=st.lists(st.sampled_from(["red", "green"])).map(tuple),
)


@given(everything)
def test_what_is_written_is_read_back(options: Everything):
    plain = options_to_dict(options)
    assert None not in plain.values(), "TOML has no null"
    assert parse_options(Everything, json.loads(json.dumps(plain)), where="x") == options


simple_words = st.text(st.characters(categories=["Lu", "Ll", "Nd"]), min_size=1).filter(lambda w: w.lower() != "none")


@given(everything, simple_words, st.lists(simple_words, max_size=3).map(tuple))
def test_the_command_line_reads_what_python_prints(options: Everything, word: str, words: tuple[str, ...]):
    options = dataclasses.replace(options, word=word, words=words)
    texts = {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for name, value in dataclasses.asdict(options).items()
    }
    assert parse_options(Everything, texts, where="x") == options


names = st.sampled_from([f.name for f in dataclasses.fields(Everything)])


@given(st.dictionaries(names, st.none() | st.text() | finite))
def test_any_value_is_taken_or_refused_in_words(values):
    built, problems = check_options(Everything, values, where="head")
    assert (built is None) == bool(problems)
    assert all(problem.startswith("head.") for problem in problems)
    if built is not None:
        assert parse_options(Everything, options_to_dict(built), where="x") == built


def test_defaults_need_nothing():
    assert parse_options(Everything, {}, where="x") == Everything()
    assert parse_options(NoOptions, {}, where="x") == NoOptions()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("count", "7", 7),
        ("rate", "1e-3", 1e-3),
        ("rate", 2, 2.0),
        ("on", "yes", True),
        ("on", "OFF", False),
        ("maybe", "none", None),
        ("surely", "None", None),
        ("either", "3", 3),
        ("either", "3.5", 3.5),
        ("sizes", "1, 2,3", (1, 2, 3)),
        ("sizes", "", ()),
        ("sizes", [4], (4,)),
        ("betas", "0.5,0.6", (0.5, 0.6)),
    ],
)
def test_a_value_from_the_command_line(name, text, value):
    assert getattr(parse_options(Everything, {name: text}, where="x"), name) == value


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("count", "seven", "'seven' is not an integer"),
        ("count", True, "True is not an integer"),
        ("count", 1.5, "1.5 is not an integer"),
        ("count", -1, "-1 is out of range (0 to 1e+09)"),
        ("rate", "nan", "'nan' is not a finite number"),
        ("rate", math.inf, "inf is not a finite number"),
        ("rate", 10**400, "is not a finite number"),
        ("rate", -0.1, "-0.1 is out of range (at least 0)"),
        ("on", "maybe", "'maybe' is not true or false"),
        ("word", 3, "3 is not a text"),
        ("kind", "c", "'c' is not one of a, b"),
        ("kind", "aa", "is not one of a, b"),
        ("maybe", "x", "'x' is not an integer"),
        ("sizes", "1,x", "'x' is not an integer"),
        ("sizes", "0", "0 is out of range (at least 1)"),
        ("sizes", 3, "3 is not a list of integer"),
        ("betas", "0.5", "has 1 values where 2 are needed"),
        ("betas", [0.5, 2], "2.0 is out of range (0 to 1)"),
        ("colours", "red,blue", "'blue' is not one of red, green"),
    ],
)
def test_a_wrong_value_is_refused_in_words(name, value, reason):
    _, problems = check_options(Everything, {name: value}, where="head")
    assert len(problems) == 1
    assert problems[0].startswith(f"head.{name}: ")
    assert reason in problems[0]


def test_all_problems_are_reported_at_once():
    with pytest.raises(UsageError) as caught:
        parse_options(Everything, {"cuont": 1, "count": "x", "rate": -1, "kind": "z", "zzz": 0}, where="head")
    message = caught.value.message
    assert "unknown option 'head.cuont' (did you mean 'count'?)" in message
    assert "unknown option 'head.zzz' (options: count, rate" in message
    assert all(f"head.{name}: " in message for name in ("count", "rate", "kind"))
    assert caught.value.exit_code == 2


def test_a_schema_without_options_says_so():
    _, problems = check_options(NoOptions, {"x": 1}, where="strategy.full")
    assert problems == ["unknown option 'strategy.full.x' (it has no options)"]


def test_a_schema_may_check_what_one_field_cannot():
    @dataclass(frozen=True, kw_only=True)
    class Range:
        low: int = option(0, help="from")
        high: int = option(1, help="to")

        def __post_init__(self) -> None:
            if self.low >= self.high:
                raise ValueError(f"low {self.low} is not below high {self.high}")

    Range.__annotations__.update(low=int, high=int)
    assert check_options(Range, {"low": 5}, where="head") == (None, ["head: low 5 is not below high 1"])


def test_people_see_type_default_range_and_help():
    shown = {info.name: info for info in describe_options(Everything)}
    assert [(shown[n].type, shown[n].allowed) for n in ("count", "kind", "maybe", "sizes", "betas", "rate")] == [
        ("integer", "0 to 1e+09"),
        ("text", "one of a, b"),
        ("integer or none", ""),
        ("list of integer", "at least 1"),
        ("list of 2 times number", "0 to 1"),
        ("number", "at least 0"),
    ]
    assert (shown["count"].default, shown["count"].help) == (3, "a count")


@dataclass(frozen=True)
class Unreadable:
    amount: Decimal = None


@dataclass(frozen=True)
class Needy:
    must: int


@dataclass(frozen=True)
class Unsupported:
    table: dict[str, int] | None = None


def test_a_schema_that_cannot_be_used_is_the_plugins_fault():
    with pytest.raises(PluginError, match=r"Unreadable.*Decimal"):
        describe_options(Unreadable)
    with pytest.raises(PluginError, match="cannot be read"):
        describe_options(int)
    assert check_options(Needy, {}, where="x") == (None, ["x.must: a value is needed"])
    assert "not supported" in check_options(Unsupported, {"table": {}}, where="x")[1][0]


@dataclass(frozen=True, kw_only=True)
class Wanting:
    teacher: str = option("", help="a name", required=True)
    alpha: float = option(1.0, help="a number")


def test_a_required_option_must_be_given_and_says_so():
    with pytest.raises(UsageError, match=r"strategy\.x\.teacher: a value is needed"):
        parse_options(Wanting, {"alpha": 2.0}, where="strategy.x")
    assert parse_options(Wanting, {"teacher": "me"}, where="x") == Wanting(teacher="me")
    assert [o.allowed for o in describe_options(Wanting)] == ["must be given", ""]
    assert Wanting().teacher == ""


def test_a_schema_may_be_a_reference_that_is_imported_when_it_is_looked_at():
    spec = HeadSpec(name="late", summary="late options", factory="x:y", options="zoo_registry.options:NoSuch")
    with pytest.raises(PluginError, match="NoSuch"):
        parse_options(spec.options, {}, where="head")
    assert parse_options("zoo_registry.options:NoOptions", {}, where="head") == NoOptions()
    with pytest.raises(PluginError, match="is no class"):
        describe_options("zoo_registry.options:option")
    with pytest.raises(ValueError, match="not a dataclass"):
        HeadSpec(name="late", summary="a head with wrong options", factory="x:y", options="no reference")
