from model.ablation.variants import BASELINES, COMPARISONS, FULL, SHUFFLED, VARIANTS, needed
from model.config import UnicornConfig


def test_every_comparison_is_of_networks_that_a_study_trains() -> None:
    names = {name for group in COMPARISONS.values() for one in group for name in (one.of, one.minus)}
    assert names == {*VARIANTS, SHUFFLED}


def test_every_variant_but_the_whole_and_the_one_by_task_is_another_network() -> None:
    whole = UnicornConfig()
    sizes = {name: variant.sizes(whole) for name, variant in VARIANTS.items() if not variant.per_task}
    assert sizes[FULL] == whole
    assert all(one != other for name, one in sizes.items() for peer, other in sizes.items() if name != peer)


def test_a_group_needs_its_own_networks_and_the_whole_one() -> None:
    assert [variant.name for variant in needed(("sides",))] == [FULL, "long only", "short only"]
    assert [variant.name for variant in needed(("order", BASELINES))] == [FULL]
    assert needed(tuple(COMPARISONS)) == tuple(VARIANTS.values())
