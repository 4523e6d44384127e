from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from sklearn.neighbors import NearestCentroid
from zoo_registry import Classifier, Column, DataError, Registry, UsageError
from zoo_registry.options import describe_options, parse_options

REGISTRY = Registry()
CLASSIFIERS = ("linear", "mlp", "cosine", "prototype")
GRADIENT = ("linear", "mlp", "cosine", "multilabel", "regression")


def column(kind: str, name: str = "label", size: int = 3) -> Column:
    return Column(name=name, kind=kind, classes=() if kind == "regression" else tuple(f"c{i}" for i in range(size)))


def kind_of(head: str) -> str:
    return REGISTRY.head(f"basics/{head}").spec.tasks[0]


def make(head: str, columns: tuple[Column, ...] | None = None, width: int = 6, seed: int = 0, **options):
    """The head, built through its spec as the application does, with weights large enough to matter."""
    entry = REGISTRY.head(f"basics/{head}")
    parsed = parse_options(entry.spec.options, options, where=f"head.{head}")
    torch.manual_seed(seed)
    module = entry.factory()(entry.spec, parsed, width=width, targets=columns or (column(kind_of(head)),))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return module.eval()


def targets_for(kind: str, samples: int, size: int = 3, seed: int = 1) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    if kind == "classification":
        return torch.arange(samples) % size
    if kind == "multilabel":
        return torch.randint(0, 2, (samples, size), generator=draw).float()
    return torch.randn(samples, generator=draw) * 3 + 40


def features(samples: int = 12, width: int = 6, seed: int = 2) -> torch.Tensor:
    return torch.randn(samples, width, generator=torch.Generator().manual_seed(seed))


def fitted_prototype(width: int = 6, **options):
    head = make("prototype", width=width, **options)
    head.fit(features(width=width), {"label": targets_for("classification", 12)})
    return head


# ---- what all heads have in common


@pytest.mark.parametrize("name", ["linear", "mlp", "cosine", "prototype", "multilabel", "regression"])
def test_outputs_losses_and_scores_have_the_documented_shapes(name):
    kind = kind_of(name)
    columns = (column(kind, "a", 3), column(kind, "b", 4))
    head = make(name, columns)
    outputs = head(features(5))
    wide = kind != "regression"
    assert {k: tuple(v.shape) for k, v in outputs.items()} == {
        "a": (5, 3) if wide else (5,),
        "b": (5, 4) if wide else (5,),
    }
    targets = {c.name: targets_for(kind, 5, c.size) for c in columns}
    losses = head.loss(outputs, targets)
    scores = head.decode(outputs)
    assert {k: tuple(v.shape) for k, v in losses.items()} == {"a": (5,), "b": (5,)}
    assert all(torch.isfinite(v).all() for v in (*losses.values(), *scores.values()))
    if kind == "classification":
        torch.testing.assert_close(scores["b"].sum(1), torch.ones(5))


@pytest.mark.parametrize("name", GRADIENT)
def test_every_parameter_and_the_features_get_a_gradient_from_the_first_step(name):
    entry = REGISTRY.head(name)
    head = entry.factory()(
        entry.spec, parse_options(entry.spec.options, {}, where="x"), width=6, targets=(column(kind_of(name)),)
    )
    inputs = features().requires_grad_()
    sum(v.sum() for v in head.loss(head(inputs), {"label": targets_for(kind_of(name), 12)}).values()).backward()
    assert inputs.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


