"""The model that the serving benchmark scores with: UniCoRn over MovieLens-100k, trained briefly and kept.

Enters: a log, a folder. Leaves: an artifact, and the network's weights in a file beside it. Called by `serving.py`; the
weights are read by `baselines/sdk_scorer.py`. What a ranking costs does not depend on how well it was trained.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

from infra.errors import ArtifactInvalid, SchemaMismatch
from model import train
from model.artifact import load_artifact
from model.config import TrainConfig
from model.export import write_graphs
from model.unicorn import Unicorn
from model.weights_file import save_weights
from streams.labels import Log

BUDGET_S = 60.0
BRIEF = replace(TrainConfig(), train_labels=4_000, middle_labels=800, calibration_labels=200, epochs=1)


def get_model(folder: Path, log: Log, labels: int, say: Callable[[str], None]) -> Path:
    """The artifact trained on the newest `labels` of the log; trained only when the folder holds none that fits."""
    path = folder / f"model-{labels}"
    try:
        say(f"the model of an earlier run: {load_artifact(path).version}")
    except (ArtifactInvalid, SchemaMismatch):
        say(f"training on {labels:,} labels, at most {BUDGET_S:.0f} s and one epoch")
        newest = Log(log.items, log.labels[-labels:], log.shift_ms)
        with patch.object(train, "write_graphs", partial(write_with_weights, weights=weights_of(path))):
            report = train.train_on_log(newest, path, config=BRIEF, budget_s=BUDGET_S)
        say(f"model {report.card.version}: data set {report.data_s:.0f} s, training {report.fit_s:.0f} s")
    return path


def weights_of(artifact_path: Path) -> Path:
    """The file of the weights that an artifact was made of."""
    return artifact_path.with_suffix(".safetensors")


def write_with_weights(model: Unicorn, folder: Path, weights: Path) -> None:
    """Write the graphs, and the weights that they were made of."""
    write_graphs(model, folder)
    save_weights(weights, model.state_dict(), {})
