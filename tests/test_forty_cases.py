"""Forty faults and bad inputs, each with a real set-up, the command, its exit code and the line that it says.

In ``line`` three dots stand for any words. The line of a failure is its ``error:`` with its ``hint:``; the line of a
success is one of what the command printed. Where a case has its own test file as well, the row is its small version.
"""

from __future__ import annotations

import ast
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import forty_checks as checks
import forty_data as data
import forty_scenes as scenes
import pytest
from forty_scenes import Scene
from hub_fixtures import READER, TOKEN
from zoo_registry import Registry
from zoo_runs import Outcome, draw_photos, zoo


class Case(NamedTuple):
    """One row: number and title, what is set up, the command, its exit code, its line, and what must hold after."""

    number: int
    title: str
    before: Callable[[Scene], object] | None
    command: str
    code: int
    line: str
    after: Callable[[Scene, Outcome], None] | None = None


NEW = "finetune {here}/data --backbone starter/cnn --strategy linear:1 --out {here}/out"
TABLE = "finetune {here}/t.csv --backbone starter/cnn --strategy linear:1 --out {here}/out"
PLAN = "finetune {here}/data --backbone starter/cnn --dry-run --measure 0"
RESUME = "finetune --resume --out {here}/stopped"
PHOTOS = "finetune {photos} --backbone starter/cnn --strategy linear:1 --out {here}/out"
TIMM = f"finetune {{photos}} --backbone {scenes.WEIGHTS} --strategy linear:1 --hub {{here}}/hub --out {{here}}/out"
PULL = "pull me/flowers --hub {hub}"
PUSH = "push {run} me/flowers --hub {hub}"


