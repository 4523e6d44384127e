"""``zoo push`` and ``zoo pull``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click
from zoo_registry import UsageError

from zoo.cli.output import (
    emit,
    hub_option,
    json_option,
    lines,
    locked_option,
    offline_option,
    quoted,
    say,
    short_number,
)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("name", metavar="OWNER/NAME")
@hub_option
@click.option("--private/--public", default=True, help="Who may read it; private by default.")
@click.option("--parent", metavar="REVISION", help="Refuse if the hub's head is not this revision.")
@click.option("--delta", is_flag=True, help="Store only what differs from the base weights.")
@click.option("--tag", metavar="TAG", help="A name for the revision, such as v1; one that is taken is never moved.")
@click.option("--license", metavar="ID", help="The model's licence: an id of the Hub, or other:NAME.")
@click.option("--no-metrics", is_flag=True, help="Do not measure again; the card says that the numbers are not proved.")
@click.option(
    "--deadline",
    type=float,
    metavar="SECONDS",
    help="Time for all waiting for the hub; $ZOO_PUSH_DEADLINE, else 3600.",
)
@click.option("--dry-run", is_flag=True, help="Check everything, list the files, show the card, publish nothing.")
@json_option
def push(
    run: Path,
    name: str,
    hub: str | None,
    private: bool,
    parent: str | None,
    delta: bool,
    tag: str | None,
    license: str | None,
    no_metrics: bool,
    deadline: float | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Publish the model of RUN (a run or bundle folder) as OWNER/NAME.

    A fresh process loads it first and must reproduce its golden logits and, where the run's data is still there, its
    metrics; the card says of each number whether it is proved.

    Every wait for the hub is said. A push that did not come through can be repeated: large files that have arrived are
    not sent again.

    The licence of the base weights is carried into the card, an unknown one as unknown. --license states another, and
    decides where sources do not agree.

    With --delta the repo holds the tensors that differ from the base weights, and names those by commit and sha256;
    zoo pull makes it whole again.

    \b
    Example:
      zoo push run me/flowers --hub hub/
      zoo push run me/flowers --delta
      zoo push run me/flowers --public --tag v1
      zoo push run me/flowers --license cc-by-nc-4.0 --dry-run
    """
    from zoo.cli.transferring import open_transfer
    from zoo.publishing import preview, publish

    click.echo("loading the bundle in a fresh process, which must find the same logits and metrics", err=True)
    told = partial(click.echo, err=True)
    if dry_run:
        planned = preview(run, name, hub=hub, delta=delta, tag=tag, metrics=not no_metrics, license=license, told=told)
        value = {"name": name, "target": planned.target, "files": planned.files, "dry_run": True}
        value |= {"private": private, "license": planned.license, "card": planned.card}

        def show() -> None:
            who = "private" if private else "public: everybody can read it"
            say(f"would publish {planned.target} ({who}{f', tag {tag}' if tag else ''}):")
            for file, size in planned.files.items():
                say(f"  {short_number(size):>6}B  {file}")
            say(f"  {short_number(sum(planned.files.values())):>6}B  in {len(planned.files)} files")
            say(f"licence: {planned.license}")
            say()
            say(lines(planned.card))

        emit(value, as_json, show)
        return
    wanted: dict[str, Any] = {
        "private": private,
        "parent": parent,
        "delta": delta,
        "tag": tag,
        "metrics": not no_metrics,
        "license": license,
    }
    with open_transfer() as progress:
        pushed = publish(run, name, hub=hub, deadline=deadline, told=told, progress=progress, **wanted)
    value = {"name": pushed.name, "revision": pushed.revision, "url": pushed.url, "files": list(pushed.files)}
    value |= {"tag": tag} if tag else {}

    def human() -> None:
        say(f"{'published' if pushed.created else 'already published'} {pushed.name} at {pushed.revision[:12]}")
        if tag:
            say(f"tag: {tag}")
        say(f"{pushed.url}")
        where = f" --hub {quoted(hub)}" if hub else ""
        say(f"next: zoo pull {pushed.name}{f'@{tag}' if tag else ''}{where}")

    emit(value, as_json, human)


@click.command()
@click.argument("name", metavar="OWNER/NAME[@REVISION]")
@click.option("--lock", is_flag=True, help="Take it into zoo.lock, whatever that had before.")
@hub_option
@offline_option
@locked_option
@json_option
def pull(name: str, lock: bool, hub: str | None, offline: bool, as_json: bool) -> None:
    """Get a published model: all files of one commit, each checked against its sha256.

    A model that was published as a delta is made whole, from its base weights; after that it needs no network.

    --lock writes the commit and the sha256 of every file into zoo.lock in this folder; with --locked pull, evaluate,
    predict and finetune take nothing else. Weights of a backbone are locked by their repo's name.

    \b
    Example:
      zoo pull me/flowers --hub hub/
      zoo pull me/flowers@v1
      zoo pull me/flowers@3f2a91c
      zoo pull me/flowers --lock
    """
    from zoo.lock import active, lock_path
    from zoo.models import pull_model

    if lock and active() is not None:
        raise UsageError("--lock writes zoo.lock, --locked only reads it", hint="give one of them")
    pulled = pull_model(name, hub=hub, offline=offline, lock=lock_path() if lock else None)
    value = {"name": pulled.name, "revision": pulled.revision, "path": str(pulled.path)}

    def human() -> None:
        say(f"{pulled.name} at {pulled.revision[:12]}" + (f", in {lock_path()}" if lock else ""))
        say(str(pulled.path))
        if (pulled.path / "zoo.json").is_file():
            say(f"next: zoo predict {quoted(pulled.path)} FILES")
        else:
            say("no bundle of the zoo; its weights are in the cache now, for --backbone and --offline")

    emit(value, as_json, human)
