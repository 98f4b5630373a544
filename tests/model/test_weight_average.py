import pytest
import torch

from model.unicorn import Unicorn
from model.weight_average import PARTS, WeightAverage
from tests.model.conftest import SIZES


def _network() -> Unicorn:
    torch.manual_seed(0)
    return Unicorn(SIZES, 5)


def _set(model: Unicorn, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


def _value(average: WeightAverage) -> float:
    values = {value for parameter in average.mean.parameters() for value in parameter.unique().tolist()}
    return sum(values) / len(values)


def test_the_untrained_weights_weigh_nothing() -> None:
    model = _network()
    average = WeightAverage(model, 0.99)
    _set(model, 3.0)
    average.update(model)
    assert _value(average) == pytest.approx(3.0)


def test_the_mean_follows_slowly_and_nothing_kept_is_the_last_weights() -> None:
    for kept, expected in ((0.9, 0.1), (0.0, 1.0)):
        model = _network()
        average = WeightAverage(model, kept)
        _set(model, 0.0)
        for _ in range(20 * PARTS):
            average.update(model)
        _set(model, 1.0)
        average.update(model)
        assert _value(average) == pytest.approx(expected)


def test_clusters_are_the_newest_ones() -> None:
    model = _network()
    average = WeightAverage(model, 0.99)
    average.update(model)
    model.clusters.fit(torch.randn(50, SIZES.vector))
    average.update(model)
    for mean, value in zip(average.mean.buffers(), model.buffers(), strict=True):
        assert torch.equal(mean, value)


def test_the_network_itself_is_not_changed_by_its_average() -> None:
    model = _network()
    before = [parameter.clone() for parameter in model.parameters()]
    average = WeightAverage(model, 0.5)
    average.update(model)
    average.mean.out.bias.data.add_(1.0)
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