@pytest.mark.parametrize("name", ["linear", "mlp", "cosine", "multilabel", "regression", "prototype"])
def test_state_survives_a_round_trip_and_names_do_not_depend_on_column_names(name):
    columns = (column(kind_of(name), "a.b", 3), column(kind_of(name), "keys", 2))
    head = make(name, columns)
    if name == "regression":
        head.prepare_targets({"a.b": torch.tensor([1.0, 9.0]), "keys": torch.tensor([5.0, 5.0])})
    other = make(name, columns, seed=9)
    other.load_state_dict(head.state_dict())
    x = features()
    for key, value in head(x).items():
        assert torch.equal(value, other(x)[key])


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["linear", "prototype", "multilabel", "regression"]),
    width=st.integers(1, 16),
    samples=st.integers(1, 9),
    size=st.integers(2, 7),
    seed=st.integers(0, 1000),
)
def test_a_folded_head_is_the_head(name, width, samples, size, seed):
    kind = kind_of(name)
    head = make(name, (column(kind, size=size),), width=width, seed=seed)
    if name == "prototype":
        head.fit(features(3 * size, width, seed), {"label": torch.arange(3 * size) % size})
    if name == "regression":
        head.prepare_targets({"label": targets_for(kind, 8, seed=seed)})
    folded = head.fold()
    x = features(samples, width, seed + 1)
    outputs = head(x)["label"]
    assert isinstance(folded, Classifier)
    assert not folded.weight.requires_grad
    assert folded.weight.shape == (outputs[0].numel(), width)
    logits = F.linear(x, folded.weight, folded.bias)
    torch.testing.assert_close(logits.squeeze(1) if kind == "regression" else logits, outputs, rtol=1e-4, atol=1e-4)


def test_a_folded_linear_head_has_equal_bits_and_shares_no_memory():
    head = make("linear", dropout=0.5)
    folded = head.fold()
    x = features()
    assert torch.equal(F.linear(x, folded.weight, folded.bias), head(x)["label"])
    folded.weight.zero_()
    assert head.layer.weight.abs().sum() > 0


@pytest.mark.parametrize("name", ["linear", "prototype", "multilabel", "regression"])
def test_several_columns_do_not_fold(name):
    kind = kind_of(name)
    assert make(name, (column(kind, "a"), column(kind, "b"))).fold() is None


def test_heads_that_are_no_linear_layer_do_not_fold():
    assert not hasattr(make("mlp"), "fold")
    assert not hasattr(make("cosine"), "fold")
    assert fitted_prototype(normalise=True).fold() is None


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(GRADIENT), missing=st.lists(st.booleans(), min_size=12, max_size=12), seed=st.integers(0, 99)
)
def test_missing_labels_are_nan_and_leave_no_trace_in_the_gradients(name, missing, seed):
    kind, gone = kind_of(name), torch.tensor(missing)
    full = targets_for(kind, 12, seed=seed)
    some = full.clone()
    some[gone] = -1 if kind == "classification" else torch.nan
    x = features(seed=seed)
    head = make(name, seed=seed)
    loss = head.loss(head(x), {"label": some})["label"]
    assert torch.equal(loss.isnan(), gone)
    assert torch.equal(loss[~gone], head.loss(head(x), {"label": full})["label"][~gone])

    loss[~gone].sum().backward()
    masked = [p.grad for p in head.parameters()]
    alone = make(name, seed=seed)
    alone.loss(alone(x[~gone]), {"label": full[~gone]})["label"].sum().backward()
    for mine, expected in zip(masked, (p.grad for p in alone.parameters()), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["linear", "multilabel", "regression"])
def test_half_precision_outputs_are_judged_in_float32(name):
    kind = kind_of(name)
    head = make(name)
    x = features()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = head(x)
    loss = head.loss(outputs, {"label": targets_for(kind, 12)})["label"]
    assert loss.dtype == torch.float32
    assert head.decode(outputs)["label"].dtype == torch.float32


# ---- classification


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classification_loss_is_log_loss(name):
    head = fitted_prototype() if name == "prototype" else make(name)
    outputs, y = head(features(seed=7)), targets_for("classification", 12)
    scores = head.decode(outputs)["label"].detach().double().numpy()
    expected = log_loss(y.numpy(), scores / scores.sum(1, keepdims=True), labels=[0, 1, 2])
    assert head.loss(outputs, {"label": y})["label"].mean().item() == pytest.approx(expected, rel=1e-4)


