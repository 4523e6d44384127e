"""Norm tuning: normalisation layers and the head learn."""

from __future__ import annotations

from torch import nn
from zoo_registry import Run, Strategy, StrategySpec, TransferModel, UsageError

from zoo_basics.options.tuning import NormOptions

_NORMS = (
    nn.modules.batchnorm._NormBase,  # BatchNorm and InstanceNorm
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


class NormTuning(Strategy):
    """Weights and biases of the backbone's normalisation layers learn, and the head; every other parameter rests.

    Frankle et al., Training BatchNorm and Only BatchNorm: On the Expressive Power of Random Features in CNNs, ICLR
    2021 (arXiv 2003.00152). For LayerNorm in transformers: Basu et al., Strong Baselines for Parameter Efficient
    Few-Shot Fine-tuning, AAAI 2024 (arXiv 2304.01917).

    With ``statistics`` the running mean and variance of BatchNorm follow the new data, as in the first paper; without,
    they rest and the layers are affine maps, the same in training and in use, which small batches cannot upset.

    Args:
        options: ``statistics``.
    """

    def __init__(self, options: NormOptions) -> None:
        self.statistics = options.statistics

    def prepare(self, model: TransferModel, run: Run) -> None:
        """Freeze the backbone but for its normalisation layers.

        Raises:
            UsageError: it has none with parameters.
        """
        learning = norm_parameters(model)
        if not learning:
            raise UsageError(
                "strategy 'norm': the backbone has no normalisation layer with weights",
                hint="take 'bitfit', 'partial' or 'linear'",
            )
        if self.statistics:  # freeze() would put BatchNorm to rest as well
            model.backbone.requires_grad_(False)
        else:
            model.freeze()
        for parameter in learning:
            parameter.requires_grad_(True)

    def explain(self, model: TransferModel, run: Run) -> tuple[str, ...]:
        """How much learns, and what the statistics do."""
        learning = norm_parameters(model)
        lines = [f"{len(learning)} vectors of normalisation layers learn, {sum(p.numel() for p in learning):,} numbers"]
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.backbone.modules()):
            lines.append(f"BatchNorm statistics {'follow the data' if self.statistics else 'rest'}")
        return tuple(lines)


def norm_parameters(model: TransferModel) -> list[nn.Parameter]:
    """The parameters of the backbone's normalisation layers, see :func:`is_norm`."""
    return [p for module in model.backbone.modules() if is_norm(module) for p in module.parameters(recurse=False)]


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalisation layer: one of torch's, or called ``...Norm...`` and made of vectors."""
    if isinstance(module, _NORMS):
        return True
    own = list(module.parameters(recurse=False))
    return "norm" in type(module).__name__.lower() and bool(own) and all(p.ndim <= 1 for p in own)


def build(spec: StrategySpec, options: NormOptions) -> NormTuning:
    """The strategy ``norm``."""
    return NormTuning(options)
