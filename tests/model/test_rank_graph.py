from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from features.model_inputs import SESSION_EVENTS
from features.vector import COLUMN_NAMES, COLUMNS, HISTORY_TITLES
from model.artifact import ITEMS_GRAPH, RANK_GRAPH
from model.config import SessionForm, UnicornConfig
from model.export import write_graphs
from model.rank_graph import EXACT, HALVED_BY, OUTPUTS, WIDEST, guarded
from model.unicorn import Candidates, Request, Unicorn
from tests.model.random_requests import TITLES, Feed, loud_model, random_inputs, run_graph, to_feed

TITLE_EXACT = COLUMN_NAMES.index("title_exact")
IS_OWN = np.array([column.part != "context" for column in COLUMNS])


@pytest.fixture(scope="module")
def model() -> Unicorn:
    return loud_model()


@pytest.fixture(scope="module")
def folder(model: Unicorn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graphs of `model`, its sides made so loud that the guard has something to hold."""
    with torch.no_grad():
        for parameter in (model.out.weight, model.gate.norm_long.weight, model.gate.norm_short.weight):
            parameter.mul_(3.0)
    path = tmp_path_factory.mktemp("graphs")
    write_graphs(model, path)
    return path


@cache
def _session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path))


def _run(folder: Path, feed: Feed) -> dict[str, Any]:
    return dict(zip(OUTPUTS, _session(folder / RANK_GRAPH).run(OUTPUTS, feed), strict=True))


def _nobodys(feed: Feed) -> Feed:
    """The same request by somebody of whom nothing is known."""
    masks = {name: np.zeros_like(feed[name]) for name in ("session_mask", "history_mask")}
    return feed | masks | {"pairs": np.where(IS_OWN, np.float32(0.0), feed["pairs"])}


@pytest.mark.parametrize(
    "form",
    [
        form if form == UnicornConfig().session_form else pytest.param(form, marks=pytest.mark.slow)
        for form in SessionForm
    ],
)
def test_the_graphs_answer_as_torch_does_at_any_length(form: SessionForm, tmp_path: Path) -> None:
    model = loud_model(UnicornConfig(session_form=form))
    write_graphs(model, tmp_path)
    for count in (1, 7, 500):
        for session, history in ((0, 0), (3, 5), (SESSION_EVENTS, HISTORY_TITLES)):
            for task in range(3):
                feed = to_feed(random_inputs(session, history, seed=count)._replace(task=task), count)
                found, expected = _run(tmp_path, feed), run_graph(model, feed)
                for name in OUTPUTS:
                    difference = np.abs(getattr(expected, name).numpy() - found[name])
                    assert difference.max() <= 1e-4, (name, count, session, task)
                assert found["cluster"].shape == (1,)
                assert (found["cluster"][0] == 0) == (history == 0)


def test_the_graph_of_the_items_answers_as_torch_does(model: Unicorn, folder: Path) -> None:
    items = onnxruntime.InferenceSession(str(folder / ITEMS_GRAPH))
    rng = np.random.default_rng(0)
    for count in (1, 7, 500):
        inputs = (rng.integers(0, TITLES, count), rng.integers(0, 1000, (count, 16)), rng.integers(0, 256, (count, 6)))
        found = items.run(
            ["vectors", "bias"], dict(zip(("index", "title_tokens", "genre_tokens"), inputs, strict=True))
        )
        with torch.no_grad():
            expected = model.items(*(torch.from_numpy(array) for array in inputs))
        for ours, theirs in zip(expected, found, strict=True):
            assert np.abs(ours.numpy() - theirs).max() <= 1e-4


def test_a_batch_is_guarded_as_one_request_is(model: Unicorn, folder: Path) -> None:
    feeds = [to_feed(random_inputs(seed=task, query=9)._replace(task=task)) for task in range(3)]
    request = Request(*(torch.from_numpy(np.concatenate([feed[name] for feed in feeds])) for name in Request._fields))
    stacked = (torch.from_numpy(np.stack([feed[name] for feed in feeds])) for name in Candidates._fields)
    with torch.no_grad():
        together = guarded(model, request, Candidates(*stacked)).logits.numpy()
    for row, feed in enumerate(feeds):
        assert together[row] == pytest.approx(_run(folder, feed)["logits"], abs=1e-3)


@pytest.mark.parametrize("tokens", [2, 8, 24])
def test_who_searches_moves_a_score_by_less_the_more_is_typed(folder: Path, tokens: int) -> None:
    bound = WIDEST * 2 ** (-(tokens - 1) / HALVED_BY)
    moved = []
    for seed in range(20):
        feed = to_feed(random_inputs(20, 50, seed=seed, query=tokens), 50)
        moved.append(np.abs(_run(folder, feed)["logits"] - _run(folder, _nobodys(feed))["logits"]).max())
    assert max(moved) <= bound + 1e-4
    assert max(moved) > 0.5 * bound  # it is the bound that holds them


def test_in_other_tasks_nothing_bounds_the_member(folder: Path) -> None:
    for task in (0, 2):
        feed = to_feed(random_inputs(20, 50, query=24)._replace(task=task), 50)
        moved = _run(folder, feed)["logits"] - _run(folder, _nobodys(feed))["logits"]
        assert np.abs(moved).max() > WIDEST


@pytest.mark.parametrize("bias", [-30.0, 0.0, 30.0])
def test_an_exact_title_stays_on_top_of_a_search_whatever_else_is_liked(folder: Path, bias: float) -> None:
    feed = to_feed(random_inputs(20, 50, query=2), 50)
    feed["pairs"][[7, 9], TITLE_EXACT] = 1.0
    feed["candidate_bias"][[7, 9]] = (-20.0, -10.0)
    feed["candidate_bias"][:5] += bias
    logits = _run(folder, feed)["logits"]
    assert np.argsort(-logits)[:2].tolist() == [9, 7]  # of two exact ones the better before the other
    assert logits[[7, 9]].min() >= EXACT >= np.delete(logits, [7, 9]).max()


def test_in_other_tasks_an_exact_title_has_no_privilege(folder: Path) -> None:
    feed = to_feed(random_inputs()._replace(task=0), 50)
    feed["pairs"][7, TITLE_EXACT] = 1.0
    feed["candidate_bias"][7] = -200.0
    assert np.argmin(_run(folder, feed)["logits"]) == 7


def test_the_guard_keeps_the_order_of_titles_that_are_not_exact(model: Unicorn, folder: Path) -> None:
    feed = _nobodys(to_feed(random_inputs(0, 0), 50))
    feed["candidate_bias"] = np.linspace(-12, 12, 50, dtype=np.float32)
    batched = (torch.from_numpy(feed[name][None]) for name in Candidates._fields)
    with torch.no_grad():
        request = Request(*(torch.from_numpy(feed[name]) for name in Request._fields))
        unguarded = model(request, Candidates(*batched)).logits[0].numpy()
    guarded_logits = _run(folder, feed)["logits"]
    assert np.argsort(guarded_logits).tolist() == np.argsort(unguarded).tolist()
    low = unguarded < EXACT - 8
    assert low.any()
    assert guarded_logits[low] == pytest.approx(unguarded[low], abs=1e-3)
