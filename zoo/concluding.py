"""The end of a run: the final evaluation, the figures, the bundle."""

from __future__ import annotations

from typing import Any

from zoo_registry import Registry

from zoo.adapting import find_adapter
from zoo.assembly.assemble import Assembled
from zoo.bundle.write import Findings, write_bundle
from zoo.compute.layout import place
from zoo.evaluation.predictions import predict_features
from zoo.evaluation.report import Report, report_columns
from zoo.files import write_json
from zoo.recipe import Recipe
from zoo.runs import RunFolder
from zoo.telling import count_labels, describe_data, draw_figures, told_notes
from zoo.training.log import MetricsLog
from zoo.training.progress import Reporter
from zoo.training.run import TrainingRun


def evaluate_result(run: TrainingRun) -> dict[str, Report]:
    """Split -> report of the final model, on ``val`` and ``test`` as far as there are such."""
    run.model.eval()
    run.bad.allowed = None  # the limit is for training; here every unreadable image is listed
    reports: dict[str, Report] = {}
    for name in ("val", "test"):
        if name in run.data.splits:
            split = run.data.split(name)
            if run.rested and run.bank is not None:
                rows = run.bank.exact(run.model.backbone, name).picked()
                found = predict_features(run.model, split, *rows, batch_size=run.options.batch_size)
            else:
                found = run.predict(name)
            run.bad.add(found.bad)
            reports[name] = report_columns(run.data.columns, found, split)
    return reports


def write_result(
    run: TrainingRun,
    log: MetricsLog,
    assembled: Assembled,
    recipe: Recipe,
    registry: Registry,
    folder: RunFolder,
    reporter: Reporter,
) -> tuple[dict[str, Report], str]:
    """Evaluate the final model, write reports, figures and the bundle.

    Returns:
        The reports by split, and the split that counts: ``test`` where there is one.
    """
    reporter.doing("evaluating the result")
    reports = evaluate_result(run)
    chosen = "test" if "test" in reports else "val"
    reporter.doing("writing the model")
    write_json(folder.report, {name: report.to_json() for name, report in reports.items()})
    if any(row.get("event") == "epoch" for row in log.content):
        from zoo.evaluation.curves import curves_figure

        curves_figure(log.content, folder.curves)
    place(run.model, "contiguous")
    adapter, notes = find_adapter(run, assembled, recipe, registry)
    notes = (*notes, *kept_samples(run.model.head))
    for note in notes:
        reporter.note(note)
    notes = (*notes, *told_notes(run.data, reports[chosen], chosen))
    findings = Findings(
        metrics={name: report.metrics for name, report in reports.items()},
        data=describe_data(run.data),
        figures=draw_figures(reports[chosen], run.data.columns),
        notes=notes,
        samples=count_labels(reports),
    )
    write_bundle(folder.model, assembled, recipe, findings, registry, adapter)
    return reports, chosen


def kept_samples(head: Any) -> tuple[str, ...]:
    """A line where the head holds the training samples themselves: who gets the model gets them."""
    names = [name for name in getattr(head, "data_sized", ()) if name in head.state_dict()]
    count = len(head.state_dict()[names[0]]) if names else 0
    return (f"The head holds the features of {count} training samples; they are published with it.",) if count else ()
