"""``zoo predict --out``: rows in a file, each file once and in order, whatever happens on the way."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import killing
import numpy as np
import pytest
from killing import Point
from zoo_runs import CLASSES, done, zoo

from zoo import results, tables
from zoo.prediction import PredictedFile

BATCH = ("--batch-size", 4, "--workers", 0)


@pytest.fixture(scope="module")
def folder(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 photographs and, in the middle, a file that is none."""
    copied = shutil.copytree(photos, tmp_path_factory.mktemp("predict") / "photos")
    (copied / "rings" / "4a.jpg").write_bytes(b"no image")
    return copied


@pytest.fixture(scope="module")
def whole(finished_run: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Suffix -> the results of a run that nobody disturbs."""
    place = tmp_path_factory.mktemp("whole")
    for suffix in (".csv", ".parquet"):
        assert zoo("predict", finished_run, folder, "--top", 2, "--out", place / f"x{suffix}", *BATCH).code == 3
    return {path.suffix: path.read_bytes() for path in place.iterdir()}


def rows_of(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode())))


# ------------------------------------------------------------------ forms


def test_the_rows_are_those_of_the_standard_output(finished_run: Path, folder: Path, whole: dict[str, bytes]):
    printed = zoo("predict", finished_run, folder, "--top", 2, "--csv", *BATCH)
    assert printed.out.encode() == whole[".csv"]
    rows = rows_of(whole[".csv"])
    assert len(rows) == 31
    assert [row["error"] for row in rows if row["error"]] == [
        "not an image of a known format (JPEG, PNG, WEBP, BMP, GIF, TIFF)"
    ]
    assert len({row["file"] for row in rows}) == 31


def test_parquet_says_the_same_with_types(folder: Path, whole: dict[str, bytes]):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(io.BytesIO(whole[".parquet"])).to_pylist()
    for row, cells in zip(table, rows_of(whole[".csv"]), strict=True):
        assert (row["file"], row["column"]) == (cells["file"], cells["column"])
        assert (row["label"] or "", row["label_2"] or "") == (cells["label"], cells["label_2"])
        assert (row["error"] or "") == cells["error"]
        if row["label"]:
            assert f"{row['score']:.6f}" == cells["score"]
            assert row["label"] in CLASSES
        assert (row["value"], row["labels"]) == (None, None)


def test_the_groups_of_parquet_do_not_depend_on_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(tables, "GROUP_ROWS", 10)
    rows = [PredictedFile(file=f"{i}", column="c", labels=("a",) * (i % 3), top=(("a", i / 9),)) for i in range(47)]
    found = []
    for borders in ((47,), (3, 4, 20, 33, 47)):
        folder = tmp_path / str(len(borders))
        folder.mkdir()
        out, start = tables.ParquetRows(folder, 1, None), 0
        for end in borders:
            out.write(rows[start:end])
            out.flush()
            start = end
        found.append(out.whole().read_bytes())
    assert found[0] == found[1]
    file = parquet.ParquetFile(io.BytesIO(found[0]))
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [10, 10, 10, 10, 7]
    assert file.read().column("labels").to_pylist()[:3] == [[], ["a"], ["a", "a"]]


@pytest.mark.parametrize("row", [
    PredictedFile(file="a", column="x", value=0.25),
    PredictedFile(file="a,\n\"b", column="x", labels=("p", "q"), top=(("p", 0.9), ("q", 0.8))),
    PredictedFile(file="a", column="x"),
    PredictedFile(file="a", column="x", error="empty file"),
    PredictedFile(file="a", column="x", label="p", score=0.5, top=(("p", 0.5), ("q", 0.25))),
])  # fmt: skip
def test_every_kind_of_row_has_the_cells_of_the_header(row: PredictedFile):
    for top in (1, 2, 5):
        assert len(tables.csv_cells(row, top)) == len(tables.csv_header(top))


# ------------------------------------------------------------------ killed

CSV_POINTS = {
    "before any row": Point("zoo.results:ResultFile.skip", 1),
    "in the midst of a batch": Point("zoo.prediction:_Rows._row", 13),
    "in the midst of the rows": Point("zoo.tables:csv_cells", 18),
    "between rows and journal": Point("zoo.tables:CsvRows.write", 3, after=True),
    "before the journal is replaced": Point("zoo.files:os.replace", 5),
    "after the journal is replaced": Point("zoo.results:write_json", 5, after=True),
    "before the end": Point("zoo.results:ResultFile.finish", 1),
    "before it takes its name": Point("zoo.files:os.replace", 11),
    "after it took its name": Point("zoo.results:sync", 1),
}
PARQUET_POINTS = {
    "before any row": Point("zoo.results:ResultFile.skip", 1),
    "between part and journal": Point("zoo.tables:ParquetRows.flush", 4, after=True),
    "while parts are put together": Point("zoo.tables:ParquetRows._groups", 1),
    "before it takes its name": Point("zoo.results:os.replace", 11),
    "after it took its name": Point("zoo.results:sync", 1),
}


def _work(point: Point | None, arguments: list[str]) -> None:
    from zoo.cli.main import main

    multiprocessing.set_start_method("fork", force=True)
    results.SAVE_SECONDS = 0.0  # a journal a batch
    if point is not None:
        killing.arm(point)
    os._exit(main(arguments))


def killed(point: Point | None, *arguments: object) -> int:
    """``zoo ARGUMENTS`` in a process of its own that dies there; its exit code, negative for a signal."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tiny_runs", "torch._dynamo", "matplotlib.figure", "zoo.results", "zoo.prediction"])
    process = context.Process(target=_work, args=(point, [str(a) for a in arguments]))
    process.start()
    process.join(100)
    assert process.exitcode is not None, "it does not end"
    return process.exitcode


