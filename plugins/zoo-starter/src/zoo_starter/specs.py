"""The specs of the two backbones. Torch-free: the factory is imported on first build."""

from __future__ import annotations

from zoo_registry import BackboneSpec, Fact, ImageInput, Weights
from zoo_timm.options import TimmOptions

from zoo_starter.networks import MEAN, NETWORKS, SIZE, STD, Network

INPUT = ImageInput(size=(SIZE, SIZE), mean=MEAN, std=STD, interpolation="bicubic", crop_pct=1.0)


def backbones() -> list[BackboneSpec]:
    """One spec for each network."""
    return [_spec(name, network) for name, network in NETWORKS.items()]


def _spec(name: str, network: Network) -> BackboneSpec:
    return BackboneSpec(
        name=name,
        summary=network.summary,
        factory="zoo_timm.backbone:build",
        options=TimmOptions,
        extra={"architecture": network.architecture, "kwargs": dict(network.model_args)},
        input=INPUT,
        features=network.features,
        weights=Weights(
            package="zoo_starter",
            resource=f"weights/{name}.safetensors",
            sha256=network.sha256,
            size=network.size,
            license="Apache-2.0",
            license_source="trained by the authors of this package on their own drawings",
        ),
        parameters=network.parameters,
        family=network.family,
        recommended=network.recommended,
        facts=tuple(Fact(name=f, value=v, source="benchmarks/results/starter.md") for f, v in network.facts.items()),
        capabilities=network.capabilities,
    )
