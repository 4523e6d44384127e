"""The table of what can go wrong with an upload: each row has its promised end, all waits are said, nothing is doubled.

The real client against a loopback hub, plain transfers, in this process; hf_xet and processes that die are in
``test_push_processes.py``.
"""

from __future__ import annotations

import logging
import re
import time
from typing import NamedTuple

import pytest
from hub_fixtures import CARD, contents, one_line, write_bundle, write_manifest
from zoo_registry.errors import ConflictError, HubError, ZooError

from zoo.deadline import Deadline, DeadlineError, push_deadline


class Row(NamedTuple):
    """What the hub does, and what must come of it.

    Attributes:
        faults: of the loopback hub.
        says: what the error's line says; empty: the push comes through.
        waits: how many waits there are at least.
        lands: whether the commit is on the hub although the push fails.
        fresh: to a repo that is not there yet.
    """

    faults: str
    says: str = ""
    waits: int = 1
    lands: bool = False
    fresh: bool = False


BUSY, ODD = "answers 503: it is out of order", "does not answer like a hub"

ROWS = {
    "access: busy once": Row("whoami:503:1"),
    "access: busy for ever": Row("whoami:503:*", BUSY, 4),
    "access: a login page": Row("whoami:html:*", ODD, 0),
    "the head: busy once": Row("info:503:1"),
    "the head: too many requests": Row("info:429=3:1"),
    "the head: reset": Row("info:reset:1"),
    "the head: busy for ever": Row("info:503:*", BUSY, 4),
    "a new repo: busy once": Row("create:503:1", fresh=True),
    "a new repo: too many requests": Row("create:429=3:1", fresh=True),
    "a new repo: reset": Row("create:reset:1", fresh=True),
    "a new repo: made, the answer lost": Row("create:lost:1", fresh=True),
    "a new repo: busy for ever": Row("create:503:*", BUSY, 4, fresh=True),
    "a new repo: a login page": Row("create:html:1", ODD, 0, fresh=True),
    "the card: busy once": Row("validate:503:1"),
    "the card: a login page": Row("validate:html:1", ODD, 0),
    "what to send: busy once": Row("preupload:503:1"),
    "what to send: too many requests": Row("preupload:429=3:1"),
    "what to send: reset": Row("preupload:reset:1"),
    "what to send: busy for ever": Row("preupload:503:*", BUSY, 5),
    "where to send: busy once": Row("batch:503:1"),
    "where to send: reset": Row("batch:reset:1"),
    "where to send: busy for ever": Row("batch:503:*", BUSY, 5),
    "sending: busy once": Row("put:503:1"),
    "sending: reset": Row("put:reset:1"),
    "sending: arrived, the answer lost": Row("put:lost:1"),
    "sending: busy for ever": Row("put:503:*", BUSY, 5),
    "sending: reset for ever": Row("put:reset:*", "the connection to .* broke", 5),
    "sending: stored damaged": Row("put:corrupt:1", "refuses with 400", 0),
    "sending: stored in part": Row("put:truncate:1", "refuses with 400", 0),
    "the check: busy once": Row("verify:503:1"),
    "the check: busy for ever": Row("verify:503:*", BUSY, 5),
    "the commit: busy once": Row("commit:503:1"),
    "the commit: too many requests": Row("commit:429=3:1"),
    "the commit: reset": Row("commit:reset:2", "", 2),
    "the commit: busy for ever": Row("commit:503:*", BUSY, 4),
    "the commit: a login page": Row("commit:html:1", ODD, 0),
    "the commit: forbidden": Row("commit:403:1", "forbids it", 0),
    "the commit: landed, the answer lost": Row("commit:lost:1", "", 0),
    "the commit: landed, the answer broken": Row("commit:mangled:1", "", 0),
    "the commit: landed, then nothing more": Row("commit:lost:1,info:503:*+1", "is not known", 4, lands=True),
    "the comparison: busy once": Row("info:503:1+1"),
    "the comparison: busy for ever": Row("info:503:*+1", "was published at .* could not be compared", 4, lands=True),
}


