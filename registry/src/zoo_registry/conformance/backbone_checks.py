"""Checks of a backbone. Weights are loaded only where they lie in the package; nothing is downloaded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
import wave
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo_registry.building import Classifier, Exported
from zoo_registry.conformance.model import under
from zoo_registry.conformance.spec_checks import require
from zoo_registry.errors import UsageError
from zoo_registry.inputs import AudioInput, ImageInput, Input, TextInput
from zoo_registry.options import parse_options
from zoo_registry.registry import Entry
from zoo_registry.specs import BackboneSpec

BackboneEntry = Entry[BackboneSpec]

DIMENSIONS = {"pooled": 2, "map": 4, "tokens": 3}
WIDTH_AXIS = {"pooled": 1, "map": 1, "tokens": 2}


def applicable(entry: BackboneEntry) -> Iterator[Callable[[BackboneEntry], None]]:
    """The checks that apply, by the spec's capabilities."""
    able, weights = entry.spec.capabilities, entry.spec.weights
    packaged = weights is not None and weights.where == "package"
    yield builds_without_weights
    yield features_have_declared_width
    yield same_input_same_output_in_eval
    yield every_parameter_receives_a_gradient
    yield state_dict_survives_safetensors
    yield export_round_trips
    for name, check in CAPABILITY_CHECKS.items():
        if name in able and (name != "native_head" or packaged):
            yield check
    if packaged:
        yield packaged_weights_load


def build(
    entry: BackboneEntry, kind: str | None = None, *, weights: Path | None = None, given: Input | None = None
) -> Any:
    """The backbone with its default options, in evaluation mode, drawn by a fixed seed."""
    spec = entry.spec
    factory: Any = entry.factory()
    options = parse_options(spec.options, spec.example, where="example")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        module = factory(
            spec,
            options,
            input=given or spec.input,
            features=kind or main_kind(spec),
            weights=weights,
            device="cpu",
            dtype=None,
        )
    require(isinstance(module, nn.Module), f"the factory returned {type(module).__name__}, not a torch.nn.Module")
    return module.eval()


def main_kind(spec: BackboneSpec) -> str:
    """``pooled`` where there is such a kind, else the first."""
    return "pooled" if "pooled" in spec.features else next(iter(spec.features))


def example(module: Any, given: Input) -> Any:
    """A batch of two drawn inputs: images, waveforms, or what the backbone's own transform makes of texts or a file."""
    draw = torch.Generator().manual_seed(5)
    if isinstance(given, ImageInput):
        return torch.randn(2, given.channels, *given.size, generator=draw)
    transform: Any = module.transform(given, False) if hasattr(module, "transform") else None
    require(transform is not None or isinstance(given, AudioInput), f"a backbone for {given.kind} needs transform()")
    if isinstance(given, TextInput):
        samples = [transform(text, draw) for text in ("a short text", "and another one, which is longer")]
    elif transform is None:
        return torch.randn(2, int(given.sample_rate * given.seconds), generator=draw)
    else:
        samples = [_heard(transform, given, draw) for _ in range(2)]
    return module.collate(samples) if hasattr(module, "collate") else torch.stack(samples)


def _heard(transform: Any, given: AudioInput, draw: torch.Generator) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise.wav"
        noise = torch.randint(-3000, 3000, (int(given.sample_rate * given.seconds),), generator=draw)
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(given.sample_rate)
            file.writeframes(noise.to(torch.int16).numpy().tobytes())
        return transform(path, draw)


def features_of(module: Any, given: Input) -> Any:
    """Features of the example batch."""
    with torch.no_grad():
        return module(example(module, given))


def as_list(features: Any) -> list[Tensor]:
    """Tensors of features of any kind."""
    return list(features) if isinstance(features, list | tuple) else [features]


