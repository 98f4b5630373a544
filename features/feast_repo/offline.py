"""Where the offline store keeps the past rows of a view.

Enters: views. Leaves: paths and column names. Read by the definitions and by whoever writes these files.
"""

from pathlib import Path

from features.spec import ViewSpec

EVENT_TIMESTAMP_COLUMN = "event_timestamp"


def source_file(view: ViewSpec) -> Path:
    """The Parquet of a view's past rows, below the Feast repository's folder.

    Its columns: the view's join key, its features and EVENT_TIMESTAMP_COLUMN.
    """
    return Path("offline") / f"{view.name}.parquet"