@pytest.fixture
def inner(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What huggingface_hub waits of its own; noted, not slept."""
    from huggingface_hub.utils import _http

    waits: list[float] = []

    class Clock:
        sleep = staticmethod(waits.append)

        def __getattr__(self, name: str) -> object:
            return getattr(time, name)

    monkeypatch.setattr(_http, "time", Clock())
    return waits


def lineage(server, name: str) -> list[str]:
    """The commits of ``main``, newest first."""
    found, sha = [], server.store.load(name)["branches"]["main"]
    while sha is not None:
        found.append(sha)
        sha = server.store.commit(name, sha)["parent"]
    return found


@pytest.mark.parametrize("case", ROWS)
def test_each_fault_of_an_upload_has_its_end(loopback, connect, bundle, inner, caplog, case):
    row, server = ROWS[case], loopback()
    caplog.set_level(logging.WARNING)
    name = "me/new" if row.fresh else "me/x"
    first = connect(server).push(bundle, "me/x", message="first").revision
    write_bundle(bundle, seed=1, files={"README.md": f"{CARD}Changed.\n"})
    hub = connect(server)
    hub.waits.clear()
    caplog.clear()
    server.set_faults(row.faults)
    if row.says:
        with pytest.raises(HubError, match=row.says) as caught:
            hub.push(bundle, name, message="second")
        one_line(caught.value)
    else:
        hub.push(bundle, name, message="second")
    server.set_faults("")
    waits = len(hub.waits) + len(inner)
    assert row.waits <= waits <= row.waits + 1
    assert len(re.findall("trying again in", caplog.text)) == waits  # none of them is silent
    assert sum(hub.waits) + sum(inner) < 60
    if row.says and not row.fresh:
        assert (connect(server).info(name).revision != first) == row.lands  # the head is as it was
    again = connect(server).push(bundle, name, message="again")  # whatever came of it, it can be repeated
    assert again.created == (bool(row.says) and not row.lands)
    before = 1 if row.fresh else 2  # the hub's own first commit, and the first push
    assert len(lineage(server, name)) == before + 1  # one commit, never two
    pulled = connect(server, cache="other").pull(name)
    assert contents(pulled.path, pulled.files) == contents(bundle)


def test_a_hub_that_asks_for_a_long_wait_gets_it_within_the_deadline(loopback, connect, bundle, caplog):
    server = loopback()
    hub = connect(server)
    server.set_faults("create:429=120:1")
    assert hub.push(bundle, "me/x", message="first", deadline=Deadline(300)).created
    assert hub.waits == [120.0]
    assert re.search(r"answers 429: too many requests; trying again in 2 min", caplog.text)


def test_what_would_end_after_the_deadline_is_not_waited_for(loopback, connect, bundle):
    server = loopback()
    hub = connect(server)
    server.set_faults("create:429=120:*")
    with pytest.raises(DeadlineError, match=r"gave up after 60 s.*answers 429.*next try would be in 2 min") as caught:
        hub.push(bundle, "me/x", message="first", deadline=Deadline(60))
    assert hub.waits == []
    assert "--deadline" in one_line(caught.value)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("said", ["0", "-3", "soon", "nan"])
def test_a_deadline_that_is_none_is_refused(monkeypatch, said):
    monkeypatch.setenv("ZOO_PUSH_DEADLINE", said)
    with pytest.raises(ZooError, match=f"ZOO_PUSH_DEADLINE={said}") as caught:
        push_deadline(None)
    assert caught.value.exit_code == 2


def test_the_deadline_is_an_hour_unless_something_else_is_said(monkeypatch):
    monkeypatch.delenv("ZOO_PUSH_DEADLINE", raising=False)
    assert push_deadline(None).seconds == 3600
    monkeypatch.setenv("ZOO_PUSH_DEADLINE", "90")
    assert push_deadline(None).seconds == 90
    assert push_deadline(7).seconds == 7


def test_work_of_our_own_does_not_count():
    until = Deadline(5)
    with until.paused():
        before = until.left()
        time.sleep(0.05)
    assert until.left() > before - 0.05


def two_files(folder, seed=0):
    """A bundle whose weights and head are both kept as large files."""
    write_bundle(folder, seed)
    (folder / "head.safetensors").write_bytes((folder / "model.safetensors").read_bytes() + bytes([seed]))
    write_manifest(folder)
    return folder


def test_a_large_file_that_has_arrived_is_not_sent_again(loopback, connect, bundle, inner):
    server = loopback()
    two_files(bundle)
    server.set_faults("put:503:*+1")
    with pytest.raises(HubError, match=BUSY):
        connect(server).push(bundle, "me/x", message="first")
    arrived = {row["target"] for row in server.log("put") if row["status"] == 200}
    assert len(arrived) == 1
    server.set_faults("")
    server.clear_log()
    assert connect(server).push(bundle, "me/x", message="first").created
    sent = {row["target"] for row in server.log("put")}
    assert len(sent) == 1
    assert not sent & arrived


def test_progress_tells_bytes_within_a_file_up_to_the_last(loopback, connect, bundle):
    server, steps = loopback(), []
    write_bundle(bundle, size=300_000)
    connect(server).push(bundle, "me/x", message="first", progress=lambda *step: steps.append(step))
    total = sum(len(data) for data in contents(bundle).values())
    assert {step[2] for step in steps} == {total}
    assert steps[-1][1] == total
    within = [done for name, done, _ in steps if name == "model.safetensors"]
    assert len(within) > 3  # 1.2 MB, told every 256 kB
    assert within == sorted(within)


def test_of_eight_that_push_on_one_head_one_wins_and_seven_are_told(loopback, connect, tmp_path):
    import threading

    server = loopback()
    connect(server).push(write_bundle(tmp_path / "first"), "me/x", message="first")
    folders = [write_bundle(tmp_path / f"b{n}", seed=n + 1) for n in range(8)]
    all_read, ends = threading.Barrier(8), []

    from zoo.hub import hf_push

    looked = hf_push._order

    def together(*args):
        order = looked(*args)
        all_read.wait(60)
        return order

    def push(folder):
        try:
            ends.append(connect(server).push(folder, "me/x", message="mine").revision)
        except ConflictError as error:
            ends.append(error)

    hf_push._order = together
    try:
        threads = [threading.Thread(target=push, args=(folder,)) for folder in folders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    finally:
        hf_push._order = looked
    won = [end for end in ends if isinstance(end, str)]
    lost = [end for end in ends if isinstance(end, ConflictError)]
    assert (len(won), len(lost)) == (1, 7)
    assert {error.exit_code for error in lost} == {6}
    assert all(won[0][:7] in one_line(error) for error in lost)
    assert connect(server).info("me/x").revision == won[0]
    assert len(lineage(server, "me/x")) == 3


def test_of_two_that_push_the_same_the_second_finds_it_done(loopback, connect, bundle, monkeypatch):
    server = loopback()
    first, second = connect(server), connect(server)
    first.push(write_bundle(bundle, seed=5), "me/x", message="first")
    write_bundle(bundle, seed=6)

    from zoo.hub import hf_push

    looked = hf_push._order

    def overtaken(*args):
        monkeypatch.setattr(hf_push, "_order", looked)
        first.push(bundle, "me/x", message="theirs")
        return looked(*args)

    monkeypatch.setattr(hf_push, "_order", overtaken)
    pushed = second.push(bundle, "me/x", message="mine")
    assert not pushed.created
    assert len(lineage(server, "me/x")) == 3