EVERY_DAY = {
    "csv in the midst of the rows",
    "csv between rows and journal",
    "csv after it took its name",
    "parquet between part and journal",
}
MOMENTS = [
    pytest.param(suffix, point, id=name, marks=() if name in EVERY_DAY else pytest.mark.slow)
    for suffix, points in ((".csv", CSV_POINTS), (".parquet", PARQUET_POINTS))
    for name, point in ((f"{suffix[1:]} {name}", point) for name, point in points.items())
]


@pytest.mark.parametrize(("suffix", "point"), MOMENTS)
@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_file(
    suffix: str, point: Point, finished_run: Path, folder: Path, whole: dict[str, bytes], tmp_path: Path
):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    out = tmp_path / f"x{suffix}"
    command = ("predict", finished_run, folder, "--top", 2, "--out", out, *BATCH)
    assert killed(point, *command) == -signal.SIGKILL
    again = zoo(*command, "--resume")
    assert again.code in (0, 3)
    assert out.read_bytes() == whole[suffix]
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert zoo(*command, "--resume").out == f"{out} is complete already\n"


@pytest.mark.slow
def test_killed_twice_with_workers_and_a_list_on_standard_input(
    finished_run: Path, folder: Path, whole: dict[str, bytes], tmp_path: Path
):
    out = tmp_path / "x.csv"
    names = "".join(f"{row['file']}\n" for row in rows_of(whole[".csv"]))
    (tmp_path / "list.txt").write_text(names)
    command = ("predict", finished_run, f"@{tmp_path}/list.txt", "--top", 2, "--out", out, "--batch-size", 4)
    assert killed(Point("zoo.results:ResultFile.add", 3), *command, "--workers", 2) == -signal.SIGKILL
    assert json.loads((results.partial(out) / "journal.json").read_text())["files"] == 8
    assert killed(Point("zoo.results:ResultFile.add", 3), *command, "--resume") == -signal.SIGKILL
    assert json.loads((results.partial(out) / "journal.json").read_text())["files"] == 16
    text = [sys.executable, "-m", "zoo", *map(str, command), "--resume", "--json"]
    text[text.index(f"@{tmp_path}/list.txt")] = "-"
    last = subprocess.run(text, input=names, capture_output=True, text=True, check=False)
    assert last.returncode == 3
    assert json.loads(last.stdout) == {"out": str(out), "files": 31, "unreadable": 1, "kept": 16}
    assert out.read_bytes() == whole[".csv"]


def test_a_torn_line_is_cut_off(finished_run: Path, folder: Path, whole: dict[str, bytes], tmp_path: Path):
    out = tmp_path / "x.csv"
    command = ("predict", finished_run, folder, "--top", 2, "--out", out, *BATCH)
    assert killed(Point("zoo.results:ResultFile.add", 4), *command) == -signal.SIGKILL
    with (results.partial(out) / "rows.csv").open("ab") as file:
        file.write(b"photos/rings/9.jp")
    assert zoo(*command, "--resume").code == 3
    assert out.read_bytes() == whole[".csv"]


