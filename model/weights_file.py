"""Weights files: tensors by name and a JSON card in one file of safetensors. No pickle.

Enters: tensors and a card. Leaves: a file, replaced in one step so that a kill leaves the old or the new one; or both
again. Called by whoever keeps a training or what it learned.
"""

import os
from pathlib import Path
from typing import TypeVar

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from infra.errors import ArtifactInvalid

T = TypeVar("T")
Weights = dict[str, Tensor]


def save_weights(path: Path, tensors: Weights, card: object) -> None:
    """Write tensors and a card; the folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    # The format takes no tensor that shares its memory with another, as tied weights do.
    whole = {name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    save_file(whole, beside, metadata={"card": msgspec.json.encode(card).decode()})
    os.replace(beside, path)


def load_weights(path: Path, kind: type[T], made_by: str) -> tuple[Weights, T]:
    """What `save_weights` wrote; raises `ArtifactInvalid`, which names the command that makes such a file."""
    try:
        with safe_open(path, framework="pt") as file:
            card = msgspec.json.decode((file.metadata() or {}).get("card", ""), type=kind)
            return {name: file.get_tensor(name) for name in file.keys()}, card  # noqa: SIM118
    except (OSError, SafetensorError, msgspec.MsgspecError) as error:
        raise ArtifactInvalid(f"{path} cannot be read: {error}; {made_by}") from error


def named(prefix: str, tensors: Weights) -> Weights:
    """The same tensors with a prefix before each name."""
    return {prefix + name: value for name, value in tensors.items()}


def under(tensors: Weights, prefix: str) -> Weights:
    """The tensors whose names have the prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def moments_of(optimiser: torch.optim.Optimizer) -> Weights:
    """The optimiser's state by the place of the parameter and the name of the moment."""
    state = optimiser.state_dict()["state"]
    return {f"{place}.{name}": value for place, moments in state.items() for name, value in moments.items()}


def put_moments(optimiser: torch.optim.Optimizer, tensors: Weights) -> None:
    """Give an optimiser of the same parameters the state that `moments_of` took."""
    state: dict[int, Weights] = {}
    for name, value in tensors.items():
        place, _, moment = name.partition(".")
        state.setdefault(int(place), {})[moment] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
