"""``zoo finetune``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from zoo_registry import UsageError

from zoo.cli.output import (
    device_option,
    emit,
    hub_option,
    json_option,
    locked_option,
    offline_option,
    open_registry,
    quoted,
    say,
)

if TYPE_CHECKING:
    from zoo_registry import Registry

    from zoo.finetuning import FinetuneResult
    from zoo.planning import Request


class FinetuneCommand(click.Command):
    """The command, whose help ends with what ``--set`` takes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's; the words are kept for the commands that are told to try next."""
        ctx.meta["words"] = list(args)
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The settings with their defaults, from the recipe's own options."""
        from zoo_registry.options import describe_options

        from zoo.recipe import DataOptions, TrainOptions

        with formatter.section("Settings (--set KEY=VALUE)"):
            rows = [("backbone.OPTION, head.OPTION, strategy.NAME.OPTION", "options of the parts: zoo show NAME")]
            rows += [("strategy.2.rate", "rate, decay, warmup or augment of the second phase")]
            rows += [("tracker.NAME.OPTION", "options of a tracker that --track chooses: zoo show NAME")]
            for root, schema in (("train", TrainOptions), ("data", DataOptions)):
                for o in describe_options(schema):
                    default = "" if o.default in (None, ()) else f" [{str(o.default).lower()}]"
                    rows.append((f"{root}.{o.name}", f"{o.help}{f', {o.allowed}' if o.allowed else ''}{default}"))
            formatter.write_dl(rows, col_max=24)


