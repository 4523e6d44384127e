"""The options of the strategies that say what learns and at which rates."""

from __future__ import annotations

from dataclasses import dataclass

from zoo_registry import option


@dataclass(frozen=True, kw_only=True)
class PartialOptions:
    """Options of the strategy ``partial``."""

    blocks: int = option(1, help="number of blocks at the end of the backbone that learn, with the head", low=1)
