"""What must hold after a command of the forty cases, beside its exit code and its line."""

from __future__ import annotations

from pathlib import Path

from forty_scenes import Scene
from zoo_runs import Outcome, zoo


def equal_rows(scene: Scene, outcome: Outcome) -> None:
    """Both files got the same label and score."""
    first, second = (line.split("\t")[2:] for line in outcome.out.splitlines())
    assert first == second


def classes_as_written(scene: Scene, outcome: Outcome) -> None:
    """Class names are texts, in natural order."""
    assert outcome.json["data"]["columns"][0]["classes"] == ["01", "1", "no", "yes"]


def bad_samples_listed(scene: Scene, outcome: Outcome) -> None:
    """The file in the run folder names each."""
    text = (scene.here / "out" / "bad_samples.csv").read_text()
    assert [name for name in ("checks/cut.jpg", "rings/empty.jpg", "rings/page.jpg") if name not in text] == []


def nothing_partial(scene: Scene, outcome: Outcome) -> None:
    """No half file is left, and the next pull works."""
    assert list((scene.here / "home").rglob("*.incomplete")) == []
    assert list((scene.here / "home").rglob("model.safetensors")) == []
    scene.server.set_faults("")
    assert zoo("pull", "me/flowers", "--hub", scene.server.url).code == 0


def one_commit(scene: Scene, outcome: Outcome) -> None:
    """The commit stands once, with all files."""
    titles = [row.title for row in scene.client().api.list_repo_commits("me/flowers")]
    assert len([title for title in titles if title != "initial commit"]) == 1
    assert {"zoo.json", "model.safetensors"} <= {f.path for f in scene.client().info("me/flowers").files}


def theirs_stays(scene: Scene, outcome: Outcome) -> None:
    """What somebody else pushed is there."""
    assert "theirs.json" in {f.path for f in scene.client().info("me/flowers").files}


def untouched(scene: Scene, outcome: Outcome) -> None:
    """The bundle is where it was, and nothing was sent."""
    assert (scene.run / "model" / "manifest.json").is_file()
    assert scene.server.log("create") + scene.server.log("commit") == []


def private_and_anonymous(scene: Scene, outcome: Outcome) -> None:
    """Only the login may read it; no file of it names this machine's paths."""
    info = scene.client().info("me/flowers")
    assert info.private
    for file in ("README.md", "zoo.json", "config.json"):
        text = scene.client().file("me/flowers", file).path.read_text()
        assert str(scene.here.parent) not in text
        assert str(Path(scene.words["photos"]).parent) not in text


def finished(scene: Scene, outcome: Outcome) -> None:
    """The run went on to its end."""
    assert (scene.here / "stopped" / "model" / "manifest.json").is_file()


def last_good_weights_kept(scene: Scene, outcome: Outcome) -> None:
    """The weights before the step are there, and the record of it."""
    assert {p.name for p in (scene.here / "out" / "checkpoints" / "stopped").iterdir()} >= {
        "stopped.json",
        "weights.safetensors",
    }
