"""Discovery: one plugin at a time; a broken one is a row."""

from __future__ import annotations

import pytest
from fake_plugins import BROKEN, HEAD, Installed, add_all_broken, installed
from zoo_registry import PluginError, Registry, discover
from zoo_registry.discovery import Selection

__all__ = ["installed"]


def test_a_good_plugin_is_found_with_what_it_offers(installed: Installed):
    installed.add("good", HEAD.format(name="plain"))
    plugin = installed.discover()["zoo-good"]
    assert (plugin.namespace, plugin.version, plugin.status, plugin.problem) == ("good", "1.2", "ok", None)
    assert [spec.name for spec in plugin.specs["head"]] == ["plain"]
    assert plugin.module == "fake_zoo_good"


@pytest.mark.parametrize("namespace", BROKEN)
def test_a_broken_plugin_is_a_row_and_the_others_work(installed: Installed, namespace: str):
    source, stage, reason = BROKEN[namespace]
    installed.add(namespace, source)
    installed.add("good", HEAD.format(name="plain"))
    found = installed.discover()
    plugin = found[f"zoo-{namespace}"]
    assert plugin.status == "broken"
    assert plugin.problem is not None
    assert plugin.problem.stage == stage
    assert reason in plugin.problem.reason
    assert "\n" not in str(plugin.problem)
    assert f"zoo-{namespace} 1.2" in str(plugin.problem)
    assert not any(plugin.specs.values()), "what a broken plugin had registered is rolled back"
    assert found["zoo-good"].status == "ok"


def test_all_broken_at_once(installed: Installed):
    add_all_broken(installed.folder)
    installed.add("good", HEAD.format(name="plain"))
    registry = Registry()
    assert len(registry.problems) == len(BROKEN) + 2
    assert list(registry.names("head")) == ["good/plain"]