def same(left: Any, right: Any, tolerance: float = 0.0) -> bool:
    """Whether two features of one kind agree."""
    pairs = zip(as_list(left), as_list(right), strict=True)
    return all(a.shape == b.shape and float((a - b).detach().abs().max()) <= tolerance for a, b in pairs)


def builds_without_weights(entry: BackboneEntry) -> None:
    """Built at random, it gives finite features of two inputs, in float32."""
    module = build(entry)
    for tensor in as_list(features_of(module, entry.spec.input)):
        require(tensor.dtype == torch.float32, f"features are {tensor.dtype}")
        require(len(tensor) == 2 and tensor.isfinite().all(), "features of random weights are not finite")
    parameters = sum(parameter.numel() for parameter in module.parameters())
    stated = entry.spec.parameters
    require(stated is None or stated == parameters, f"the spec says {stated} parameters, there are {parameters}")


def features_have_declared_width(entry: BackboneEntry) -> None:
    """Each kind of features has its shape and the spec's width."""
    for kind, width in entry.spec.features.items():
        features = features_of(build(entry, kind), entry.spec.input)
        if kind == "pyramid":
            found: Any = tuple(level.shape[1] for level in features)
            require(all(level.ndim == 4 for level in features), "a pyramid is a list of maps [B, D, H, W]")
        else:
            require(features.ndim == DIMENSIONS[kind], f"{kind} features are {tuple(features.shape)}")
            found = features.shape[WIDTH_AXIS[kind]]
        wanted = tuple(width) if kind == "pyramid" and not isinstance(width, int) else width
        require(found == wanted, f"{kind} features are {found} wide, the spec says {wanted}")


def same_input_same_output_in_eval(entry: BackboneEntry) -> None:
    """In evaluation mode nothing is drawn and nothing is remembered."""
    module = build(entry)
    first, state = features_of(module, entry.spec.input), {k: v.clone() for k, v in module.state_dict().items()}
    require(same(first, features_of(module, entry.spec.input)), "the same input gives other features the second time")
    changed = [name for name, tensor in module.state_dict().items() if not torch.equal(tensor, state[name])]
    require(not changed, f"a forward pass in evaluation mode changes {', '.join(changed[:3])}")


def every_parameter_receives_a_gradient(entry: BackboneEntry) -> None:
    """A trainable parameter that no feature depends on would fail every run that trains the backbone."""
    module = build(entry).train()
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    loss = torch.stack([t.square().mean() for t in as_list(module(example(module, entry.spec.input)))]).sum()
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True) if named else ()
    dead = [name for name, gradient in zip(named, gradients, strict=True) if gradient is None]
    require(not dead, f"no feature depends on {', '.join(dead[:4])}")


def state_dict_survives_safetensors(entry: BackboneEntry) -> None:
    """Saved, and loaded into another build, the state gives the same features."""
    module = build(entry)
    fresh = build(entry)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    with tempfile.TemporaryDirectory() as folder:
        fresh.load_state_dict(_through_file(module.state_dict(), Path(folder)))
    given = entry.spec.input
    require(same(features_of(module, given), features_of(fresh, given)), "loaded from its file it gives other features")


def _through_file(tensors: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    loaded: dict[str, Tensor] = load_file(_save(tensors, folder))
    return loaded


def _save(tensors: Mapping[str, Tensor], folder: Path) -> Path:
    from safetensors.torch import save_file

    path = folder / "model.safetensors"
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)
    return path


def export_round_trips(entry: BackboneEntry) -> None:
    """What ``export`` gives is a weights file that the factory loads: equal features, nothing left random."""
    given, module = entry.spec.input, build(entry)
    exported = module.export(None, (), given)
    require(isinstance(exported, Exported), f"export() returned {type(exported).__name__}")
    json.dumps(dict(exported.config))
    inner = module.published() if hasattr(module, "published") else None
    foreign = [] if inner is None else sorted(set(inner.state_dict()) ^ set(exported.tensors))
    require(not foreign, f"published() has other names than export(): {', '.join(foreign[:3])}")
    with tempfile.TemporaryDirectory() as folder:
        again = build(entry, weights=_save(exported.tensors, Path(folder)))
        features = features_of(again, given)
    report = again.load_report
    require(report is not None, "load_report is None after weights were loaded")
    require(not report.initialised, f"after loading the export these are random: {', '.join(report.initialised[:3])}")
    require(same(features, features_of(module, given), 1e-6), "built again from its export it gives other features")


