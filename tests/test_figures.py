from __future__ import annotations

import itertools
import math
import os
import struct
import subprocess
import sys
from contextlib import contextmanager

import matplotlib
import numpy as np
import pytest
from PIL import Image

from zoo.evaluation import curves, figures
from zoo.evaluation.calibration import calibrate
from zoo.evaluation.canvas import drawing, shorten
from zoo.evaluation.curves import curves_figure
from zoo.evaluation.figures import calibration_figure, confusion_figure


def confusion(count: int, seed: int = 0, right: float = 0.9) -> np.ndarray:
    rng = np.random.default_rng(seed)
    true = rng.integers(0, count, 40 * count)
    guess = np.where(rng.uniform(size=true.size) < right, true, rng.integers(0, count, true.size))
    return np.bincount(true * count + guess, minlength=count**2).reshape(count, count)


def names(count: int) -> list[str]:
    return [f"class {i}" for i in range(count)]


def epoch(phase: int, number: int, loss: float | None, **val: float) -> dict:
    row = {"event": "epoch", "phase": phase, "epoch": number, "step": number, "train_loss": loss, "rate": 0.1}
    return {**row, "val": val} if val else row


def chunks(path) -> list[bytes]:
    data, found = path.read_bytes()[8:], []
    while data:
        (length,) = struct.unpack(">I", data[:4])
        found.append(data[4:8])
        data = data[12 + length :]
    return found


@pytest.fixture
def seen(monkeypatch):
    """The matplotlib figures that were drawn."""
    figures_seen = []

    @contextmanager
    def recording(*arguments):
        with drawing(*arguments) as figure:
            figures_seen.append(figure)
            yield figure

    monkeypatch.setattr(curves, "drawing", recording)
    monkeypatch.setattr(figures, "drawing", recording)
    return figures_seen


# ---- confusion


@pytest.mark.parametrize("count", [2, 30, 31, 130])
def test_confusion_is_a_readable_picture_of_bounded_size(tmp_path, seen, count):
    path = confusion_figure(confusion(count), names(count), tmp_path / "c.png")
    with Image.open(path) as image:
        assert 300 < image.width < 2400
        assert 300 < image.height < 2400
    assert path.stat().st_size < 600_000
    axes = seen[0].axes[0]
    labels = [t.get_text() for t in axes.get_yticklabels()]
    assert labels == (names(count) if count <= 120 else names(count)[::2])
    figure = seen[0]
    boxes = [t.get_window_extent(figure.canvas.get_renderer()) for t in axes.get_yticklabels()]
    assert all(not a.overlaps(b) for a, b in itertools.pairwise(boxes))
    assert all(box.x0 >= 0 for box in boxes)


def test_small_confusions_have_their_counts_written_in(tmp_path, seen):
    matrix = np.array([[7, 2, 0], [0, 0, 0], [1, 0, 12345]])
    confusion_figure(matrix, ["a", "b", "c"], tmp_path / "c.png")
    axes = seen[0].axes[0]
    assert {(t.get_position(), t.get_text()) for t in axes.texts} == {
        ((0, 0), "7"), ((1, 0), "2"), ((0, 2), "1"), ((2, 2), "12k"),
    }  # fmt: skip
    assert axes.get_title("left") == "Confusion: 100.0% of 12,355 right"
    confusion_figure(confusion(31), names(31), tmp_path / "d.png")
    assert len(seen[1].axes[0].texts) == 0


def test_confusion_colours_are_shares_of_the_row_and_empty_rows_are_grey(tmp_path, seen):
    path = confusion_figure(np.array([[1, 3], [0, 0]]), ["a", "b"], tmp_path / "c.png")
    shares = seen[0].axes[0].images[0].get_array()
    assert shares[0].tolist() == [0.25, 0.75]
    assert np.ma.getmaskarray(np.ma.masked_invalid(shares))[1].all()
    with Image.open(path) as image:
        colours = {colour for n, colour in image.convert("RGB").getcolors(1 << 20) if n > 2000}
    assert (0xE4, 0xE4, 0xE4) in colours


