"""The offline gate: what may take the current artifact's place, and how it does so."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import model.served_commands as commands
from infra.errors import ArtifactInvalid, BadInput
from model import log_arguments
from model.artifact import CARD, RANK_GRAPH, install_artifact, load_artifact
from model.progress import Silent
from model.promotion import Bounds, Tally, judge, judge_on_log, judge_on_served, list_ndcg
from model.simulation.simulator import Plan
from model.train import TrainReport
from nowrank.cli import main
from streams.catalogue import encode_item
from streams.events import encode_event
from streams.labels import Log
from streams.served_log import ServedLog
from tests.model.served_world import simulated_log, with_features
from tests.serving.untrained import save_untrained_artifact, vouch_for_a_cut_file
from tests.serving.world import make_items

pytestmark = pytest.mark.slow


def tally(gains: list[float], current: list[float], probability: float = 0.5) -> Tally:
    """Requests of as many users with these gains; half of the titles are positive."""
    made = Tally(users=[f"u{place}" for place in range(len(gains))], gains=[gains, current])
    made.labels = [np.tile([1.0, 0.0], 300)]
    made.probabilities = [[np.full(600, probability)], [np.full(600, 0.5)]]
    return made


def test_a_log_is_not_judged_on_beside_what_was_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_untrained_artifact(tmp_path / "candidate", make_items())
    said = ["promote", str(tmp_path / "candidate"), "--current", str(tmp_path / "current"), "--from", "served"]
    assert main([*said, "--log", "plays.csv", "--type", "play"]) == 1
    assert "a log, --type cannot go with --from served" in capsys.readouterr().err


def test_ndcg_of_a_list_counts_every_right_title() -> None:
    assert list_ndcg(np.array([3.0, 2.0, 1.0]), np.array([1.0, 1.0, 0.0])) == pytest.approx(1.0)
    assert list_ndcg(np.array([1.0, 2.0]), np.array([1.0, 0.0])) == pytest.approx(1 / np.log2(3))


def test_equal_scores_are_worth_the_mean_of_their_places_wherever_the_list_has_them() -> None:
    discounts = 1 / np.log2(np.arange(10) + 2.0)
    for place in range(20):
        assert list_ndcg(np.zeros(20), np.eye(20)[place]) == pytest.approx(discounts.sum() / 20)
    tied = np.array([1.0, 3.0, 3.0, np.nan])
    assert [list_ndcg(tied, np.eye(4)[place]) for place in range(4)] == pytest.approx(
        [discounts[2], discounts[:2].mean(), discounts[:2].mean(), discounts[3]]
    )
    assert list_ndcg(tied, np.array([1.0, 1.0, 0.0, 0.0])) == pytest.approx(
        (discounts[2] + discounts[:2].mean()) / discounts[:2].sum()
    )
    assert list_ndcg(np.full(20, np.nan), np.eye(20)[0]) == 0.0


def test_a_candidate_that_scores_every_title_alike_is_worse_than_the_one_that_chose_their_order() -> None:
    rng, chance, seen = np.random.default_rng(0), 0.5 / (np.arange(12) + 1), Tally()
    for number in range(400):
        labels = (rng.random(12) < chance).astype(float)
        seen.add(f"u{number % 60}", labels, [(np.zeros(12), np.full(12, chance.mean())), (-np.arange(12.0), chance)])
    [verdict] = judge({"pre_query": seen}, True, Bounds())
    assert verdict.high is not None
    assert verdict.high < -0.2
    assert len(verdict.reasons) == 1


def test_two_users_are_too_few_to_compare_by_and_three_are_not() -> None:
    few, enough = (judge({"search": tally([0.0] * count, [0.0] * count)}, True, Bounds())[0] for count in (2, 3))
    assert few.reasons == ("users who engaged with a title: 2; comparing takes at least 3",)
    assert enough.reasons == ()


def test_a_candidate_that_is_as_good_passes_and_one_that_may_be_worse_does_not() -> None:
    rng = np.random.default_rng(0)
    current = rng.random(400).tolist()
    worse = [gain * 0.97 for gain in current]
    noisy = [gain + shift for gain, shift in zip(current, rng.normal(0, 0.3, 400), strict=True)]
    [same], [bad], [unsure] = (
        judge({"search": tally(gains, current)}, True, Bounds()) for gains in (current, worse, noisy)
    )
    assert (same.low, same.high, same.reasons) == (0.0, 0.0, ())
    assert bad.high is not None
    assert bad.high < -0.02
    assert len(bad.reasons) == len(unsure.reasons) == 1
    assert judge({"search": tally(worse, current)}, True, Bounds(margin=0.05))[0].reasons == ()


def test_a_margin_that_is_no_number_lets_nothing_pass() -> None:
    current = [0.5] * 50
    [verdict] = judge({"search": tally(current, current)}, True, Bounds(margin=float("nan")))
    assert len(verdict.reasons) == 1


def test_a_candidate_that_is_not_calibrated_is_refused_even_without_a_current_one() -> None:
    [verdict] = judge({"search": tally([1.0], [], probability=0.9)}, False, Bounds())
    assert verdict.reasons == ("calibration error 0.4 > 0.5 x 0.5",)


def test_a_candidate_that_answers_no_numbers_is_refused_whatever_the_current_one_answers() -> None:
    labels, good = np.eye(12)[0], (np.linspace(1.0, 0.0, 12), np.full(12, 1 / 12))
    reasons = []
    for broken in (np.nan, np.inf):
        for place in (0, 1):
            bad = (np.where(np.arange(12) == 3, broken, good[0]), np.where(np.arange(12) == 4, broken, good[1]))
            seen = Tally()
            for user in range(40):
                seen.add(f"u{user}", labels, [(bad, good), (good, bad)][place])
            reasons.append(judge({"search": seen}, True, Bounds())[0].reasons)
    assert [one[:1] for one in reasons[::2]] == [("80 of 480 scores are not finite",)] * 2
    assert reasons[1::2] == [(), ()]


def test_nothing_to_judge_by_is_an_error() -> None:
    with pytest.raises(BadInput, match="nothing to judge by"):
        judge({}, True, Bounds())


def test_one_bad_task_is_enough_to_be_refused() -> None:
    current = [0.5] * 50
    verdicts = judge({"search": tally(current, current), "pre_query": tally([0.4] * 50, current)}, True, Bounds())
    assert {one.task: bool(one.reasons) for one in verdicts} == {"search": False, "pre_query": True}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedLog:
    """A small served log with features."""
    plan = Plan(members=25, titles=60, days=2, seed=9)
    return with_features(simulated_log(plan, tmp_path_factory.mktemp("judged") / "world"))


@pytest.fixture
def read_served(served: ServedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `nowrank promote --from served` reads."""
    monkeypatch.setattr(commands, "_read", lambda settings, join_again: served)


