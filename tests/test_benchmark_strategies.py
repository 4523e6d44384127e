"""The proof's own machinery: one tiny cell through the product, paired draws, and what a claim says of known rows."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "strategies"


@pytest.fixture(scope="module", autouse=True)
def _importable():
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


def test_one_cell_runs_through_the_product():
    from cell import plan, resolved_digest, run_cell
    from ways import WAYS

    row = run_cell("digits-1", WAYS["linear"], "cnn", 3, steps=30)
    assert row["test"]["accuracy"] > 0.4  # ten images; chance is 0.1
    assert row["trainable"] == 192 * 10 + 10
    assert row["steps"] == 30
    assert row["recipe"] == resolved_digest(plan("digits-1", WAYS["linear"], "cnn", 0, steps=30).recipe)


def test_a_recipe_with_another_rate_has_another_digest():
    from cell import plan, resolved_digest
    from ways import WAYS

    made = [plan("digits-1", WAYS["linear"], "cnn", 0, steps=5, settings=s).recipe for s in ((), ("train.lr=0.5",))]
    assert resolved_digest(made[0]) != resolved_digest(made[1])


def test_draws_are_paired_and_apart_from_the_tests():
    from tasks import draw

    first, again, other = draw("imbalanced", 1), draw("imbalanced", 1), draw("imbalanced", 2)
    assert np.array_equal(first.splits["train"].images, again.splits["train"].images)
    assert first.splits["train"].targets != other.splits["train"].targets
    pixels = {split: {image.tobytes() for image in images.images} for split, images in first.splits.items()}
    assert not pixels["train"] & (pixels["test"] | pixels["val"])
    assert not pixels["val"] & pixels["test"]
    counts = np.bincount(first.splits["train"].targets)
    assert (counts.max(), counts.min()) == (60, 2)


def test_shifted_images_are_the_same_every_time_and_differ_from_the_clean():
    from tasks import SHIFTED, draw

    drawn = draw("digits-10", 0)
    assert set(drawn.shifted) == {"noise", "rotation", "stroke", "contrast"}
    for images in drawn.shifted.values():
        assert images.shape == (SHIFTED, 64, 64)
        assert images.dtype == np.uint8
        assert (images != drawn.splits["test"].images[:SHIFTED]).any(axis=(1, 2)).all()


def test_a_claim_says_what_the_rows_say():
    from claims import find_claims
    from table import Table

    def row(way, seed, shifted):
        test = {"accuracy": 0.9, "macro_f1": 0.9, "worst": 0.5, "nll": 0.1}
        cell = {"task": "digits-10", "way": way, "starter": "cnn", "seed": seed, "trainable": 1, "seconds": 1.0}
        return cell | {"test": test, "shifts": {"noise": shifted, "rotation": shifted}}

    def verdict(better):
        rows = [row("full", s, 0.7) for s in range(5)] + [row("lp-ft", s, better) for s in range(5)]
        return next(c for c in find_claims(Table(rows), ["cnn"]) if c.title.startswith("LP-FT"))

    assert verdict(0.8).findings[0].shown is True
    assert "+10.0 (5/5)" in verdict(0.8).findings[0].numbers
    assert verdict(0.6).verdict == "not shown"
