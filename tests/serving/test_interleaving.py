"""Team-draft interleaving: what a draft promises, what an interleaved answer says and logs, and who wins."""

import json
import random
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import NowrankError, SettingsError
from infra.settings import Settings
from nowrank.cli import main
from serving.experiments import DEFAULT, artifact_folder, parse_experiment
from serving.interleaving import Draft, judge, team_draft, winner
from serving.interleaving_command import compare
from serving.reproduce import find_ranking, reproduce_logged
from streams.audit.log_reader import LogReader
from streams.events import Click, Engaged, Ranking, ServedItem, Thumb, decode_record, encode_event
from streams.producer import Producer, new_event_id
from streams.topics import RANKINGS
from tests.serving.untrained import save_untrained_artifact
from tests.serving.world import make_items, metric, running_scorer, wait_for_ranking, wait_until

pytestmark = pytest.mark.slow

PAIR = "default+rival"
LISTS = st.integers(0, 12).flatmap(lambda size: st.tuples(*2 * [st.permutations(range(size))]))
SEEDS = st.integers(0, 2**32)


def draft_of(first: list[int], second: list[int], seed: int, count: int | None = None) -> Draft:
    return team_draft(first, second, random.Random(seed), count)


@given(LISTS, SEEDS)
def test_nothing_is_repeated_or_left_out_and_a_shorter_draft_is_the_beginning(
    lists: tuple[list[int], list[int]], seed: int
) -> None:
    whole = draft_of(*lists, seed)
    assert sorted(whole.picks) == sorted(lists[0])
    for count in range(len(whole.picks) + 1):
        assert draft_of(*lists, seed, count).picks == whole.picks[:count]


@given(LISTS, SEEDS)
def test_teams_differ_by_at_most_one_at_every_place(lists: tuple[list[int], list[int]], seed: int) -> None:
    teams = draft_of(*lists, seed).teams
    for end in range(len(teams) + 1):
        assert abs(teams[:end].count(0) - teams[:end].count(1)) <= 1


@given(LISTS, SEEDS)
def test_each_pick_is_the_best_of_its_team_that_was_left(lists: tuple[list[int], list[int]], seed: int) -> None:
    draft = draft_of(*lists, seed)
    for place, (pick, team) in enumerate(zip(draft.picks, draft.teams, strict=True)):
        assert pick == next(one for one in lists[team] if one not in draft.picks[:place])
    for team in (0, 1):
        own = [pick for pick, of in zip(draft.picks, draft.teams, strict=True) if of == team]
        assert own == sorted(own, key=lists[team].index), "each side's own order is kept"


@given(st.permutations(range(8)), SEEDS)
def test_equal_lists_give_that_list_and_equal_shares(both: list[int], seed: int) -> None:
    draft = draft_of(both, both, seed)
    assert draft.picks == both
    assert draft.teams.count(0) == draft.teams.count(1) == 4
    assert set(draft.propensities) == {1.0}


def test_each_side_leads_half_of_the_rounds_and_propensities_say_so() -> None:
    drafts = [draft_of([0, 1, 2, 3], [3, 2, 1, 0], seed) for seed in range(4_000)]
    assert sum(draft.teams[0] for draft in drafts) / len(drafts) == pytest.approx(0.5, abs=0.03)
    assert {tuple(draft.propensities) for draft in drafts} == {(0.5, 1.0, 0.5, 1.0)}
    for first in (0, 3):
        assert sum(draft.picks[0] == first for draft in drafts) / len(drafts) == pytest.approx(0.5, abs=0.03)


class Coins(random.Random):
    """Coins that fall as they are told; one more than these is an error."""

    def __init__(self, faces: tuple[int, ...]) -> None:
        self.faces = iter(faces)

    def getrandbits(self, k: int, /) -> int:
        """The next coin."""
        assert k == 1
        return next(self.faces)


def drafts_of_every_coin(first: Sequence[int], second: Sequence[int]) -> list[Draft]:
    """The whole draft for each way in which the coins of its rounds can fall, all of them equally likely."""
    rounds = len({*first, *second})
    return [team_draft(first, second, Coins(faces)) for faces in product((0, 1), repeat=rounds)]


