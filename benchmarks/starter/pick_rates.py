"""Pick each row's learning rate on one draw of its own (seed 100, 10 labels a class): every row gets its best.

``python benchmarks/starter/pick_rates.py --network cnn`` prints a line of JSON to paste into ``run.py``.
"""

from __future__ import annotations

import argparse
import json

import torch
from digits import Digits
from rows import ROWS

GRID = {
    "random_linear": (1e-1, 3e-1, 1.0, 3.0),
    "linear": (3e-3, 1e-2, 3e-2, 1e-1),
    "scratch": (3e-4, 1e-3, 3e-3, 1e-2),
    "scratch4": (3e-4, 1e-3, 3e-3),
    "linear_full": (1e-4, 3e-4, 1e-3, 3e-3),
}
"""Row -> rates tried; `linear_full` needs that of `linear` before it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=("cnn", "vit"), required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", nargs="+", choices=tuple(GRID), default=tuple(GRID), help="rows to pick for")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    draw, rates = Digits().draw(10, 100), {}
    for row in options.rows:
        grid = GRID[row]
        scores = {rate: ROWS[row][1](draw, options.network, 100, rates | {row: rate}) for rate in grid}
        print(row, {rate: round(score, 4) for rate, score in scores.items()}, flush=True)
        rates[row] = max(scores, key=scores.__getitem__)
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
