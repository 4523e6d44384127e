"""The formulas of the papers, computed by hand in double precision, and agreement with plain use of the library."""

from __future__ import annotations

import peft
import pytest
import timm
import torch
from peft_models import METHODS, PREFIX, SIZE, VIT, batches, features, plain_model, train

LAYERS = ["qkv", "attn.proj", "fc1", "fc2"]


def merged(trained):
    """The adapter's tensors by layer and part, and the weights before and after merging, all in double precision."""
    tensors = trained.strategy.delta(trained.model).tensors
    trained.strategy.finish(trained.model, trained.run)
    parts = {}
    for name, tensor in tensors.items():
        layer, _, part = name.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
        parts.setdefault(layer, {})[part] = tensor.double()
    after = {n: t.double() for n, t in trained.model.state_dict().items()}
    return parts, {n: t.double() for n, t in trained.base.items()}, after


def check(expected, before, after, untouched):
    for name, tensor in expected.items():
        torch.testing.assert_close(after[PREFIX + name], tensor, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(after[PREFIX + name], before[PREFIX + name], rtol=1e-4, atol=1e-5), name
    rest = [n for n in before if n.startswith(PREFIX) and n.removeprefix(PREFIX) not in expected]
    assert len(rest) > untouched
    assert all(torch.equal(after[n], before[n]) for n in rest)


@pytest.mark.parametrize(
    ("options", "scale"), [({}, 8 / 4), ({"rank": 8, "alpha": 3.0}, 3 / 8), ({"rslora": True}, 8 / 4**0.5)]
)
def test_lora_adds_the_scaled_product_of_its_factors(options, scale):
    parts, before, after = merged(train("lora", **options))
    expected = {
        f"{n}.weight": before[f"{PREFIX}{n}.weight"] + scale * p["lora_B"] @ p["lora_A"] for n, p in parts.items()
    }
    assert len(expected) == 6 * len(LAYERS)
    check(expected, before, after, untouched=50)


def test_dora_scales_directions_to_learned_magnitudes():
    parts, before, after = merged(train("dora"))
    expected = {}
    for name, p in parts.items():
        direction = before[f"{PREFIX}{name}.weight"] + 2 * p["lora_B"] @ p["lora_A"]
        unit = direction / direction.square().sum(1, keepdim=True).sqrt()
        expected[f"{name}.weight"] = p["lora_magnitude_vector"][:, None] * unit
        assert not torch.allclose(p["lora_magnitude_vector"], before[f"{PREFIX}{name}.weight"].norm(dim=1), rtol=1e-4)
    check(expected, before, after, untouched=50)


def test_ia3_scales_keys_values_and_hidden_activations():
    parts, before, after = merged(train("ia3"))
    expected = {}
    for name, p in parts.items():
        weight, bias = before[f"{PREFIX}{name}.weight"], before[f"{PREFIX}{name}.bias"]
        factors = p["ia3_l"].flatten()
        if name.endswith("qkv"):
            expected |= {f"{name}.weight": torch.diag(factors) @ weight, f"{name}.bias": factors * bias}
        else:
            assert name.endswith("fc2")
            expected |= {f"{name}.weight": weight @ torch.diag(factors)}
    assert len(parts) == 12
    check(expected, before, after, untouched=50)


def test_adalora_adds_its_singular_triplets():
    parts, before, after = merged(train("adalora", steps=10))
    expected, ranks = {}, []
    for name, p in parts.items():
        update = p["lora_B"] @ torch.diag(p["lora_E"].flatten()) @ p["lora_A"]
        ranks.append(len(p["lora_E"]))
        if ranks[-1]:
            expected[f"{name}.weight"] = before[f"{PREFIX}{name}.weight"] + 8 / 6 * update
    assert sum(ranks) <= 4 * len(ranks)
    check(expected, before, after, untouched=50)


def allocate(moments, steps, *, start, settle, every=1, first=6, last=4, beta1=0.85, beta2=0.85):
    """AdaLoRA's allocation written from the paper: which singular values are kept after each step.

    Args:
        moments: for each step, parameter name -> (weight after the step, gradient).
    """
    smooth, spread, kept = {}, {}, None
    begin, end = int(start * steps), steps - int(settle * steps)
    for step, named in enumerate(moments, 1):
        if step < end:
            for name, (weight, gradient) in named.items():
                importance = (weight * gradient).abs()
                smooth[name] = beta1 * smooth.get(name, 0.0) + (1 - beta1) * importance
                spread[name] = beta2 * spread.get(name, 0.0) + (1 - beta2) * (importance - smooth[name]).abs()
        values = [name for name in named if "lora_E" in name]
        if begin < step <= end and (step % every == 0 or step == end):
            left = 1 - (step - begin) / (end - begin)
            budget = int(len(values) * (last + (first - last) * left**3))
            scores = {}
            for name in values:
                row, column = name.replace("lora_E", "lora_A"), name.replace("lora_E", "lora_B")
                product = {n: smooth[n] * spread[n] for n in (name, row, column)}
                scores[name] = product[name].view(-1) + product[row].mean(1) + product[column].mean(0)
            ordered = torch.cat(list(scores.values())).sort().values
            threshold = ordered[len(ordered) - budget - 1]
            kept = {name: score > threshold for name, score in scores.items()}
            yield step, kept, budget
        elif step > end:
            yield step, kept, last * len(values)


@pytest.mark.parametrize("settings", [{}, {"start": 0.3, "settle": 0.5, "every": 2}, {"settle": 0.0}])
def test_adalora_keeps_the_ranks_that_the_paper_keeps(settings):
    trained = train("adalora", steps=20, **settings)
    schedule = list(allocate(trained.moments, 20, **{"start": 0.1, "settle": 0.3, **settings}))
    assert len(schedule) > 8
    for step, kept, budget in schedule:
        seen = trained.masks[step - 1]
        assert all(torch.equal(seen[name], kept[name]) for name in seen), step
        assert sum(int(mask.sum()) for mask in seen.values()) == budget
    assert len({int(mask.sum()) for mask in trained.masks[-1].values()}) > 1, "all layers kept the same rank"
    before = schedule[0][0] - 1
    assert before < 1 or all(bool(mask.all()) for mask in trained.masks[before - 1].values())


def test_adalora_penalty_is_the_mean_distance_from_orthogonal():
    trained = train("adalora", steps=3, orthogonal=0.25)
    parts = [
        (n, p.detach().double()) for n, p in trained.model.named_parameters() if ".lora_" in n and "lora_E" not in n
    ]
    gaps = []
    for name, p in parts:
        gram = p @ p.T if "lora_A" in name else p.T @ p
        gaps.append(((gram - torch.eye(6)) ** 2).sum().sqrt())
    found = trained.strategy.penalty(trained.model, {}, trained.run)
    assert list(found) == ["orthogonal"]
    assert len(gaps) == 48
    torch.testing.assert_close(found["orthogonal"].double(), 0.25 * torch.stack(gaps).mean(), rtol=1e-5, atol=0)
    assert train("adalora", steps=2, orthogonal=0.0).strategy.penalty(trained.model, {}, trained.run) == {}


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_adalora_works_in_phases_of_few_steps(steps):
    trained = train("adalora", steps=steps)
    kept = sum(int(mask.sum()) for mask in trained.masks[-1].values())
    assert kept == (24 * 6 if steps == 1 else 24 * 4), "of one step nothing can be told"
    trained.strategy.finish(trained.model, trained.run)


def test_adalora_makes_its_ranks_final_late_where_the_step_had_no_gradients():
    late = train("adalora", steps=10, skip=(6, 7))
    left = [sum(int(mask.sum()) for mask in masks.values()) for masks in late.masks]
    assert left[6] > left[7] == left[9] == 24 * 4


CONFIGS = {
    "lora": lambda: peft.LoraConfig(r=4, lora_alpha=8, target_modules=LAYERS),
    "dora": lambda: peft.LoraConfig(r=4, lora_alpha=8, use_dora=True, target_modules=LAYERS),
    "ia3": lambda: peft.IA3Config(target_modules=["qkv", "fc2"], feedforward_modules=["fc2"]),
    "adalora": lambda: peft.AdaLoraConfig(
        init_r=6, target_r=4, lora_alpha=8, tinit=1, tfinal=3, total_step=10, deltaT=1, target_modules=LAYERS
    ),
}


@pytest.mark.parametrize("method", METHODS)
def test_the_plain_library_gives_the_same_model(method):
    steps = 10
    model = plain_model()
    architecture = VIT.removeprefix("timm/")
    network = timm.create_model(architecture, num_classes=0, img_size=SIZE)
    network.load_state_dict({n.removeprefix(PREFIX): t for n, t in model.state_dict().items() if n.startswith(PREFIX)})
    head = torch.nn.Linear(network.num_features, 3)
    head.load_state_dict({n.rpartition(".")[2]: t for n, t in model.head.state_dict().items()})
    torch.default_generator.manual_seed(7)
    wrapped = peft.get_peft_model(network, CONFIGS[method]())
    optimiser = torch.optim.AdamW(
        [p for p in [*wrapped.parameters(), *head.parameters()] if p.requires_grad], lr=1e-2, weight_decay=0
    )
    for step, (x, y) in enumerate(batches(steps)):
        loss = torch.nn.functional.cross_entropy(head(wrapped(x)), y)
        if method == "adalora":
            output = type("Output", (), {"loss": loss})()
            wrapped.base_model.model.forward, forward = (
                (lambda *_, output=output: output),
                wrapped.base_model.model.forward,
            )
            loss = wrapped.base_model().loss  # the library adds its own regularisation to the loss of an output
            wrapped.base_model.model.forward = forward
        loss.backward()
        optimiser.step()
        if method == "adalora":
            wrapped.base_model.update_and_allocate(step + 1)
        optimiser.zero_grad()
    trained = train(method, steps, model=model)
    torch.testing.assert_close(features(trained.model), features(wrapped), rtol=1e-4, atol=1e-4)
    trained.strategy.finish(trained.model, trained.run)
    torch.testing.assert_close(features(trained.model), features(wrapped.merge_and_unload()), rtol=1e-4, atol=1e-4)
