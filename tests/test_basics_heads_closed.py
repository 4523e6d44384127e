from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge, RidgeClassifier, RidgeCV
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from zoo_basics.heads.knn_search import nearest
from zoo_basics.heads.ridge_solve import GRID, fit_scale, solve_ridge
from zoo_registry import Column, DataError, Registry
from zoo_registry.options import parse_options

REGISTRY = Registry()
LABEL = Column(name="label", classes=("a", "b", "c"))
VALUE = Column(name="value", kind="regression")


def make(name: str, *columns: Column, width: int = 6, **options):
    entry = REGISTRY.head(f"basics/{name}")
    parsed = parse_options(entry.spec.options, options, where=f"head.{name}")
    return entry.factory()(entry.spec, parsed, width=width, targets=columns or (LABEL,)).eval()


def clouds(samples: int = 40, width: int = 6, spread: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Three overlapping clouds, far from the origin, features of unequal size."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % 3
    centres = 1.5 * torch.randn(3, width, generator=draw)
    x = centres[labels] + spread * torch.randn(samples, width, generator=draw) + 5.0
    return x * torch.linspace(0.5, 2.0, width), labels


def reference(x: torch.Tensor, y: torch.Tensor, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    solved = Ridge(alpha=penalty, solver="svd").fit(x.double().numpy(), y.double().numpy())
    return np.atleast_2d(solved.coef_), np.atleast_1d(solved.intercept_)


# ---- ridge


@settings(max_examples=40, deadline=None)
@given(
    samples=st.integers(4, 30), width=st.integers(1, 40), exponent=st.integers(-5, 4), seed=st.integers(0, 99),
)  # fmt: skip
def test_the_solution_and_every_left_out_prediction_agree_with_scikit_learn(samples, width, exponent, seed):
    x, labels = clouds(samples, width, seed=seed)
    y, penalty = F.one_hot(labels, 3).double(), 10.0**exponent
    found = solve_ridge(x, y, penalty)
    coefficients, intercepts = reference(x, y, penalty)
    scale = max(1e-3, np.abs(coefficients).max())
    np.testing.assert_allclose(found.weight, coefficients, atol=1e-6 * scale)
    np.testing.assert_allclose(found.bias, intercepts, atol=1e-5 * max(1.0, scale))
    for left in (0, samples // 2):
        rest = torch.arange(samples) != left
        w, b = reference(x[rest], y[rest], penalty)
        np.testing.assert_allclose(found.left_out[left], w @ x[left].double().numpy() + b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("samples", "width"), [(90, 6), (18, 40)])
def test_the_penalty_is_the_one_that_ridge_cv_takes(samples, width):
    x, labels = clouds(samples, width, spread=2.0)
    y = F.one_hot(labels, 3).double()
    centred = x.double() - x.double().mean(0)
    unit = float(centred.square().sum()) / (width if samples > width else samples - 1)
    found = solve_ridge(x, y)
    search = RidgeCV(alphas=[unit * factor for factor in GRID]).fit(x.double().numpy(), y.numpy())
    assert found.penalty == pytest.approx(search.alpha_, rel=1e-9)
    np.testing.assert_allclose(found.weight, search.coef_, rtol=1e-6, atol=1e-9)
    assert GRID[0] * unit < found.penalty < GRID[-1] * unit


def test_classes_are_those_of_ridge_classifier():
    x, labels = clouds(120, spread=3.0)
    head = make("ridge", penalty=7.0)
    head.fit(x, {"label": labels})
    theirs = RidgeClassifier(alpha=7.0).fit(x.double().numpy(), labels.numpy())
    mine = head.decode(head(x))["label"].argmax(1)
    assert (mine.numpy() == theirs.predict(x.double().numpy())).mean() == 1.0
    assert (mine != labels).any(), "a task that both solve says little"
    # RidgeClassifier fits -1 and 1 where the head fits 0 and 1
    np.testing.assert_allclose(head.weight / head.scale, theirs.coef_ / 2, rtol=1e-4, atol=1e-6)
    assert float(head.penalty) == 7.0


def test_the_scale_is_the_best_one_for_left_out_predictions():
    x, labels = clouds(60, spread=2.5)
    left_out = solve_ridge(x, F.one_hot(labels, 3).double()).left_out
    best = fit_scale(left_out, F.one_hot(labels, 3))
    smooth = (F.one_hot(labels, 3) * (1 - 1 / 61) + 1 / 61 / 3).double()

    def loss(scale: float) -> float:
        return float(F.cross_entropy(scale * left_out, smooth))

    assert loss(best) == pytest.approx(min(loss(s) for s in np.geomspace(1, 1e4, 4000)), abs=1e-6)
    assert best > 1.5
    assert fit_scale(left_out.flip(1), F.one_hot(labels, 3)) == pytest.approx(1.0), (
        "wrong predictions, so as flat as may be"
    )
    assert math.isfinite(fit_scale(100 * F.one_hot(labels, 3).double() - 50, F.one_hot(labels, 3)))


def test_probabilities_are_better_than_those_of_plain_least_squares():
    x, labels = clouds(300, spread=2.0)
    fitted, plain = make("ridge"), make("ridge", scale=1.0)
    for head in (fitted, plain):
        head.fit(x[:60], {"label": labels[:60]})
    rows = [h.decode(h(x[60:]))["label"].double() for h in (fitted, plain)]
    losses = [log_loss(labels[60:], p / p.sum(1, keepdim=True)) for p in rows]
    assert losses[0] < 0.8 * losses[1]


def test_columns_are_solved_apart_on_their_own_labels():
    x, labels = clouds(50)
    values = x[:, 0] * 3 + 100
    some = labels.clone()
    some[::3] = -1
    gaps = values.clone()
    gaps[1::4] = torch.nan
    both = make("ridge", LABEL, VALUE)
    both.fit(x, {"label": some, "value": gaps})
    alone, number = make("ridge", LABEL), make("ridge", VALUE)
    alone.fit(x[some >= 0], {"label": some[some >= 0]})
    number.fit(x[~gaps.isnan()], {"value": gaps[~gaps.isnan()]})
    outputs = both(x)
    torch.testing.assert_close(outputs["label"], alone(x)["label"])
    torch.testing.assert_close(outputs["value"], number(x)["value"])
    torch.testing.assert_close(outputs["value"], values, atol=0.05, rtol=0)
    assert outputs["value"].shape == (50,)
    losses = both.loss(outputs, {"label": some, "value": gaps})
    assert torch.equal(losses["label"].isnan(), some < 0)
    expected = ((outputs["value"] - gaps) / gaps[~gaps.isnan()].std(correction=0)).square()
    torch.testing.assert_close(losses["value"], expected, equal_nan=True)
    assert both.fold() is None
    folded = number.fold()
    torch.testing.assert_close(F.linear(x, folded.weight, folded.bias)[:, 0], number(x)["value"])


def test_soft_labels_are_targets_as_they_are():
    x, labels = clouds(30)
    soft = 0.8 * F.one_hot(labels, 3) + 0.2 / 3
    head = make("ridge", penalty=2.0, scale=1.0)
    head.fit(x, {"label": soft})
    coefficients, intercepts = reference(x, soft, 2.0)
    np.testing.assert_allclose(head.weight, coefficients, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(head.bias, intercepts, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 3])
def test_hardly_any_sample_is_enough(samples):
    x, labels = clouds(samples)
    head = make("ridge")
    head.fit(x, {"label": labels})
    assert all(value.isfinite().all() for value in head.state_dict().values())
    assert torch.equal(head.decode(head(x))["label"].argmax(1), labels) or samples == 1


def test_equal_features_and_big_offsets_do_no_harm():
    x, labels = clouds(30)
    head = make("ridge")
    head.fit(torch.ones(30, 6), {"label": labels})
    assert head(x)["label"].isfinite().all()
    far = make("ridge", penalty=1.0)
    far.fit(x.double() + 1e4, {"label": labels})
    near = make("ridge", penalty=1.0)
    near.fit(x.double(), {"label": labels})
    torch.testing.assert_close(far.weight, near.weight, rtol=1e-4, atol=1e-5)


def test_chunks_make_no_difference(monkeypatch):
    x, labels = clouds(40)
    y = F.one_hot(labels, 3)
    whole = solve_ridge(x, y)
    monkeypatch.setattr("zoo_basics.heads.ridge_solve.CHUNK", 7)
    parts = solve_ridge(x, y)
    torch.testing.assert_close(parts.weight, whole.weight)
    torch.testing.assert_close(parts.left_out, whole.left_out)


@pytest.mark.parametrize("name", ["ridge", "knn"])
def test_a_column_without_a_label_is_refused_and_nothing_changes(name):
    x, labels = clouds(12)
    head = make(name, LABEL, Column(name="other", classes=("x", "y")))
    before = copy.deepcopy(head.state_dict())
    with pytest.raises(DataError, match="'other' has no label"):
        head.fit(x, {"label": labels, "other": torch.full((12,), -1)})
    assert all(torch.equal(value, before[key]) for key, value in head.state_dict().items())


# ---- k-NN

METRICS = ["cosine", "euclidean"]


def distances(a: torch.Tensor, b: torch.Tensor, metric: str) -> torch.Tensor:
    """All distances in double precision, one by one."""
    a, b = a.double(), b.double()
    if metric == "cosine":
        return 1 - F.cosine_similarity(a[:, None], b[None], dim=2)
    return (a[:, None] - b[None]).square().sum(2).sqrt()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("k", [1, 4, 9])
def test_probabilities_are_those_of_scikit_learn(metric, weights, k):
    x, labels = clouds(60, spread=2.5)
    query, _ = clouds(25, spread=3.0, seed=1)
    head = make("knn", k=k, metric=metric, weights=weights, quantile="none")
    head.fit(x, {"label": labels})
    theirs = KNeighborsClassifier(n_neighbors=k, metric=metric, weights=weights).fit(x.double(), labels)
    mine = head.decode(head(query))["label"]
    np.testing.assert_allclose(mine, theirs.predict_proba(query.double().numpy()), atol=2e-5)
    assert len(mine.argmax(1).unique()) == 3


@pytest.mark.parametrize("metric", METRICS)
def test_softmax_weights_follow_their_formula(metric):
    x, labels = clouds(40, spread=2.0)
    query, _ = clouds(9, spread=3.0, seed=1)
    head = make("knn", k=5, metric=metric, temperature=0.3, quantile="none")
    head.fit(x, {"label": labels})
    near = distances(query, x, metric).topk(5, largest=False)
    if metric == "cosine":
        weights = ((1 - near.values) / 0.3).exp()
    else:
        own = distances(x, x, metric).fill_diagonal_(torch.inf).topk(5, largest=False).values[:, -1]
        weights = (-(near.values**2) / (2 * 0.3 * own.square().mean())).exp()
    expected = torch.zeros(9, 3, dtype=torch.float64)
    for row in range(9):
        for weight, index in zip(weights[row], near.indices[row], strict=True):
            expected[row, labels[index]] += weight / weights[row].sum()
    torch.testing.assert_close(head.decode(head(query))["label"].double(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("metric", METRICS)
def test_the_radius_is_a_quantile_of_left_out_distances(metric):
    x, labels = clouds(50)
    head = make("knn", k=3, metric=metric, quantile=0.8)
    head.fit(x, {"label": labels})
    searched = NearestNeighbors(n_neighbors=4, metric=metric).fit(x.double())
    third = searched.kneighbors(x.double())[0][:, 3]  # the first is the sample itself
    assert float(head.radius) == pytest.approx(np.quantile(third, 0.8), rel=1e-4)
    query = x[:40] + torch.randn(40, 6, generator=torch.Generator().manual_seed(3))
    answered = head.decode(head(query))["label"].sum(1) > 0
    kth = searched.kneighbors(query.double(), n_neighbors=3)[0][:, 2]
    assert answered.tolist() == (kth <= float(head.radius)).tolist()
    assert 0 < answered.sum() < 40


def test_an_abstaining_row_is_zero_and_its_loss_is_that_of_the_votes():
    x, labels = clouds(30)
    free, strict = make("knn", quantile="none"), make("knn", radius=0.0)
    for head in (free, strict):
        head.fit(x, {"label": labels})
    query, wanted = clouds(10, seed=5)
    assert bool((strict.decode(strict(query))["label"] == 0).all())
    assert strict.abstains
    torch.testing.assert_close(
        strict.loss(strict(query), {"label": wanted})["label"],
        free.loss(free(query), {"label": wanted})["label"],
        atol=1e-4,
        rtol=1e-4,
    )


def test_share_of_held_out_samples_that_is_answered_is_about_the_quantile():
    x, labels = clouds(1200)
    head = make("knn", quantile=0.9, metric="euclidean")
    head.fit(x[:600], {"label": labels[:600]})
    answered = (head.decode(head(x[600:]))["label"].sum(1) > 0).float().mean()
    assert 0.85 < answered < 0.95


def test_neighbours_of_a_column_are_its_labelled_samples():
    x, labels = clouds(30)
    other = labels.clone()
    other[:12] = -1
    both = make("knn", LABEL, Column(name="other", classes=("x", "y", "z")), k=4)
    both.fit(x, {"label": labels, "other": other})
    alone = make("knn", Column(name="other", classes=("x", "y", "z")), k=4)
    alone.fit(x[12:], {"other": other[12:]})
    query, _ = clouds(10, seed=2)
    torch.testing.assert_close(both(query)["other"], alone(query)["other"])
    assert float(both.radius[1]) == pytest.approx(float(alone.radius[0]))


def test_fewer_samples_than_neighbours_are_all_but_one():
    x, labels = clouds(6)
    head = make("knn", k=50, weights="uniform", quantile="none")
    head.fit(x, {"label": labels})
    scores = head.decode(head(x))["label"]
    torch.testing.assert_close((scores * 5).round(), scores * 5, atol=1e-4, rtol=0)
    one = make("knn", k=50)
    one.fit(x[:1], {"label": labels[:1]})
    assert one.decode(one(x))["label"].argmax(1).tolist() == [0] * 6


def test_near_duplicates_are_told_apart():
    base = torch.randn(1, 64, generator=torch.Generator().manual_seed(0)) * 100
    store = torch.cat([base + 0.01 * i for i in range(6)])
    squared, index = nearest(base + 0.0301, store, 2)
    assert index.tolist() == [[3, 4]]
    torch.testing.assert_close(squared, (base + 0.0301 - store[index[0]]).square().sum(1)[None], rtol=1e-5, atol=0)
    head = make("knn", LABEL, width=64, weights="distance", metric="euclidean", k=2, quantile="none")
    head.fit(store, {"label": torch.arange(6) % 3})
    assert head.decode(head(store))["label"].argmax(1).tolist() == [0, 1, 2, 0, 1, 2]


def test_search_in_pieces_finds_the_same(monkeypatch):
    x, _ = clouds(40)
    whole = nearest(x, x, 5, itself=torch.arange(40))
    monkeypatch.setattr("zoo_basics.heads.knn_search.CELLS", 100)
    parts = nearest(x, x, 5, itself=torch.arange(40))
    assert torch.equal(whole[1], parts[1])
    torch.testing.assert_close(whole[0], parts[0])
    assert (whole[1] != torch.arange(40)[:, None]).all()


def test_gradients_reach_the_features():
    x, labels = clouds(30)
    head = make("knn")
    head.fit(x, {"label": labels})
    query = clouds(5, seed=4)[0].requires_grad_()
    head.loss(head(query), {"label": labels[:5]})["label"].sum().backward()
    assert query.grad.isfinite().all()
    assert query.grad.abs().sum() > 0


def test_the_radius_of_many_samples_is_found_on_some(monkeypatch):
    x, labels = clouds(900)
    exact = make("knn")
    exact.fit(x, {"label": labels})
    monkeypatch.setattr("zoo_basics.heads.knn.MOST_QUERIES", 300)
    some = make("knn")
    some.fit(x, {"label": labels})
    assert float(some.radius) == pytest.approx(float(exact.radius), rel=0.5)
    assert float(some.radius) != float(exact.radius)


def test_soft_labels_must_be_one_hot():
    x, labels = clouds(12)
    hot = F.one_hot(labels, 3).float()
    hot[4] = torch.nan
    head = make("knn")
    head.fit(x, {"label": hot})
    assert head.labels[:, 0].tolist() == [-1 if i == 4 else i % 3 for i in range(12)]
    with pytest.raises(DataError, match="soft labels"):
        head.fit(x, {"label": 0.5 * hot.nan_to_num() + 0.5 / 3})


def test_a_fresh_head_takes_any_number_of_samples_and_refuses_what_does_not_fit():
    x, labels = clouds(30)
    fitted = make("knn")
    fitted.fit(x, {"label": labels})
    fresh = make("knn")
    assert fresh(x)["label"].softmax(1).unique().tolist() == pytest.approx([1 / 3])
    assert fresh.decode(fresh(x))["label"].sum(1).min() > 0.99, "before fit it does not abstain"
    fresh.load_state_dict(fitted.state_dict())
    assert torch.equal(fresh(x)["label"], fitted(x)["label"])
    copied = copy.deepcopy(fitted)
    copied.load_state_dict(make("knn").state_dict())
    assert len(copied.features) == 0
    good = fitted.state_dict()
    for broken in (
        {"labels": good["labels"][:20]},
        {"labels": good["labels"] + 1},
        {"labels": good["labels"] - 2},
        {"labels": good["labels"].float()},
        {"features": good["features"][:, :4]},
        {"features": good["features"][0]},
    ):
        with pytest.raises(RuntimeError):
            make("knn").load_state_dict({**good, **broken})
    with pytest.raises(RuntimeError, match="Missing"):
        make("knn").load_state_dict({key: value for key, value in good.items() if key != "labels"})
