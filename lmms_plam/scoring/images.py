"""The images that a benchmark's questions share, read from the dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lmms_plam.scoring.benchmarks import BENCHMARKS
from lmms_plam.scoring.record import image_name

if TYPE_CHECKING:
    from datasets import Dataset


def cached_image_names(config: Mapping[str, Any], column: str) -> list[str] | None:
    """Return the image's name for every document id, or None where the dataset isn't on this machine.

    Nothing is downloaded. Logged samples name the document but not its image; which questions share one matters for
    their interval (GQA asks about 30 of each).

    Args:
        config: the task's YAML as the run used it: dataset_path, dataset_name, dataset_kwargs, test_split.
        column: dataset column that holds the image or its name.
    """
    from datasets import DownloadConfig, load_dataset

    if config.get("process_docs") and config.get("task") not in BENCHMARKS:
        return None  # which may have left out or moved rows
    given = config.get("dataset_kwargs") or {}
    try:
        documents = load_dataset(
            config["dataset_path"],
            config.get("dataset_name"),
            split=config.get("test_split") or config.get("validation_split"),
            download_config=DownloadConfig(local_files_only=True),
            **{name: given[name] for name in ("data_files", "data_dir", "revision") if name in given},
        )
    except Exception:  # whatever a config that others wrote makes `datasets` stumble over
        return None
    return image_names(documents, column)


def image_names(documents: Dataset, column: str) -> list[str] | None:
    """Return the image's name for every document, or None where there is no such column.

    Args:
        documents: the dataset as the task asks it; images aren't decoded.
        column: the column that holds the image or its name.
    """
    from datasets import Image

    if column not in documents.column_names:
        return None
    if isinstance(documents.features[column], Image):
        documents = documents.cast_column(column, Image(decode=False))
    values = (row[column] for row in documents.select_columns([column]))
    return [f"document {place}" if value is None else image_name(value) for place, value in enumerate(values)]
