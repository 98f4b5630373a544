"""The learning curve of UniCoRn: the losses by epoch, for people and for programs.

Enters: a `TrainReport`. Leaves: in a folder `curve.json`, `curve.md` and, where matplotlib is installed, `curve.png`.
Called by `nowrank train --curve`; `nowrank train history` writes its own (`history/run_folder.py`).
"""

from pathlib import Path

from model.manifests import indented
from model.plots import draw
from model.train import TrainReport

CURVE_JSON, CURVE_MARKDOWN, CURVE_PLOT = "curve.json", "curve.md", "curve.png"


def write_curve(report: TrainReport, folder: Path) -> None:
    """Write the losses of the training and the middle part, by epoch."""
    folder.mkdir(parents=True, exist_ok=True)
    points = [
        {"epoch": epoch, "train_loss": train, "middle_loss": middle}
        for epoch, (train, middle) in enumerate(zip(report.train_losses, report.middle_losses, strict=True), 1)
    ]
    (folder / CURVE_JSON).write_bytes(indented(points) + b"\n")
    lines = ["| epoch | loss, training part | loss, middle part |", "| ---: | ---: | ---: |"]
    lines += [f"| {point['epoch']} | {point['train_loss']:.4f} | {point['middle_loss']:.4f} |" for point in points]
    (folder / CURVE_MARKDOWN).write_text("\n".join(lines) + "\n")
    with draw(folder / CURVE_PLOT, panels=1) as panels:
        for panel in panels:
            for name in ("train_loss", "middle_loss"):
                panel.plot([point["epoch"] for point in points], [point[name] for point in points], marker="o",
                           label=name.replace("_", " "))  # fmt: skip
            panel.set(xlabel="epoch", ylabel="loss")
            panel.legend()
