"""Refusals, outages, offline and tokens: one clear line each, in bounded time; the real client, a loopback hub."""

from __future__ import annotations

import os
import re
import socket

import pytest
from hub_fixtures import READER, TOKEN, client_env, contents, one_line, run_python, start_python
from zoo_registry.errors import HubError, UsageError

from zoo.hub.hf_errors import redact

ASKS = {
    "a private repo, not logged in": (None, "info", ("me/x",), r"no repo 'me/x'.*or it is private.*hf auth login"),
    "a wrong token": ("hf_wrong0000", "info", ("me/x",), r"does not accept the token.*hf auth login"),
    "a mistyped name": (TOKEN, "info", ("me/xx",), r"no repo 'me/xx'.*did you mean 'me/x'"),
    "no such revision": (TOKEN, "info", ("me/x", "v9"), r"'me/x' has no revision 'v9'"),
    "no such file": (TOKEN, "file", ("me/x", "model.safetensor"), r"no file 'model.safetensor'.*did you mean"),
    "a gated repo": (READER, "pull", ("lab/gated",), r"'lab/gated' is gated.*ask for it at http://\S+/lab/gated"),
    "push, not logged in": (None, "check_push", ("me/x",), r"not logged in.*hf auth login"),
    "push with a reader's token": (READER, "check_push", ("bob/x",), r"token of 'bob' may only read"),
    "push to another's name": (TOKEN, "check_push", ("you/x",), r"may not write to 'you'.*push to me/x, lab/x"),
}


@pytest.mark.parametrize("case", ASKS)
def test_each_refusal_has_its_own_line(loopback, connect, bundle, case):
    server = loopback(tokens=[TOKEN, f"bob={READER}"] if case == "a gated repo" else [TOKEN, f"bob={READER}:read"])
    if case == "a gated repo":
        server.orgs.clear()
        server.commit_files("lab/gated", {"model.safetensors": b"x" * 2000})
        server.change("lab/gated", gated="manual")
    else:
        connect(server).push(bundle, "me/x", message="first")
    token, method, args, says = ASKS[case]
    with pytest.raises(HubError) as caught:
        getattr(connect(server, token, cache="other"), method)(*args)
    assert caught.value.exit_code == 4
    assert re.search(says, one_line(caught.value)), one_line(caught.value)


def test_push_is_welcome_where_the_login_may_write(loopback, connect):
    server = loopback()
    for name in ("me/x", "lab/x"):
        connect(server).check_push(name)
    assert server.log("create") == []


def test_when_the_hub_is_down_a_complete_copy_is_used_with_a_notice(loopback, connect, bundle, caplog):
    server = loopback()
    hub = connect(server)
    hub.push(bundle, "me/x", message="first")
    hub.pull("me/x")
    server.stop()
    pulled = connect(server).pull("me/x")
    assert contents(pulled.path, pulled.files) == contents(bundle)
    assert re.search(r"cannot reach http\S+: .*using the copy of me/x@\w{7} in the cache", caplog.text)
    assert connect(server).file("me/x", "model.safetensors").path.is_file()
    for call in (hub.models, lambda: hub.pull("me/other"), lambda: connect(server).check_push("me/other")):
        with pytest.raises(HubError, match="cannot reach http"):
            call()
    (pulled.path / "config.json").unlink()
    with pytest.raises(HubError, match=r"config.json of me/x@\w+ is not in the cache"):
        connect(server).pull("me/x")


@pytest.mark.parametrize("kind", ["503", "html", "badjson", "404"])
def test_a_hub_that_is_out_of_order_counts_as_down(loopback, connect, bundle, kind):
    server = loopback()
    hub = connect(server)
    hub.push(bundle, "me/x", message="first")
    hub.pull("me/x")
    server.set_faults(f"any:{kind}:*")
    server.clear_log()
    assert hub.pull("me/x").revision
    assert len(server.log()) <= 3  # asked three times at most, then the cache
    for call in (hub.models, lambda: hub.pull("me/other"), lambda: connect(server).check_push("me/other")):
        server.clear_log()
        with pytest.raises(HubError, match=r"503|does not answer like a hub"):
            call()
        assert len(server.log()) <= 5


@pytest.mark.parametrize("fault", ["info:503:2", "info:429=3:1", "head:503:1", "resolve:500:2", "resolve:reset:1"])
def test_a_busy_hub_is_asked_again(loopback, connect, bundle, caplog, fault):
    server = loopback()
    hub = connect(server)
    hub.push(bundle, "me/x", message="first")
    hub.waits.clear()
    server.set_faults(fault)
    pulled = hub.pull("me/x")
    assert contents(pulled.path, pulled.files) == contents(bundle)
    assert len(hub.waits) == (2 if fault.endswith(":2") else 1)
    if "429" in fault:
        assert hub.waits == [3.0]
    assert "trying again in" in caplog.text