@pytest.mark.filterwarnings("error")
def test_class_names_are_shown_as_they_are(tmp_path, seen):
    odd = ["$5 and $x_2$", "日本語", r"\frac{", "two\nlines", "x" * 300, ""]
    confusion_figure(confusion(6), odd, tmp_path / "c.png", heading="$unclosed")
    labels = [t.get_text() for t in seen[0].axes[0].get_yticklabels()]
    assert labels[:4] == ["$5 and $x_2$", "日本語", r"\frac{", "two lines"]
    assert len(labels[4]) == 22


@pytest.mark.parametrize(("label", "limit", "short"), [
    ("cat", 5, "cat"), ("abcdefghij", 10, "abcdefghij"), ("abcdefghijk", 10, "abcdef…ijk"), ("a \t b\n", 9, "a b"),
])  # fmt: skip
def test_shorten_keeps_both_ends(label, limit, short):
    assert shorten(label, limit) == short


# ---- calibration


def test_reliability_diagram_shows_the_bins_that_have_samples(tmp_path, seen):
    confidence = np.concatenate([np.full(20, 0.9), np.full(3, 0.5)])
    calibration = calibrate(confidence, np.arange(23) % 2 == 0)
    path = calibration_figure(calibration, tmp_path / "r.png")
    assert path.exists()
    upper, lower = seen[0].axes
    assert [round(bar.get_height(), 3) for bar in upper.patches] == [0.5, 0.667]  # the full bin, then the pale one
    assert [bar.get_height() for bar in lower.patches] == calibration.counts.tolist()
    expected = (20 * 0.4 + 3 * (2 / 3 - 0.5)) / 23
    assert f"{expected:.1%}" in upper.get_title("left")
    assert "23 samples" in upper.get_title("left")


# ---- curves

ROWS = [
    epoch(0, 0, 2.0, accuracy=0.4, macro_f1=0.3, nll=1.9),
    epoch(0, 1, 1.5, accuracy=0.6, macro_f1=0.5, nll=1.4),
    {"event": "phase", "phase": 0, "label": "linear:2", "steps": 4},
    epoch(1, 0, None),
    epoch(1, 1, 0.7, accuracy=0.9, macro_f1=0.9, nll=0.5),
    epoch(1, 2, 0.5, accuracy=0.8, macro_f1=0.8, nll=0.6),
    {"event": "phase", "phase": 1, "label": "full+l2-sp:3", "steps": 6},
    {"event": "end"},
]


def lines(axes) -> dict[str, list[tuple[float, float]]]:
    shown = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
    return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in shown}


def test_curves_run_over_the_epochs_of_all_phases(tmp_path, seen):
    assert curves_figure(ROWS, tmp_path / "t.png") == tmp_path / "t.png"
    loss, metric = seen[0].axes
    assert lines(loss) == {
        "train": [(1, 2.0), (2, 1.5), (4, 0.7), (5, 0.5)],
        "validation (nll)": [(1, 1.9), (2, 1.4), (4, 0.5), (5, 0.6)],
    }
    assert lines(metric) == {"accuracy: best 0.900 (epoch 4)": [(1, 0.4), (2, 0.6), (4, 0.9), (5, 0.8)]}
    assert [t.get_text() for t in loss.texts] == ["linear:2", "full+l2-sp:3"]
    assert all(x == int(x) for x in metric.get_xticks())


def test_a_repeated_epoch_of_a_resumed_run_counts_once(tmp_path, seen):
    curves_figure([epoch(0, 0, 9.0), epoch(0, 1, 8.0), epoch(0, 1, 3.0)], tmp_path / "t.png")
    assert lines(seen[0].axes[0]) == {"train": [(1, 9.0), (2, 3.0)]}