def test_soft_targets_mix_the_losses_of_their_labels():
    head = make("linear")
    outputs = head(features())
    a, b = targets_for("classification", 12), torch.arange(12).flip(0) % 3
    soft = 0.3 * F.one_hot(a, 3).float() + 0.7 * F.one_hot(b, 3).float()
    expected = 0.3 * head.loss(outputs, {"label": a})["label"] + 0.7 * head.loss(outputs, {"label": b})["label"]
    torch.testing.assert_close(head.loss(outputs, {"label": soft})["label"], expected)


def test_a_missing_soft_target_is_nan_and_gives_no_gradient():
    head = make("linear")
    x = features(2).requires_grad_()
    soft = torch.tensor([[0.2, 0.3, 0.5], [torch.nan, 0.0, 0.0]])
    loss = head.loss(head(x), {"label": soft})["label"]
    assert loss.isnan().tolist() == [False, True]
    loss[0].backward()
    assert x.grad[0].abs().sum() > 0
    assert torch.equal(x.grad[1], torch.zeros(6))


def test_columns_have_labels_missing_independently():
    columns = (column("classification", "a", 3), column("classification", "b", 2))
    head = make("linear", columns)
    losses = head.loss(head(features(3)), {"a": torch.tensor([0, -1, 2]), "b": torch.tensor([-1, 1, 0])})
    assert losses["a"].isnan().tolist() == [False, True, False]
    assert losses["b"].isnan().tolist() == [True, False, False]


def test_fresh_linear_head_is_close_to_uniform():
    entry = REGISTRY.head("linear")
    torch.manual_seed(0)
    head = entry.factory()(
        entry.spec,
        parse_options(entry.spec.options, {}, where="x"),
        width=512,
        targets=(column("classification", size=10),),
    )
    scores = head.decode(head(torch.randn(64, 512)))["label"]
    assert 0.04 < scores.min()
    assert scores.max() < 0.2


def test_dropout_acts_in_training_alone():
    for name in ("linear", "mlp", "multilabel", "regression"):
        head = make(name, dropout=0.5)
        x = features()
        assert torch.equal(head(x)["label"], head(x)["label"])
        head.train()
        assert not torch.equal(head(x)["label"], head(x)["label"])


