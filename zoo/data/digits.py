"""``digits:``, the data of the demo: 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn.

``digits:?labels=5&seed=1`` keeps five labels a class in train, drawn by seed 1 (by the run's seed where none is
given). 30 % of the digits are ``test`` and 15 % ``val``, stratified, the same in every run whatever the seed.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository (1998),
https://doi.org/10.24432/C50P49, the test part, as shipped with scikit-learn.
"""

from __future__ import annotations

from urllib.parse import parse_qsl

from zoo_registry.errors import UsageError, did_you_mean

from zoo.data.drawing import draw_share, strata
from zoo.data.records import Records

EXAMPLE = "e.g. digits:?labels=5&seed=0"
SHARES = {"test": 0.30, "val": 0.15}


def parse_options(rest: str) -> dict[str, int]:
    """``?labels=5&seed=1`` as a dict of integers.

    Raises:
        UsageError: unknown option, or not a whole number in range.
    """
    options: dict[str, int] = {}
    for name, value in parse_qsl(rest.lstrip("?"), keep_blank_values=True):
        if name not in ("labels", "seed"):
            hint = did_you_mean(name, ("labels", "seed")) or "options of digits: are labels and seed"
            raise UsageError(f"digits: has no option {name!r}", hint=hint)
        if not value.isdecimal() or (name == "labels" and int(value) < 1):
            raise UsageError(f"digits: {name}={value!r} is not a whole number in range", hint=EXAMPLE)
        options[name] = int(value)
    if rest.lstrip("?") and not options:
        raise UsageError(f"digits: does not understand {rest!r}", hint=EXAMPLE)
    return options


def read_digits() -> Records:
    """All digits, as uint8 [8, 8] (0..16 scaled to 0..255), with their fixed splits."""
    import numpy as np
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = np.rint(raw.images * (255 / 16)).astype(np.uint8)
    ids = [f"{i:04d}" for i in range(len(images))]
    labels = [str(int(t)) for t in raw.target]
    splits = ["train"] * len(ids)
    for split, share in SHARES.items():
        left = strata((i for i in range(len(ids)) if splits[i] == "train"), labels.__getitem__)
        # The later shares are of the whole, so the rest gives more of itself.
        of_rest = share * len(ids) / sum(map(len, left.values()))
        for index in draw_share(left.values(), ids, of_rest, 0, f"digits {split}"):
            splits[index] = split
    return Records(
        form="digits",
        name="digits",
        ids=ids,
        sources=list(images),
        sizes=[image.nbytes for image in images],
        splits=splits,
        values={"label": labels},
        kinds={"label": "classification"},
        extra={"source": "scikit-learn load_digits, https://doi.org/10.24432/C50P49"},
        suggested_augment="light",
    )
