"""The benchmark of candidate finding as people run it."""

import json
from pathlib import Path

import pytest

from benchmarks.candidates import TYPED_CHARS, main
from benchmarks.synthetic_titles import make_titles, typed


def test_a_quick_run_gives_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = tmp_path / "figures.json"
    assert main(["--titles", "1000", "--quick", "--json", str(answer)]) == 0
    figures = json.loads(answer.read_text())
    keystrokes = figures["titles_index"]["keystrokes"]
    assert [one["chars"] for one in keystrokes if not one["typo"]] == list(TYPED_CHARS)
    assert all(one["meant_ratio"] == 1 for one in keystrokes if one["chars"] >= 6 and not one["typo"])
    assert figures["nearest"]["graph_recall"] > 0.9
    assert figures["command"].startswith("python -m benchmarks.candidates --titles 1000")
    assert "12 characters, a typo" in capsys.readouterr().out


def test_a_typo_is_two_characters_exchanged() -> None:
    titles = make_titles(50)
    for query, slot in typed(titles, 6, True, 40):
        assert sorted(query) == sorted(titles[slot][:6].strip())
