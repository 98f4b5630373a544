"""The oracles themselves: each of them must see a row that is wrong, or the other tests prove nothing."""

from collections.abc import Callable
from typing import Any

import pytest

from features.online_store import read_states
from features.rows import ITEM, USER, RowFamily, encode_row
from tests.faults.cases import Case
from tests.faults.exactness import compare
from tests.faults.workload import Workload, send
from tests.faults.world import World

pytestmark = pytest.mark.slow


def test_oracles_see_a_row_that_is_wrong(world: World, case: Case) -> None:
    case.expects("both oracles name a count that is 1 too high, a thumb that is gone, a row that is gone")
    workload = Workload(seed=51)
    worker = world.worker().start()
    send(world.settings, workload.take(500))
    worker.wait_until_ready()
    compared = world.check_exact(workload)
    worker.terminate()

    def one_click_more(state: Any) -> None:
        state.totals[1] += 1

    def no_thumbs(state: Any) -> None:
        for memory in state.logs.values():
            memory.thumbs.clear()

    client: Any
    with world.client() as client:
        for family, value, harm in ((ITEM, "i7", one_click_more), (USER, "u7", no_thumbs), (USER, "u8", None)):
            key = family.key(value, world.settings.feast_project)
            kept = client.dump(key)
            _harm(client, world, family, value, harm)
            plain, recomputed, *_ = compare(world.settings, workload)
            assert any(value in difference for difference in plain), (family.name, plain)
            assert any(difference.key == value for difference in recomputed), (family.name, recomputed)
            client.restore(key, 0, kept, replace=True)
    assert compare(world.settings, workload)[:2] == ([], [])
    case.observes(f"3 of 3 seen by both; before and after: {compared}")


def _harm(client: Any, world: World, family: RowFamily, value: str, harm: Callable[[Any], None] | None) -> None:
    """Change a row's state behind everybody's back; without `harm`, remove it."""
    key = family.key(value, world.settings.feast_project)
    if harm is None:
        client.delete(key)
        return
    [state] = read_states(client, world.settings.feast_project, [(family, value)])
    harm(state)
    flat = encode_row(family, state, {})
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    client.hset(key, mapping={field: fields[field] for field in family.packed_fields})