def assert_propensities_are_the_frequencies(first: Sequence[int], second: Sequence[int]) -> None:
    drafts = drafts_of_every_coin(first, second)
    begun = Counter(tuple(draft.picks[:end]) for draft in drafts for end in range(len(draft.picks) + 1))
    for draft in drafts:
        for place, propensity in enumerate(draft.propensities):
            before, with_it = tuple(draft.picks[:place]), tuple(draft.picks[: place + 1])
            assert propensity == begun[with_it] / begun[before], (first, second, with_it)


def test_a_propensity_is_how_often_the_title_comes_after_those_before_it_whatever_the_two_orders() -> None:
    for size in range(1, 6):
        for second in permutations(range(size)):
            assert_propensities_are_the_frequencies(range(size), second)


@pytest.mark.parametrize(("first", "second"), [("ABC", "AXY"), ("AB", "ABCD"), ("A", "BCD"), ("ABX", "ABY"), ("A", "")])
def test_propensities_are_frequencies_also_of_lists_that_hold_different_titles(first: str, second: str) -> None:
    assert_propensities_are_the_frequencies([ord(one) for one in first], [ord(one) for one in second])


def test_the_second_pick_of_a_round_is_a_coin_s_where_both_agreed_on_the_first() -> None:
    drafts = [draft_of([0, 1, 2], [0, 2, 1], seed, 2) for seed in range(4_000)]
    assert {tuple(draft.propensities) for draft in drafts} == {(1.0, 0.5)}
    assert sum(draft.picks == [0, 1] for draft in drafts) / len(drafts) == pytest.approx(0.5, abs=0.03)


def test_a_winner_has_more_titles_engaged_with() -> None:
    teams = {"a": "x", "b": "y", "c": "x", "pinned": ""}
    assert winner(teams, ["a", "c", "b", "b"]) == "x"
    assert winner(teams, ["b", "elsewhere", "pinned"]) == "y"
    assert winner(teams, ["a", "b"]) is None
    assert winner(teams, ["pinned"]) is None
    assert winner(teams, []) is None


def test_verdicts_are_those_of_the_books() -> None:
    # 8 of 10 heads: 2 x (1 + 10 + 45) / 1024; Wilson's interval by its closed form.
    verdict = judge(8, 2)
    assert verdict.p_value == pytest.approx(112 / 1024)
    assert (verdict.low, verdict.high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert judge(5, 5).p_value == 1.0
    assert judge(0, 0).p_value == 1.0
    assert judge(600, 400).p_value < 1e-9


@given(st.integers(0, 300), st.integers(0, 300))
def test_verdicts_are_fair_to_both_sides(wins: int, losses: int) -> None:
    one, other = judge(wins, losses), judge(losses, wins)
    assert one.p_value == other.p_value
    assert one.share == pytest.approx(1 - other.share)
    assert one.low <= one.share <= one.high
    assert one.low == pytest.approx(1 - other.high)


@pytest.mark.parametrize("text", ["a", "a=0.5", "a+b", "a+a=0.5", "a+b=2", "a+b+c=0.5", "A+b=0.1"])
def test_wrong_pairs_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="NOWRANK_INTERLEAVE"):
        parse_experiment(Settings(interleave=text))


def test_a_share_of_the_users_sees_both_whatever_their_own_variant() -> None:
    experiment = parse_experiment(Settings(variants="rival=0.5", interleave="default+rival=0.3"))
    users = [f"user-{number}" for number in range(10_000)]
    both = [user for user in users if experiment.pair_of(user)]
    assert len(both) / len(users) == pytest.approx(0.3, abs=0.02)
    assert sum(experiment.assign(user) == "rival" for user in both) / len(both) == pytest.approx(0.5, abs=0.04)
    assert experiment.variants == (DEFAULT, "rival")