CASES = [
    # ------------------------------------------------------------------ data set folder
    Case(1, "no such path", data.photos, "finetune {here}/photoz",
         2, "no data at '{here}/photoz' ... did you mean 'photos'?"),
    Case(1, "an image in place of a folder", None, "finetune {photos}/rings/0.jpg",
         2, "0.jpg' is no folder and no table ... .csv"),
    Case(1, "an empty folder", lambda s: (s.here / "data").mkdir(), NEW,
         3, "'{here}/data' has no images ... FOLDER/CLASS/IMAGE"),
    Case(1, "no permission", data.locked, "finetune {here}/photos",
         3, "folder 'rings' cannot be read: Permission denied ... permissions"),
    Case(2, "one class alone", data.few("a"), NEW, 3, "'label' has only one class: 'a' with 3 samples ... two classes"),
    Case(2, "a class without images", data.counts(a=3, b=0, c=2), NEW,
         3, "class 'b' has no sample in train ('a' has 3, 'c' has 2) ... add images or remove the folder"),
    Case(3, "train and val with different classes", data.few("train/a", "train/b", "val/a", "val/c"), NEW,
         3, "val has the class 'c' of column 'label', unknown to train ... and lacks 'b' ... train knows 'a', 'b'"),
    Case(4, "equal folder names under two parents", data.few("a/cat", "a/dog", "b/cat"), PLAN,
         0, "folder 'cat' stands in the classes 'a', 'b': its images belong to them, it is no class"),
    Case(5, "links in a circle and out of the folder", data.linked, "evaluate {run} {here}/photos",
         0, "ignored: 1 link in a circle, 1 link out of the folder"),
    Case(6, "files that change between stop and resume", scenes.changed_since, RESUME,
         2, "1 gone ('rings/0.jpg'), 1 new ('rings/new.jpg') ... bring the data back"),
    Case(7, "an image in train and in val", data.leaking, "evaluate {run} {here}/photos",
         0, "1 of ... val samples are in train too: 'val/rings/copy.jpg = train/rings/0.jpg'"),
    Case(7, "the same, with --strict", data.leaking,
         "finetune {here}/photos --strict --backbone starter/cnn --out {here}/out",
         3, "1 of ... val samples are in train too ... remove them from one of the two, or leave --strict out"),
    Case(8, "a folder that takes long to list", data.slow_listing, "evaluate {run} {here}/photos",
         0, "listing the data: ... files so far"),
    Case(8, "Ctrl-C while it is listed", data.interrupted_listing, "finetune {here}/photos", 130, "interrupted"),
    # ------------------------------------------------------------------ images
    Case(9, "cut, empty and mislabelled images, evaluated", data.damaged, "evaluate {run} {here}/photos",
         0, "12 samples, 3 unreadable ones skipped"),
    Case(9, "the same, with --strict", data.damaged, "evaluate {run} {here}/photos --strict",
         3, "3 of 15 samples cannot be read ... 'checks/cut.jpg' ... repair or remove them, or leave --strict out"),
    Case(9, "too many of them, trained on", data.damaged,
         "finetune {here}/photos --backbone starter/cnn --strategy linear:1 --out {here}/out",
         3, "3 of 15 samples cannot be read, 0 are allowed; the first is 'checks/cut.jpg' ... --max-bad",
         checks.bad_samples_listed),
    Case(10, "a decompression bomb", data.bomb, "predict {run} {here}/bomb.png {photos}/rings/0.jpg",
         3, "1 file could not be read ... the rows say why"),
    Case(11, "CMYK, palette, grey with alpha, animation", data.kinds, "predict {run} {here}/kinds --csv",
         0, "{here}/kinds/palette.png,label,"),
    Case(12, "16 bits a channel", data.deep, "predict {run} {here}/8.png {here}/16.png",
         0, "{here}/16.png ... label", checks.equal_rows),
    Case(12, "a range that has no scale", data.deep, "predict {run} {here}/wide.tif --csv",
         3, "1 file could not be read"),
    Case(13, "a photograph that its EXIF turns", data.turned, "predict {run} {here}/upright.png {here}/lying.png",
         0, "{here}/lying.png ... label", checks.equal_rows),
    Case(14, "HEIC", data.phone, "evaluate {run} {here}/photos",
         0, "ignored: 2 .heic (HEIC needs converting to JPEG or PNG first)"),
    # ------------------------------------------------------------------ labels
    Case(15, "a table with a file that is not there", data.table("0.png,a", "9.png,b"), TABLE,
         3, "line 3: no file '9.png' ... relative to its folder"),
    Case(15, "a column that is not there", data.table("0.png,a", "1.png,b"), TABLE + " --label-column lable",
         2, "no label column 'lable' ... did you mean 'label'?"),
    Case(15, "an image twice, with two labels", data.table("0.png,a", "1.png,b", "0.png,b"), TABLE,
         3, "line 4: '0.png' again, with other labels in 'label' than line 2"),
    Case(15, "a class that the model does not know", data.table("0.png,rings", "1.png,squares"),
         "evaluate {run} {here}/t.csv",
         3, "has the class 'squares' of column 'label', unknown to the model (first at ... line 3)"),
    Case(15, "UTF-16, as spreadsheets write it", data.table("0.png,rings", "1.png,checks", encoding="utf-16"),
         "evaluate {run} {here}/t.csv", 0, "2 samples"),
    Case(15, "a byte-order mark", data.table("0.png,rings", "1.png,checks", encoding="utf-8-sig"),
         "evaluate {run} {here}/t.csv", 0, "2 samples"),
    Case(15, "a blank label", data.table("0.png,rings", "1.png,"), "evaluate {run} {here}/t.csv",
         0, "1 of 2 labels missing in 'label' (first at ... line 3)"),
    Case(16, "classes called yes, no, 1 and 01", data.few("yes", "no", "1", "01"), PLAN + " --json",
         0, '"01"', checks.classes_as_written),
    Case(16, "classes that differ by case", data.few("Cat", "cat"), NEW,
         3, "class names 'Cat' and 'cat' differ only by case or Unicode form ... rename one of them"),
    Case(16, "classes that differ by Unicode form", data.few("caf\u00e9", "cafe\u0301"), NEW,
         3, "differ only by case or Unicode form"),
    Case(17, "one class with many times the other's samples", data.counts(a=50, b=2), PLAN,
         0, "unbalanced: ... look at macro F1 rather than accuracy"),
    Case(17, "a class of val that train lacks", data.few("train/a", "train/b", "val/a", "val/b", "val/c"), NEW,
         3, "val has the class 'c' of column 'label', unknown to train"),
    # ------------------------------------------------------------------ options
    Case(18, "a mistyped option", None, PHOTOS + " --epoch 3", 2, "--epoch ... --epochs ... zoo finetune --help"),
    Case(18, "a mistyped setting", None, PHOTOS + " --set train.lerning_rate=1",
         2, "unknown option 'train.lerning_rate' ... did you mean 'lr'"),
    Case(19, "a learning rate of 0", None, PHOTOS + " --lr 0", 2, "train.lr ... out of range"),
    Case(19, "a learning rate that is no number", None, PHOTOS + " --lr nan", 2, "train.lr ... finite"),
    Case(19, "no batch", None, PHOTOS + " --batch-size 0", 2, "train.batch_size: 0 is out of range (at least 1)"),
    Case(19, "two answers to one question", None, PHOTOS + " --strategy linear+full:3",
         2, "phase 1 ... linear ... full"),
    Case(20, "a resume with another learning rate", scenes.stopped, RESUME + " --lr 0.5",
         2, "phase.1.rate: ... -> 0.5 ... leave them out, or start a new run"),
    Case(20, "a resume with other workers", scenes.stopped, RESUME + " --max-bad 3",
         0, "from now on data.max_bad: 0.01 -> 3.0; the result stays the same", checks.finished),
    Case(21, "a batch larger than the data", None, PHOTOS + " --batch-size 1000",
         0, "a batch is all of train: 24 samples, fewer than the batch size of 1000"),
    Case(21, "a last batch of one sample, with BatchNorm", scenes.odd_batch,
         "finetune {here}/data --backbone starter/cnn --strategy full:1 --batch-size 8 --out {here}/out",
         0, "the last batch of an epoch would be a single sample, too few for BatchNorm: it joins ..."),
    # ------------------------------------------------------------------ names and weights of backbones
    Case(22, "a name that nobody has", None, "finetune {photos} --backbone resnet5",
         2, "unknown backbone 'resnet5' ... did you mean 'resnet50"),
    Case(23, "a known name without safe weights", None, "finetune {photos} --backbone {unsafe}",
         2, "{unsafe} has no ... weights ... --no-pretrained"),
    Case(24, "weights of another form", scenes.weights(scenes.misshapen), TIMM,
         5, "does not fit ... lacks 1 of ... tensors: 'conv1.0.weight', and has 1 ... not its own: 'stranger.weight'"),
    Case(25, "weights with NaN", scenes.weights(scenes.poisoned), TIMM,
         5, f"weights of {scenes.WEIGHTS}: tensor 'model.conv1.0.weight' has NaN or Inf values"),
    Case(25, "weights that are all zero", scenes.weights(scenes.emptied), TIMM,
         5, f"weights of {scenes.WEIGHTS}: every tensor is zero"),
    # ------------------------------------------------------------------ pull
    Case(26, "the hub is out of order, a copy is in the cache", scenes.down, PULL,
         0, "answers 503: ... using the copy of me/flowers@... in the cache"),
    Case(26, "the hub is out of order, nothing is in the cache", scenes.published("any:503:*"), PULL,
         4, "answers 503: it is out of order; me/flowers is not in the cache ... once online: zoo pull me/flowers"),
    Case(26, "too many requests, then it answers", scenes.published("info:429=1:1"), PULL,
         0, "answers 429: too many requests; trying again in 1.0 s"),
    Case(26, "--offline, nothing in the cache", scenes.published(), PULL + " --offline",
         4, "offline, {hub} is not asked; me/flowers is not in the cache ... run it once online"),
    Case(26, "no such host", scenes.published(), "pull me/flowers --hub http://nowhere.invalid",
         4, "cannot reach http://nowhere.invalid ... me/flowers is not in the cache"),
    Case(27, "a mistyped name", scenes.published(), "pull me/flower --hub {hub}",
         4, "no repo 'me/flower' on {hub} ... did you mean 'me/flowers'?"),
    Case(27, "a private repo, not logged in", scenes.hidden, PULL,
         4, "no repo 'me/flowers' on {hub}, or it is private ... hf auth login"),
    Case(27, "a token that the hub does not know", lambda s: s.hub("hf_wrongToken99"), PULL,
         4, "{hub} does not accept the token ... hf auth login"),
    Case(27, "a gated repo", scenes.gated, "pull lab/gated --hub {hub}",
         4, "'lab/gated' is gated: access has to be granted ... ask for it at {hub}/lab/gated"),
    Case(27, "forbidden", scenes.published("resolve:403:*", "head:403:*"), PULL, 4, "{hub} forbids it"),
    Case(28, "the connection breaks half-way, again and again", scenes.published("resolve[model.safetensors]:reset:*"),
         PULL, 4, "the connection to {hub} broke", checks.nothing_partial),
    Case(28, "a disk that is too full", scenes.no_room, PULL,
         4, "me/flowers@... needs ... bytes, ... has 1000 free ... free space, or set HF_HOME"),
    Case(29, "a damaged file in the cache", scenes.damaged_cache(), PULL,
         0, "me/flowers@...: model.safetensors is damaged in the cache; fetching it again"),
    Case(29, "damaged on the hub too", scenes.damaged_cache("resolve[model.safetensors]:corrupt:*"), PULL,
         5, "me/flowers@...: model.safetensors is damaged: {hub} says sha256 ..., the file has ... fetch it again"),
    Case(30, "only a pickle", scenes.holding({"pytorch_model.bin": b"p" * 2000, "config.json": b"{}"}),
         "pull you/evil --hub {hub}",
         4, "you/evil@... has no safe weights: pytorch_model.bin is of a kind that may hold code"),
    Case(30, "a name that leads out", scenes.holding({"model.safetensors": b"x", "../evil.json": b"{}"}),
         "pull you/evil --hub {hub}", 5, "'../evil.json', which is not a safe path"),
    Case(31, "main moved since the lock", scenes.moved, PULL + " --locked",
         6, "me/flowers is locked at ..., on {hub} it is now ... zoo pull me/flowers --lock"),
    Case(31, "the same, without --locked", scenes.moved, PULL,
         0, "{here}/zoo.lock has me/flowers at ..., this is ... --locked refuses it"),
    # ------------------------------------------------------------------ push
    Case(32, "not logged in", scenes.logged_in(None), PUSH,
         4, "not logged in to {hub} ... hf auth login, or set HF_TOKEN", checks.untouched),
    Case(32, "a token that may only read", scenes.logged_in(READER), "push {run} bob/flowers --hub {hub}",
         4, "the token of 'bob' may only read ... write permission", checks.untouched),
    Case(32, "a name of somebody else", scenes.logged_in(), "push {run} you/flowers --hub {hub}",
         4, "'me' may not write to 'you' ... push to me/flowers, lab/flowers", checks.untouched),
    Case(33, "the answer to the commit is lost", scenes.logged_in(TOKEN, "commit:lost:1"), PUSH,
         0, "published me/flowers at", checks.one_commit),
    Case(33, "the connection drops before anything is published", scenes.logged_in(TOKEN, "commit:reset:1"), PUSH,
         0, "published me/flowers at", checks.one_commit),
    Case(34, "somebody pushed meanwhile", scenes.overtaken,
         PUSH + " --parent {before}",
         6, "'me/flowers' changed meanwhile on {hub}: this push was made on ..., the head is now ... ... push again",
         checks.theirs_stays),
    Case(35, "nothing said of who may read it", scenes.logged_in(), PUSH,
         0, "published me/flowers at", checks.private_and_anonymous),
    # ------------------------------------------------------------------ plugins
    Case(36, "one that cannot be imported", scenes.plugins("missing-import"), "list heads",
         0, "plugin 'missing-import' (zoo-missing-import 1.2) is off: import: ... No module named"),
    Case(36, "one that exits when it is imported", scenes.plugins("exits"), "list heads",
         0, "plugin 'exits' (zoo-exits 1.2) is off: import: SystemExit: bye"),
    Case(36, "one for another contract", scenes.plugins("newer"), "list heads",
         0, "plugin 'newer' (zoo-newer 1.2) is off: contract: ... pip install -U"),
    Case(36, "one whose hook raises", scenes.plugins("raising-hook"), "list heads",
         0, "plugin 'raising-hook' (zoo-raising-hook 1.2) is off: zoo_heads: KeyError"),
    Case(36, "two of one name", scenes.plugins("contested"), "list heads",
         0, "plugin 'contested' (zoo-first 1.2) is off: ... zoo-second"),
    Case(36, "a broken one that is used", scenes.plugins("raises"), PHOTOS + " --head raises/one",
         7, "raises ... RuntimeError: the moon is wrong"),
    # ------------------------------------------------------------------ the training process; the rest of it: ELSEWHERE
    Case(37, "the loss is not finite", scenes.exploding,
         "finetune {photos} --backbone starter/cnn --strategy full:3 --batch-size 8 --out {here}/out",
         8, "the loss is not finite at phase 1, step 2 (supervised nan, ... learning rate ...) ... lower --lr",
         checks.last_good_weights_kept),
    # ------------------------------------------------------------------ published models
    Case(38, "of a newer zoo", scenes.document(format=99), "predict {here}/bundle {photos}",
         5, "{here}/bundle: zoo.json has format 99, this zoo reads up to ... pip install -U transfer-zoo"),
    Case(38, "without class names", scenes.document(columns__0__classes=[]), "predict {here}/bundle {photos}",
         5, "{here}/bundle: zoo.json: column 'label' has no class names"),
    Case(38, "an edited config", scenes.edited, "predict {here}/bundle {photos}", 5, "config.json ... sha256"),
    Case(38, "one turned byte", scenes.flipped, "predict {here}/bundle {photos}", 5, "model.safetensors ... sha256"),
    Case(38, "an extra file, published", scenes.enlarged, "push {here}/bundle me/x --hub {here}/hub",
         5, "notes.txt does not stand in manifest.json ... remove it"),
    Case(38, "other weights than it was measured with, published", scenes.other_weights,
         "push {here}/bundle me/x --hub {here}/hub", 5, "does not reproduce its golden logits"),
    # ------------------------------------------------------------------ concurrency
    Case(39, "a run that another host holds", scenes.other_hosts, RESUME,
         6, "in use by process 4711 on node7 ... if that process is gone, remove"),
    Case(39, "a lock whose holder is dead", scenes.dead_holders, RESUME,
         0, "the run's last process, ... on this host, is gone", checks.finished),
    # ------------------------------------------------------------------ secrets
    Case(40, "a token on the command line", None, f"pull me/x --token {TOKEN}", 2, "--token ... HF_TOKEN"),
    Case(40, "a token in a URL", None, f"pull me/x --hub https://me:{TOKEN}@example.org",
         2, "credentials in the hub's URL (example.org) ... HF_TOKEN"),
    Case(40, "a token where data is expected", None, f"finetune https://me:{TOKEN}@example.org/photos",
         2, "no data source 'https:' ... https://***@example.org/photos"),
    Case(40, "a token in a recipe", scenes.recipe(f'token = "{TOKEN}"\n'),
         "finetune {photos} --recipe {here}/recipe.toml", 2, "{here}/recipe.toml: 'token' holds a token ... HF_TOKEN"),
]  # fmt: skip


