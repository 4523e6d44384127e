"""Repos made to do harm, met with the real commands: nothing outside the cache is opened, nothing is executed, nobody
else is spoken to. An audit hook and the kernel watch (``support/audited.py``), and are first shown to notice.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import audited
import pytest
from hub_fixtures import TOKEN, client_env, contents, write_manifest
from loopback_hub import LoopbackHub
from zoo_runs import edit_bundle

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="inotify, and the layout of /proc")
BOMB = "import os, pathlib; pathlib.Path({!r}).write_text('executed')"


class Payload:
    """Executes code when it is unpickled."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self):
        return exec, (self.code,)


class Trap:
    """A server that nobody has a reason to speak to; counts who does."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port, self.calls = self.socket.getsockname()[1], 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                self.socket.accept()[0].close()
            except OSError:
                return
            self.calls += 1


def bundle_files(run: Path, folder: Path, **changes) -> dict[str, bytes]:
    """The files of a real bundle, with values of ``zoo.json`` changed."""
    for name, data in contents(run / "model").items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    edit_bundle(folder, **changes)
    return contents(folder)


def relisted(folder: Path, **files: bytes) -> dict[str, bytes]:
    """The folder's files with some replaced (``__`` for a dot), and a manifest that fits."""
    for name, data in files.items():
        (folder / name.replace("__", ".")).write_bytes(data)
    write_manifest(folder)
    return contents(folder)


@pytest.fixture(scope="module")
def scene(tmp_path_factory, finished_run, photos):
    """A hub full of hostile repos, the bait that they point to, a trap that they name, and a client's environment."""
    base = tmp_path_factory.mktemp("hostile").resolve()
    for name in ("bait", "work", "made", "home"):
        (base / name).mkdir()
    proof, bait = base / "bait" / "proof", base / "bait" / "secret.json"
    bait.write_text('{"secret": "of this machine"}')
    trap = Trap()
    code = BOMB.format(str(proof))
    strangers = {
        "pytorch_model.bin": pickle.dumps(Payload(code)),
        "model.pt2": pickle.dumps(Payload(code)),
        "modeling.py": code.encode(),
        "sitecustomize.py": code.encode(),
        "conftest.py": code.encode(),
        "model.safetensors.index.json": json.dumps({"weight_map": {"fc.weight": str(bait)}}).encode(),
    }

    def made(name: str, **changes) -> Path:
        bundle_files(finished_run, base / "made" / name, **changes)
        return base / "made" / name

    tensors = (finished_run / "model" / "model.safetensors").read_bytes()
    url = f"http://127.0.0.1:{trap.port}/weights"
    asks = {"url": url, "file": str(bait), "hf_hub_id": "you/other", "hf_hub_filename": str(bait), "custom_load": True}
    config = {"architecture": "test_resnet", "num_classes": 3, "pretrained_cfg": {**asks, "input_size": [3, 64, 64]}}
    index = json.dumps({"files": {str(bait): {"sha256": "0" * 64, "size": bait.stat().st_size}}}).encode()
    repos = {
        "beside": {**contents(made("beside")), **strangers},
        "pickle": {"pytorch_model.bin": pickle.dumps(Payload(code)), "config.json": b"{}"},
        "auto-map": {
            "config.json": b'{"auto_map": {"AutoModel": "modeling.Model"}}',
            "model.safetensors": tensors,
            **strangers,
        },
        "bundle-auto-map": relisted(made("a"), config__json=b'{"auto_map": {"AutoModel": "modeling.Model"}}'),
        "dots": {"model.safetensors": tensors, "../../../bait/secret.json": b"{}"},
        "listed-path": {"model.safetensors": tensors, "manifest.json": index},
        "header": relisted(made("b"), model__safetensors=(2**40).to_bytes(8, "little") + b"{}" + b" " * 5000),
        "large-header": relisted(made("c"), model__safetensors=(2**26).to_bytes(8, "little") + b"{" + bytes(2**26)),
        "module": contents(made("d", head__name="os:system")),
        "path": contents(made("e", backbone__name="starter/../../bait")),
        "factory": contents(made("f", head__options={"factory": "os:system", "path": str(bait)})),
        "delta": contents(
            made("g", delta={"base": {"kind": "hub", "repo": "../bait", "file": str(bait)}, "from_base": []})
        ),
        "theirs": {"config.json": json.dumps(config).encode(), "model.safetensors": tensors, **strangers},
        "twins": {"model.safetensors": tensors, "Config.json": b"{}", "config.json": b"{}"},
        "large-text": {"model.safetensors": tensors, "config.json": b"{" + b" " * (33 * 2**20)},
    }
    with LoopbackHub(base / "hub", tokens=[TOKEN]) as hub:
        for name, files in repos.items():
            hub.commit_files(f"evil/{name}", files)
        env = client_env(hub, base / "home", HF_HUB_DISABLE_XET="1")
        yield SimpleNamespace(hub=hub, base=base, env=env, trap=trap, proof=proof, photos=photos, code=code)
    trap.socket.close()


