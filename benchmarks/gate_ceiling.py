"""The ceiling of the gate: how near could anybody come to the true one?

Enters: a world, a fitted network, the true gates. Leaves: two other gates for the same requests. Called by the
benchmark of the truth.

`told`: a gate of the network's own form that learns from the true gates of the first lists, by the very inputs that the
network's gate sees: what those inputs hold. `bayes`: what follows by Bayes' rule for somebody who knows the law, every
vector and the member's taste (`model/simulation/posterior.py`), and who sees lists, searches and clicks.

legend: B requests, I inputs of the gate, G gates that are possible
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.known_world import KnownWorld
from model.batches import batch_inputs
from model.fit import evaluated_rows
from model.served_examples import ServedExamples
from model.served_fit import ServedFit
from model.simulation.law import Bools, Floats
from model.simulation.posterior import Posterior
from model.simulation.simulator import make_world
from model.simulation.truth import RequestTruth

HIDDEN = 32
STEPS = 600
STEPS_AT_ONCE = 25
RATE = 5e-3


def ranks(values: Floats) -> Floats:
    """The rank of each value from 1, equal ones in their middle."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[group], np.float64)


@torch.no_grad()
def seen_by_gate(fit: ServedFit, served: ServedExamples) -> tuple[Floats, Tensor]:
    """The gate (B,) as the network answers with it, and what goes into it (B, I)."""
    model, inputs = fit.model, []
    model.eval()
    encoded = fit.catalogue.encode(model)
    hook = model.gate.mlp.register_forward_hook(lambda _, seen, __: inputs.append(seen[0]))
    gates = [
        model(*batch_inputs(served.examples.take(rows), *encoded)).gate.numpy() for rows in evaluated_rows(len(served))
    ]
    hook.remove()
    return np.concatenate(gates).astype(np.float64), torch.cat(inputs)


def told_gate(parts: Sequence[tuple[Tensor, Floats]], inputs_BI: Tensor, seed: int, steps: int = STEPS) -> Floats:
    """The rank, from 0 to 1, that a small network gives each request. `parts` are inputs and true gates to train on and
    to stop by; it learns ranks, since it is judged by their correlation.
    """
    torch.manual_seed(seed)
    train_BI, middle_BI = parts[0][0], parts[1][0]
    sorted_gates = np.sort(parts[0][1])
    targets = [torch.from_numpy(expected_rank(sorted_gates, gates)).float() / len(sorted_gates) for _, gates in parts]
    mean_I, scale_I = train_BI.mean(dim=0), train_BI.std(dim=0).clamp(min=1e-4)
    net = nn.Sequential(nn.Linear(train_BI.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
    optimiser = torch.optim.Adam(net.parameters(), lr=RATE, weight_decay=1e-4)
    best, answer = float("inf"), torch.zeros(len(inputs_BI))

    def logits(of_BI: Tensor) -> Tensor:
        out_B: Tensor = net((of_BI - mean_I) / scale_I).squeeze(1)
        return out_B

    for step in range(steps):
        loss = binary_cross_entropy_with_logits(logits(train_BI), targets[0])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step % STEPS_AT_ONCE == 0:
            with torch.no_grad():
                later = binary_cross_entropy_with_logits(logits(middle_BI), targets[1]).item()
                if later < best:
                    best, answer = later, torch.sigmoid(logits(inputs_BI))
    return answer.double().numpy()


def expected_rank(sorted_gates: Floats, gates: Floats) -> Floats:
    """The middle rank that each gate has among the sorted ones."""
    return np.asarray(
        (np.searchsorted(sorted_gates, gates, "left") + np.searchsorted(sorted_gates, gates, "right")) / 2
    )


class Bayes:
    """The possible gates of some requests, with probabilities; with or without the member's bias known."""

    def __init__(self, world: KnownWorld, requests: Sequence[RequestTruth], *, knows_bias: bool) -> None:
        drawn = make_world(world.plan)
        biases = {drawn.members.user_id(row): float(bias) for row, bias in enumerate(drawn.members.gate_bias_M)}
        posterior = Posterior(world.truth, drawn.genres_GD)
        wanted = {request.session_id for request in requests}
        sessions: dict[str, list[RequestTruth]] = defaultdict(list)
        for request in world.truth.requests():
            if request.session_id in wanted:
                sessions[request.session_id].append(request)
        found: dict[str, tuple[Floats, Floats]] = {}
        for own in sessions.values():
            answers = posterior.gates(own, biases[own[0].user_id] if knows_bias else None)
            found |= {request.ranking_id: answer for request, answer in zip(own, answers, strict=True)}
        self._answers = [found[request.ranking_id] for request in requests]

    def expected_ranks(self, gates: Floats, chosen: Bools) -> Floats:
        """The expected rank of each chosen request among their true gates: in expectation, no other answer has a higher
        linear correlation with their ranks.
        """
        sorted_gates = np.sort(gates[chosen])
        rows = np.flatnonzero(chosen).tolist()
        return np.array(
            [
                shares_G @ expected_rank(sorted_gates, gates_G)
                for gates_G, shares_G in (self._answers[row] for row in rows)
            ]
        )
