"""The Hugging Face Hub through the real client against a loopback hub: transfers, damage, refusals, outages."""

from __future__ import annotations

import json
import os
import re
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_fixtures import READER, TOKEN, client_env, contents, flip, run_python, start_python, write_bundle
from zoo_registry.errors import ConflictError, DataError, HubError, IntegrityError, UsageError, ZooError

from zoo.hub import hf_errors, hf_push
from zoo.hub.hf_errors import redact
from zoo.hub.huggingface import HfHub


@pytest.fixture
def connect(tmp_path, monkeypatch):
    """``connect(server, token)``: an HfHub with a cache of its own; waits between tries are noted, not slept."""
    waits = []
    for module in (hf_errors, hf_push):
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=waits.append))
    monkeypatch.delenv("HF_TOKEN", raising=False)

    def open_it(server, token=TOKEN, cache="cache", **options):
        hub = HfHub(getattr(server, "url", server), token=token, cache_dir=tmp_path / cache, **options)
        hub.waits = waits
        return hub

    return open_it


def line(error: ZooError) -> str:
    """The error as a user sees it; one line, no token in it."""
    text = f"{error.message} | {error.hint}"
    assert "\n" not in text
    assert TOKEN not in text
    assert READER not in text
    return text


def blob(hub, name, filename):
    """The real file behind a cached one."""
    return hub.pull(name, offline=True).path.joinpath(filename).resolve()


@pytest.mark.parametrize("options", [{}, {"cdn": True}], ids=["plain", "cdn"])
def test_a_push_comes_back_whole(loopback, connect, bundle, options):
    server = loopback(**options)
    hub, steps = connect(server), []
    pushed = hub.push(bundle, "me/x", message="first")
    assert pushed.created
    pulled = hub.pull("me/x", progress=lambda *step: steps.append(step))
    assert pulled.revision == pushed.revision
    assert contents(pulled.path, pulled.files) == contents(bundle)
    assert steps[-1][1] == steps[-1][2] == sum(len(data) for data in contents(bundle).values())
    info = hub.info("me/x")
    assert info.private
    assert {"zoo", "license:apache-2.0"} <= set(info.tags)
    assert info.metadata["base_model"] == "timm/test_resnet.r160_in1k"
    assert [row.name for row in hub.models()] == ["me/x"]
    assert hub.models("me/y*") == []
    assert server.log("commit")[-1]["status"] == 200


XET = """
import sys
from pathlib import Path
from hub_fixtures import contents, write_bundle
from zoo.hub import open_hub

hub, folder = open_hub(), write_bundle(Path(sys.argv[1]), size=200_000)
first = hub.push(folder, "me/x", message="first")
write_bundle(folder, seed=1, size=200_000)
second = hub.push(folder, "me/x", message="second", parent=first.revision)
again = hub.push(folder, "me/x", message="again")
pulled = hub.pull("me/x")
assert (pulled.revision, again.created) == (second.revision, False)
assert contents(pulled.path, pulled.files) == contents(folder)
"""


def test_xet_transfers_come_back_whole(loopback, tmp_path):
    server = loopback(xet=True)
    support = str(Path(__file__).parent / "support")
    run_python(XET, tmp_path / "b", env=client_env(server, tmp_path / "home", PYTHONPATH=support))
    assert server.log("xet")
    assert not server.log("put")  # the bytes went through hf_xet, not through LFS


def test_an_unchanged_push_makes_no_commit(loopback, connect, bundle):
    server = loopback()
    hub = connect(server)
    first = hub.push(bundle, "me/x", message="first")
    again = hub.push(bundle, "me/x", message="again", parent="0" * 40)
    assert (again.revision, again.created) == (first.revision, False)
    assert len(server.log("commit")) == 1


def test_a_second_push_sends_what_changed_and_clears_what_was_ours(loopback, connect, bundle):
    server = loopback()
    hub = connect(server)
    hub.push(write_bundle(bundle, files={"old.json": "{}"}), "me/x", message="first")
    server.commit_files("me/x", {"NOTICE": b"by hand"})
    server.clear_log()
    (bundle / "old.json").unlink()
    hub.push(write_bundle(bundle, files={"new.json": "{}"}), "me/x", message="second")
    assert server.log("put") == []  # the weights are there already
    names = {file.path for file in hub.info("me/x").files}
    assert "new.json" in names
    assert "NOTICE" in names  # what somebody added on the hub is not ours to remove
    assert "old.json" not in names


def test_a_stale_parent_is_a_conflict_that_names_both(loopback, connect, bundle):
    server = loopback()
    hub = connect(server)
    first = hub.push(bundle, "me/x", message="first")
    head = server.commit_files("me/x", {"NOTICE": b"by hand"})
    with pytest.raises(ConflictError, match=rf"{first.revision[:7]}.*{head[:7]}"):
        hub.push(write_bundle(bundle, seed=1), "me/x", message="second", parent=first.revision)
    assert len(server.log("commit")) == 1