def watched(scene, steps):
    """Run the steps in one child; each with what is suspicious in it, and the bait's files that were touched."""
    work, url = scene.base / "work", urlsplit(scene.hub.url)
    bait = audited.Bait(scene.base / "bait")
    done, roots = audited.run(steps, work, scene.env)
    own = [str(scene.base / "home"), str(work)]
    known = {"code": roots, "own": own, "reads": [str(scene.photos)], "hubs": [(url.hostname, url.port)]}
    return done, [audited.findings(step, **known) for step in done], bait.touched()


CONTROLS = {
    "open('{bait}').read()": "reads .*secret.json",
    "import os; os.open('{bait}', os.O_RDONLY)": "reads .*secret.json",
    "open('{base}/stray', 'w').close()": "writes .*stray",
    "import os; os.rename('{base}/stray', '{base}/stray2')": "os.rename .*stray",
    "open('{home}/evil.py', 'w').write('x = 1')\nimport sys; sys.path += ['{home}']; import evil": "executes .*evil",
    "exec(compile(open('{home}/evil.py').read(), '{home}/evil.py', 'exec'))": "executes .*evil.py",
    "import pickle, sys; pickle.loads(b'cposix\\nsystem\\n.')": "unpickles .*posix",
    "import subprocess; subprocess.run(['true'])": "starts a process: subprocess.Popen",
    "import os; os.system('true')": "starts a process: os.system",
    "import os; os.fork() or os._exit(0); os.wait()": "starts a process: os.fork",
    "import socket; socket.create_connection(('127.0.0.1', {trap})).close()": "connects: .*{trap}",
    "import socket; socket.getaddrinfo('localhost', 80)": "asks for the address of localhost",
}


def test_the_watch_notices_what_it_is_there_to_notice(scene):
    spots = {"bait": scene.base / "bait" / "secret.json", "base": scene.base, "home": scene.base / "home"}
    spots |= {"trap": scene.trap.port}

    def filled(text):
        for name, value in spots.items():
            text = text.replace(f"{{{name}}}", str(value))
        return text

    unseen = scene.base / "bait" / "by-rust.json"
    unseen.write_text("{}")
    rust = f"import safetensors\ntry: safetensors.safe_open('{unseen}', 'np')\nexcept Exception: pass"
    calls = scene.trap.calls
    done, found, touched = watched(scene, [*map(filled, CONTROLS), rust])
    for control, says, rows in zip(CONTROLS, CONTROLS.values(), found[:-1], strict=True):
        assert any(re.search(filled(says), row) for row in rows), (control, rows)
    assert {"secret.json", "by-rust.json"} <= set(touched)
    assert scene.trap.calls == calls + 1
    assert all(step.code == 0 for step in done)


REFUSED = {
    "pickle": (4, "no safe weights: pytorch_model.bin is of a kind that may hold code"),
    "auto-map": (5, r"config.json asks for code of its own \(auto_map\), which is never run"),
    "bundle-auto-map": (5, r"config.json asks for code of its own \(auto_map\)"),
    "dots": (5, r"'\.\./\.\./\.\./bait/secret.json', which is not a safe path"),
    "listed-path": (5, "secret.json', which is not a safe path"),
    "header": (5, "model.safetensors is no safetensors file .* 1099511627776 for its header"),
    "large-header": (5, "model.safetensors has a header of 67108864 bytes"),
    "delta": (5, "delta"),
    "twins": (5, "has both 'Config.json' and 'config.json'"),
    "large-text": (5, r"config.json has 346\d+ bytes, a file of its kind may have 33554432"),
}


