"""The conformance kit itself: names, known failures, limits and its pytest face."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from conformance_kit import Kit, kit
from zoo_registry import PluginError, Registry, UnknownNameError, UsageError
from zoo_registry.conformance import iterate_checks, run_check
from zoo_registry.discovery import Selection, discover

__all__ = ["kit"]

VOTES = """
class Head(Head):
    def decode(self, outputs):
        return {name: logits.sigmoid() for name, logits in outputs.items()}
"""


@pytest.mark.parametrize("kind", ["backbone", "head", "strategy"])
def test_the_good_parts_pass(kit: Kit, kind: str):
    assert kit.failures(kind) == {}


BAD_SPECS = {
    "module_imports_without_torch": ("head", "import torch"),
    "spec_is_complete": (
        "head",
        """
        @dataclass(frozen=True)
        class Silent:
            amount: int = 3
        @hookimpl
        def zoo_heads():
            return [head(options=Silent)]
        """,
    ),
    "factory_can_be_imported": (
        "head",
        """
        @hookimpl
        def zoo_heads():
            return [head(factory=HERE + ":build_strategy")]
        """,
    ),
}


@pytest.mark.parametrize("check", BAD_SPECS)
def test_a_bad_spec_fails_its_check(kit: Kit, check: str):
    kind, base = BAD_SPECS[check]
    assert check in kit.failures(kind, check, base=base)


KNOWN = """
@hookimpl
def zoo_heads():
    return [head(known_failures={"decode_is_in_range": "%s"})]
"""


def statuses(registry: Registry, **arguments) -> dict[str, str]:
    checks = iterate_checks(registry, "kit", "head", **arguments)
    return {check.name: run_check(check).status for check in checks if check.name == "decode_is_in_range"}


def test_a_known_failure_is_known_and_must_fail(kit: Kit):
    registry = kit.registry(base=KNOWN % "it counts votes", parts=VOTES)
    assert statuses(registry)["decode_is_in_range"] == "known"
    registry = kit.registry(base=KNOWN % "it counts votes")
    assert statuses(registry)["decode_is_in_range"] == "fixed"
    [outcome] = [run_check(c) for c in iterate_checks(registry, "kit/top") if c.name == "decode_is_in_range"]
    assert not outcome.good
    assert "it counts votes" in outcome.message


def test_a_known_failure_needs_a_reason_and_a_check(kit: Kit):
    with pytest.raises(UsageError, match="'decode_is_in_range' needs a reason"):
        statuses(kit.registry(base=KNOWN % " "))
    with pytest.raises(UsageError, match="'decode_is_in_rage', which is no check of"):
        statuses(kit.registry(base=(KNOWN % "x").replace("range", "rage")))
    with pytest.raises(UsageError, match="expected failure of 'spec_is_complet'") as caught:
        statuses(kit.registry(), expected_failures={"spec_is_complet": "typo"})
    assert "spec_is_complete" in str(caught.value.hint)


def test_an_expected_failure_may_name_one_spec(kit: Kit):
    registry = kit.registry(parts=VOTES)
    assert (
        statuses(registry, expected_failures={"kit/top:decode_is_in_range": "votes"})["decode_is_in_range"] == "known"
    )


def test_what_a_name_means(kit: Kit):
    registry = kit.registry()
    assert {check.spec for check in iterate_checks(registry, "kit")} == {"kit/net", "kit/top", "kit/way"}
    assert {check.spec for check in iterate_checks(registry, "kit", "head")} == {"kit/top"}
    assert {check.spec for check in iterate_checks(registry, "way")} == {"kit/way"}
    with pytest.raises(UnknownNameError, match="no plugin and no head is named 'kti'") as caught:
        list(iterate_checks(registry, "kti", "head"))
    assert "'kit'" in str(caught.value.hint)
    with pytest.raises(UsageError, match="unknown kind 'hat'"):
        list(iterate_checks(registry, "kit", "hat"))


def test_the_limit_takes_the_smallest_backbones(kit: Kit):
    base = """
    @hookimpl
    def zoo_backbones():
        return [backbone(name=f"net{size}", parameters=size) for size in (300, 100, 200)]
    """
    checks = iterate_checks(kit.registry(base=base), "kit", "backbone", limit=2)
    assert {check.spec for check in checks} == {"kit/net100", "kit/net200"}


def test_a_broken_plugin_cannot_be_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry(discover([EntryPoint("gone", "surely_not_installed", "zoo")], Selection(None, {})))
    with pytest.raises(PluginError, match="No module named 'surely_not_installed'"):
        list(iterate_checks(registry, "gone"))


@pytest.mark.slow
def test_the_pytest_face(kit: Kit, tmp_path: Path):
    kit.registry(base=KNOWN % "it counts votes", parts=VOTES)
    module = f"kit_{tmp_path.name.replace('-', '_')}_1"
    info = tmp_path / "zoo_kit-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo-kit\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[zoo]\nkit = {module}\n")
    (tmp_path / "test_face.py").write_text(
        "from zoo_registry.conformance import parametrize_with_checks\n"
        '@parametrize_with_checks("kit", "head")\n'
        "def test_conforms(check):\n    check()\n"
    )
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "test_face.py"]
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "", "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_conforms[kit/top-loss_is_per_sample] PASSED" in done.stdout
    assert "test_conforms[kit/top-decode_is_in_range] XFAIL (it counts votes)" in done.stdout


def test_importing_the_kit_imports_neither_torch_nor_pytest():
    code = "import sys, zoo_registry.conformance; print([m for m in ('torch', 'pytest', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
