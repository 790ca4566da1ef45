"""The images that a benchmark's questions share, read from the dataset."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lmms_plam.scoring.benchmarks import BENCHMARKS
from lmms_plam.scoring.record import image_name

if TYPE_CHECKING:
    from datasets import Dataset

_NAMES_ONE = re.compile(
    r"(.*_)?(image|img|picture|photo|figure|video|clip|audio)s?(_?(id|name|path|file|filename|url|key|hash))?", re.I
)


def cached_documents(config: Mapping[str, Any]) -> Dataset | None:
    """Return a task's documents by document id, or None where the dataset isn't on this machine.

    Nothing is downloaded. Logged samples name the document but not its image; which questions share one matters for
    their interval (GQA asks about 30 of each).

    Args:
        config: the task's YAML as the run used it: dataset_path, dataset_name, dataset_kwargs, test_split.
    """
    from datasets import Dataset, DownloadConfig, load_dataset

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
    return documents if isinstance(documents, Dataset) else None


def image_names(documents: Dataset, column: str) -> list[str] | None:
    """Return the image's name for every document, or None where there is no such column.

    Args:
        documents: the dataset as the task asks it; images aren't decoded.
        column: the column that holds the image or its name.
    """
    if column not in documents.column_names:
        return None
    values = (row[column] for row in _undecoded(documents, column))
    return [f"document {place}" if value is None else image_name(value) for place, value in enumerate(values)]


def say_shared_images(documents: Any, doc_ids: Iterable[int], task: str) -> list[str]:
    """Say whether questions that nobody clusters are about the same image, as far as a column shows it.

    Args:
        documents: the task's; what is no dataset shows nothing.
        doc_ids: which of them were asked.
        task: the task's name.
    """
    from datasets import Dataset

    if not isinstance(documents, Dataset):
        return []
    documents = documents.select(sorted(doc_ids))
    for column in _columns_of_images(documents):
        if count := _shared(documents, column):
            declare = f"`metadata: {{plam: {{cluster: {column}}}}}` in the task's YAML declares it"
            give = f"`plam compare` takes clusters by --clusters {task}=FILE"
            return [
                f"{count} of {len(documents)} questions share their image with another ('{column}') and are taken as"
                f" independent, which can make the interval too narrow; {give if task in BENCHMARKS else declare}"
            ]
    return []


def _columns_of_images(documents: Dataset) -> list[str]:
    """Return the columns that name an image, then those that hold one, which takes longer to look through."""
    from datasets import Image, Value

    features = documents.features
    named = [name for name, kind in features.items() if isinstance(kind, Value) and _NAMES_ONE.fullmatch(name)]
    held = [name for name, kind in features.items() if isinstance(getattr(kind, "feature", kind), Image)]
    return [*named, *held]


def _shared(documents: Dataset, column: str) -> int:
    """Return how many documents share their image; none by a name that all have, which will name something else."""
    from datasets import Value

    documents = _undecoded(documents, column)
    asked = documents.select(_as_long_as_others(documents, column))
    names = Counter(image_name(row[column]) for row in asked if row[column] not in (None, "", []))
    if names.total() == len(documents) and len(names) == 1 and isinstance(documents.features[column], Value):
        return 0
    return sum(count for count in names.values() if count > 1)


def _as_long_as_others(documents: Dataset, column: str) -> Sequence[int]:
    """Return the rows whose image could be another's by its length: no more needs to be read of all others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths = []
    for batch in documents.with_format("arrow").iter(batch_size=1000):
        if not pa.types.is_struct(batch[column].type):
            return range(len(documents))
        lengths += pc.binary_length(pc.struct_field(batch[column], ["bytes"])).to_pylist()
    count = Counter(lengths)
    return [place for place, length in enumerate(lengths) if length is None or count[length] > 1]


def _undecoded(documents: Dataset, column: str) -> Dataset:
    """Return one column, in which images, lists of them too, are as they are on disk."""
    from datasets import Image

    kind = documents.features[column]
    documents = documents.select_columns([column])
    if isinstance(kind, Image):
        return documents.cast_column(column, Image(decode=False))
    if isinstance(getattr(kind, "feature", None), Image):
        return documents.cast_column(column, type(kind)(Image(decode=False)))
    return documents