def test_each_column_has_its_main_metric(tmp_path, seen):
    val = {"shape.accuracy": 0.5, "shape.nll": 1.0, "age.r2": -0.2, "age.mae": 3.0, "tags.map": 0.3}
    curves_figure([epoch(0, 0, 1.0, **val)], tmp_path / "t.png")
    assert [label.split(":")[0] for label in lines(seen[0].axes[1])] == ["shape.accuracy", "age.r2", "tags.map"]


def test_rates_have_a_panel_with_a_line_for_each_phase_and_a_band_where_groups_differ(tmp_path, seen):
    rows = [
        {**epoch(p, n, 1.0), "step": 4 * (n + 1), "learning_rates": [0.1 / (n + 1), 0.01]}
        for p in (0, 1)
        for n in (0, 1)
    ]
    curves_figure(rows, tmp_path / "t.png")
    [axes] = [a for a in seen[-1].axes if a.get_ylabel() == "rate"]
    assert [list(line.get_xdata()) for line in axes.get_lines()[:2]] == [[1.5, 2.5], [3.5, 4.5]]
    assert list(axes.get_lines()[0].get_ydata()) == [0.1, 0.05]
    assert len(axes.collections) == 2


def test_logged_steps_lie_within_their_epoch(tmp_path, seen):
    rows = [{**epoch(p, n, 1.0), "step": 4 * (n + 1)} for p in (0, 1) for n in (0, 1)]
    steps = [{"event": "step", "phase": 1, "epoch": 1, "step": s, "loss": s / 10} for s in (6, 8, 6)]
    curves_figure([*rows, *steps], tmp_path / "t.png")
    [line] = [line for line in seen[-1].axes[0].get_lines() if "single steps" in line.get_label()]
    assert list(line.get_xdata()) == [4.0, 4.5]  # halfway through the fourth epoch, and its end
    assert list(line.get_ydata()) == [0.6, 0.8]


def test_curves_without_validation_or_without_epochs(tmp_path, seen):
    curves_figure([{**epoch(0, 0, 1.0), "val": None}], tmp_path / "t.png")
    assert len(seen[0].axes) == 1
    curves_figure([epoch(0, 0, None), epoch(0, 1, math.nan)], tmp_path / "u.png")
    assert lines(seen[1].axes[0]) == {}
    assert curves_figure([{"event": "phase", "phase": 0}], tmp_path / "none.png") is None
    assert not (tmp_path / "none.png").exists()


# ---- what all figures share


def draw_all(folder) -> list[bytes]:
    folder.mkdir()
    paths = [
        confusion_figure(confusion(5), names(5), folder / "c.png"),
        calibration_figure(calibrate(np.linspace(0.3, 1, 50), np.arange(50) % 3 > 0), folder / "r.png"),
        curves_figure(ROWS, folder / "t.png"),
    ]
    for path in paths:
        assert set(chunks(path)) <= {b"IHDR", b"pHYs", b"IDAT", b"IEND"}  # neither date nor software
    return [path.read_bytes() for path in paths]


def test_equal_content_gives_equal_bytes_whatever_the_users_settings(tmp_path):
    first = draw_all(tmp_path / "a")
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black", "savefig.dpi": 30}):
        assert draw_all(tmp_path / "b") == first
    assert dict(matplotlib.rcParams) == before


def test_a_figure_that_fails_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="wrong"), drawing(tmp_path / "x.png", 2, 2):
        raise ValueError("wrong")
    assert list(tmp_path.iterdir()) == []


def test_figures_need_no_display_and_leave_pyplot_alone(tmp_path):
    code = (
        "import sys, numpy\n"
        "from pathlib import Path\n"
        "from zoo.evaluation.figures import confusion_figure\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"confusion_figure(numpy.eye(2, dtype=int), ['a', 'b'], Path({str(tmp_path / 'c.png')!r}))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "DISPLAY"} | {"MPLBACKEND": "TkAgg"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "c.png").exists()