def test_a_push_that_is_overtaken_is_a_conflict(loopback, connect, bundle, monkeypatch):
    server = loopback()
    hub = connect(server)
    hub.push(bundle, "me/x", message="first")
    commit = hub.api.create_commit

    def overtaken(*args, **kwargs):
        server.commit_files("me/x", {"NOTICE": b"by hand"})
        return commit(*args, **kwargs)

    monkeypatch.setattr(hub.api, "create_commit", overtaken)
    with pytest.raises(ConflictError) as caught:
        hub.push(write_bundle(bundle, seed=1), "me/x", message="second")
    assert caught.value.exit_code == 6
    assert server.log("commit")[-1]["status"] == 412


@pytest.mark.parametrize("fault", ["commit:lost:1", "commit:503:1", "commit:reset:2", "put:503:1", "preupload:503:1"])
def test_a_push_survives_an_outage_with_one_commit(loopback, connect, bundle, fault):
    server = loopback()
    hub = connect(server)
    server.set_faults(fault)
    pushed = hub.push(bundle, "me/x", message="first")
    assert hub.pull("me/x").revision == pushed.revision
    assert server.store.commit("me/x", pushed.revision)["parent"] is not None
    parents = [server.store.commit("me/x", pushed.revision)["parent"]]
    assert server.store.commit("me/x", parents[0])["parent"] is None  # the initial commit and ours, no third


@pytest.mark.parametrize("fault", ["commit:503:*", "commit:html:1", "put:corrupt:1"])
def test_a_push_that_fails_leaves_the_head_as_it_was(loopback, connect, bundle, fault):
    server = loopback()
    hub = connect(server)
    first = hub.push(bundle, "me/x", message="first")
    server.set_faults(fault)
    with pytest.raises(ZooError) as caught:
        hub.push(write_bundle(bundle, seed=1), "me/x", message="second")
    line(caught.value)
    server.set_faults("")
    assert hub.info("me/x").revision == first.revision
    assert hub.push(bundle, "me/x", message="second").created  # and it can be repeated


def test_a_push_that_did_not_arrive_whole_is_told(loopback, connect, bundle, monkeypatch):
    server = loopback()
    hub, make_commit = connect(server), server.store.make_commit

    def garbled(repo, files, *rest):
        if "config.json" in files:
            files = {**files, "config.json": server.store.put_blob(repo, b"garbled")}
        return make_commit(repo, files, *rest)

    monkeypatch.setattr(server.store, "make_commit", garbled)
    with pytest.raises(IntegrityError, match=r"config.json did not arrive whole"):
        hub.push(bundle, "me/x", message="first")


def test_a_card_that_the_hub_refuses_is_a_data_error(loopback, connect, bundle):
    server = loopback()
    hub = connect(server)
    write_bundle(bundle, files={"README.md": "---\ntags: [zoo\n---\n"})
    with pytest.raises(DataError, match="refuses the card"):
        hub.push(bundle, "me/x", message="first")
    assert server.log("put") == []


@pytest.mark.parametrize("filename", ["model.safetensors", "config.json"])
def test_a_damaged_cache_entry_is_fetched_once_more(loopback, connect, bundle, caplog, filename):
    server = loopback()
    hub = connect(server)
    hub.push(bundle, "me/x", message="first")
    hub.pull("me/x")
    flip(blob(hub, "me/x", filename), -3)
    server.clear_log()
    pulled = connect(server).pull("me/x")
    assert contents(pulled.path, pulled.files) == contents(bundle)
    assert [row["target"] for row in server.log("resolve")] == [filename]
    assert f"{filename} is damaged in the cache" in caplog.text


def test_a_file_that_stays_damaged_is_refused_with_both_hashes_and_not_kept(loopback, connect, bundle):
    server = loopback()
    hub = connect(server)
    hub.push(bundle, "me/x", message="first")
    server.set_faults("resolve[model.safetensors]:corrupt:*")
    for call in (lambda: hub.pull("me/x"), lambda: hub.file("me/x", "model.safetensors")):
        with pytest.raises(IntegrityError, match=r"model.safetensors is damaged: .*[0-9a-f]{64}.*[0-9a-f]{64}") as e:
            call()
        assert e.value.exit_code == 5
    assert len(server.log("resolve")) >= 2
    kept = [p.name for p in hub.cache.folder.rglob("*") if "model.safetensors" in p.name and "zoo" not in p.parts]
    assert kept == []


def test_offline_a_damaged_file_is_refused(loopback, connect, bundle):
    server = loopback()
    hub = connect(server)
    hub.push(bundle, "me/x", message="first")
    hub.pull("me/x")
    flip(blob(hub, "me/x", "model.safetensors"))
    with pytest.raises(IntegrityError, match=r"model.safetensors is damaged"):
        connect(server).pull("me/x", offline=True)


