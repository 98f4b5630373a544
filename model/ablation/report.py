"""The report of a study: tables and a plot for people.

Enters: the result of `study.py`. Leaves: Markdown; in a folder also JSON and, where matplotlib is installed, a plot.
Called by `nowrank ablate`.
"""

from pathlib import Path
from typing import Any

from model.plots import draw, has_plots
from model.report import derived_sentence, write_result

PLOT = "differences.png"


def preamble(result: dict[str, Any]) -> str:
    """What was measured, in a few sentences."""
    labels = ", ".join(f"{count:,} {task}" for task, count in result["labels"].items())
    seeds = "1 seed: the network itself may be a lucky one" if result["seeds"] == 1 else f"{result['seeds']} seeds"
    return (
        f"{result['train_labels']:,} training labels, at most {result['epochs']} epochs, {seeds}; tested: {labels} "
        f"labels of {result['users']:,} users, {result['catalogue']:,} titles in the catalogue, "
        f"{result['resamples']:,} resamples of users; Holm over {len(result['comparisons'])} differences."
        f"{derived_sentence(result)}\n"
    )


def models_table(result: dict[str, Any]) -> str:
    """NDCG@10, the mean over seeds and their standard deviation, and HR@10 and MRR, by model and task, as Markdown."""
    tasks = list(result["labels"])
    lines = [f"| NDCG@10 / HR@10 / MRR | {' | '.join(tasks)} |", f"| --- |{' --- |' * len(tasks)}"]
    for name, of_model in result["models"].items():
        cells = [_mean(of_model[task]) if task in of_model else "" for task in tasks]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def comparisons_table(result: dict[str, Any]) -> str:
    """Each difference with its interval, the corrected verdict, and the other metrics' intervals, as Markdown."""
    lines = [
        "| group | task | difference, NDCG@10 | labels | mean | 95 % | after Holm | HR@10, 95 % | MRR, 95 % |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in result["comparisons"]:
        verdict = f"p {one['p_holm']:.3f}" if one["significant"] else "not significant"
        lines.append(
            f"| {one['group']} | {one['task']} | {_title(one)} | {one['labels']} | {one['difference']:+.3f} | "
            f"{_interval(one)} | {verdict} | {_interval(one['metrics']['hr10'])} | {_interval(one['metrics']['mrr'])} |"
        )
    return "\n".join(lines) + "\n"


def write_study(result: dict[str, Any], folder: Path) -> list[str]:
    """Write `result.json`, `result.md` and, where matplotlib is installed, a plot; the names of what was written."""
    parts = [preamble(result), f"## Differences\n\n{comparisons_table(result)}", f"## Models\n\n{models_table(result)}"]
    written = write_result(result, parts, folder)
    _plot(result, folder / PLOT)
    return [*written, PLOT] if has_plots() else written


def _mean(of_task: dict[str, Any]) -> str:
    deviation = of_task["deviation"]
    spread = f" (± {deviation:.3f})" if deviation is not None else ""
    return f"{of_task['ndcg10']:.3f}{spread} / {of_task['hr10']:.3f} / {of_task['mrr']:.3f}"


def _interval(paired: dict[str, float]) -> str:
    return f"{paired['low']:+.3f} .. {paired['high']:+.3f}"


def _title(one: dict[str, Any]) -> str:
    inside = f", {one['inside'].replace('_', ' ')}" if one["inside"] else ""
    return f"{one['of']} - {one['minus']}{inside}"


def _plot(result: dict[str, Any], path: Path) -> None:
    tasks = list(result["labels"])
    rows = max(sum(one["task"] == task for one in result["comparisons"]) for task in tasks)
    with draw(path, len(tasks), inches=(6, 1 + 0.35 * rows)) as panels:
        for panel, task in zip(panels, tasks, strict=False):
            found = [one for one in reversed(result["comparisons"]) if one["task"] == task]
            for place, one in enumerate(found):
                colour = "C0" if one["significant"] else "0.6"
                panel.plot([one["low"], one["high"]], [place, place], color=colour)
                panel.plot([one["difference"]], [place], "o", color=colour)
            panel.axvline(0.0, color="0.3", linewidth=0.8)
            panel.set_yticks(range(len(found)), [_title(one) for one in found], fontsize=8)
            panel.set(title=task, xlabel="NDCG@10, 95 %; grey: not significant")
