"""What the repository's own plugins offer passes the conformance kit, as strangers' must."""

from __future__ import annotations

import pytest
from zoo_registry.conformance import parametrize_with_checks


@parametrize_with_checks("basics")
def test_basics_conforms(check):
    check()


@parametrize_with_checks("starter")
def test_starter_conforms(check):
    check()


@parametrize_with_checks("peft")
def test_peft_conforms(check):
    check()


@pytest.mark.slow
@parametrize_with_checks("timm", limit=3)
def test_small_architectures_of_timm_conform(check):
    check()