@click.command(cls=FinetuneCommand)
@click.argument("data", required=False)
@click.option(
    "--backbone",
    metavar="NAME",
    help="Backbone; a recommended one by default (zoo list backbones). Or hf:OWNER/NAME[@REVISION], or a folder.",
)
@click.option("--weights", metavar="FILE", help="A safetensors file in place of the backbone's own weights.")
@click.option("--head", metavar="NAME", help="Head; the plain one for the task by default (zoo list heads).")
@click.option("--strategy", metavar="RECIPE", help="How it learns, such as linear:3,full:10 (zoo list strategies).")
@click.option("--epochs", metavar="N", help="Epochs of the last phase that names no length.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Run folder; runs/N by default.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any setting, such as train.clip=0.5; they stand below.",
)
@click.option("--recipe", type=click.Path(path_type=Path), metavar="FILE", help="A recipe.toml to start from.")
@click.option(
    "--track", "trackers", multiple=True, metavar="NAME", help="Tracker that follows the run (zoo list trackers)."
)
@click.option("--resume", is_flag=True, help="Go on with the unfinished run in --out.")
@click.option("--dry-run", is_flag=True, help="Show who learns, what it costs and what happens, and stop.")
@click.option(
    "--measure", type=click.IntRange(min=0), metavar="N", help="Steps a phase that --dry-run times; 3 by default."
)
@click.option("--find-lr", is_flag=True, help="Try growing learning rates on a copy, draw and suggest, and stop.")
@click.option("--phase", type=click.IntRange(min=1), metavar="N", help="The one phase that --find-lr tries.")
@click.option("--seed", type=int, help="Seed of everything random; 0 by default.")
@click.option("--no-pretrained", is_flag=True, help="Start from random weights.")
@click.option("--image-size", type=click.IntRange(min=8), metavar="PX", help="In place of the backbone's own.")
@click.option("--in-chans", type=click.IntRange(min=1), metavar="N", help="Input channels in place of the backbone's.")
@click.option(
    "--batch-size",
    "--batch",
    "batch_size",
    metavar="N",
    help="Samples a batch; 64 by default, auto: the most that fit.",
)
@click.option("--lr", metavar="RATE", help="Peak learning rate of every phase.")
@click.option("--weight-decay", metavar="DECAY", help="Weight decay of every phase.")
@click.option("--augment", metavar="LEVEL", help="auto, none, light, medium or strong.")
@click.option("--workers", metavar="N", help="Processes that decode images; auto (the default) measures.")
@click.option("--max-bad", metavar="SHARE", help="Share of unreadable images allowed; 0.01 by default.")
@click.option("--strict", is_flag=True, default=None, help="Refuse unreadable images, and images in two splits.")
@click.option("--image-column", metavar="NAME", help="Column of a table with the image paths.")
@click.option(
    "--label-column", "label_columns", multiple=True, metavar="NAME", help="Column with targets (repeatable)."
)
@click.option("--split-column", metavar="NAME", help="Column that says train, val or test.")
@click.option(
    "--task", metavar="KIND", help="classification, multilabel or regression; found from the data by default."
)
@device_option
@hub_option
@offline_option
@locked_option
@json_option
def finetune(
    data: str | None,
    out: Path | None,
    resume: bool,
    dry_run: bool,
    measure: int | None,
    device: str,
    hub: str | None,
    offline: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Fine-tune a backbone on DATA, evaluate it and write a bundle into the run folder.

    DATA is a folder of class folders (with or without train/ val/ test/), a .csv or .parquet table, or digits:
    (scikit-learn's handwritten digits).

    \b
    Example:
      zoo finetune photos/ --backbone resnet18 --strategy linear:3,full:10 --out run
      zoo finetune labels.csv --label-column species --label-column age
      zoo finetune photos/ --backbone hf:timm/resnet18.a1_in1k --strategy linear
      zoo finetune photos/ --strategy gradual:10 --dry-run
      zoo finetune photos/ --strategy full:10 --find-lr
      zoo finetune --resume --out run
    """
    if resume and (dry_run or asked["find_lr"]):
        raise UsageError("--resume goes on with a run", hint="leave --dry-run and --find-lr out")
    if measure is not None and not dry_run:
        raise UsageError("--measure is for --dry-run", hint="add --dry-run, or leave --measure out")
    if asked["phase"] is not None and not asked["find_lr"]:
        raise UsageError("--phase is for --find-lr", hint="add --find-lr, or leave --phase out")
    if asked["find_lr"] and dry_run:
        raise UsageError("--find-lr and --dry-run are two different looks ahead", hint="give one of them")
    registry = open_registry()
    if resume:
        _resume(registry, make_request(data, asked), out, device, hub, offline, as_json)
        return
    from zoo.origins import settle_origin

    request = settle_origin(make_request(data, asked), registry, hub=hub, offline=offline)
    if dry_run:
        from zoo.cli.plan import show_plan

        show_plan(request, registry, device=device, hub=hub, offline=offline, batches=measure, as_json=as_json)
        return
    if asked["find_lr"]:
        from zoo.cli.rates import show_rates

        show_rates(request, registry, asked["phase"], out, device=device, hub=hub, offline=offline, as_json=as_json)
        return
    from zoo.runs import RunFolder, next_run_folder

    folder = out or next_run_folder()
    RunFolder(folder).refuse_existing()
    from zoo.devices import resolve_device
    from zoo.planning import make_plan

    resolve_device(device)
    from zoo.cli.plan import choose_aloud, print_recipe

    plan = make_plan(request, registry, choose_batch=choose_aloud(registry, device, hub, as_json))
    print_recipe(plan, registry, err=as_json)
    from zoo import finetuning

    with open_live_reporter(as_json) as reporter:
        result = finetuning.execute_plan(
            plan, registry, out=folder, device=device, hub=hub, offline=offline, reporter=reporter
        )
    show_result(result, as_json)


def make_request(data: str | None, asked: dict[str, Any]) -> Request:
    """The command line's options as a request."""
    from zoo.planning import Request
    from zoo.recipe import read_recipe

    if asked["weights"] is not None and asked["no_pretrained"]:
        raise UsageError("--weights and --no-pretrained say the opposite", hint="leave one of them out")
    train = {name: asked[name] for name in ("epochs", "batch_size", "lr", "weight_decay", "augment", "workers")}
    names = ("image_column", "split_column", "task", "max_bad", "strict")
    return Request(
        data=data,
        backbone=asked["backbone"],
        head=asked["head"],
        strategy=asked["strategy"],
        settings=tuple(asked["settings"]),
        train=train,
        data_options={**{n: asked[n] for n in names}, "label_columns": asked["label_columns"] or None},
        recipe=read_recipe(asked["recipe"]) if asked["recipe"] else None,
        seed=asked["seed"],
        pretrained=False if asked["no_pretrained"] else None,
        image_size=asked["image_size"],
        in_chans=asked["in_chans"],
        trackers=tuple(asked["trackers"]),
        weights=asked["weights"],
    )


def _resume(
    registry: Registry,
    asked: Request,
    out: Path | None,
    device: str,
    hub: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    if out is None:
        raise UsageError("--resume needs the run folder", hint="zoo finetune --resume --out RUN")
    from zoo import finetuning

    with open_live_reporter(as_json) as reporter:
        result = finetuning.resume(
            registry,
            out=out,
            asked=asked,
            device=device,
            hub=hub,
            offline=offline,
            reporter=reporter,
        )
    show_result(result, as_json)


@contextlib.contextmanager
def open_live_reporter(as_json: bool) -> Any:
    """A reporter for the life of a run: a live bar on a terminal, lines otherwise."""
    from zoo.cli.progress import BarReporter, open_reporter

    reporter = open_reporter(as_json)
    if isinstance(reporter, BarReporter):
        with reporter:
            yield reporter
    else:
        yield reporter


def show_result(result: FinetuneResult, as_json: bool) -> None:
    """Print what a run came to, and the next commands."""
    value = {
        "run": str(result.run),
        "model": str(result.model),
        "metrics": result.metrics,
        "split": result.split,
        "recipe": result.recipe.label(),
    }

    def human() -> None:
        from zoo.cli.progress import leading

        skipped = sum(len(report.skipped) for report in result.reports.values())
        several = len(result.reports[result.split].columns) > 1
        metrics = leading(result.metrics) if several else dict(list(result.metrics.items())[:4])
        shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        say(f"{result.split}: {shown}", bold=True)
        if skipped:
            say(f"{skipped} unreadable samples were skipped; bad_samples.csv in the run folder lists them")
        say(f"run: {result.run}    bundle: {result.model}")
        say(f"next: zoo predict {quoted(result.run)} FILES    zoo push {quoted(result.run)} OWNER/NAME --hub HUB")

    emit(value, as_json, human)
