"""Every way a download can fail, by the real client against a loopback hub: bounded, one line, nothing corrupt served.

A row says what the hub does, and what comes of a pull into an empty cache: None, the files; else the line. In a cache
that is complete the pull gives the files whatever the hub does; ``CACHED`` has what it says then.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hub_fixtures import client_env, contents, one_line, start_python, write_bundle
from huggingface_hub import constants
from zoo_registry.errors import ZooError

from zoo.hub import transfer
from zoo.hub.hf_errors import LONGEST_WAIT

BIG = "model.safetensors"

DOWNLOADS = {
    "GET 500 once": ("resolve:500:1", None),
    "GET 502 once": ("resolve:502:1", None),
    "GET 503 twice": ("resolve:503:2", None),
    "GET 504 for ever": ("resolve:504:*", "answers 504: it is out of order"),
    "GET 429, and a second to wait": ("resolve:429=1:1", None),
    "GET 429 for ever": ("resolve:429=1:*", "answers 429: too many requests"),
    "GET 429, and an hour to wait": ("resolve:429=3600:*", "answers 429: too many requests .*try again in 3600 s"),
    "GET 503, and an hour to wait": ("resolve:503=3600:*", "answers 503: .*try again in 3600 s"),
    "GET 403": ("resolve:403:*", "forbids it: injected 403"),
    "GET 404": ("resolve:404:*", "does not answer like a hub"),
    "reset before the body": ("resolve:reset@0:1", None),
    "reset in the body": (f"resolve[{BIG}]:reset:1", None),
    "reset in the body for ever": (f"resolve[{BIG}]:reset:*", "the connection to .* broke"),
    "cut off once": (f"resolve[{BIG}]:truncate:1", None),
    "cut off for ever": (f"resolve[{BIG}]:truncate@0:*", f"{BIG} of me/x from .* the connection broke 3 times"),
    "a stall": (f"resolve[{BIG}]:hang=30:1", None),
    "stalls for ever": (f"resolve[{BIG}]:hang=30:*", f"{BIG} of me/x from .* the connection broke 3 times"),
    "silence in place of an answer": (
        "resolve:delay=30:*",
        "the connection broke 3 times",
    ),
    "a trickle": (f"resolve[{BIG}]:slow=8:*", f"{BIG} of me/x from .* nothing came for"),
    "a body that is short and says so": (f"resolve[{BIG}]:short:*", "the connection to .* broke .*Consistency check"),
    "a page for a file": (f"resolve[{BIG}]:html:*", "the connection to .* broke .*Consistency check"),
    "wrong bytes once": (f"resolve[{BIG}]:corrupt:1", None),
    "wrong bytes for ever": (f"resolve[{BIG}]:corrupt:*", rf"{BIG} is damaged: .* [0-9a-f]{{64}}, .* [0-9a-f]{{64}}"),
    "HEAD 503 twice": ("head:503:2", None),
    "HEAD 503 for ever": ("head:503:*", "answers 503: it is out of order"),
    "HEAD 429, and an hour to wait": ("head:429=3600:*", "answers 429: .*try again in 3600 s"),
    "HEAD without an answer": ("head:delay=30:*", "does not answer in time"),
    "HEAD reset once": ("head:reset:1", None),
    "HEAD reset for ever": ("head:reset:*", "the connection to .* broke"),
    "HEAD 403": ("head:403:*", "forbids it"),
    "HEAD 404": ("head:404:*", "does not answer like a hub"),
    "HEAD answered by a page": ("head:html:*", "does not answer like a hub"),
    "the first HEAD is well, the second is not": ("head:503:1+1", None),
}

CACHED = {
    "no answer": ("info:delay=30:*", "does not answer in time"),
    "503": ("info:503:*", "answers 503"),
    "503 once": ("info:503:1", None),
    "429, and an hour to wait": ("info:429=3600:*", "answers 429"),
    "a reset": ("info:reset:*", "the connection to .* broke"),
    "a page": ("info:html:*", "does not answer like a hub"),
    "broken JSON": ("info:badjson:*", "does not answer like a hub"),
    "404 from who is no hub": ("info:404:*", "does not answer like a hub"),
    "files that are out of order": ("resolve:503:*,head:503:*", None),
}


SHORT = {
    "a stall": {"read": 1},
    "stalls for ever": {"read": 1},
    "silence in place of an answer": {"read": 1},
    "a trickle": {"silence": 2},
    "HEAD without an answer": {"answer": 1},
    "no answer": {"answer": 1},
}
"""Rows that wait for time to pass: how many seconds then, for an answer, a byte, or any sign of life."""


@pytest.fixture
def server(loopback, connect, bundle):
    """A hub with ``me/x``."""
    started = loopback()
    connect(started, cache="first").push(bundle, "me/x", message="first")
    started.clear_log()
    return started


@pytest.fixture
def limits(monkeypatch):
    """Sets the seconds of a row; all others are long, so that a busy machine changes nothing."""

    def set_limits(answer=60, read=60, silence=120):
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", answer)
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", read)
        monkeypatch.setattr(transfer, "patience", lambda: float(silence))

    set_limits()
    return set_limits


def left_behind(hub) -> list[Path]:
    """Unfinished files; a download that was given up has a moment to end."""
    for _ in range(600):
        found = list(hub.cache.folder.rglob("*.incomplete"))
        if not found:
            return []
        time.sleep(0.1)
    return found


@pytest.mark.parametrize("row", DOWNLOADS)
def test_a_download_that_fails(server, limits, connect, bundle, row):
    fault, says = DOWNLOADS[row]
    hub = connect(server)
    limits(**SHORT.get(row, {}))
    hub.waits.clear()
    server.set_faults(fault)
    if says is None:
        pulled = hub.pull("me/x")
        assert contents(pulled.path, pulled.files) == contents(bundle)
        assert any(r["fault"] for r in server.log())
    else:
        with pytest.raises(ZooError) as caught:
            hub.pull("me/x")
        assert caught.value.exit_code == (5 if "damaged" in says else 4)
        assert re.search(says, one_line(caught.value)), one_line(caught.value)
    assert len(hub.waits) <= 2
    assert max(hub.waits, default=0) <= LONGEST_WAIT
    assert len([r for r in server.log() if r["fault"]]) <= 12  # no storm of requests either
    assert left_behind(hub) == []
    server.set_faults("")
    limits()
    pulled = connect(server).pull("me/x")  # and what failed before is no hindrance
    assert contents(pulled.path, pulled.files) == contents(bundle)


@pytest.mark.parametrize("row", CACHED)
def test_a_complete_copy_is_used_whatever_the_hub_does(server, limits, connect, bundle, caplog, row):
    fault, says = CACHED[row]
    hub = connect(server)
    hub.pull("me/x")
    limits(**SHORT.get(row, {}))
    server.set_faults(fault)
    server.clear_log()
    caplog.clear()
    pulled = connect(server).pull("me/x")
    assert contents(pulled.path, pulled.files) == contents(bundle)
    assert len(server.log()) <= 3
    if says is None:
        assert "using the copy" not in caplog.text
    else:
        assert re.search(rf"{says}.*using the copy of me/x@\w{{7}} in the cache", caplog.text)
        with pytest.raises(ZooError) as caught:  # the same fault, and nothing in the cache
            connect(server, cache="empty").pull("me/x")
        assert caught.value.exit_code == 4
        assert re.search(says, one_line(caught.value))


def test_every_wait_is_said_before_it_is_made(server, limits, connect, caplog):
    limits(silence=12)
    server.set_faults(f"resolve[{BIG}]:hang@0.5=6:1,resolve[config.json]:truncate:1,resolve[README.md]:429=2:1")
    connect(server).pull("me/x")
    assert re.search(rf"{BIG} of me/x from \S+: nothing came for \d+ s; waiting up to 12 s", caplog.text)
    assert re.search(r"config.json of me/x from \S+: the connection broke; going on where it was", caplog.text)
    assert re.search(r"answers 429: too many requests; trying again in 2.0 s", caplog.text)


def test_a_slow_hub_that_goes_on_is_waited_for(server, limits, connect, tmp_path):
    limits(silence=3)
    folder = write_bundle(tmp_path / "large", size=300_000)
    connect(server, cache="first").push(folder, "me/large", message="first")
    server.set_faults(f"resolve[{BIG}]:slow=6:1")
    steps = []
    pulled = connect(server).pull("me/large", progress=lambda *step: steps.append(step[1]))
    assert contents(pulled.path, pulled.files) == contents(folder)
    assert len(steps) > 8  # told on the way
    assert steps == sorted(steps)


def test_a_file_that_was_cut_off_goes_on_from_where_it_was(server, connect, tmp_path):
    folder = write_bundle(tmp_path / "large", size=300_000)
    connect(server, cache="first").push(folder, "me/large", message="first")
    server.set_faults(f"resolve[{BIG}]:truncate@0.9:1")
    pulled = connect(server).pull("me/large")
    assert contents(pulled.path, pulled.files) == contents(folder)
    second = [r for r in server.log("resolve") if r["target"] == BIG][-1]
    assert re.fullmatch(r"bytes=[1-9]\d+-", second["range"])
    assert second["resp_bytes"] < 400_000 < (folder / BIG).stat().st_size


def test_more_bytes_than_were_announced_are_not_taken(server, connect, monkeypatch):
    from zoo.hub import huggingface

    monkeypatch.setattr(huggingface, "check_told", lambda *told: None)
    hub = connect(server)
    known = hub._info

    def smaller(model):
        info = known(model)
        for file in info.files:
            object.__setattr__(file, "size", min(file.size, 1000))
        return info

    monkeypatch.setattr(hub, "_info", smaller)
    with pytest.raises(ZooError, match=rf"{BIG} has more than the 1000 bytes that http\S+ announced"):
        hub.file("me/x", BIG)


def test_a_hub_that_contradicts_itself_is_not_downloaded_from(server, connect, monkeypatch):
    hub = connect(server)
    known = hub._info

    def other(model):
        info = known(model)
        for file in info.files:
            object.__setattr__(file, "sha256", file.sha256 and "f" * 64)
        return info

    monkeypatch.setattr(hub, "_info", other)
    with pytest.raises(ZooError, match=rf"contradicts itself on {BIG} .*sha256 f{{64}}, then [0-9a-f]{{64}}"):
        hub.file("me/x", BIG)
    assert server.log("resolve") == []


def test_room_on_the_disk_is_asked_for_before_the_first_byte(server, connect, monkeypatch):
    from types import SimpleNamespace

    from zoo.hub import hf_cache

    hub = connect(server)
    monkeypatch.setattr(hf_cache.shutil, "disk_usage", lambda spot: SimpleNamespace(free=100))
    with pytest.raises(ZooError, match=r"me/x@\w{7} needs \d{5} bytes, '\S+cache' has 100 free") as caught:
        hub.pull("me/x")
    assert "HF_HOME" in one_line(caught.value)
    assert [r["target"] for r in server.log("resolve")] == ["manifest.json"]


XET = """
import sys
from pathlib import Path
from hub_fixtures import contents, write_bundle
from zoo.cli.notices import show_warnings
from zoo.hub import open_hub
from zoo_registry.errors import ZooError

