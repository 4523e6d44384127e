"""Loose files: found as they go, each once, in order; and the compact lists that a million of them live in."""

from __future__ import annotations

import io
import itertools
import os
import pickle
import random
import sys
from array import array
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo_registry import DataError, UsageError

from zoo.data import open_data, seen
from zoo.data.files import check_paths, file_stream, find_files
from zoo.data.globs import Pattern
from zoo.data.names import natural_key, nfc
from zoo.data.packed import Below, Packed, pick
from zoo.data.seen import Seen

TREE = (
    "a/1.jpg",
    "a/2.png",
    "a/10.jpg",
    "a/notes.txt",
    "a/b/3.jpg",
    "a/b/c/4.jpg",
    "d/5.JPG",
    ".hidden/6.jpg",
    "7.jpg",
)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in TREE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ------------------------------------------------------------------ finding


def test_folders_files_lists_and_patterns_each_file_once(tree: Path):
    Path("list.txt").write_text("d\n7.jpg\r\n\na/1.jpg\ngone.jpg\n")
    found = list(find_files(["a/b", "a/notes.txt", "@list.txt", "a/*.jpg", "./a/b/3.jpg"]))
    assert found == ["a/b/3.jpg", "a/b/c/4.jpg", "a/notes.txt", "d/5.JPG", "7.jpg", "a/1.jpg", "gone.jpg", "a/10.jpg"]
    assert list(find_files("a")) == ["a/1.jpg", "a/2.png", "a/10.jpg", "a/b/3.jpg", "a/b/c/4.jpg"]
    assert list(find_files(tree / "d")) == [str(tree / "d" / "5.JPG")]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("a/*.jpg", ["a/1.jpg", "a/10.jpg"]),
        ("**/*.jpg", ["7.jpg", "a/1.jpg", "a/10.jpg", "a/b/3.jpg", "a/b/c/4.jpg"]),
        ("a/**/*.jpg", ["a/1.jpg", "a/10.jpg", "a/b/3.jpg", "a/b/c/4.jpg"]),
        ("a/**/**/?.jpg", ["a/1.jpg", "a/b/3.jpg", "a/b/c/4.jpg"]),
        ("[ad]/[0-5]*", ["a/1.jpg", "a/2.png", "a/10.jpg", "d/5.JPG"]),
        ("a/*", ["a/1.jpg", "a/2.png", "a/10.jpg", "a/b/3.jpg", "a/b/c/4.jpg", "a/notes.txt"]),
        ("*/b", ["a/b/3.jpg", "a/b/c/4.jpg"]),
        ("./a/b/**/4*", ["a/b/c/4.jpg"]),
    ],
)
def test_patterns_are_the_shells(tree: Path, pattern: str, found: list[str]):
    assert list(find_files([pattern])) == found
    assert [os.path.relpath(path) for path in find_files([f"{tree}/{pattern}"])] == found


def test_a_pattern_matches_what_the_standard_library_finds(tree: Path):
    import glob

    for pattern in ("a/*.jpg", "**/*.jpg", "a/**/*.*", "*/*/?.jpg", "**/b/*", "**/c/**/*.jpg"):
        from zoo.data.folder import Scanner

        mine = list(Pattern(pattern).walk(Scanner(tree)))
        assert sorted(mine) == sorted(glob.glob(pattern, recursive=True)), pattern
        assert len(set(mine)) == len(mine)