def test_a_hub_that_does_not_answer_is_waited_for_a_stated_time(loopback, connect, bundle, monkeypatch, caplog):
    from huggingface_hub import constants

    server = loopback()
    hub = connect(server)
    hub.push(bundle, "me/x", message="first")
    hub.pull("me/x")
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.5)
    server.set_faults("info:delay=3:*")
    assert hub.pull("me/x").revision
    assert "does not answer in time; using the copy" in caplog.text
    with pytest.raises(HubError, match=r"does not answer in time.* me/other is not in the cache"):
        hub.pull("me/other")


def test_a_hub_that_stays_busy_is_given_up_after_three_tries(loopback, connect, bundle):
    server = loopback()
    hub = connect(server)
    hub.push(bundle, "me/x", message="first")
    server.clear_log()
    server.set_faults("head:503:*")
    with pytest.raises(HubError, match="answers 503"):
        hub.pull("me/x")
    assert len(server.log("head")) == 3


def test_offline_sends_no_request_and_opens_no_socket(loopback, connect, bundle, monkeypatch):
    server = loopback()
    hub = connect(server)
    pushed = hub.push(bundle, "me/x", message="first")
    hub.pull("me/x")
    server.clear_log()

    def no_socket(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", no_socket)
    offline = connect(server, offline=True)
    for revision in (None, "main", pushed.revision, pushed.revision[:7]):
        pulled = offline.pull("me/x", revision)
        assert contents(pulled.path, pulled.files) == contents(bundle)
    assert "zoo" in offline.info("me/x").tags
    for call in (
        lambda: offline.pull("me/other"),
        lambda: offline.file("me/x", "absent.safetensors"),
        lambda: offline.check_push("me/x"),
        offline.models,
    ):
        with pytest.raises(HubError, match="offline") as caught:
            call()
        one_line(caught.value)
    assert server.log() == []


def test_what_another_client_downloaded_serves_offline_too(loopback, connect, bundle):
    from huggingface_hub import hf_hub_download, snapshot_download

    server = loopback()
    hub = connect(server)
    hub.push(bundle, "me/x", message="first")
    theirs = {"endpoint": server.url, "token": TOKEN, "cache_dir": hub.cache.folder}
    hf_hub_download("me/x", "model.safetensors", **theirs)
    assert hub.file("me/x", "model.safetensors", offline=True).path.is_file()
    with pytest.raises(HubError, match=r"no 'config.json' in the cache"):
        connect(server).file("me/x", "config.json", offline=True)
    snapshot_download("me/x", **theirs)
    assert set(hub.pull("me/x", offline=True).files) == set(contents(bundle))


PULLER = """
import sys
from zoo.hub import open_hub
pulled = open_hub().pull("me/x")
print(pulled.revision, sum((pulled.path / f).stat().st_size for f in pulled.files))
"""


def test_four_processes_pull_into_one_cache(loopback, connect, bundle, tmp_path):
    server = loopback()
    pushed = connect(server).push(bundle, "me/x", message="first")
    env = client_env(server, tmp_path / "home")
    pullers = [start_python(PULLER, env=env) for _ in range(4)]
    size = sum(len(data) for data in contents(bundle).values())
    for puller in pullers:
        out, err = puller.communicate(timeout=200)
        assert puller.returncode == 0, err
        assert out.split() == [pushed.revision, str(size)]


def test_a_hub_by_url_gets_no_stored_login_and_its_own_cache(loopback, tmp_path):
    server = loopback()
    code = (
        "import sys; from zoo.hub.huggingface import HfHub\n"
        "hub = HfHub(sys.argv[1]); print(hub.token and hub.token[:9], hub.cache.folder)\n"
        "own = HfHub(); print(own.token, own.cache.folder)"
    )
    home = tmp_path / "home"
    home.mkdir()
    (home / "token").write_text("hf_storedLogin99")
    env = client_env(None, home)
    other, own = run_python(code, server.url, env=env).splitlines()
    assert other.startswith(f"False {home}/hubs/127.0.0.1_")
    assert own == f"None {home}/hub"
    assert run_python(code, server.url, env=env | {"HF_TOKEN": TOKEN}).startswith(TOKEN[:9] + " ")


def test_names_are_checked_before_anything_is_sent(loopback, connect, bundle):
    server = loopback()
    hub = connect(server)
    for call in (
        lambda: hub.info("x"),
        lambda: hub.pull("../x"),
        lambda: hub.file("a/b--c", "model.safetensors"),
        lambda: hub.push(bundle, "x", message="m"),
        lambda: hub.pull("me/x", "../main"),
    ):
        with pytest.raises(UsageError):
            call()
    assert server.log() == []


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {TOKEN}",
        f"https://user:{TOKEN}@host/x",
        f"https://cdn/x?token={TOKEN}&Signature=secret",
        f"token={TOKEN}",
        f"Invalid token {TOKEN}!",
    ],
)
def test_tokens_are_cut_out_of_every_text(text):
    assert TOKEN not in redact(text)
    assert "secret" not in redact(text)


def test_an_unusual_token_from_the_environment_is_cut_out_too(monkeypatch):
    monkeypatch.setitem(os.environ, "HF_TOKEN", "no-usual-prefix")
    assert "no-usual" not in redact("refused: no-usual-prefix is not known")