def test_an_interrupt_is_not_swallowed(installed: Installed):
    installed.add("stop", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        discover()


def test_what_a_plugin_prints_goes_to_stderr(installed: Installed, capsys: pytest.CaptureFixture[str]):
    installed.add("loud", "print('hello from import')\n" + HEAD.format(name="x"))
    installed.discover()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hello from import" in captured.err


def test_an_entry_point_may_name_an_object(installed: Installed):
    source = """
    from zoo_registry import HeadSpec, hookimpl
    class Offer:
        @hookimpl
        def zoo_heads(self):
            return [HeadSpec(name="bound", summary="from a method", factory="a:b")]
    offer = Offer()
    """
    installed.add("object", source, module="fake_object", entry_points="[zoo]\nobject = fake_object:offer\n")
    assert [spec.name for spec in installed.discover()["zoo-object"].specs["head"]] == ["bound"]


def test_a_hook_may_go_by_another_function_name(installed: Installed):
    source = """
    from zoo_registry import HeadSpec, hookimpl
    @hookimpl(specname="zoo_heads")
    def my_heads():
        yield HeadSpec(name="renamed", summary="a generator works too", factory="a:b")
    """
    installed.add("renamed", source)
    assert [spec.name for spec in installed.discover()["zoo-renamed"].specs["head"]] == ["renamed"]


def test_imported_helpers_are_no_hooks(installed: Installed):
    (installed.folder / "helpers_of_mine.py").write_text("def zoo_helper():\n    return 1\n")
    installed.add("helped", "from helpers_of_mine import zoo_helper\n" + HEAD.format(name="x"))
    assert installed.discover()["zoo-helped"].status == "ok"


def test_metadata_that_does_not_parse_is_a_row(installed: Installed):
    installed.add("good", HEAD.format(name="plain"))
    installed.add("garbled", "", entry_points="[zoo]\nthis line is no entry point\n")
    found = installed.discover()
    assert found["zoo-garbled"].problem is not None
    assert found["zoo-garbled"].problem.stage == "metadata"
    assert found["zoo-good"].status == "ok"


def test_metadata_without_a_name_does_no_harm(installed: Installed):
    installed.add("nameless", HEAD.format(name="plain"))
    (installed.folder / "zoo_nameless-1.2.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\n")
    [plugin] = discover()
    assert (plugin.status, plugin.distribution, plugin.version) == ("ok", "unknown", "unknown")


def test_other_groups_are_not_ours(installed: Installed):
    installed.add("other", "raise RuntimeError", entry_points="[console_scripts]\nzoo = nowhere:main\n")
    assert discover() == []


@pytest.fixture
def contested(installed: Installed) -> Installed:
    for owner in ("zoo-first", "zoo-second"):
        installed.add("contested", HEAD.format(name=owner[4:]), distribution=owner)
    return installed


def test_two_claims_to_one_namespace_refuse_both_and_name_them(contested: Installed):
    found = contested.discover()
    for plugin in found.values():
        assert plugin.problem is not None
        assert plugin.problem.stage == "conflict"
        assert "zoo-first and zoo-second both claim the namespace 'contested'" in plugin.problem.reason
        assert "ZOO_PLUGINS=contested=zoo-second" in plugin.problem.reason


@pytest.mark.parametrize("value", ["contested=zoo-second", "contested=Zoo_Second", "contested = zoo-second ,"])
def test_the_environment_decides_a_conflict(contested: Installed, monkeypatch: pytest.MonkeyPatch, value: str):
    monkeypatch.setenv("ZOO_PLUGINS", value)
    contested.add("good", HEAD.format(name="plain"))
    found = contested.discover()
    assert found["zoo-first"].status == "disabled"
    assert [spec.name for spec in found["zoo-second"].specs["head"]] == ["second"]
    assert found["zoo-good"].status == "ok", "a decision alone allows everything else too"


def test_a_decision_for_nobody_is_said(contested: Installed, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ZOO_PLUGINS", "contested=zoo-thrid")
    problems = [str(plugin.problem) for plugin in contested.discover().values()]
    assert all(
        "gives 'contested' to 'zoo-thrid', but it is zoo-first, zoo-second that claims it" in p for p in problems
    )


def test_only_what_is_allowed_is_loaded(installed: Installed, monkeypatch: pytest.MonkeyPatch):
    installed.add("good", HEAD.format(name="plain"))
    installed.add("raises", BROKEN["raises"][0])
    monkeypatch.setenv("ZOO_PLUGINS", "good")
    found = installed.discover()
    assert found["zoo-good"].status == "ok"
    assert (found["zoo-raises"].status, found["zoo-raises"].problem) == ("disabled", None)


def test_an_empty_list_allows_none(installed: Installed, monkeypatch: pytest.MonkeyPatch):
    installed.add("good", HEAD.format(name="plain"))
    monkeypatch.setenv("ZOO_PLUGINS", "")
    assert installed.discover()["zoo-good"].status == "disabled"


def test_allowing_what_is_not_installed_is_said(installed: Installed, monkeypatch: pytest.MonkeyPatch):
    installed.add("good", HEAD.format(name="plain"))
    monkeypatch.setenv("ZOO_PLUGINS", "good,goood")
    [problem] = Registry().problems
    assert problem.stage == "selection"
    assert "ZOO_PLUGINS names 'goood', which no plugin claims; did you mean 'good'?" in problem.reason


@pytest.mark.parametrize(
    ("value", "allowed", "owners"),
    [
        (None, None, {}),
        ("", frozenset(), {}),
        (" , ", frozenset(), {}),
        ("a,b", {"a", "b"}, {}),
        ("a=X_y", None, {"a": "x-y"}),
        ("a=x,b", {"a", "b"}, {"a": "x"}),
    ],
)
def test_the_selection_in_words(monkeypatch: pytest.MonkeyPatch, value, allowed, owners):
    monkeypatch.delenv("ZOO_PLUGINS", raising=False)
    if value is not None:
        monkeypatch.setenv("ZOO_PLUGINS", value)
    selection = Selection.from_environment()
    assert selection.allowed == allowed
    assert dict(selection.owners) == owners


def test_strict_raises_and_names_the_plugin(installed: Installed, monkeypatch: pytest.MonkeyPatch):
    installed.add("raises", BROKEN["raises"][0])
    monkeypatch.setenv("ZOO_STRICT", "1")
    with pytest.raises(PluginError, match=r"'raises'.*the moon is wrong") as caught:
        discover()
    assert caught.value.exit_code == 7
    monkeypatch.setenv("ZOO_STRICT", "0")
    assert len(discover()) == 1


def test_a_distribution_seen_twice_counts_once(installed: Installed, monkeypatch: pytest.MonkeyPatch):
    from importlib.metadata import distributions

    from zoo_registry import discovery

    installed.add("good", HEAD.format(name="plain"))
    monkeypatch.setattr(discovery, "distributions", lambda: distributions(path=[str(installed.folder)] * 2))
    [plugin] = discover()
    assert plugin.status == "ok"