ELSEWHERE = {
    28: ("test_hub_folder.py::test_a_push_killed_at_any_write_leaves_a_whole_state",),
    37: (
        "test_training_resume.py::test_killed",
        "test_training_signals.py::test_sigterm_ends_a_run_with_143_and_it_goes_on",
        "test_training_signals.py::test_a_second_ctrl_c_ends_a_run_at_once_and_the_checkpoint_before_holds",
        "test_training_signals.py::test_a_killed_worker_ends_the_run_with_8_after_the_step",
        "test_training_memory.py::test_the_step_is_taken_in_smaller_parts_and_the_run_says_so",
        "test_training_memory.py::test_one_sample_that_does_not_fit_is_one_clear_line",
        "test_training_stops.py::test_a_full_disk_leaves_the_last_checkpoint_good",
        "test_training_finite.py::test_the_last_finite_weights_are_kept_bit_by_bit",
    ),
    39: (
        "test_training_stops.py::test_a_second_process_is_refused_with_pid_and_host",
        "test_training_stops.py::test_without_file_locks_a_dead_process_is_seen",
        "test_hub_hf_outages.py::test_four_processes_pull_into_one_cache",
        "test_hub_folder.py::test_eight_pushing_processes_make_one_lineage_of_whole_revisions",
    ),
}
"""What takes processes that are killed, or several at once: where it is shown."""


