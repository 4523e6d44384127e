"""Unreadable images in training and evaluation; thresholds."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from tiny_runs import make_run, phase, request, start, train_here
from tiny_zoo import Drawn, drawn_splits
from torch import nn
from zoo_registry import Column, DataError, Strategy

from zoo.data import open_data
from zoo.evaluation.predictions import Predictions, predict_split
from zoo.evaluation.report import report_columns


def data_with(train=(), val=(), test=()):
    return {"train": Drawn(26, bad=train), "val": Drawn(15, seed=1, bad=val), "test": Drawn(12, seed=2, bad=test)}


def rows_of(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_unreadable_images_are_dropped_counted_and_listed(tmp_path):
    data = data_with(train=(4, 11), val=(3,), test=(0, 7))
    result = start(tmp_path / "run", request(data, "freeze:1,whole:2", data_options={"max_bad": 0.1}))
    listed = rows_of(tmp_path / "run" / "bad_samples.csv")
    assert [(row["split"], row["id"]) for row in listed] == [
        ("test", "test/0000000"), ("test", "test/0000007"), ("train", "train/0000004"), ("train", "train/0000011"),
        ("val", "val/0000003"),
    ]  # fmt: skip
    assert all("drawn badly" in row["reason"] for row in listed)
    assert result.reports["test"].samples == 10
    assert [row["file"] for row in result.reports["test"].skipped] == ["test/0000000", "test/0000007"]
    assert result.reports["val"].samples == 14


def test_epochs_count_the_samples_that_were_read():
    class Seen(Strategy):
        role = "batch"

        def __init__(self) -> None:
            self.ids: list[int] = []

        def alter(self, batch, run):
            self.ids.extend(batch.ids)
            assert len(batch.targets["label"]) == len(batch) == len(batch.views["train"])
            return batch

    seen = Seen()
    run = make_run([phase(seen, epochs=1)], data_with(train=(4, 11)), max_bad=2)
    rows = train_here(run)
    assert rows[0]["samples"] == 24
    assert sorted(seen.ids) == [i for i in range(26) if i not in (4, 11)]


def test_micro_batches_count_by_what_could_be_read():
    """A batch that lost samples weighs less: the gradient is that of the mean over all samples that were read."""
    kept = []

    class Keep(Strategy):
        def before_step(self, model, run):
            kept.append({n: p.grad.clone() for n, p in model.named_parameters()})

    data = data_with(train=(0, 1, 2, 3))
    run = make_run(
        [phase(Keep(), steps=1, augment="none")], data, "plain", max_bad=4, batch_size=7, accumulate=4, clip=0.0
    )
    train_here(run)
    fresh = make_run([], data, "plain").model
    train = run.data.split("train")
    good = list(range(4, 26))
    images = torch.stack([torch.from_numpy(train.read(i)).permute(2, 0, 1) for i in good]).float()
    logits = fresh.predict((images / 255 - 0.5) / 0.5)["label"]
    nn.functional.cross_entropy(logits, train.targets["label"][good]).backward()
    for name, parameter in fresh.named_parameters():
        torch.testing.assert_close(kept[0][name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_too_many_end_the_run_with_exit_code_3(tmp_path):
    asked = request(data_with(train=(4, 11, 12)), "whole:1", data_options={"max_bad": 0.05})
    with pytest.raises(DataError, match="cannot be read") as caught:
        start(tmp_path / "run", asked)
    assert caught.value.exit_code == 3
    assert "--max-bad" in caught.value.hint
    assert len(rows_of(tmp_path / "run" / "bad_samples.csv")) == 3
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize("bad", [tuple(range(8)), tuple(i for i in range(26) if i not in (3, 9))])
def test_batches_that_lose_all_or_all_but_one(bad):
    """BatchNorm cannot learn from one sample; a step without any leaves the weights alone."""
    run = make_run([phase(Strategy(), epochs=3)], data_with(train=bad), max_bad=30, batch_size=3)
    rows = train_here(run)
    assert all(bool(v.isfinite().all()) for v in run.model.state_dict().values())
    assert rows[0]["step"] == 9


def test_cached_features_leave_them_out_too():
    class Freeze(Strategy):
        touches = frozenset()

        def prepare(self, model, run):
            model.freeze()

    run = make_run([phase(Freeze(), epochs=1, augment="none")], data_with(train=(4, 11), val=(3,)), max_bad=3)
    rows = train_here(run)
    assert rows[0]["samples"] == 24
    assert [(row.split, row.id) for row in run.bad.rows] == [
        ("train", "train/0000004"), ("train", "train/0000011"), ("val", "val/0000003"),
    ]  # fmt: skip


def test_a_split_of_which_nothing_can_be_read_is_refused():
    data = data_with(val=tuple(range(15)))
    with pytest.raises(DataError, match="none of the 15 samples of val can be read"):
        train_here(make_run([phase(Strategy())], data, max_bad=15))


def test_every_readable_sample_is_predicted_once_in_order():
    run = make_run([], data_with(test=(5, 6)))
    run.model.eval()
    for size in (1, 4, 100):
        found = predict_split(run.model, run.data.split("test"), run.pipeline, batch_size=size)
        assert found.indices == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
        assert len(found.scores["label"]) == 10
        assert [row.id for row in found.bad] == ["test/0000005", "test/0000006"]


def test_the_heads_threshold_is_used():
    column = Column(name="tags", kind="multilabel", classes=("a", "b"))
    scores, targets = np.array([[0.3, 0.9], [0.1, 0.2]]), np.array([[1.0, 1.0], [0.0, 0.0]])
    split = open_data(drawn_splits()).split("test").subset([0, 1])
    split.encoded = {"tags": targets}
    low = report_columns((column,), Predictions([0, 1], {"tags": scores}, threshold=0.25), split)
    high = report_columns((column,), Predictions([0, 1], {"tags": scores}), split)
    assert low.metrics["micro_f1"] == 1
    assert high.metrics["micro_f1"] < 1


def test_the_heads_threshold_reaches_predictions():
    run = make_run([])
    run.model.eval()
    assert predict_split(run.model, run.data.split("test"), run.pipeline).threshold == 0.5
    run.model.head.threshold = 0.2
    assert predict_split(run.model, run.data.split("test"), run.pipeline).threshold == 0.2
