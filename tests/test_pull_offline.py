"""``--offline``, and ``HF_HUB_OFFLINE=1``: the real commands open no socket, whatever they find."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import audited
import pytest
from hub_fixtures import TOKEN, client_env, contents
from loopback_hub import LoopbackHub

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the layout of /proc")


@pytest.fixture(scope="module")
def pulled(tmp_path_factory, finished_run, photos):
    """A cache into which ``me/model`` was pulled, and a hub that would notice being asked."""
    base = tmp_path_factory.mktemp("offline").resolve()
    work = base / "work"
    work.mkdir()
    with LoopbackHub(base / "hub", tokens=[TOKEN]) as hub:
        hub.commit_files("me/model", contents(finished_run / "model"))
        hub.commit_files("me/other", {"config.json": b"{}"})
        env = client_env(hub, base / "home")
        done, _ = audited.run([["pull", "me/model"]], work, env)
        assert done[0].code == 0, done[0].err
        hub.clear_log()
        yield SimpleNamespace(
            hub=hub, work=work, env=env, photos=photos, sha=hub.store.load("me/model")["branches"]["main"]
        )


def sockets(step: audited.Step) -> list[tuple]:
    """Sockets to a network that the step opened, and names that it asked for."""
    return [
        (event, arguments)
        for event, arguments in step.events
        if event in audited.SOCKETS or (event == "socket.__new__" and arguments[0] in audited.INET)
    ]


def test_the_hook_notices_a_socket(pulled):
    control = "import socket\ntry: socket.create_connection(('127.0.0.1', 9))\nexcept OSError: pass"
    done, _ = audited.run([control, "import socket; socket.socket()"], pulled.work, pulled.env)
    assert {event for event, _ in sockets(done[0])} >= {"socket.__new__", "socket.connect"}
    assert [event for event, _ in sockets(done[1])] == ["socket.__new__"]


@pytest.mark.parametrize("way", ["option", "environment"])
def test_offline_commands_open_no_socket(pulled, way):
    photo = str(sorted(pulled.photos.rglob("*.jpg"))[0])
    commands = {
        ("pull", "me/model"): 0,
        ("pull", f"me/model@{pulled.sha}"): 0,
        ("pull", f"me/model@{pulled.sha[:7]}"): 0,
        ("show", "hf:me/model"): 0,
        ("pull", "me/other"): 4,
        ("predict", "me/model", photo, "--workers", "0"): 0,
        ("evaluate", "me/model", str(pulled.photos), "--workers", "0"): 0,
        ("predict", "me/other", photo): 4,
    }
    if way == "environment":
        commands |= {("list", "models"): 0, ("push", str(pulled.work), "me/x"): 2}
    option = ["--offline"] if way == "option" else []
    env = pulled.env | ({} if option else {"HF_HUB_OFFLINE": "1"})
    done, _ = audited.run([[*words, *option] for words in commands], pulled.work, env)
    for step, (words, code) in zip(done, commands.items(), strict=True):
        assert sockets(step) == [], words
        if words[0] not in ("list", "push"):
            assert step.code == code, (words, step.err)
        assert "Traceback" not in step.err
    assert pulled.hub.log() == []
