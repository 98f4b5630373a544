"""The report: an evaluation's result as tables for people.

Enters: the result of `evaluate.py`. Leaves: Markdown; in a folder also JSON and, where matplotlib is installed, a plot.
Called by `nowrank evaluate`; what any result needs, also by `nowrank ablate`.
"""

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.errors import BadInput
from infra.outputs import check_folder, prepare_file
from model.manifests import indented
from model.plots import draw, has_plots
from model.ranked import MODEL

PLOT = "ndcg10.png"


def result_table(result: dict[str, Any]) -> str:
    """NDCG@10, HR@10 and MRR by task and model, with the corrected verdict on each difference, as Markdown."""
    reference = "UniCoRn" if result.get("model_version") else "best"
    lines = [
        f"| task | model | NDCG@10 | HR@10 | MRR | user AUC | {reference} minus this, NDCG@10, 95 % | after Holm |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for task, model, means in _models(result):
        name = f"**{model}**" if model == MODEL else model
        cells = [f"{means[key]:.3f}" for key in ("ndcg10", "hr10", "mrr", "auc_user")]
        lines.append(f"| {task} | {name} | {' | '.join(cells)} | {_interval(means)} | {_verdict(means)} |")
    return "\n".join(lines) + "\n"


def slices_table(result: dict[str, Any]) -> str:
    """The model and the best baseline of each slice: searches as MRR, the rest as NDCG@10, as Markdown."""
    lines = [
        "| task | slice | labels | metric | model | best baseline | UniCoRn minus it, 95 % |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for task, of_task in result["tasks"].items():
        metric = "mrr" if task == "search" else "ndcg10"
        ours = of_task.get(MODEL, {}).get("slices", {})
        for name in of_task[of_task["best_baseline"]]["slices"]:
            best, means = _best_of_slice(of_task, name, metric)
            mine, interval = "", ""
            if name in ours:
                low, high = means["minus"][metric]
                mine, interval = f"{ours[name][metric]:.3f}", f"{low:+.3f} .. {high:+.3f}"
            cells = (task, name, means["labels"], metric, mine, f"{best} {means[metric]:.3f}", interval)
            lines.append(f"| {' | '.join(map(str, cells))} |")
    removed = result["title_removed"]
    if removed["labels"]:
        models = {model: means["mrr"] for model, means in removed.items() if isinstance(means, dict)}
        best = max((model for model in models if model != MODEL), key=lambda model: models[model])
        mine = f"{models[MODEL]:.3f}" if MODEL in models else ""
        lines.append(f"| search | title removed | {removed['labels']} | mrr | {mine} | {best} {models[best]:.3f} | |")
    return "\n".join(lines) + "\n"


def exposure_table(result: dict[str, Any]) -> str:
    """What is shown, how evenly, how much it moves from one request to the next, and calibration, as Markdown."""
    lines = [
        "| task | model | coverage | Gini | RBO to the next request | ECE | ECE / rate |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for task, model, means in _models(result):
        moved = "" if means["rbo_next"] is None else f"{means['rbo_next']:.3f}"
        error = f"{means['ece']:.6f} | {means['ece_per_rate']:.2f}" if "ece" in means else " | "
        lines.append(f"| {task} | {model} | {means['coverage']:.3f} | {means['gini']:.3f} | {moved} | {error} |")
    return "\n".join(lines) + "\n"


def tuned_lines(result: dict[str, Any]) -> str:
    """The settings that were chosen, a line for each baseline."""
    lines = []
    for task, of_task in result["tuned"].items():
        if task in result["tasks"]:
            for name, setting in of_task.items():
                if isinstance(setting, dict) and setting:
                    chosen = ", ".join(f"{key} {value}" for key, value in setting.items())
                    lines.append(f"- {task}, {name}: {chosen}")
    return "\n".join(lines) + "\n"


def preamble(result: dict[str, Any]) -> str:
    """What was measured, on what, and without what."""
    count = result["max_labels_per_task"]
    drawn = "all" if count is None else f"at most {count}, drawn at random,"
    cut = result["labels_left_out"]
    left_out = f" The oldest {cut:,} labels were left out, so that the state began empty there." if cut else ""
    derived = derived_sentence(result)
    begin = datetime.fromtimestamp(result["test_begin_ms"] / 1000, UTC)
    share = result["test_part_labels"] / (result["labels"] + cut)
    part = f"since {begin:%Y-%m-%d %H:%M} UTC, the last {share:.1%} of the log's labels"
    drawn = f"{drawn[:1].upper()}{drawn[1:]} positive labels per task {part}"
    titles, resamples = f"{result['catalogue']:,} titles", f"{result['resamples']} resamples of users"
    without = "".join(f" Without {name}: {reason}." for name, reason in result["baselines_left_out"].items())
    return f"{drawn}, {titles} in the catalogue, {resamples}, seed {result['seed']}.{left_out}{derived}{without}\n"


def write_report(result: dict[str, Any], folder: Path) -> list[str]:
    """Write `result.json`, `result.md` and, where matplotlib is installed, a plot; the names of what was written."""
    tables = [
        ("Result", result_table(result)), ("Slices", slices_table(result)),
        ("Exposure, stability, calibration", exposure_table(result)), ("Settings chosen", tuned_lines(result)),
    ]  # fmt: skip
    written = write_result(result, [preamble(result), *(f"## {title}\n\n{table}" for title, table in tables)], folder)
    _plot(result, folder / PLOT)
    return [*written, PLOT] if has_plots() else written


def write_result(result: dict[str, Any], parts: list[str], folder: Path) -> list[str]:
    """Write `result.json`, and Markdown as `result.md`; the names of both."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_bytes(_json(result))
    (folder / "result.md").write_text("\n".join(parts))
    return ["result.json", "result.md"]


def check_outputs(args: argparse.Namespace, folder: Path | None) -> None:
    """Raises `BadInput` unless `put_json` and `write_result` will be able to write, over nothing that is read.

    The value of `--json` is optional, so a log that comes after it is taken for the file to write: what is there
    already must be called .json.
    """
    if args.json not in (None, "-"):
        path = Path(args.json)
        prepare_file(path, [Path(args.log), *([args.items] if args.items is not None else [])])
        if path.is_file() and path.suffix.lower() != ".json":
            raise BadInput(
                "other_file",
                f"--json {path} would replace a file that is not called .json; if it is the log, put it before --json, "
                "else name another file",
            )
    if folder is not None:
        check_folder(folder)


def put_json(result: dict[str, Any], where: str) -> bool:
    """Write the result as JSON to a file, or print it where the file is `-`; whether it was printed."""
    if where == "-":
        print(_json(result).decode(), end="")
        return True
    Path(where).write_bytes(_json(result))
    return False


def derived_sentence(result: dict[str, Any]) -> str:
    """What was derived of the log's events, as a sentence after others; nothing where nothing was."""
    derived = result["derived"]
    return f" {derived[:1].upper()}{derived[1:]}." if derived else ""


def _json(result: dict[str, Any]) -> bytes:
    return indented(result) + b"\n"


def _models(result: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (task, model, means)
        for task, of_task in result["tasks"].items()
        for model, means in of_task.items()
        if isinstance(means, dict)
    ]


def _best_of_slice(of_task: dict[str, Any], name: str, metric: str) -> tuple[str, dict[str, Any]]:
    """The baseline that is best there, and its means."""
    baselines = {
        model: means["slices"][name] for model, means in of_task.items() if model != MODEL and isinstance(means, dict)
    }
    best = max(baselines, key=lambda model: float(baselines[model][metric]))
    return best, baselines[best]


def _interval(means: dict[str, Any]) -> str:
    for prefix in ("unicorn", "best"):
        if f"{prefix}_minus_low" in means:
            return f"{means[f'{prefix}_minus_low']:+.3f} .. {means[f'{prefix}_minus_high']:+.3f}"
    return ""


def _verdict(means: dict[str, Any]) -> str:
    if "p_holm" not in means:
        return ""
    return f"p {means['p_holm']:.3f}" if means["significant"] else "not significant"


def _plot(result: dict[str, Any], path: Path) -> None:
    """NDCG@10 by model, a panel for each task."""
    with draw(path, panels=len(result["tasks"])) as panels:
        for panel, (task, of_task) in zip(panels, result["tasks"].items(), strict=False):
            models = [(name, means["ndcg10"]) for name, means in of_task.items() if isinstance(means, dict)]
            panel.barh([name for name, _ in models], [value for _, value in models])
            panel.set(title=task, xlabel="NDCG@10")