def blocks_cover_every_parameter_once(entry: BackboneEntry) -> None:
    """Each parameter lies in exactly one block."""
    module = build(entry)
    blocks = module.blocks()
    for name, _ in module.named_parameters():
        owners = [block for block, prefixes in blocks.items() if under(name, prefixes)]
        require(len(owners) == 1, f"parameter {name!r} is in {len(owners)} blocks ({', '.join(owners) or 'none'})")


def linear_layers_exist(entry: BackboneEntry) -> None:
    """They are linear layers, and a forward pass goes through each one's own ``forward``."""
    module = build(entry)
    names = list(module.linear_layers())
    require(names, "the capability linear_layers, and none is named")
    called: set[str] = set()
    for name in names:
        layer = module.get_submodule(name)
        require(isinstance(layer, nn.Linear), f"{name!r} is a {type(layer).__name__}, not a linear layer")
        layer.register_forward_hook(lambda _m, _i, _o, name=name: called.add(name))
    features_of(module, entry.spec.input)
    silent = [name for name in names if name not in called]
    require(not silent, f"never called, so that an adapter there would do nothing: {', '.join(silent[:4])}")


def intermediates_are_maps(entry: BackboneEntry) -> None:
    """A list of maps [B, D, H, W], finest first."""
    module = build(entry)
    with torch.no_grad():
        maps = module.intermediates(example(module, entry.spec.input))
    require(maps and all(level.ndim == 4 for level in maps), "intermediates() is not a list of maps")
    areas = [level.shape[2] * level.shape[3] for level in maps]
    require(areas == sorted(areas, reverse=True), f"the maps are not finest first: {areas}")


def inserted_tokens_matter(entry: BackboneEntry) -> None:
    """Tokens in front of some block change the features and get a gradient; taken out, everything is as before."""
    module, given = build(entry), entry.spec.input
    before, names, reached = features_of(module, given), set(module.state_dict()), []
    width = entry.spec.features.get("tokens") or entry.spec.features["pooled"]
    for block in module.blocks():
        tokens = nn.Parameter(torch.ones(2, width))
        try:
            module.insert_tokens(block, tokens)
        except UsageError:  # this block has no sequence
            continue
        require(
            set(module.state_dict()) == names, "inserted tokens become tensors of the backbone; they are the caller's"
        )
        after = module(example(module, given))
        torch.stack([tensor.square().mean() for tensor in as_list(after)]).sum().backward()
        if tokens.grad is not None and not same(before, after):
            reached.append(block)
        module.insert_tokens(block, None)
    require(reached, "no block takes tokens that change the features and get a gradient")
    require(same(before, features_of(module, given)), "after insert_tokens(block, None) the features are others")


def classifier_is_carried(entry: BackboneEntry) -> None:
    """``export`` puts a folded head in, under the names it states."""
    module = build(entry)
    width = entry.spec.features[main_kind(entry.spec)]
    draw = torch.Generator().manual_seed(9)
    folded = Classifier(torch.randn(3, width, generator=draw), torch.randn(3, generator=draw))
    exported = module.export(folded, ("a", "b", "c"), entry.spec.input)
    require(exported.classifier is not None, "export() was given a classifier and names no tensors for it")
    json.dumps(dict(exported.config))
    for name, tensor in zip(exported.classifier, (folded.weight, folded.bias), strict=True):
        require(name in exported.tensors, f"the classifier's tensor {name!r} is not among the exported ones")
        require(torch.equal(exported.tensors[name].reshape(tensor.shape), tensor), f"{name!r} is not what was given")