def test_an_interrupted_run_keeps_what_it_has(
    finished_run: Path, folder: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "x.csv"
    command = ("predict", finished_run, folder, "--top", 2, "--out", out, *BATCH)
    add, calls = results.ResultFile.add, []

    def stop(self: results.ResultFile, rows: list[PredictedFile]) -> int:
        calls.append(add(self, rows))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return calls[-1]

    monkeypatch.setattr(results.ResultFile, "add", stop)
    assert zoo(*command).code == 130
    monkeypatch.undo()
    assert json.loads((results.partial(out) / "journal.json").read_text())["files"] == 12  # though 5 s had not passed
    assert zoo(*command, "--resume").code == 3
    assert out.read_bytes() == whole[".csv"]


# ------------------------------------------------------------------ refused


def test_results_that_exist_are_not_overwritten(finished_run: Path, photos: Path, tmp_path: Path):
    out = tmp_path / "x.csv"
    out.write_text("mine")
    refused = zoo("predict", finished_run, photos, "--out", out)
    assert refused.code == 6
    assert refused.lines("hint:") == ["replace it with --force, or name another"]
    assert out.read_text() == "mine"
    killed(Point("zoo.results:ResultFile.finish", 1), "predict", finished_run, photos, "--out", out, "--force")
    assert out.read_text() == "mine", "until the new one is complete"
    refused = zoo("predict", finished_run, photos, "--out", out)
    assert refused.code == 6
    assert "--resume" in refused.lines("hint:")[0]
    done("predict", finished_run, photos, "--out", out, "--force")
    assert len(out.read_text().splitlines()) == 31


@pytest.mark.slow
def test_going_on_with_other_options_files_or_another_process_is_refused(
    finished_run: Path, folder: Path, tmp_path: Path
):
    out = tmp_path / "x.csv"
    command = ("predict", finished_run, folder, "--out", out)
    assert killed(Point("zoo.results:ResultFile.add", 4), *command, *BATCH) == -signal.SIGKILL
    top = zoo(*command, *BATCH, "--resume", "--top", 3)
    assert (top.code, top.lines("error:")) == (6, [f"{str(out)!r} was begun with top 1, this is 3"])
    assert zoo(*command, "--batch-size", 5, "--resume").code == 6
    other = zoo("predict", finished_run, folder / "rings", "--out", out, *BATCH, "--resume")
    assert (other.code, "other files" in other.err) == (6, True)
    with results._locked(results.partial(out)):
        code = killed(None, *command, *BATCH, "--resume")
        assert code == 6, "another process has it"
    (results.partial(out) / "journal.json").write_text("{")
    assert zoo(*command, *BATCH, "--resume").code == 5
    assert zoo(*command, *BATCH, "--force").code == 3
    assert len(rows_of(out.read_bytes())) == 31


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--out", "x.txt"), "'x.txt' is neither .csv nor .parquet"),
        (("--out", "x.csv", "--resume", "--force"), "--resume goes on, --force starts again"),
        (("--out", "none/x.csv"), "no folder 'none' for x.csv"),
        (("--resume",), "--resume needs --out"),
        (("--out", "x.csv", "--csv"), "--csv prints CSV"),
    ],
)
def test_wrong_turns_cost_no_model(arguments: tuple[str, ...], said: str, photos: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("zoo.models.load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    outcome = zoo("predict", "run", photos, *arguments)
    assert (outcome.code, outcome.lines("error:")) == (2, [said])


def test_parquet_without_pyarrow_is_one_line(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    outcome = zoo("predict", "run", photos, "--out", tmp_path / "x.parquet")
    assert (outcome.code, outcome.lines("error:")) == (2, ["x.parquet needs pyarrow"])


def test_a_full_disk_stops_the_run_and_it_goes_on(
    finished_run: Path, folder: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "x.csv"
    command = ("predict", finished_run, folder, "--top", 2, "--out", out, *BATCH)
    append, calls = tables.CsvRows._append, []

    def full(self: tables.CsvRows, rows: list[list[str]]) -> None:
        calls.append(rows)
        if len(calls) == 4:
            self._file.write(b"half a li")
            raise OSError(28, "No space left on device", str(self.path))
        append(self, rows)

    monkeypatch.setattr(tables.CsvRows, "_append", full)
    assert zoo(*command).code == 8
    monkeypatch.undo()
    assert zoo(*command, "--resume").code == 3
    assert out.read_bytes() == whole[".csv"]


def test_scores_of_a_column_are_ranked_as_numpy_ranks_them():
    from zoo.prediction import _Rows

    class Loaded:
        class document:
            columns = ()

        class model:
            head = None

    scores = np.random.default_rng(0).integers(0, 4, (50, 7)).astype(np.float32)  # many are equal
    first, three = _Rows(Loaded, 1)._best(scores), _Rows(Loaded, 3)._best(scores)
    expected = np.stack([np.argsort(-row, kind="stable")[:3] for row in scores])
    assert np.array_equal(three, expected)
    assert np.array_equal(first, expected[:, :1])
