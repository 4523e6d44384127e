"""Distillation: the term, classes matched by name, views brought to the teacher, and the real command line."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from tiny_runs import Halt, make_run, phase, same_bits, train_here
from tiny_zoo import TinyHead, TinyNet
from torch import nn
from zoo_basics.strategies.distill import bernoulli_divergence, divergence
from zoo_basics.strategies.teachers import adapter, fingerprint, match_columns
from zoo_registry import AudioInput, Batch, Column, ImageInput, IntegrityError, Registry, Strategy, UsageError
from zoo_registry.options import parse_options
from zoo_runs import done, draw_photos, zoo

from zoo.assembly.model import TransferModel

REGISTRY = Registry()
COLUMNS = (Column(name="animal", classes=("cat", "dog", "eel")), Column(name="colour", classes=("red", "blue")))
INPUT = ImageInput(size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)


def drawn(columns=COLUMNS, seed: int = 0, given: ImageInput | None = INPUT) -> TransferModel:
    """A small model, in evaluation mode, whose outputs are far from even."""
    torch.manual_seed(seed)
    model = TransferModel(TinyNet(norm=False), TinyHead(8, columns), columns, given).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def prepared(model: TransferModel, teacher: TransferModel, **options):
    """The strategy and a run that knows the teacher as ``it``."""
    entry = REGISTRY.strategy("basics/distill")
    values = parse_options(entry.spec.options, {"teacher": "it", **options}, where="strategy.distill")
    strategy = entry.factory()(entry.spec, values)
    run = SimpleNamespace(assemble={"it": teacher}.__getitem__, columns=model.columns)
    strategy.prepare(model, run)
    return strategy, run


def batch_of(count: int = 5, **more) -> Batch:
    x = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    targets = {"animal": torch.tensor([0, 1, 2, -1, 0]), "colour": torch.full((count,), -1)}
    return Batch({"train": x}, targets, ids=range(count), **more)


def test_the_term_is_torchs_divergence_at_the_temperature_times_its_square():
    model, teacher = drawn(), drawn(seed=1)
    strategy, run = prepared(model, teacher, temperature=3.0, alpha=0.7)
    batch = batch_of()
    terms = strategy.penalty(model, {"train": batch}, run)
    assert terms.keys() == {"animal", "colour"}
    x = batch.views["train"]
    for name, term in terms.items():
        ours, theirs = model.predict(x)[name], teacher.predict(x)[name]
        wanted = F.kl_div(
            (ours / 3).log_softmax(1), (theirs / 3).log_softmax(1), reduction="batchmean", log_target=True
        )
        torch.testing.assert_close(term, 0.7 * 9 * wanted)  # samples without a label count too
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_it_is_zero_for_a_copy_of_the_model_and_samples_weigh():
    model = drawn()
    strategy, run = prepared(model, drawn())
    assert all(abs(t.item()) < 1e-6 for t in strategy.penalty(model, {"train": batch_of()}, run).values())
    strategy, run = prepared(model, drawn(seed=1))
    weights = torch.tensor([0.0, 2.0, 0.0, 0.0, 0.0])
    weighed = strategy.penalty(model, {"train": batch_of(weights=weights)}, run)["animal"]
    batch = batch_of()
    one = Batch({"train": batch.views["train"][1:2]}, ids=range(1))
    torch.testing.assert_close(weighed, 2 * strategy.penalty(model, {"train": one}, run)["animal"] / 5)


def test_classes_are_matched_by_name_and_foreign_ones_left_out():
    model = drawn(COLUMNS[:1])
    theirs = (Column(name="animal", classes=("eel", "ant", "cat", "dog")),)
    teacher = drawn(theirs, seed=1)
    strategy, run = prepared(model, teacher, temperature=2.0)
    batch = batch_of()
    term = strategy.penalty(model, {"train": batch}, run)["animal"]
    known = teacher.predict(batch.views["train"])["animal"][:, [2, 3, 0]]
    ours = model.predict(batch.views["train"])["animal"]
    wanted = 4 * F.kl_div((ours / 2).log_softmax(1), (known / 2).softmax(1), reduction="batchmean")
    torch.testing.assert_close(term, wanted)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_multilabel_columns_follow_each_label(temperature):
    draw = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(2, 6, 3, generator=draw) * 2
    each = bernoulli_divergence(ours, theirs.sigmoid(), temperature)
    p, q = (theirs.double() / temperature).sigmoid(), (ours.double() / temperature).sigmoid()
    wanted = temperature**2 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean(1)
    torch.testing.assert_close(each.double(), wanted, rtol=1e-4, atol=1e-6)


def test_sure_teachers_and_half_precision_stay_finite():
    logits = torch.tensor([[300.0, -300.0, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    sure = torch.tensor([[0.0, 1.0, 0.0]])
    for found in (divergence(logits, sure, 2.0), bernoulli_divergence(logits, sure, 2.0)):
        assert found.dtype == torch.float32
        assert bool(found.isfinite().all())
        found.sum().backward()
        assert bool(logits.grad.isfinite().all())


@pytest.mark.parametrize(("theirs", "words"), [
    ((Column(name="animal", classes=("cat", "ant")),), "does not know 2 of the 3 classes of 'animal': dog, eel"),
    ((Column(name="price", kind="regression"),), r"nothing to teach: its columns are price \(regression\)"),
    ((Column(name="animal", kind="multilabel", classes=("cat", "dog", "eel")),), "nothing to teach"),
    ((Column(name="x", classes=("cat",)), Column(name="y", classes=("cat",))), "nothing to teach"),
])  # fmt: skip
def test_a_teacher_that_does_not_fit_is_refused_by_name(theirs, words):
    with pytest.raises(UsageError, match=words) as caught:
        match_columns("it", COLUMNS[:1], theirs)
    assert "'it'" in caught.value.message
    assert caught.value.hint


def test_columns_are_matched_by_name_or_because_there_is_one():
    found = match_columns("it", COLUMNS, (COLUMNS[1], Column(name="size", kind="regression")))
    assert [(match.column.name, match.theirs) for match in found] == [("colour", "colour")]
    [match] = match_columns("it", COLUMNS[:1], (Column(name="label", classes=("eel", "dog", "cat")),))
    assert (match.theirs, match.order.tolist()) == ("label", [2, 1, 0])


# ------------------------------------------------------------------ inputs


def test_views_are_resized_and_normalised_for_the_teacher():
    from torchvision.transforms.v2 import functional

    theirs = ImageInput(size=(12, 10), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    pixels = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = adapter("it", INPUT, theirs)
    resized = functional.resize(pixels, [12, 10], antialias=True)
    wanted = functional.normalize(resized, theirs.mean, theirs.std)
    torch.testing.assert_close(found((pixels - 0.5) / 0.5), wanted, rtol=1e-4, atol=1e-5)
    assert found.words == "views of 8x8 are resized to 12x10 for the teacher"
    assert adapter("it", INPUT, ImageInput(size=(8, 8))).words == "views are normalised anew for the teacher"


def test_views_that_fit_are_left_alone():
    x = torch.randn(1, 3, 8, 8)
    other = ImageInput(size=(8, 8), mean=INPUT.mean, std=INPUT.std, crop_pct=0.5, interpolation="nearest")
    for found in (adapter("it", INPUT, other), adapter("it", None, INPUT), adapter("it", AudioInput(), AudioInput())):
        assert found(x) is x
        assert found.words == ""


def test_inputs_that_cannot_be_made_of_the_models_are_refused():
    with pytest.raises(UsageError, match="sees 1 channels, the model 3") as caught:
        adapter("it", INPUT, ImageInput(channels=1, mean=(0.5,), std=(0.5,)))
    assert "--in-chans 1" in caught.value.hint
    with pytest.raises(UsageError, match=r"other inputs \(audio\) than the model \(image\)"):
        adapter("it", INPUT, AudioInput())


def test_a_teacher_of_another_size_sees_the_same_view():
    larger = ImageInput(size=(16, 16), mean=(0.2,) * 3, std=(0.3,) * 3)
    model, teacher = drawn(), drawn(seed=1, given=larger)
    strategy, run = prepared(model, teacher, temperature=1.0)
    batch = batch_of()
    term = strategy.penalty(model, {"train": batch}, run)["animal"]
    pixels = F.interpolate(batch.views["train"] * 0.5 + 0.5, (16, 16), mode="bilinear", antialias=True)
    theirs = teacher.predict((pixels - 0.2) / 0.3)["animal"]
    ours = model.predict(batch.views["train"])["animal"]
    wanted = F.kl_div(ours.log_softmax(1), theirs.softmax(1), reduction="batchmean")
    torch.testing.assert_close(term, wanted)
    assert "16x16" in strategy.explain(model, run)[1]


# ------------------------------------------------------------------ the run


def test_another_teacher_is_noticed_on_resume():
    model = drawn()
    strategy, _ = prepared(model, drawn(seed=1))
    state = strategy.state_dict()
    same, _ = prepared(model, drawn(seed=1))
    same.load_state_dict(state)
    other, _ = prepared(model, drawn(seed=2))
    with pytest.raises(IntegrityError, match="teacher 'it' is not the one"):
        other.load_state_dict(state)
    assert fingerprint(nn.Linear(1, 1).half())[1] > 0


def distilling():
    """A run that learns from a teacher in its second phase."""
    entry = REGISTRY.strategy("basics/distill")
    made = entry.factory()(entry.spec, parse_options(entry.spec.options, {"teacher": "it"}, where="x"))
    parts = [phase(Strategy(), epochs=1), phase((entry.spec, made), epochs=2)]
    run = make_run(parts, accumulate=2, batch_size=4)
    columns = (Column(name="label", classes=("class2", "class0", "class1")),)
    run.assembler = {"it": drawn(columns, seed=1, given=run.input)}.__getitem__
    return run


def test_it_resumes_to_the_same_bits(tmp_path):
    reference = distilling()
    wanted = train_here(reference)
    assert wanted[-2]["losses"]["distill.label"] > 0
    with pytest.raises(Halt):
        train_here(distilling(), tmp_path, halt=reference.total_steps // 2 + 2)
    resumed = distilling()
    assert train_here(resumed, tmp_path) == wanted
    assert same_bits(resumed.model.state_dict(), reference.model.state_dict())


def test_a_run_that_assembles_nothing_says_so():
    run = make_run([])
    entry = REGISTRY.strategy("basics/distill")
    strategy = entry.factory()(entry.spec, parse_options(entry.spec.options, {"teacher": "who"}, where="x"))
    with pytest.raises(UsageError, match="cannot assemble 'who'"):
        strategy.prepare(run.model, run)


def finetune(data, strategy: str, out, *more):
    """A short run of the command line."""
    asked = ("--strategy", strategy, "--out", out, "--batch-size", 8, "--set", "train.threads=1", *more)
    return zoo("finetune", data, *asked)


def test_from_the_command_line(photos, finished_run, tmp_path):
    lost = finetune(photos, "linear:1,full+distill:1", tmp_path / "a", "--backbone", "starter/vit")
    assert lost.code == 2
    assert "distill.teacher: a value is needed" in lost.err
    teacher = ("--set", f"strategy.distill.teacher={finished_run}")
    few = draw_photos(tmp_path / "few", each=4)
    made = finetune(few, "full+distill:1", tmp_path / "b", "--backbone", "starter/vit", *teacher)
    assert made.code == 0, made.err
    assert "distill.label" in (tmp_path / "b" / "metrics.jsonl").read_text()
    shutil.move(few / "rings", few / "circles")
    wrong = finetune(few, "full+distill:1", tmp_path / "c", "--backbone", "starter/vit", *teacher)
    assert wrong.code == 2
    assert "does not know 1 of the 3 classes of 'label': circles" in wrong.err
    nowhere = ("--set", "strategy.distill.teacher=nowhere")
    absent = finetune(few, "full+distill:1", tmp_path / "d", "--backbone", "starter/vit", *nowhere)
    assert absent.code == 2
    assert "no model 'nowhere'" in absent.err
    done("predict", tmp_path / "b", few / "checks" / "0.jpg")
