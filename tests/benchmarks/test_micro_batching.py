"""The benchmark of micro-batching as people run it."""

import json
from pathlib import Path

import pytest

from benchmarks.micro_batching import BATCH, CANDIDATES, main
from features.catalogue import Item
from tests.serving.untrained import save_untrained_artifact


@pytest.mark.slow
def test_a_quick_run_gives_a_bound_for_every_number_of_candidates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_untrained_artifact(tmp_path / "artifact", [Item(item_id="t1", title="Title")])
    answer = tmp_path / "figures.json"
    assert main([str(tmp_path / "artifact"), "--quick", "--json", str(answer)]) == 0
    figures = json.loads(answer.read_text())
    assert list(figures["gain_at_most"]) == [str(number) for number in CANDIDATES]
    assert all(figures["run_ms"][str(BATCH * number)] > 0 for number in CANDIDATES)
    assert "gain at most" in capsys.readouterr().out


def test_no_artifact_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing")]) == 1
    assert "there is no artifact" in capsys.readouterr().err
