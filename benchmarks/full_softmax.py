"""What the loss over the whole catalogue costs: ours against the textbook's, on one thread.

Enters: nothing. Leaves: milliseconds of processor time, forward and backward, and their ratio. Called as
`python -m benchmarks.full_softmax`.

legend: N places, V titles, D width
"""

import statistics
from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy

from infra.clock import cpu_s
from model.history.softmax import softmax_loss

PLACES, TITLES, WIDTH = 4096, 3417, 64
ROUNDS = 15


def main() -> None:
    """Measure both in turns, so that a noisy minute hurts both, and print the medians."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    states_ND = torch.randn(PLACES, WIDTH, requires_grad=True)
    items_VD = torch.randn(TITLES, WIDTH, requires_grad=True)
    targets_N = torch.randint(1, TITLES, (PLACES,))
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "in chunks": lambda: softmax_loss(states_ND, items_VD, targets_N),
        "textbook": lambda: cross_entropy(states_ND @ items_VD.T, targets_N),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, loss_of in ways.items():
            begin_s = cpu_s()
            loss_of().backward()  # type: ignore[no-untyped-call]
            found[name].append((cpu_s() - begin_s) * 1e3)
    medians = {name: statistics.median(times_ms) for name, times_ms in found.items()}
    shown = ", ".join(f"{name} {median_ms:.0f} ms" for name, median_ms in medians.items())
    ratio = medians["textbook"] / medians["in chunks"]
    print(f"{PLACES:,} places, {TITLES:,} titles, width {WIDTH}, {ROUNDS} rounds: {shown}; ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
