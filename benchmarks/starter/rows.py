"""One function per way of learning; each takes a draw and a seed and returns the test accuracy.

Plain torch and timm on purpose: the same loop, batch order and number of steps for every row, nothing to hide behind.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

import timm
import torch
import torch.nn.functional as F
from digits import Draw
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from zoo_starter.networks import NETWORKS

STEPS = {"cnn": 300, "vit": 150}
"""Steps of every row but ``scratch4``, which has four times as many. The transformer's are fewer: they cost more."""
LINEAR_SHARE = 3
"""One step in so many of ``linear_full`` trains the head alone."""
BATCH = 32
CLASSES = 10

Rates = dict[str, float]
"""Row -> peak rate of AdamW, each picked by ``pick_rates.py`` on a draw that is not in the table."""


def build(network: str, *, pretrained: bool, classes: int, seed: int) -> nn.Module:
    """The starter ``network`` by plain timm, the classifier is new either way."""
    shape = NETWORKS[network]
    torch.manual_seed(seed)
    model = timm.create_model(shape.architecture, num_classes=classes, **shape.model_args)
    if pretrained:
        weights = files("zoo_starter") / "weights" / f"{network}.safetensors"
        missing, unexpected = model.load_state_dict(load_file(str(weights)), strict=False)
        if unexpected or any(not name.startswith(("fc.", "head.")) for name in missing):
            raise ValueError(f"weights of {network} do not fit: {missing} {unexpected}")
    return model


def train(model: nn.Module, images: Tensor, labels: Tensor, *, steps: int, rate: float, seed: int) -> None:
    """AdamW (decay 0.05), 10 % warm-up, cosine; batches walk through seeded permutations of the few images."""
    learning = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.1, cycle_momentum=False)
    generator = torch.Generator().manual_seed(seed)
    queue = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(queue) < min(BATCH, len(labels)):
            queue = torch.randperm(len(labels), generator=generator)
        at, queue = queue[:BATCH], queue[BATCH:]
        loss = F.cross_entropy(model(images[at]), labels[at])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
        schedule.step()


@torch.no_grad()
def outputs(model: nn.Module, images: Tensor) -> Tensor:
    """Outputs in evaluation mode, in pieces of 256."""
    model.eval()
    return torch.cat([model(part) for part in images.split(256)])


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).float().mean())


def pixels(draw: Draw, network: str, seed: int, rates: Rates) -> float:
    """Logistic regression (scikit-learn's defaults, L2, C = 1) on the 64 raw pixels."""
    model = LogisticRegression(max_iter=2000).fit(draw.train_pixels, draw.train_labels)
    return float(model.score(draw.test_pixels, draw.test_labels))


def _probe(draw: Draw, network: str, seed: int, rate: float, *, pretrained: bool) -> float:
    backbone = build(network, pretrained=pretrained, classes=0, seed=seed)
    features, tested = outputs(backbone, draw.train_images), outputs(backbone, draw.test_images)
    head = _new_head(features.shape[1], seed)
    train(head, features, draw.train_labels, steps=STEPS[network], rate=rate, seed=seed)
    return accuracy(outputs(head, tested), draw.test_labels)


def _logistic(draw: Draw, network: str, seed: int, *, pretrained: bool) -> float:
    backbone = build(network, pretrained=pretrained, classes=0, seed=seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    model.fit(outputs(backbone, draw.train_images).numpy(), draw.train_labels)
    return float(model.score(outputs(backbone, draw.test_images).numpy(), draw.test_labels))


def random_logistic(draw: Draw, network: str, seed: int, rates: Rates) -> float:
    """Logistic regression (C = 0.1) on standardised features of the randomly initialised network."""
    return _logistic(draw, network, seed, pretrained=False)


def logistic(draw: Draw, network: str, seed: int, rates: Rates) -> float:
    """Logistic regression (C = 0.1) on standardised features of the starter."""
    return _logistic(draw, network, seed, pretrained=True)


def _new_head(width: int, seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(width, CLASSES)


def random_linear(draw: Draw, network: str, seed: int, rates: Rates) -> float:
    """A linear head on the network frozen at its random initialisation."""
    return _probe(draw, network, seed, rates["random_linear"], pretrained=False)


def linear(draw: Draw, network: str, seed: int, rates: Rates) -> float:
    """A linear head on the frozen starter."""
    return _probe(draw, network, seed, rates["linear"], pretrained=True)


def _scratch(draw: Draw, network: str, seed: int, rate: float, steps: int) -> float:
    model = build(network, pretrained=False, classes=CLASSES, seed=seed).train()
    train(model, draw.train_images, draw.train_labels, steps=steps, rate=rate, seed=seed)
    return accuracy(outputs(model, draw.test_images), draw.test_labels)


def scratch(draw: Draw, network: str, seed: int, rates: Rates) -> float:
    """All of the network from random initialisation."""
    return _scratch(draw, network, seed, rates["scratch"], STEPS[network])


def scratch4(draw: Draw, network: str, seed: int, rates: Rates) -> float:
    """The same with four times the steps."""
    return _scratch(draw, network, seed, rates["scratch4"], 4 * STEPS[network])


def linear_full(draw: Draw, network: str, seed: int, rates: Rates) -> float:
    """``linear:100s,full:200s``: the head first, then everything (LP-FT, Kumar et al. 2022, arXiv 2202.10054)."""
    first, images, labels = STEPS[network] // LINEAR_SHARE, draw.train_images, draw.train_labels
    model = build(network, pretrained=True, classes=0, seed=seed)
    features = outputs(model, images)
    head = _new_head(features.shape[1], seed)
    train(head, features, labels, steps=first, rate=rates["linear"], seed=seed)
    whole = nn.Sequential(model, head).train()
    train(whole, images, labels, steps=STEPS[network] - first, rate=rates["linear_full"], seed=seed)
    return accuracy(outputs(whole, draw.test_images), draw.test_labels)


ROWS: dict[str, tuple[str, Callable[[Draw, str, int, Rates], Any]]] = {
    "pixels": ("logistic regression on raw pixels", pixels),
    "random_linear": ("frozen at random initialisation + linear head, {steps} steps", random_linear),
    "random_logistic": (
        "frozen at random initialisation, logistic regression on standardised features",
        random_logistic,
    ),
    "logistic": ("starter frozen, logistic regression on standardised features", logistic),
    "linear": ("starter, `linear:{steps}s`", linear),
    "scratch": ("from scratch, {steps} steps", scratch),
    "scratch4": ("from scratch, {four_times} steps", scratch4),
    "linear_full": ("starter, `linear:{first}s,full:{rest}s`", linear_full),
}


def title(row: str, network: str) -> str:
    """The row in words."""
    steps = STEPS[network]
    first = steps // LINEAR_SHARE
    return ROWS[row][0].format(steps=steps, four_times=4 * steps, first=first, rest=steps - first)
