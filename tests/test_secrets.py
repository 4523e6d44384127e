"""Tokens: what looks for them finds them (``support/canary.py`` does in every test), and what may leak does not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import canary
import pytest
from hub_fixtures import TOKEN, client_env, start_python
from zoo_runs import done, zoo

from zoo.hub.hf_errors import mask

ROOT = Path(__file__).parent.parent


def test_every_test_has_a_canary_and_a_home_of_the_suites_own():
    from huggingface_hub import constants, get_token

    assert os.environ["HF_TOKEN"] == get_token() == TOKEN
    assert Path(constants.HF_HOME) == Path(os.environ["HF_HOME"])
    assert "zoo-tests-home" in constants.HF_HUB_CACHE
    assert (Path(constants.HF_HOME) / "token").read_text() == canary.STORED


LEAKS = {
    "printed": "import os\ndef test_it(): print(os.environ['HF_TOKEN'])",
    "logged": "import logging, os\ndef test_it(): logging.warning(os.environ['HF_TOKEN'])",
    "in a file": "import os\ndef test_it(tmp_path): (tmp_path / 'x.json').write_text('ab' + os.environ['HF_TOKEN'])",
    "in a file of the home": (
        "import os, pathlib\ndef test_it(): pathlib.Path(os.environ['HF_HOME'], 'x').write_text(os.environ['HF_TOKEN'])"
    ),
    "in a file's name": "import os\ndef test_it(tmp_path): (tmp_path / os.environ['HF_TOKEN']).touch()",
    "in a process's output": (
        "import subprocess, sys\ndef test_it():\n"
        "    code = 'import os; print(os.environ[\"HF_TOKEN\"])'\n"
        "    subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)"
    ),
    "in arguments": "import os, subprocess\ndef test_it(): subprocess.run(['true', os.environ['HF_TOKEN']])",
    "in what a command printed here": (
        "import os\nfrom zoo_runs import zoo\nfrom zoo.cli import main\n"
        "def test_it(monkeypatch):\n"
        "    monkeypatch.setattr(main, 'main', lambda words: print(os.environ['HF_TOKEN']) or 0)\n"
        "    zoo('list')"
    ),
    "captured": "import os\ndef test_it(capsys):\n    print(os.environ['HF_TOKEN'])\n    capsys.readouterr()",
}


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    """Test files that leak a token in each way, and one that does not; run together, by this suite's own conftest."""
    folder = tmp_path_factory.mktemp("leaky")
    (folder / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    for number, code in enumerate(LEAKS.values()):
        (folder / f"test_leak{number}.py").write_text(code)
    (folder / "test_clean.py").write_text("import os\ndef test_it(): assert os.environ['HF_TOKEN']\n")
    support = f"pythonpath={ROOT / 'tests' / 'support'}"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--tb=no",
        "-p",
        "no:cacheprovider",
        "-o",
        support,
        "-c",
        os.devnull,
    ]
    command += ["--rootdir", str(folder), "--basetemp", str(folder / "temp"), "--import-mode=importlib", str(folder)]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    out = process.stdout.read()  # not by communicate, which would find the token
    code = process.wait(300)
    for stray in folder.rglob(f"*{TOKEN}*"):
        stray.unlink()
    for spot in folder.rglob("x.json"):
        spot.unlink()
    return code, out


def test_a_suite_that_leaks_fails(leaky):
    code, out = leaky
    assert code == 1, out
    assert "test_clean" not in out
    assert "tokens in files" in out


@pytest.mark.parametrize(("number", "way"), enumerate(LEAKS))
def test_each_way_of_leaking_is_noticed(leaky, number, way):
    out = leaky[1]
    if "file" in way:
        names = {"in a file": "x.json", "in a file of the home": "/x", "in a file's name": TOKEN}
        section = out.partition("tokens in files")[2]
        assert names[way] in section, out
    else:
        assert re.search(rf"FAILED \S*test_leak{number}\.py", out), out


WHOLE = """
import sys
from zoo.cli.main import run
run(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "words",
    [
        ["pull", "me/x", "--hub", "https://user:{token}@example.org"],
        ["pull", "https://user:{token}@example.org/me/x"],
        ["pull", "me/x", "--token", "{token}"],
        ["show", "hf:{token}/x", "--hub", "http://127.0.0.1:9"],
        ["push", "https://user:{token}@example.org", "me/x"],
        ["predict", "{token}", "photo.jpg"],
        ["list", "models", "--hub", "ftp://user:{token}@example.org"],
    ],
    ids=lambda words: " ".join(words).replace("{token}", "TOKEN"),
)
@pytest.mark.parametrize("debug", [False, True])
def test_a_token_that_was_typed_is_not_repeated(words, debug, capsys):
    from zoo.cli import main

    asked = [word.format(token=TOKEN) for word in words] + (["--debug"] if debug else [])
    with pytest.raises(SystemExit) as caught:
        main.run(asked)
    assert caught.value.code not in (0, None)
    printed = capsys.readouterr()
    assert printed.err.strip()
    assert TOKEN not in printed.out + printed.err


def test_credentials_in_the_endpoint_are_refused(tmp_path):
    env = client_env(None, tmp_path / "home", HF_ENDPOINT=f"https://user:{TOKEN}@example.org")
    for words in (["pull", "me/x"], ["show", "hf:me/x", "--debug"]):
        process = start_python(WHOLE, *words, env=env)
        out, err = process.communicate(timeout=300)
        assert "there are credentials in HF_ENDPOINT" in err, out + err
        assert TOKEN not in out + err


def test_a_hub_that_sends_the_token_back_does_not_get_it_printed(loopback, connect, monkeypatch):
    server = loopback()
    server.commit_files("me/x", {"config.json": b"{}"})
    handler = server.server.RequestHandlerClass
    known = handler.authenticate

    def spiteful(self):
        from loopback_hub.storage import Refused

        known(self)
        raise Refused(403, f"no: {self.headers.get('Authorization')} https://x.example/?token={TOKEN}")

    monkeypatch.setattr(handler, "authenticate", spiteful)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for words in (["pull", "me/x"], ["show", "hf:me/x"], ["list", "models"]):
        outcome = zoo(*words, "--hub", server.url)
        assert outcome.code == 4
        assert TOKEN not in outcome.err
        assert "Bearer ***" in outcome.err


def test_a_second_origin_gets_no_token(loopback, connect, bundle):
    server = loopback(cdn=True)
    hub = connect(server)
    hub.push(bundle, "me/x", message="first")
    hub.pull("me/x")
    moved = [row for row in server.log("resolve") if row["cdn"]]
    assert moved
    assert not any(row["auth"] for row in moved)


def test_what_a_run_leaves_behind_has_no_token(finished_run, tmp_path):
    done("push", finished_run, "me/x", "--hub", tmp_path / "hub")
    assert list(canary.search([finished_run, tmp_path])) == []


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"see https://me:{TOKEN}@example.org/x", "see https://***@example.org/x"),
        ("http://me:pass@example.org", "http://***@example.org"),
        (f"Bearer {TOKEN}", "Bearer hf_***"),
        ("mail me@example.org about hf_hub", "mail me@example.org about hf_hub"),
        (f"'{TOKEN}'", "'hf_***'"),
    ],
)
def test_tokens_and_logins_are_masked_and_nothing_else(text, left):
    assert mask(text) == left
