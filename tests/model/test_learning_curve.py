"""The learning curve that `nowrank train --curve` writes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from model.learning_curve import CURVE_JSON, CURVE_MARKDOWN, CURVE_PLOT, write_curve
from model.train import TrainReport

REPORT = TrainReport(None, [0.5, 0.4, 0.35], [0.45, 0.41, 0.42], 1.0, 2.0)  # type: ignore[arg-type]
PNG = b"\x89PNG"


@pytest.mark.slow
def test_both_losses_are_written_by_epoch_as_json_a_table_and_a_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_curve(REPORT, tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    points: list[dict[str, Any]] = msgspec.json.decode((folder / CURVE_JSON).read_bytes())
    assert points[1] == {"epoch": 2, "train_loss": 0.4, "middle_loss": 0.41}
    assert "| 3 | 0.3500 | 0.4200 |" in (folder / CURVE_MARKDOWN).read_text().splitlines()
    assert (folder / CURVE_PLOT).read_bytes().startswith(PNG)


def test_without_matplotlib_there_is_no_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.plots.has_plots", lambda: False)
    write_curve(replace(REPORT, train_losses=[0.5], middle_losses=[0.6]), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {CURVE_JSON, CURVE_MARKDOWN}