def test_what_may_not_be_pulled_is_refused_with_the_file_and_the_reason(scene):
    names = [name for name in REFUSED if name != "delta"]
    asked = [[word, f"evil/{name}"] for name in names for word in ("pull", "show")]
    done, found, touched = watched(scene, asked)
    assert not any(found), "\n".join(row for rows in found for row in rows)
    assert touched == []
    for step, (word, repo) in zip(done, asked, strict=True):
        code, says = REFUSED[repo.removeprefix("evil/")]
        assert "Traceback" not in step.err
        if word == "pull":
            assert step.code == code, (repo, step.err)
            assert re.search(says, step.err), (repo, step.err)
            assert len([line for line in step.err.splitlines() if line.startswith("error:")]) == 1
    assert scene.trap.calls <= 1
    assert not scene.proof.exists()
    kept = [p.name for p in (scene.base / "home").rglob("*") if p.is_file()]
    assert not [n for n in kept if n.endswith((".py", ".bin", ".pt2")) and n != "evil.py"]


MODELS = {
    "beside": (0, ""),
    "pickle": (4, "pytorch_model.bin"),
    "auto-map": (5, "auto_map"),
    "module": (5, "head.name is 'os:system'"),
    "path": (5, "'starter/../../bait'"),
    "factory": (5, "factory"),
    "delta": (5, "delta"),
    "theirs": (5, "the classifier is"),  # the weights are not that architecture's
}


def test_a_hostile_repo_does_nothing_when_it_is_used_as_a_model(scene):
    photo = str(sorted(scene.photos.rglob("*.jpg"))[0])
    asked = [["predict", f"evil/{name}", photo, "--workers", "0"] for name in MODELS]
    done, found, touched = watched(scene, asked)
    assert not any(found), "\n".join(row for rows in found for row in rows)
    assert touched == []
    for step, (name, (code, says)) in zip(done, MODELS.items(), strict=True):
        assert step.code == code, (name, step.err)
        assert re.search(says, step.err), (name, step.err)
        assert "Traceback" not in step.err
    assert not scene.proof.exists()


@pytest.mark.slow
def test_a_hostile_repo_does_nothing_to_the_longer_commands(scene):
    asked = []
    for name in ("beside", "pickle", "auto-map", "factory", "theirs"):
        asked.append(["evaluate", f"evil/{name}", str(scene.photos), "--workers", "0"])
        run = str(scene.base / "work" / f"run-{name}")
        start = ["finetune", str(scene.photos), "--backbone", f"hf:evil/{name}", "--strategy", "linear:1"]
        asked.append([*start, "--out", run, "--set", "train.workers=0", "--batch-size", "8"])
    done, found, touched = watched(scene, asked)
    assert not any(found), "\n".join(row for rows in found for row in rows)
    assert touched == []
    codes = [step.code for step in done]
    assert codes[:2] == [0, 0], done[1].err
    assert set(codes[2::2]) <= {4, 5, 7}, codes
    assert set(codes[3::2]) <= {0, 4, 5, 7}, codes  # a start takes the backbone alone, not the head
    assert 0 not in (codes[3], codes[5], codes[9]), codes
    assert not any("Traceback" in step.err for step in done)
    assert not scene.proof.exists()


@pytest.mark.parametrize("kind", ["fifo", "device", "link"])
def test_a_folder_with_a_pipe_a_device_or_a_link_out_is_refused_and_not_read(own_bundle, tmp_path, kind):
    from zoo_registry import IntegrityError, Registry

    from zoo.bundle.read import load_bundle

    secret = tmp_path / "secret.json"
    secret.write_bytes((own_bundle / "config.json").read_bytes())
    for name in ("config.json", "manifest.json"):
        spot = own_bundle / name
        kept = spot.read_bytes()
        spot.unlink()
        if kind == "fifo":
            os.mkfifo(spot)
        else:
            spot.symlink_to("/dev/zero" if kind == "device" else secret)
        with pytest.raises(IntegrityError, match=name):
            load_bundle(own_bundle, Registry())
        spot.unlink()
        spot.write_bytes(kept)


@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_a_folder_hub_with_a_pipe_or_a_link_is_refused_and_not_read(bundle, tmp_path, kind):
    from zoo_registry import IntegrityError

    from zoo.hub.folder import FolderHub

    hub = FolderHub(tmp_path / "hub")
    hub.push(bundle, "me/x", message="first")
    path = hub.pull("me/x").path
    for spot in (path / "config.json", path.parent / "commit.json"):
        spot.unlink()
        os.mkfifo(spot) if kind == "fifo" else spot.symlink_to("/dev/zero")
        with pytest.raises(IntegrityError, match=spot.name):
            FolderHub(tmp_path / "hub").pull("me/x")
