"""The benchmark of position bias measures what it says: the true order, and a gain in a paired interval."""

import json
from pathlib import Path

import pytest

from benchmarks.position_bias import main


@pytest.mark.slow
def test_the_command_compares_each_correction_with_none(tmp_path: Path) -> None:
    asked = ["--members", "60", "--titles", "80", "--days", "3", "--epochs", "2", "--worlds", "promoted"]
    main([*asked, "--json", str(tmp_path / "result.json")])
    document = json.loads((tmp_path / "result.json").read_text())
    [result] = document["results"]
    assert document["synthetic"]
    assert (result["none"]["gain_low"], result["none"]["gain_high"]) == (0.0, 0.0)
    for name in ("position", "examination", "ips"):
        assert result[name]["gain_low"] <= result[name]["gain"] <= result[name]["gain_high"]
        assert result[name]["tau"] == pytest.approx(result["none"]["tau"] + result[name]["gain"])