@pytest.fixture(scope="module")
def untrained(served: ServedLog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an artifact that nobody trained."""
    folder = tmp_path_factory.mktemp("candidate") / "untrained"
    save_untrained_artifact(folder, served.items)
    return folder


def test_a_trained_artifact_beats_an_untrained_one_on_a_log_and_not_the_other_way_round(
    small_log: Log, trained: tuple[Path, TrainReport], untrained: Path
) -> None:
    good, bad = load_artifact(trained[0]), load_artifact(untrained)
    begin_ms = int(good.card.training["middle_end_ms"])
    chosen = {id(label) for label in small_log.labels if label.positive and label.ts_ms >= begin_ms}
    bounds = Bounds(margin=0.1, ece=1000.0)
    better = judge_on_log(good, bad, small_log, chosen, bounds, Silent())
    worse = judge_on_log(bad, good, small_log, chosen, bounds, Silent())
    assert sum(one.requests for one in better) == len(chosen)
    assert all(a.candidate == b.current for a, b in zip(better, worse, strict=True))
    search = {one.task: one for one in better}["search"]
    assert search.current is not None
    assert search.candidate > search.current
    assert any(one.reasons for one in worse)


def test_labels_that_are_not_positive_check_the_calibration_and_rank_nothing(
    small_log: Log,
    trained: tuple[Path, TrainReport],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    artifact = load_artifact(trained[0])
    later = [label for label in small_log.labels if label.ts_ms >= int(artifact.card.training["middle_end_ms"])]
    liked, everything = ({id(label) for label in later if label.positive or one} for one in (False, True))
    positive, all_of_it = (
        judge_on_log(artifact, None, small_log, one, Bounds(), Silent()) for one in (liked, everything)
    )
    assert sum(one.requests for one in all_of_it) == len(liked) < len(everything)
    for of_positive, of_all in zip(positive, all_of_it, strict=True):
        assert (of_all.requests, of_all.candidate) == (of_positive.requests, of_positive.candidate)
        assert of_all.base_rate < of_positive.base_rate
    monkeypatch.setattr(log_arguments, "log_of", lambda args, settings: small_log)
    main(["promote", str(trained[0]), "--current", str(tmp_path / "live"), "--from", "log", "--dry-run", "--json"])
    judged = json.loads(capsys.readouterr().out)["tasks"]
    assert [one["base_rate"] for one in judged] == [one.base_rate for one in all_of_it]


def test_a_log_of_ones_own_is_read_as_training_reads_it_and_one_that_asks_something_else_is_refused(
    small_log: Log, trained: tuple[Path, TrainReport], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events, titles, browsed = (tmp_path / name for name in ("events.jsonl", "titles.jsonl", "browsed.jsonl"))
    lines = [encode_event(event).replace(b'"user_id"', b'"customer"') for event in small_log.events]
    events.write_bytes(b"\n".join(lines))
    browsed.write_bytes(b"\n".join(line for line in lines if b'"pre_query"' in line))
    titles.write_bytes(b"\n".join(encode_item(item) for item in small_log.items))
    judge_it = ["promote", str(trained[0]), "--current", str(tmp_path / "live"), "--from", "log", "--dry-run", "--json"]
    as_trained = ["--map", "customer=user_id", "--items", str(titles)]
    main([*judge_it, "--log", str(events), *as_trained])
    judged = json.loads(capsys.readouterr().out)["tasks"]
    assert [one["task"] for one in judged] == ["pre_query", "search", "more_like_this"]
    assert main([*judge_it, "--log", str(events), *as_trained[:2]]) == 1
    assert "of the 120 titles that the artifact knows, 0 are in this log by that name" in capsys.readouterr().err
    assert main([*judge_it, "--log", str(browsed), *as_trained]) == 1
    said = capsys.readouterr().err
    assert "the artifact learned more_like_this, pre_query, search; this log has pre_query" in said


def test_an_artifact_is_as_good_as_itself_on_served_rankings(served: ServedLog, untrained: Path) -> None:
    artifact = load_artifact(untrained)
    verdicts = judge_on_served(artifact, artifact, served, Bounds(ece=1000.0), Silent())
    assert {one.task for one in verdicts} == {"search", "pre_query", "more_like_this"}
    assert all((one.low, one.high, one.reasons) == (0.0, 0.0, ()) for one in verdicts)


@pytest.mark.usefixtures("read_served")
def test_promote_moves_a_candidate_that_passes_and_leaves_everything_otherwise(
    untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "live" / "artifact"
    asked = ["promote", str(untrained), "--current", str(folder), "--from", "served"]
    assert main([*asked, "--json", "--ece", "0"]) == 1
    assert not folder.exists()
    assert main([*asked, "--json", "--ece", "1000", "--dry-run"]) == 0
    assert not folder.exists()
    assert main([*asked, "--json", "--ece", "1000"]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["promoted"] for one in said] == [False, False, True]
    version = load_artifact(folder).version
    assert version == load_artifact(untrained).version
    before = (folder / CARD).stat().st_ino
    assert main([*asked, "--ece", "1000"]) == 0
    assert f"now holds {version}" in capsys.readouterr().out
    assert (folder / CARD).stat().st_ino != before
    assert [path.name for path in folder.parent.iterdir()] == ["artifact"]


@pytest.mark.usefixtures("read_served")
def test_a_graph_that_cannot_be_loaded_is_not_promoted_and_keeps_no_place_from_one_that_can(
    untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(untrained, broken)
    vouch_for_a_cut_file(broken, RANK_GRAPH, 5_000)
    assert main(["promote", str(broken), "--current", str(untrained), "--from", "served"]) == 1
    assert capsys.readouterr().err.startswith(f"nowrank: the artifact in {broken} cannot be read: ")
    assert main(["promote", str(untrained), "--current", str(broken), "--from", "served", "--ece", "1000"]) == 0
    assert "the current artifact cannot be compared with" in capsys.readouterr().err
    assert load_artifact(broken).version == load_artifact(untrained).version


def test_an_artifact_is_not_promoted_over_itself_and_a_broken_one_not_at_all(
    untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["promote", str(untrained), "--current", str(untrained)]) == 1
    assert "both the candidate and the current" in capsys.readouterr().err
    broken = tmp_path / "broken"
    shutil.copytree(untrained, broken)
    (broken / "items.json").write_text("[]")
    assert main(["promote", str(broken), "--current", str(tmp_path / "two")]) == 1
    assert "SHA-256" in capsys.readouterr().err
    with pytest.raises(ArtifactInvalid, match="SHA-256"):
        install_artifact(broken, tmp_path / "two")
    assert not (tmp_path / "two").exists()