@pytest.fixture(scope="session")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that Ctrl-C stopped in its second phase, in a folder with its data; for copying only."""
    from zoo.cli.progress import LineReporter

    home = tmp_path_factory.mktemp("stopped")
    draw_photos(home / "photos", each=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(LineReporter, "epoch", lambda *args, **kwargs: signal.raise_signal(signal.SIGINT))
        asked = ("--backbone", "starter/cnn", "--strategy", "linear:1,full:1", "--batch-size", "16", "--workers", "0")
        assert zoo("finetune", "photos", *asked, "--out", "stopped").code == 130
    return home


@pytest.fixture
def scene(
    photos: Path, finished_run: Path, stopped: Path, tmp_path: Path, loopback: Callable, monkeypatch: pytest.MonkeyPatch
) -> Scene:
    """An empty folder, and the words that every command may use."""
    here = tmp_path / "here"
    here.mkdir()
    words = {"here": str(here), "photos": str(photos), "run": str(finished_run), "stopped": str(stopped)}
    unsafe = next(e.name for e in Registry().entries("backbone") if e.spec.weights is None or e.spec.weights.unsafe)
    return Scene(here, {**words, "unsafe": unsafe}, monkeypatch, loopback)


def said_by(outcome: Outcome) -> list[str]:
    """The lines to look at: of a failure its error with its hint, else all that was printed."""
    if outcome.code == 0:
        return outcome.out.splitlines() + outcome.err.splitlines()
    return [" ".join([*outcome.lines("error:"), *outcome.lines("hint:")])]


def fits(line: str, words: dict[str, str]) -> re.Pattern[str]:
    """The line of a case as a pattern: three dots stand for any words."""
    parts = re.split(r" ?\.\.\. ?", line)
    return re.compile(".*?".join(re.escape(part.format(**words)) for part in parts))


def name(case: Case) -> str:
    return f"{case.number}: {case.title}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_the_forty(case: Case, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "cwd").mkdir()
    if case.before is not None:
        case.before(scene)
    monkeypatch.chdir(scene.here if case.command.startswith("finetune --resume") else tmp_path / "cwd")
    outcome = zoo(*(word.format(**scene.words) for word in case.command.split()))
    everything = outcome.out + outcome.err
    assert outcome.code == case.code, everything
    pattern = fits(case.line, scene.words)
    assert any(pattern.search(line) for line in said_by(outcome)), f"nowhere: {pattern.pattern}\n{everything}"
    assert len(outcome.lines("error:")) == (case.code != 0), outcome.err
    assert len(outcome.lines("hint:")) <= 1
    assert "Traceback" not in everything
    assert TOKEN not in everything
    assert READER not in everything
    assert list((tmp_path / "cwd").rglob("*")) == []
    assert case.code != 2 or not (scene.here / "out").exists()
    if case.after is not None:
        case.after(scene, outcome)


def test_none_of_the_forty_is_left_out():
    assert sorted({case.number for case in CASES}) == list(range(1, 41))
    assert len({name(case) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("test", [test for tests in ELSEWHERE.values() for test in tests])
def test_what_is_shown_elsewhere_is_there(test: str):
    file, _, function = test.partition("::")
    tree = ast.parse((Path(__file__).parent / file).read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
