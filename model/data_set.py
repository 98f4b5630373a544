"""The data set: everything that training needs of a log, in memory or in a folder.

Enters: a log, or a folder that `write_data_set` filled. Leaves: `DataSet`. Called by `train.py` and `nowrank dataset`.

    train.parquet, middle.parquet, calibration.parquet   `Examples`, a row each; arrays as lists of fixed length
    neighbours.npz                                       co-play counts at the end of the middle part
    ease.npz                                             the weights of EASE at that time
    co_vectors.npz                                       where titles begin, from the training part
    items.json                                           the catalogue
    manifest.json                                        registry hash, range of the log, counts, shapes, SHA-256s
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.catalogue import Item
from features.item_table import ItemTable
from features.registry import schema_hash
from features.vector import COLUMN_NAMES
from infra import clock
from infra.errors import BadInput, SchemaMismatch
from infra.outputs import check_own_folder, files_of
from model.examples import Examples, Floats, Split
from model.manifests import indented, sha256_of
from model.neighbours import NeighbourTable

PARTS = ("train", "middle", "calibration")
NEIGHBOURS, EASE, CO_VECTORS = "neighbours.npz", "ease.npz", "co_vectors.npz"
CATALOGUE, MANIFEST = "items.json", "manifest.json"
FILES = (*(f"{part}.parquet" for part in PARTS), NEIGHBOURS, EASE, CO_VECTORS, CATALOGUE)
# The manifest comes last: it vouches for the others.
NAMES = (*FILES, MANIFEST)
KIND = "data set"
ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class DataSet:
    """Examples of the three parts, with the catalogue and the counts for the artifact; slots number `table`."""

    train: Examples
    middle: Examples
    calibration: Examples
    table: ItemTable
    neighbours: NeighbourTable
    ease: NeighbourTable
    co_vectors_VD: Floats
    items: list[Item]
    split: Split
    shift_ms: int
    derived: str
    range_ms: tuple[int, int]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a folder says about itself; `fields` holds each array's type and the shape of one example's."""

    created_ms: int
    schema_hash: str
    begin_ms: int
    end_ms: int
    split: dict[str, int]
    shift_ms: int
    derived: str
    counts: dict[str, int]
    positives: dict[str, int]
    titles: int
    ids: list[str]
    fields: dict[str, tuple[str, list[int]]]
    files: dict[str, str]


def check_data_set_folder(folder: Path) -> None:
    """Raises `BadInput` where a data set would take the place of anything but a data set."""
    check_own_folder(folder, NAMES, KIND)


def write_data_set(data: DataSet, folder: Path) -> Manifest:
    """Write a data set so that `folder` never holds what reads as one and is not whole; returns its manifest. Raises
    `BadInput` as `files_of` and `check_data_set_folder`.
    """
    check_data_set_folder(folder)
    with files_of(folder, NAMES, KIND) as staging:
        parts = {part: getattr(data, part) for part in PARTS}
        for part, examples in parts.items():
            _write_examples(examples, staging / f"{part}.parquet")
        data.neighbours.save(staging / NEIGHBOURS)
        data.ease.save(staging / EASE)
        np.savez_compressed(staging / CO_VECTORS, vectors_VD=data.co_vectors_VD)
        (staging / CATALOGUE).write_bytes(msgspec.json.encode(data.items))
        manifest = Manifest(
            created_ms=clock.now_ms(),
            schema_hash=schema_hash(COLUMN_NAMES),
            begin_ms=data.range_ms[0],
            end_ms=data.range_ms[1],
            split=asdict(data.split),
            shift_ms=data.shift_ms,
            derived=data.derived,
            counts={part: len(examples) for part, examples in parts.items()},
            positives={part: int(examples.labels_BK.sum()) for part, examples in parts.items()},
            titles=len(data.items),
            ids=data.table.ids,
            fields={name: (array.dtype.str, list(array.shape[1:])) for name, array in _arrays(data.train).items()},
            files={name: sha256_of(staging / name) for name in FILES},
        )
        (staging / MANIFEST).write_bytes(indented(manifest))
    return manifest