def test_mlp_has_the_layers_asked_for():
    head = make("mlp", hidden=7, layers=3, activation="tanh")
    x = features()
    hidden = x.detach().numpy().astype(np.float64)
    linear = [m for m in head.modules() if isinstance(m, torch.nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(6, 7), (7, 7), (7, 7), (7, 3)]
    for layer in linear[:-1]:
        hidden = np.tanh(hidden @ layer.weight.detach().numpy().T + layer.bias.detach().numpy())
    expected = hidden @ linear[-1].weight.detach().numpy().T + linear[-1].bias.detach().numpy()
    np.testing.assert_allclose(head(x)["label"].detach().numpy(), expected, rtol=1e-4, atol=1e-5)


@given(factor=st.floats(0.01, 100), seed=st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_cosine_logits_are_scaled_cosines_whatever_the_length(factor, seed):
    head = make("cosine", seed=seed, scale=20.0, learn_scale=False)
    x = features(seed=seed)
    w = head.weight.detach().double().numpy()
    expected = 20 * (x.double().numpy() @ w.T) / np.outer(np.linalg.norm(x.double(), axis=1), np.linalg.norm(w, axis=1))
    np.testing.assert_allclose(head(factor * x)["label"].detach().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_cosine_scale_learns_only_where_asked_and_is_always_stored():
    assert "scale" in dict(make("cosine").named_parameters())
    fixed = make("cosine", learn_scale=False)
    assert "scale" not in dict(fixed.named_parameters())
    assert "scale" in fixed.state_dict()
    assert torch.isfinite(fixed(torch.zeros(2, 6))["label"]).all()


# ---- prototype


@given(seed=st.integers(0, 200), size=st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_prototype_is_the_nearest_centroid(seed, size):
    x, y = features(5 * size, 4, seed) + torch.arange(5 * size)[:, None] % size, torch.arange(5 * size) % size
    head = make("prototype", (column("classification", size=size),), width=4)
    head.fit(x, {"label": y})
    oracle = NearestCentroid().fit(x.double().numpy(), y.numpy())
    np.testing.assert_allclose(head.means.numpy(), oracle.centroids_, rtol=1e-4, atol=1e-5)
    query = features(50, 4, seed + 1)
    distances = torch.cdist(query.double(), torch.tensor(oracle.centroids_)).square()
    torch.testing.assert_close(
        head.decode(head(query))["label"].double(), (-distances).softmax(1), rtol=1e-3, atol=1e-4
    )


def test_prototype_with_normalise_is_the_centroid_of_directions():
    x, y = features(30) * torch.linspace(0.1, 9, 30)[:, None], torch.arange(30) % 3
    head = make("prototype", normalise=True)
    head.fit(x, {"label": y})
    unit = x.double().numpy() / np.linalg.norm(x.double().numpy(), axis=1, keepdims=True)
    oracle = NearestCentroid().fit(unit, y.numpy())
    assert head(x)["label"].argmax(1).tolist() == oracle.predict(unit).tolist()
    torch.testing.assert_close(head(x)["label"], head(7 * x)["label"])


def test_prototype_temperature_softens_and_keeps_the_order():
    sharp, soft = fitted_prototype(), fitted_prototype(temperature=10.0)
    x = features(20, seed=5)
    torch.testing.assert_close(soft(x)["label"] * 10, sharp(x)["label"])
    assert soft.decode(soft(x))["label"].max() < sharp.decode(sharp(x))["label"].max()


def test_prototype_leaves_missing_labels_out_and_weighs_soft_ones():
    x = features(6)
    hard, soft = make("prototype"), make("prototype")
    hard.fit(torch.cat([x, 1e6 * torch.ones(2, 6)]), {"label": torch.tensor([0, 1, 2, 0, 1, 2, -1, -1])})
    torch.testing.assert_close(hard.means, torch.stack([x[[k, k + 3]].mean(0) for k in range(3)]))
    weights = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0, 0, 1], [torch.nan, 0, 0], [0, 1, 0], [0, 0, 1]])
    soft.fit(x, {"label": weights})
    torch.testing.assert_close(soft.means[0], (x[0] + 0.5 * x[1]) / 1.5)
    torch.testing.assert_close(soft.means[1], (0.5 * x[1] + x[4]) / 1.5)


def test_prototype_names_classes_without_samples_and_stays_as_it_was():
    head = make("prototype")
    with pytest.raises(DataError, match="column 'label': no training sample of class 'c1', 'c2'") as caught:
        head.fit(features(4), {"label": torch.tensor([0, 0, -1, 0])})
    assert caught.value.hint
    assert head.means.abs().sum() == 0
    assert list(head.parameters()) == []


# ---- multilabel


@given(seed=st.integers(0, 100), holes=st.integers(0, 2**15 - 1))
@settings(max_examples=40, deadline=None)
def test_multilabel_loss_is_the_mean_over_labels_present(seed, holes):
    head = make("multilabel", seed=seed)
    y = targets_for("multilabel", 5, seed=seed)
    y[torch.tensor([holes >> i & 1 for i in range(15)]).bool().reshape(5, 3)] = torch.nan
    outputs = head(features(5, seed=seed))
    p = head.decode(outputs)["label"].detach().double().numpy()
    loss = head.loss(outputs, {"label": y})["label"].detach().numpy()
    for row in range(5):
        terms = [-np.log(p[row, c] if y[row, c] else 1 - p[row, c]) for c in range(3) if not y[row, c].isnan()]
        assert np.isnan(loss[row]) if not terms else loss[row] == pytest.approx(np.mean(terms), rel=1e-3, abs=1e-5)


def test_multilabel_missing_entries_get_no_gradient_and_scores_are_sigmoids():
    head = make("multilabel", threshold=0.7)
    y = torch.tensor([[1.0, torch.nan, 0.0]])
    outputs = {"label": torch.tensor([[200.0, 3.0, -200.0]], requires_grad=True)}
    head.loss(outputs, {"label": y})["label"].sum().backward()
    assert torch.equal(outputs["label"].grad, torch.zeros(1, 3))
    torch.testing.assert_close(head.decode(outputs)["label"][0, 1], torch.tensor(3.0).sigmoid())
    assert head.threshold == 0.7


def test_multilabel_takes_soft_and_integer_labels():
    head = make("multilabel")
    outputs = head(features(4))
    ones, zeros = torch.ones(4, 3, dtype=torch.int64), torch.zeros(4, 3)
    mixed = 0.25 * head.loss(outputs, {"label": ones})["label"] + 0.75 * head.loss(outputs, {"label": zeros})["label"]
    torch.testing.assert_close(head.loss(outputs, {"label": torch.full((4, 3), 0.25)})["label"], mixed)


# ---- regression


@pytest.mark.parametrize(("name", "formula"), [
    ("mse", lambda r: r**2),
    ("l1", np.abs),
    ("huber", lambda r: np.where(np.abs(r) <= 0.7, r**2 / 2, 0.7 * (np.abs(r) - 0.35))),
])  # fmt: skip
def test_regression_losses_are_those_of_standardised_errors(name, formula):
    head = make("regression", loss=name, delta=0.7)
    y = targets_for("regression", 12)
    head.prepare_targets({"label": y})
    outputs = head(features())
    residual = (outputs["label"].detach().double().numpy() - y.double().numpy()) / y.double().numpy().std()
    loss = head.loss(outputs, {"label": y})["label"].detach().numpy()
    np.testing.assert_allclose(loss, formula(residual), rtol=1e-3, atol=1e-4)


@given(unit=st.floats(0.001, 1e4), shift=st.floats(-1e4, 1e4), seed=st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_regression_does_not_depend_on_the_unit(unit, shift, seed):
    y = targets_for("regression", 12, seed=seed) - 40
    plain, scaled = make("regression", seed=seed), make("regression", seed=seed)
    plain.prepare_targets({"label": y})
    scaled.prepare_targets({"label": y.double() * unit + shift})
    x = features(seed=seed)
    first = plain.decode(plain(x))["label"].detach().double()
    second = scaled.decode(scaled(x))["label"].detach().double()
    error = 1e-5 * (abs(shift) + 10 * unit)
    torch.testing.assert_close(second, first * unit + shift, rtol=1e-4, atol=error)


def test_regression_predicts_the_mean_before_training():
    entry = REGISTRY.head("regression")
    head = entry.factory()(
        entry.spec, parse_options(entry.spec.options, {}, where="x"), width=6, targets=(column("regression"),)
    )
    head.prepare_targets({"label": torch.tensor([1000.0, 3000.0, torch.nan])})
    assert (head(features())["label"] - 2000).abs().max() < 150
    assert head.std.item() == pytest.approx(1000)


def test_regression_of_equal_targets_and_of_none():
    head = make("regression")
    head.prepare_targets({"label": torch.tensor([4.0, 4.0])})
    assert (head.mean.item(), head.std.item()) == (4.0, 1.0)
    with pytest.raises(DataError, match="column 'label' has no target in train"):
        head.prepare_targets({"label": torch.tensor([torch.nan])})


# ---- options


@pytest.mark.parametrize("entry", REGISTRY.entries("head"), ids=lambda e: e.name)
def test_options_are_described_and_checked(entry):
    for info in describe_options(entry.spec.options):
        assert info.help
    with pytest.raises(UsageError, match="unknown option"):
        parse_options(entry.spec.options, {"nonsense": 1}, where="head")


@pytest.mark.parametrize(("head", "options"), [
    ("linear", {"dropout": 1.5}), ("mlp", {"hidden": 0}), ("mlp", {"activation": "gelo"}),
    ("cosine", {"scale": 0}), ("prototype", {"temperature": 0}), ("multilabel", {"threshold": 2}),
    ("regression", {"loss": "mae"}), ("regression", {"delta": "x"}),
])  # fmt: skip
def test_options_out_of_range_are_refused(head, options):
    with pytest.raises(UsageError, match=f"head.{head}.{next(iter(options))}"):
        make(head, **options)