def other_image_sizes_work(entry: BackboneEntry) -> None:
    """Twice the height and width give features of the same width."""
    given = entry.spec.input
    assert isinstance(given, ImageInput)
    larger = dataclasses.replace(given, size=(2 * given.size[0], 2 * given.size[1]))
    kind = main_kind(entry.spec)
    features = features_of(build(entry, kind, given=larger), larger)
    width = features.shape[WIDTH_AXIS[kind]]
    require(width == entry.spec.features[kind], f"at {larger.size} px the {kind} features are {width} wide")


def other_channels_work(entry: BackboneEntry) -> None:
    """One input channel gives features of the same width."""
    given = entry.spec.input
    assert isinstance(given, ImageInput)
    grey = dataclasses.replace(given, channels=1, mean=given.mean[:1], std=given.std[:1])
    kind = main_kind(entry.spec)
    features = features_of(build(entry, kind, given=grey), grey)
    width = features.shape[WIDTH_AXIS[kind]]
    require(width == entry.spec.features[kind], f"with one channel the {kind} features are {width} wide")


def texts_have_the_pooled_width(entry: BackboneEntry) -> None:
    """``encode_text`` gives one vector a text, in the space of the pooled features."""
    with torch.no_grad():
        encoded = build(entry).encode_text(["a cat", "a dog", "a house"])
    wanted = (3, entry.spec.features["pooled"])
    require(tuple(encoded.shape) == wanted, f"encode_text gives {tuple(encoded.shape)}, not {wanted}")


def native_head_fits_the_features(entry: BackboneEntry) -> None:
    """``native_head`` takes the pooled features, and each call gives a copy of its own."""
    with packaged_file(entry.spec) as path:
        module = build(entry, "pooled", weights=path)
        heads = [module.native_head() for _ in range(2)]
    with torch.no_grad():
        logits = heads[0](features_of(module, entry.spec.input))
    require(logits.ndim == 2 and len(logits) == 2, f"native_head gives {tuple(logits.shape)}")
    shared = {id(p) for p in heads[0].parameters()} & {id(p) for p in (*heads[1].parameters(), *module.parameters())}
    require(not shared, "two calls of native_head share parameters")


def packaged_weights_load(entry: BackboneEntry) -> None:
    """The file in the package has the stated hash and size, and fills every tensor."""
    weights = entry.spec.weights
    assert weights is not None
    with packaged_file(entry.spec) as path:
        content = path.read_bytes()
        require(hashlib.sha256(content).hexdigest() == weights.sha256, f"the sha256 of {weights.resource} differs")
        require(
            weights.size in (None, len(content)), f"{weights.resource} has {len(content)} bytes, not {weights.size}"
        )
        module = build(entry, weights=path)
        features_of(module, entry.spec.input)
    report = module.load_report
    require(report is not None and report.loaded > 0, "load_report does not say what was loaded")
    require(not report.initialised, f"not in the file, so random: {', '.join(report.initialised[:3])}")


def packaged_file(spec: BackboneSpec) -> Any:
    """A context manager with the local path of the weights inside the package."""
    weights = spec.weights
    if weights is None or weights.package is None or weights.resource is None:
        raise AssertionError("the weights lie in no package")
    return resources.as_file(resources.files(weights.package).joinpath(weights.resource))


CAPABILITY_CHECKS: dict[str, Callable[[BackboneEntry], None]] = {
    "blocks": blocks_cover_every_parameter_once,
    "linear_layers": linear_layers_exist,
    "intermediates": intermediates_are_maps,
    "insert_tokens": inserted_tokens_matter,
    "classifier": classifier_is_carried,
    "image_size": other_image_sizes_work,
    "in_chans": other_channels_work,
    "encode_text": texts_have_the_pooled_width,
    "native_head": native_head_fits_the_features,
}
