"""The conformance kit: named checks that every backbone, head and strategy should pass.

Two faces: the command ``zoo plugin check NAME`` and, in a plugin's own tests,

::

    from zoo_registry.conformance import parametrize_with_checks

    @parametrize_with_checks("my-plugin")
    def test_conforms(check):
        check()

Importing this package imports neither torch nor pytest; the checks themselves need torch and safetensors
(``pip install zoo-registry[conformance]``).
"""

from __future__ import annotations

from zoo_registry.conformance.checks import Check, Outcome, iterate_checks, parametrize_with_checks, run_check

__all__ = ["Check", "Outcome", "iterate_checks", "parametrize_with_checks", "run_check"]