def test_files_that_do_not_fit_the_manifest_are_refused(loopback, connect, bundle):
    server = loopback()
    hub = connect(server)
    hub.push(bundle, "me/x", message="first")
    server.commit_files("me/x", {"config.json": b'{"architecture": "other"}'})
    with pytest.raises(IntegrityError, match=r"config.json is damaged: manifest.json says"):
        hub.pull("me/x")
    server.commit_files("me/x", {"config.json": (bundle / "config.json").read_bytes(), "README.md": b"edited by hand"})
    assert contents(hub.pull("me/x").path, ("README.md",))["README.md"] == b"edited by hand"  # a card may be


def test_what_the_manifest_does_not_list_is_not_downloaded(loopback, connect, bundle):
    server = loopback()
    hub = connect(server)
    hub.push(bundle, "me/x", message="first")
    strangers = {"pytorch_model.bin": b"pickle", "code.py": b"print()", "later.json": b"{}", "more.safetensors": b"x"}
    server.commit_files("me/x", strangers)
    pulled = hub.pull("me/x")
    assert not set(strangers) & set(pulled.files)
    assert not set(strangers) & set(contents(pulled.path))


def test_without_a_manifest_all_that_is_safe_comes_and_nothing_else(loopback, connect):
    server = loopback()
    files = {"config.json": b"{}", "model.safetensors": b"x" * 2000, "pytorch_model.bin": b"p", "code.py": b"p"}
    server.commit_files("you/theirs", files)
    assert set(connect(server).pull("you/theirs").files) == {"config.json", "model.safetensors"}


def listing(path):
    """A manifest that lists one file."""
    return json.dumps({"files": {path: {"sha256": "0" * 64, "size": 1}}}).encode()


@pytest.mark.parametrize(
    ("files", "says", "error"),
    [
        (
            {"pytorch_model.bin": b"p" * 2000, "config.json": b"{}"},
            r"no safe weights: pytorch_model.bin .* may hold code",
            HubError,
        ),
        ({"model.safetensors": b"x", "../evil.json": b"{}"}, r"'\.\./evil.json'.* not a safe path", IntegrityError),
        ({"model.safetensors": b"x", "manifest.json": b"{"}, "manifest.json is not JSON", IntegrityError),
        (
            {
                "model.safetensors": b"x",
                "manifest.json": listing("a.py"),
            },
            "'a.py', which is never read",
            IntegrityError,
        ),
        (
            {
                "model.safetensors": b"x",
                "manifest.json": listing("../a.json"),
            },
            "not a safe path",
            IntegrityError,
        ),
        (
            {
                "model.safetensors": b"x",
                "manifest.json": listing("b.json"),
            },
            "b.json stands in manifest.json and is missing",
            IntegrityError,
        ),
    ],
    ids=["only a pickle", "a path out", "no manifest", "code in it", "a path out in it", "a missing file"],
)
def test_a_repo_that_may_not_be_read_is_refused(loopback, connect, files, says, error):
    server = loopback()
    server.commit_files("you/evil", files)
    with pytest.raises(error) as caught:
        connect(server).pull("you/evil")
    assert re.search(says, line(caught.value))


def test_only_safe_weights_are_fetched_as_a_file(loopback, connect):
    server = loopback()
    server.commit_files("you/theirs", {"pytorch_model.bin": b"p" * 2000, "config.json": b"{}"})
    hub = connect(server)
    with pytest.raises(HubError, match=r"no safe weights: pytorch_model.bin"):
        hub.file("you/theirs", "model.safetensors")
    with pytest.raises(HubError, match="may hold code"):
        hub.file("you/theirs", "pytorch_model.bin")
    with pytest.raises(IntegrityError):
        hub.file("you/theirs", "../model.safetensors")
    assert server.log("resolve") == []


def test_a_file_is_pinned_and_a_known_commit_needs_no_request(loopback, connect, bundle):
    server = loopback()
    hub = connect(server)
    pushed = hub.push(bundle, "me/x", message="first")
    file = hub.file("me/x", "model.safetensors")
    assert file.revision == pushed.revision
    assert file.path.read_bytes() == (bundle / "model.safetensors").read_bytes()
    server.clear_log()
    again = connect(server).file("me/x", "model.safetensors", file.revision, sha256=file.sha256)
    assert (again, server.log()) == (file, [])
    with pytest.raises(IntegrityError, match=f"{'f' * 64}.*{file.sha256}"):
        hub.file("me/x", "model.safetensors", file.revision, sha256="f" * 64)


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
    assert re.search(says, line(caught.value)), line(caught.value)


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
        assert len(server.log()) <= 4


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
        line(caught.value)
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
        "hub = HfHub(sys.argv[1]); print(hub.token, hub.cache.folder)\n"
        "own = HfHub(); print(own.token, own.cache.folder)"
    )
    home = tmp_path / "home"
    home.mkdir()
    (home / "token").write_text("hf_storedLogin99")
    env = client_env(None, home)
    other, own = run_python(code, server.url, env=env).splitlines()
    assert other.startswith(f"False {home}/hubs/127.0.0.1_")
    assert own == f"None {home}/hub"
    assert run_python(code, server.url, env=env | {"HF_TOKEN": TOKEN}).startswith(TOKEN)


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