def read_data_set(folder: Path) -> DataSet:
    """The data set in a folder; raises `SchemaMismatch` when it was made for other features, `BadInput` when it is
    damaged or not there.
    """
    manifest = read_manifest(folder)
    for name in FILES:
        found = sha256_of(folder / name) if (folder / name).is_file() else "no file"
        if found != manifest.files.get(name):
            raise BadInput(
                "damaged",
                f"{folder / name}: SHA-256 is {found}, {MANIFEST} says {manifest.files.get(name)}; build the data set "
                "again: nowrank dataset",
            )
    items = msgspec.json.decode((folder / CATALOGUE).read_bytes(), type=list[Item])
    table = ItemTable(capacity=max(1024, 1 << len(manifest.ids).bit_length()))
    for item in items:
        table.set_item(item)
    for item_id in manifest.ids[1:]:
        table.slot(item_id)
    with np.load(folder / CO_VECTORS, allow_pickle=False) as arrays:
        co_vectors_VD = arrays["vectors_VD"]
    train, middle, calibration = (_read_examples(folder / f"{part}.parquet", manifest) for part in PARTS)
    return DataSet(
        train,
        middle,
        calibration,
        table=table,
        neighbours=NeighbourTable.load(folder / NEIGHBOURS),
        ease=NeighbourTable.load(folder / EASE),
        co_vectors_VD=co_vectors_VD,
        items=items,
        split=Split(**manifest.split),
        shift_ms=manifest.shift_ms,
        derived=manifest.derived,
        range_ms=(manifest.begin_ms, manifest.end_ms),
    )


def read_manifest(folder: Path) -> Manifest:
    """What a data set says about itself; raises as `read_data_set`."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except OSError as error:
        raise BadInput("not_found", f"{folder} holds no data set; build one: nowrank dataset --out FOLDER") from error
    except msgspec.MsgspecError as error:
        raise BadInput("damaged", f"{folder / MANIFEST} is no manifest: {error}; build it again") from error
    expected = schema_hash(COLUMN_NAMES)
    if manifest.schema_hash != expected:
        raise SchemaMismatch(
            f"the data set in {folder} was built for feature schema {manifest.schema_hash}, this code has {expected}; "
            "build it again: nowrank dataset"
        )
    return manifest


def _arrays(examples: Examples) -> dict[str, NDArray[Any]]:
    """Every array of the examples by name; those of the requests are `request.<field>`."""
    own = {name: getattr(examples, name) for name in Examples.__dataclass_fields__ if name != "requests"}
    return {f"request.{name}": array for name, array in examples.requests.items()} | own


def _write_examples(examples: Examples, path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = {}
    for name, array in _arrays(examples).items():
        flat = pyarrow.array(np.ascontiguousarray(array).reshape(-1))
        width = int(np.prod(array.shape[1:], dtype=np.int64))
        columns[name] = flat if array.ndim == 1 else pyarrow.FixedSizeListArray.from_arrays(flat, width)
    pyarrow.parquet.write_table(pyarrow.table(columns), path, compression="zstd", row_group_size=ROWS_AT_ONCE)


def _read_examples(path: Path, manifest: Manifest) -> Examples:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    arrays: dict[str, NDArray[Any]] = {}
    for name, (dtype, shape) in manifest.fields.items():
        column = table[name].combine_chunks()
        values = column.flatten() if shape else column
        # How many candidates there are differs from part to part; the other axes are the manifest's.
        array = np.array(values.to_numpy(zero_copy_only=False), np.dtype(dtype))
        arrays[name] = array.reshape(len(table), -1, *shape[1:]) if shape else array
    requests = {name.removeprefix("request."): arrays.pop(name) for name in list(arrays) if name.startswith("request.")}
    return Examples(requests=requests, **arrays)