def test_a_name_with_brackets_is_a_file_where_it_exists(tree: Path):
    Path("x[1].jpg").write_bytes(b"x")
    Path("@me.jpg").write_bytes(b"x")
    assert list(find_files(["x[1].jpg", "@me.jpg"])) == ["x[1].jpg", "@me.jpg"]
    with pytest.raises(DataError, match="nothing matches"):
        list(find_files(["y[1].jpg"]))


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\r\nb", ["a", "b"]),
        (b"a\0b\nc\0", ["a", "b\nc"]),
        (b"", []),
        (b"\n\n", []),
        ("\u00e9\n".encode() * 50_000 + b"end\n", ["\u00e9", "end"]),
        (b"\xff\n", [os.fsdecode(b"\xff")]),
    ],
)
def test_a_list_on_standard_input(content: bytes, names: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert list(find_files(["-"])) == names


def test_an_iterator_is_read_as_it_goes(tree: Path):
    endless = (f"photo{number}[1].jpg" for number in itertools.count())
    assert list(itertools.islice(find_files(endless), 3)) == [f"photo{number}[1].jpg" for number in range(3)]


def test_a_folder_is_not_listed_before_it_is_its_turn(tree: Path):
    files = find_files(["a/1.jpg", "d"])
    assert next(files) == "a/1.jpg"
    Path("d/8.jpg").write_bytes(b"x")
    assert list(files) == ["d/5.JPG", "d/8.jpg"]


@pytest.mark.parametrize("name", ["ab", "@gone.txt"])
def test_what_is_missing_is_said_before_anything_else(tree: Path, name: str):
    check_paths(["a", "@7.jpg", "-", "none*"])
    with pytest.raises(UsageError, match=r"no (file or folder|list)"):
        check_paths(["a", name])


def test_a_stream_reads_whatever_it_is_asked_for(tmp_path: Path):
    from PIL import Image

    Image.new("RGB", (3, 2)).save(tmp_path / "x.png")
    stream = pickle.loads(pickle.dumps(file_stream()))  # as a worker that does not fork gets it
    assert stream.read(str(tmp_path / "x.png")).shape == (2, 3, 3)
    assert stream.ids["anything"] == "anything"


# ------------------------------------------------------------------ compact


names = st.text(st.characters(exclude_characters="\0"), max_size=8)


@given(st.lists(names, max_size=12), st.data())
@settings(max_examples=60, deadline=None)
def test_packed_names_are_a_list(items: list[str], data: st.DataObject):
    packed = Packed(items)
    assert packed == items
    assert list(packed) == [packed[i] for i in range(len(packed))] == items
    assert [packed[-i - 1] for i in range(len(items))] == items[::-1]
    assert pickle.loads(pickle.dumps(packed)) == packed
    start, stop, step = (data.draw(st.integers(-9, 9)) for _ in range(3))
    assert packed[start : stop : step or 1] == items[start : stop : step or 1]
    for place in (len(items), -len(items) - 1):
        with pytest.raises(IndexError):
            packed[place]
    chosen = data.draw(st.lists(st.integers(0, len(items) - 1), max_size=5)) if items else []
    assert pick(packed, chosen) == [items[i] for i in chosen]
    assert pick(Below("root", packed), chosen) == [os.path.join("root", items[i]) for i in chosen]


def test_a_name_that_is_no_unicode_survives():
    name = os.fsdecode(b"\xff\xfe.jpg")
    assert os.fsencode(Packed([name])[0]) == b"\xff\xfe.jpg"
    assert pick(array("q", [5, 6, 7]), [2, 0]) == array("q", [7, 5])


@given(st.lists(st.text(alphabet="ab01 29/\u00e9\u0663-", max_size=9), max_size=12))
@settings(max_examples=200, deadline=None)
def test_the_natural_order_compares_numbers_by_value(items: list[str]):
    import re

    def parts(text: str) -> tuple:
        split = re.split(r"(\d+)", nfc(text))
        return (*((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in split if p), (-1, 0, ""), (2, 0, text))

    assert sorted(items, key=natural_key) == sorted(items, key=parts)


def test_seen_is_a_set(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(seen, "_RECENT", 16)
    draw, mine, reference = random.Random(0), Seen(), set()
    for _ in range(4000):
        text = str(draw.randrange(2000))
        assert mine.add(text) == (text not in reference)
        reference.add(text)
    assert len(mine) == len(reference)
    assert len(mine._older) < 9


@pytest.mark.slow
def test_a_hundred_thousand_files_take_little_memory(tmp_path: Path):
    """Of each file less than half a kilobyte at the peak, a tenth of that afterwards."""
    import tracemalloc

    for number in range(100_000):
        place = tmp_path / "data" / f"class_{number // 5000}"
        if number % 5000 == 0:
            place.mkdir(parents=True)
            (tmp_path / f"{number}.png").write_bytes(b"x")
        os.link(tmp_path / f"{number - number % 5000}.png", place / f"image_{number:06d}.png")
    tracemalloc.start()
    data = open_data(tmp_path / "data", check_leaks=False)
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(map(len, data.splits.values())) == 100_000
    assert peak < 400 * 100_000
    assert now < 100 * 100_000
    tracemalloc.start()
    assert sum(1 for _ in find_files([tmp_path / "data"])) == 100_000
    assert tracemalloc.get_traced_memory()[1] < 5_000 * 600
    tracemalloc.stop()