@pytest.fixture(scope="module")
def both_settings(world_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Two models that were not trained, interleaved for everybody."""
    folder = tmp_path_factory.mktemp("interleaved") / "model"
    settings = replace(world_settings, artifact_dir=str(folder), interleave=f"{PAIR}=1")
    for seed, variant in enumerate((DEFAULT, "rival")):
        save_untrained_artifact(artifact_folder(settings, variant), make_items(), seed=seed)
    return settings


def test_an_interleaved_answer_names_teams_is_logged_with_them_and_can_be_reproduced(both_settings: Settings) -> None:
    ranking_id = str(uuid.uuid4())
    asked = {"user_id": "ann", "task": "pre_query", "id": ranking_id, "limit": 6, "pinned": ["t40"]}
    with running_scorer(both_settings) as (process, client):
        wait_until(lambda: set(process.scorer.models) == {DEFAULT, "rival"})
        answer = client.post("/rank", json=asked).json()
        again = client.post("/rank", json=asked).json()
        explained = client.post("/rank", json={**asked, "id": "explained", "explain": True, "log": False}).json()
        shown = metric(client, 'nowrank_scorer_interleaved_items_total{variant="rival"}')
        ranking = wait_for_ranking(both_settings, ranking_id)
    teams = [item.get("team") for item in answer["items"]]
    assert [item.get("team") for item in again["items"]] == teams, "the same id, the same draw"
    assert teams[0] is None, "a pinned title is nobody's pick"
    assert abs(teams.count(DEFAULT) - teams.count("rival")) == 1
    assert shown >= 2 * teams.count("rival")
    assert (answer["variant"], answer["model"].count("+")) == (PAIR, 1)
    assert "variant" not in explained
    assert [item.team or None for item in ranking.items] == teams
    assert (ranking.variant, ranking.model) == (PAIR, answer["model"])
    _, scores = reproduce_logged(both_settings, ranking_id)
    assert [one.item_id for one in scores] == [item["item_id"] for item in answer["items"]]
    assert all(one.is_equal for one in scores)
    with pytest.raises(NowrankError, match="give none with --artifact"):
        reproduce_logged(both_settings, ranking_id, both_settings.artifact_path)


def test_a_reader_that_knows_no_teams_reads_an_interleaved_ranking() -> None:
    class OldItem(msgspec.Struct, kw_only=True, omit_defaults=True):
        item_id: str
        score: float
        propensity: float = 1.0
        features: bytes = b""

    class OldRanking(msgspec.Struct, kw_only=True, tag_field="type", tag="ranking"):
        ranking_id: str
        items: list[OldItem]
        variant: str = DEFAULT

    said = {"type": "ranking", "ranking_id": "r", "user_id": "u", "event_ts_ms": 1, "task": "pre_query"}
    items = [{"item_id": "a", "score": 1.0, "team": "rival"}, {"item_id": "b", "score": 0.5}]
    ranking = decode_record(RANKINGS, json.dumps({**said, "items": items, "variant": PAIR}).encode())
    assert isinstance(ranking, Ranking)
    assert [item.team for item in ranking.items] == ["rival", ""]
    old = msgspec.json.decode(encode_event(ranking), type=OldRanking)
    assert [item.item_id for item in old.items] == ["a", "b"]


def test_without_the_second_model_the_answer_is_of_one(both_settings: Settings, artifact_dir: Path) -> None:
    with running_scorer(replace(both_settings, artifact_dir=str(artifact_dir))) as (_, client):
        answer = client.post("/rank", json={"user_id": "ann", "task": "pre_query", "log": False}).json()
    assert "variant" not in answer
    assert not any("team" in item for item in answer["items"])


def test_a_record_that_is_no_event_is_skipped(empty_log: Settings) -> None:
    answer = Ranking(
        ranking_id=str(uuid.uuid4()), user_id="ann", event_ts_ms=1_760_000_000_000, task="pre_query",
        items=[ServedItem(item_id="a", score=1.0, team="x")], variant="x+y",
    )  # fmt: skip
    with Producer(empty_log) as producer:
        producer.send_record(RANKINGS, b'{"note": "a+b", "ranking_id": "%s"}' % answer.ranking_id.encode())
        producer.deliver([answer])
    assert [(one.first, one.answers) for one in compare(empty_log)] == [("x", 1)]
    with LogReader(empty_log) as reader:
        assert find_ranking(reader, answer.ranking_id) == answer


def test_wins_are_of_titles_that_training_counts_as_positive_in_whatever_order_events_come(
    empty_log: Settings,
) -> None:
    begin_ms = 1_760_000_000_000
    items = [ServedItem(item_id=item_id, score=0.0, team=team) for item_id, team in (("a", "x"), ("b", "y"))]
    said: dict[str, list[tuple[str, str]]] = {
        "x wins": [("a", "up")],
        "x wins: changed": [("a", "down"), ("a", "double_up")],
        "x wins: clicked, no longer down": [("a", "click"), ("a", "down"), ("a", "none")],
        "y wins": [("a", "click"), ("a", "down"), ("b", "click")],
        "nobody wins: taken back": [("a", "up"), ("a", "none")],
        "nobody wins: replaced": [("a", "up"), ("a", "down")],
        "nobody wins: clicked, then down": [("a", "click"), ("a", "down")],
    }
    answers: list[Ranking] = []
    engaged: list[Engaged] = []
    for name, reactions in said.items():
        answers.append(
            Ranking(
                ranking_id=name, user_id=f"u-{name}", event_ts_ms=begin_ms, task="pre_query", items=items, variant="x+y"
            )
        )
        for at_ms, (item_id, what) in enumerate(reactions, begin_ms + 1):
            ids = {"event_id": new_event_id(), "user_id": f"u-{name}", "item_id": item_id, "ranking_id": name}
            if what == "click":
                engaged.append(Click(event_ts_ms=at_ms, **ids))
            else:
                engaged.append(Thumb(event_ts_ms=at_ms, value=what, **ids))  # type: ignore[arg-type]
    stranger = msgspec.structs.replace(engaged[0], event_id=new_event_id(), user_id="somebody else", item_id="b")
    with Producer(empty_log) as producer:
        producer.deliver([stranger, *reversed(engaged)])
        producer.deliver(answers)
    [found] = compare(empty_log)
    assert (found.answers, found.wins_first, found.wins_second) == (len(said), 3, 1)


def test_the_variant_that_knows_what_members_like_wins(
    both_settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members like what the rival alone would put first; the command finds out from their clicks."""
    rival_alone = replace(both_settings, artifact_dir=str(artifact_folder(both_settings, "rival")), interleave="")
    members = [f"taste-{number}" for number in range(40)]
    question = {"task": "pre_query", "limit": 10, "items": [item.item_id for item in make_items()]}
    with running_scorer(rival_alone) as (_, client):
        liked = {
            member: {
                item["item_id"]
                for item in client.post("/rank", json={**question, "user_id": member, "log": False}).json()["items"][:5]
            }
            for member in members
        }
    clicks: list[Click] = []
    with running_scorer(both_settings) as (process, client):
        wait_until(lambda: set(process.scorer.models) == {DEFAULT, "rival"})
        for member in members:
            answer = client.post("/rank", json={**question, "user_id": member}).json()
            clicks += [
                Click(
                    event_id=new_event_id(),
                    user_id=member,
                    item_id=item["item_id"],
                    event_ts_ms=1_760_000_000_000,
                    ranking_id=answer["ranking_id"],
                )
                for item in answer["items"]
                if item["item_id"] in liked[member]
            ]
        wait_for_ranking(both_settings, answer["ranking_id"])
    with Producer(both_settings) as producer:
        producer.send_many(clicks)
        producer.flush()
    monkeypatch.setenv("NOWRANK_KAFKA", both_settings.kafka)
    assert main(["interleaving", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["first"], found["second"]) == (DEFAULT, "rival")
    assert found["answers"] >= len(members)
    assert found["wins_second"] > found["wins_first"]
    assert found["verdict"]["high"] < 0.5
    assert found["verdict"]["p_value"] < 0.01
    assert main(["interleaving"]) == 0
    assert "default against rival" in capsys.readouterr().out
