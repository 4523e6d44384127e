"""The penalties: their terms against plain re-derivations, and their place in the real loop."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_runs import Halt, make_run, phase, same_bits, train_here
from torch import nn
from zoo_registry import Batch, Column, Registry, UsageError
from zoo_registry.options import parse_options

from zoo.assembly.assemble import assemble_model

REGISTRY = Registry()


def part(name: str, **options):
    """The spec and the strategy."""
    entry = REGISTRY.strategy(f"basics/{name}")
    return entry.spec, entry.factory()(entry.spec, parse_options(entry.spec.options, options, where=name))


def shaken(run):
    """The run's model, its parameters moved by a drawn amount."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return run.model


def resumed_bits_agree(make, folder, rows=True) -> None:
    """``make()`` is a run; killed in the middle of each epoch it ends at the bits of a run that was left alone."""
    reference = make()
    wanted = train_here(reference)
    for halt in (1, reference.total_steps // 2 + 1):
        place = folder / str(halt)
        place.mkdir()
        with pytest.raises(Halt):
            train_here(make(), place, halt=halt)
        resumed = make()
        assert train_here(resumed, place) == wanted
        assert same_bits(resumed.model.state_dict(), reference.model.state_dict())


# ------------------------------------------------------------------ l2-sp


def numbers(tensors) -> np.ndarray:
    """All values as one float64 vector."""
    return np.concatenate([t.detach().double().numpy().ravel() for t in tensors])


@pytest.mark.parametrize("anchor", ["base", "start"])
def test_l2_sp_is_half_the_squared_distance_to_the_anchor_and_to_zero(anchor):
    spec, strategy = part("l2-sp", alpha=0.3, beta=0.07, anchor=anchor)
    run = make_run([phase((spec, strategy))])
    run.start = {name: tensor + 1 for name, tensor in run.base.items()}
    strategy.prepare(run.model, run)
    model = shaken(run)
    terms = strategy.penalty(model, {}, run)
    anchors = {"base": run.base, "start": run.start}[anchor]
    names = [n for n, _ in model.backbone.named_parameters()]
    now = numbers(model.backbone.get_parameter(n) for n in names)
    then = numbers(anchors[f"backbone.{n}"] for n in names)
    assert terms["backbone"].item() == pytest.approx(0.15 * ((now - then) ** 2).sum(), rel=1e-5)
    assert terms["head"].item() == pytest.approx(0.035 * (numbers(model.head.parameters()) ** 2).sum(), rel=1e-5)
    (terms["backbone"] + terms["head"]).backward()
    weight, name = model.backbone.stem[0].weight, "backbone.stem.0.weight"
    torch.testing.assert_close(weight.grad, 0.3 * (weight.detach() - anchors[name]))
    torch.testing.assert_close(
        model.head.layers["label"].weight.grad, 0.07 * model.head.layers["label"].weight.detach()
    )


def test_l2_sp_leaves_out_what_is_frozen_and_ignores_statistics():
    spec, strategy = part("l2-sp", alpha=2.0)
    run = make_run([phase((spec, strategy))])
    strategy.prepare(run.model, run)
    model = shaken(run)
    model.freeze(["stem"])
    body = [(p, run.base[f"backbone.{n}"]) for n, p in model.backbone.named_parameters() if n.startswith("body")]
    wanted = sum((p - w).square().sum().item() for p, w in body)
    assert strategy.penalty(model, {}, run)["backbone"].item() == pytest.approx(wanted, rel=1e-5)
    model.freeze()
    model.head.requires_grad_(False)
    assert [term.item() for term in strategy.penalty(model, {}, run).values()] == [0.0, 0.0]


def test_l2_sp_pulls_what_was_injected_to_where_it_began():
    spec, strategy = part("l2-sp", alpha=2.0)
    run = make_run([phase((spec, strategy))])
    run.model.freeze()
    run.model.backbone.stem[0].down = nn.Parameter(torch.full((2, 3), 5.0))
    strategy.prepare(run.model, run)
    assert strategy.penalty(run.model, {}, run)["backbone"].item() == 0.0
    run.model.backbone.stem[0].down.data += 0.5
    assert strategy.penalty(run.model, {}, run)["backbone"].item() == pytest.approx(6 * 0.25)


def test_a_strong_l2_sp_holds_the_backbone_where_it_was():
    distance = {}
    for alpha in (0.0, 100.0):
        run = make_run([phase(part("l2-sp", alpha=alpha, beta=0.0), decay=0.0, rate=1e-3, epochs=4)], keep="last")
        train_here(run)
        now = dict(run.model.named_parameters())
        distance[alpha] = sum((now[n] - run.base[n]).square().sum().item() for n in now if n.startswith("backbone."))
    assert 0 < distance[100.0] < 0.2 * distance[0.0]


def test_l2_sp_asks_for_no_weight_decay_and_says_its_anchor():
    spec, strategy = part("l2-sp", alpha=0.01, anchor="start")
    assert spec.defaults.decay == 0.0
    assert strategy.explain(None, None) == (
        "pulls what learns of the backbone to its weights at the phase's start (alpha 0.01) and the head to zero "
        "(beta 0.01)",
    )


def test_l2_sp_resumes_to_the_same_bits(tmp_path):
    def make():
        first, second = part("l2-sp", alpha=0.1), part("l2-sp", alpha=1.0, anchor="start")
        return make_run([phase(first, epochs=1), phase(part("llrd"), second, epochs=2)], accumulate=2, batch_size=4)

    resumed_bits_agree(make, tmp_path)


# ------------------------------------------------------------------ bss


def features_of(batch: int, width: int, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(batch, width, generator=torch.Generator().manual_seed(batch), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("batch", "width"), [(6, 4), (4, 6), (1, 5), (2, 8)])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_bss_sums_the_squares_of_the_smallest_singular_values(batch, width, k):
    from zoo_basics.strategies.bss import smallest_energy

    features = features_of(batch, width)
    values = np.linalg.svd(features.numpy().astype(np.float64), compute_uv=False)
    assert len(values) == min(batch, width)
    assert smallest_energy(features, k).item() == pytest.approx((np.sort(values)[:k] ** 2).sum(), rel=1e-4)


def test_bss_has_the_gradient_of_the_eigenvalues_of_the_gram_matrix():
    from zoo_basics.strategies.bss import smallest_energy

    one = features_of(7, 4).requires_grad_()
    two = one.detach().double().requires_grad_()
    smallest_energy(one, 2).backward()
    torch.linalg.eigvalsh(two.T @ two)[:2].sum().backward()
    torch.testing.assert_close(one.grad.double(), two.grad, rtol=1e-3, atol=1e-5)
    zero = torch.zeros(3, 4, requires_grad=True)
    smallest_energy(zero, 2).backward()
    assert bool(zero.grad.isfinite().all())


def test_bss_computes_in_float32_and_lets_the_loop_find_what_is_not_finite():
    from zoo_basics.strategies.bss import pooled, smallest_energy

    half = features_of(6, 4, torch.bfloat16)
    assert smallest_energy(half, 1).dtype == torch.float32
    assert smallest_energy(half, 1).item() == pytest.approx(smallest_energy(half.float(), 1).item())
    assert smallest_energy(half * torch.inf, 1).isnan()
    maps, tokens = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 3)
    torch.testing.assert_close(pooled(maps), maps.mean((2, 3)))
    torch.testing.assert_close(pooled(tokens), tokens.mean(1))
    torch.testing.assert_close(pooled([torch.zeros(2, 9, 8, 8), maps]), maps.mean((2, 3)))


def spectrum(run) -> float:
    """The smallest singular value of all training features, by the largest."""
    values = torch.linalg.svdvals(run.extract(run.model)[0])
    return (values[-1] / values[0]).item()


def test_a_strong_bss_flattens_the_features():
    found = {}
    for alpha in (0.0, 10.0):
        run = make_run([phase(part("bss", alpha=alpha, k=3), epochs=6)], backbone="plain", keep="last")
        train_here(run)
        found[alpha] = spectrum(run)
    assert found[10.0] < 0.3 * found[0.0]


def test_bss_goes_with_features_that_are_computed_once():
    run = make_run([phase(part("linear"), part("bss"), augment="none")])
    before = {name: value.clone() for name, value in run.model.backbone.state_dict().items()}
    rows = train_here(run)
    assert rows[0]["losses"]["bss.spectrum"] > 0
    assert same_bits(run.model.backbone.state_dict(), before)


# ------------------------------------------------------------------ delta


def labelled(count: int = 6, size: int = 8) -> Batch:
    draw = torch.Generator().manual_seed(9)
    x = torch.randn(count, 3, size, size, generator=draw)
    return Batch({"train": x}, {"label": torch.arange(count) % 3}, ids=range(count))


def prepared_delta(run, **options):
    """The strategy, with the run's model tapped as the loop does, moved away from its base."""
    strategy = part("delta", **options)[1]
    strategy.prepare(run.model, run)
    run.model.taps = strategy.taps
    shaken(run)
    return strategy


def maps_of(backbone, x) -> dict[str, torch.Tensor]:
    """Outputs of the two blocks of the tiny network, in evaluation mode."""
    stem = backbone.stem(x)
    return {"stem": stem, "body": backbone.body(stem)}


def test_delta_is_half_the_squared_distance_of_the_maps_to_those_of_the_base():
    run = make_run([])
    strategy = prepared_delta(run, alpha=0.4)
    assert strategy.taps == ("stem", "body")
    batch = labelled()
    run.model.eval()
    term = strategy.penalty(run.model, {"train": batch}, run)["maps"]
    now, then = (maps_of(m.backbone, batch.views["train"]) for m in (run.model, run.reference()))
    wanted = sum(((now[n] - then[n]).square().sum((1, 2, 3)) / now[n][0, 0].numel()).mean() for n in now)
    assert term.item() == pytest.approx(0.2 * wanted.item(), rel=1e-5)
    term.backward()
    assert bool(run.model.backbone.stem[0].weight.grad.any())
    assert all(p.grad is None for p in run.reference().parameters())
    assert all(p.grad is None for p in run.model.head.parameters())


def test_delta_is_zero_where_nothing_has_moved():
    run = make_run([], backbone="plain")
    strategy = part("delta")[1]
    strategy.prepare(run.model, run)
    run.model.taps = strategy.taps
    assert strategy.penalty(run.model, {"train": labelled()}, run)["maps"].item() == 0.0


def silenced_losses(run, batch, block: str, head) -> list[float]:
    """The loss of the base with each filter of a block silenced, computed by hand."""
    reference, x, losses = run.reference(), batch.views["train"], []
    whole = maps_of(reference.backbone, x)
    for channel in range(whole[block].shape[1]):
        mask = torch.ones(1, whole[block].shape[1], 1, 1)
        mask[0, channel] = 0
        last = reference.backbone.body(whole["stem"] * mask) if block == "stem" else whole["body"] * mask
        losses.append(
            nn.functional.cross_entropy(head.layers["label"](last.mean((2, 3))), batch.targets["label"]).item()
        )
    return losses


def test_deltas_attention_is_what_the_loss_loses_without_a_filter():
    run = make_run([])
    with torch.no_grad():
        run.model.head.layers["label"].weight.mul_(40)
    strategy = prepared_delta(run, attention=True, alpha=2.0, sharpness=1.5)
    batch = labelled()
    run.model.eval()
    term = strategy.penalty(run.model, {"train": batch}, run)["maps"].item()
    wanted, x = 0.0, batch.views["train"]
    now, then = (maps_of(m.backbone, x) for m in (run.model, run.reference()))
    for block, channels in (("stem", 6), ("body", 8)):
        losses = np.array(silenced_losses(run, batch, block, run.model.head))
        weights = np.exp(1.5 * losses) / np.exp(1.5 * losses).sum() * channels  # the plain loss cancels in the softmax
        assert weights.max() > 1.05 * weights.min()
        np.testing.assert_allclose(strategy.weights[block].numpy(), weights, rtol=1e-4)
        each = (now[block] - then[block]).square().mean((2, 3)).mean(0)
        wanted += (each.detach().numpy() * weights).sum()
    assert term == pytest.approx(wanted, rel=1e-4)
    before = {name: weights.clone() for name, weights in strategy.weights.items()}
    shaken(run)
    strategy.penalty(run.model, {"train": labelled(5)}, run)
    assert same_bits(strategy.weights, before)  # of the phase's first batch, whatever comes later
    other = part("delta", attention=True)[1]
    other.load_state_dict(strategy.state_dict())
    assert same_bits(other.weights, strategy.weights)


def test_deltas_attention_is_computed_once_and_kept(tmp_path):
    def make():
        phases = [phase(part("linear"), epochs=1), phase(part("delta", attention=True, alpha=0.1), epochs=2)]
        return make_run(phases, accumulate=2, batch_size=4)

    resumed_bits_agree(make, tmp_path)


@pytest.mark.parametrize(("shape", "axis"), [
    ((2, 6, 4, 4), 1), ((2, 4, 4, 6), 3), ((2, 4, 4, 4), 1), ((2, 6, 1, 1), 1), ((2, 6, 4, 5), 1), ((2, 9, 6), 2),
    ((2, 6), 1),
])  # fmt: skip
def test_where_channels_are(shape, axis):
    from zoo_basics.strategies.attention_maps import channel_axis, places

    output = torch.randn(shape)
    assert channel_axis(output) == axis
    laid = places(output)
    assert laid.shape[:2] == (2, shape[axis])
    assert laid.sum().item() == pytest.approx(output.sum().item(), abs=1e-4)
    torch.testing.assert_close(laid[1, 2], output[1].movedim(axis - 1, 0)[2].flatten())


@pytest.mark.parametrize("backbone", ["starter/cnn", "starter/vit"])
@pytest.mark.parametrize("attention", [False, True])
def test_delta_on_maps_and_on_tokens(backbone, attention):
    columns = (Column(name="label", classes=("a", "b", "c")),)
    made = [
        assemble_model(REGISTRY, backbone=backbone, head="basics/linear", columns=columns, pretrained=False, seed=0)
        for _ in range(2)
    ]
    model, reference = made[0].model.eval(), made[1].model.eval()
    options = {"attention": attention, "layers": "layer4" if backbone == "starter/cnn" else "blocks.0,blocks.3"}
    strategy = part("delta", **options)[1]
    run = SimpleNamespace(reference=lambda: reference, model=model)
    strategy.prepare(model, run)
    model.taps = strategy.taps
    assert strategy.penalty(model, {"train": labelled(4, 64)}, run)["maps"].item() == 0.0
    shaken(run)
    assert strategy.penalty(model, {"train": labelled(4, 64)}, run)["maps"].item() > 0.0
    assert [len(w) for w in strategy.weights.values()] == ([192] if "cnn" in backbone else [96, 96]) * attention
    assert all(w.mean().item() == pytest.approx(1.0, rel=1e-4) for w in strategy.weights.values())


def test_delta_compares_four_blocks_up_to_the_last(monkeypatch):
    from zoo_basics.strategies import delta

    for count, wanted in ((1, [0]), (2, [0, 1]), (4, [0, 1, 2, 3]), (5, [1, 2, 3, 4]), (17, [4, 8, 12, 16])):
        names = [str(place) for place in range(count)]
        monkeypatch.setattr(delta, "counted_blocks", lambda _model, names=names: names)
        assert delta.chosen_blocks(SimpleNamespace(blocks=lambda n=names: n), ()) == [str(place) for place in wanted]


def test_delta_names_blocks_that_it_cannot_compare():
    run = make_run([])
    with pytest.raises(UsageError, match="the backbone has no block 'bodi'") as caught:
        part("delta", layers="bodi")[1].prepare(run.model, run)
    assert "body" in caught.value.hint
    strategy = part("delta")[1]
    strategy.prepare(run.model, run)
    with pytest.raises(UsageError, match="'stem' of the backbone never ran"):
        strategy.penalty(run.model, {"train": labelled()}, run)


def test_delta_leaves_the_reference_as_it_found_it():
    run = make_run([phase(part("delta"))])
    train_here(run)
    assert run.reference().taps == ()
    assert "stem, body" in part("delta")[1].explain(run.model, run)[0]