show_warnings()
try:
    pulled = open_hub().pull("me/x")
    print("same" if contents(pulled.path, pulled.files) == contents(Path(sys.argv[1])) else "DIFFERENT")
except ZooError as error:
    print(error.exit_code, error.message)
"""
XET_ROWS = {
    "well": ("", "same"),
    "a token once refused for want of time": ("xet:503:1", "same"),
    "no token for a long time": ("xet:503:*", r"4 .*(answers 503|nothing came|broke)"),
    "no token at all": ("xet:403:*", "4 .*(forbids|broke|refuses|cannot)"),
    "no such route": ("xet:404:*", "4 "),
    "a flipped byte in the store": ("flip", rf"5 .*{BIG} is damaged: .*[0-9a-f]{{64}}.*[0-9a-f]{{64}}"),
}


@pytest.fixture(scope="module")
def xet(tmp_path_factory):
    """A hub that speaks xet with ``me/x`` pushed, the bundle, and the environment of its clients."""
    from hub_fixtures import TOKEN, run_python
    from loopback_hub import LoopbackHub

    root = tmp_path_factory.mktemp("xet")
    bundle = write_bundle(root / "bundle", size=200_000)
    with LoopbackHub(root / "hub", tokens=[TOKEN], xet=True) as hub:
        env = client_env(
            hub, root / "home", HF_HUB_DOWNLOAD_TIMEOUT="2", PYTHONPATH=str(Path(__file__).parent / "support")
        )
        push = "import sys; from zoo.hub import open_hub; from pathlib import Path\n"
        run_python(push + "open_hub().push(Path(sys.argv[1]), 'me/x', message='first')", bundle, env=env)
        yield hub, bundle, env, root


@pytest.mark.parametrize("row", XET_ROWS)
def test_a_download_by_xet(xet, tmp_path, row):
    hub, bundle, env, root = xet
    fault, says = XET_ROWS[row]
    stores, spoilt = list((root / "hub" / "cas").rglob("xorbs/*")), {}
    if fault == "flip":
        for spot in (p for p in stores if p.is_file()):
            spoilt[spot] = spot.read_bytes()
            data = bytearray(spoilt[spot])
            data[len(data) // 2] ^= 0xFF
            spot.chmod(0o644)
            spot.write_bytes(bytes(data))
    hub.set_faults("" if fault == "flip" else fault)
    process = start_python(XET, bundle, env=env | {"HF_HOME": str(tmp_path / "home")})
    out, err = process.communicate(timeout=120)
    for spot, data in spoilt.items():
        spot.write_bytes(data)
    assert re.search(says, out), out + err
    assert "DIFFERENT" not in out
    assert "Traceback" not in err
