"""Finding a benchmark's rows: on the hub, or in a folder of JSONL files such as BabyLM's archives hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lmms_plam.babyllava.pictures import picture_of_row
from lmms_plam.errors import DataError, about
from lmms_plam.language.benchmarks import WINOGROUND, Hub, LanguageBenchmark
from lmms_plam.language.item import Item
from lmms_plam.language.rows import Pictures
from lmms_plam.language.sizes import ALL, SIZES
from lmms_plam.paths import data_folder

_ARCHIVES = "https://osf.io/ryjfm"
_SUFFIXES = (".png", ".jpg", ".jpeg", "")


def load_items(benchmark: LanguageBenchmark, folder: str | Path | None = None) -> list[Item]:
    """Return a benchmark's items.

    Args:
        benchmark: which.
        folder: where its files lie: the unpacked archives' folder, or the benchmark's own; None: the hub.

    Raises:
        DataError: files or parts that are missing, a row that isn't what the source has, or data that can't be had.
    """
    with about(benchmark.name):
        if not benchmark.folders:
            place = str(data_folder("tasks") / f"plam_{benchmark.name}.jsonl")
            found = list(_shipped(benchmark, Path(place)))
        elif folder is None:
            place, found = "the hub", list(_on_hub(benchmark))
        else:
            within = _find_folder(benchmark, Path(folder).expanduser())
            place, found = str(within), list(_in_folder(benchmark, within))
        _require_parts(benchmark, found, place)
        if folder is not None:
            _require_rows(SIZES.get(benchmark.name, {}), found, place)
    return found


def _shipped(benchmark: LanguageBenchmark, path: Path) -> Iterator[Item]:
    """Yield the items of a file that comes with the package, their pictures drawn from what its rows say."""
    for place, row in _rows(path):
        yield benchmark.read(row, path.stem, place, lambda _, key, row=row: picture_of_row(row))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield a JSONL file's rows, each with its place."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for place, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            cut = "; does the file end there? Then unpack it again" if line == lines[-1] else ""
            raise DataError(f"{path}, line {place + 1} is no JSON: {error}{cut}") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {place + 1} is no row with names")
        yield place, row


def _find_folder(benchmark: LanguageBenchmark, folder: Path) -> Path:
    """Return the first folder that holds JSONL files, of those where the benchmark may lie."""
    places = [folder / name for name in benchmark.folders] + [folder]
    for place in places:
        if any(place.glob("*.jsonl")):
            return place
    raise DataError(
        f"no JSONL files in {folder} or its {' or '.join(benchmark.folders)}: unpack the BabyLM evaluation's archives "
        f"({_ARCHIVES}) there"
    )


def _in_folder(benchmark: LanguageBenchmark, folder: Path) -> Iterator[Item]:
    pictures = _pictures_beside(folder) if benchmark.shown else None
    for path in sorted(folder.glob("*.jsonl")):
        for place, row in _rows(path):
            yield benchmark.read(row, path.stem, place, pictures)


def _pictures_beside(folder: Path) -> Pictures:
    """Return what finds Winoground's pictures: `images/ex_0_img_0.png` in the folder, or else the hub's."""
    images = folder / "images"
    if not images.is_dir():
        return _pictures_on_hub(folder)

    def find(number: int, key: str) -> Any:
        stem = f"ex_{number}_img_{key.rpartition('_')[2]}"
        for suffix in _SUFFIXES:
            if (images / f"{stem}{suffix}").is_file():
                return str(images / f"{stem}{suffix}")
        raise DataError(f"{images} has no picture {stem}.png: is the archive unpacked to its end?")

    return find


def _pictures_on_hub(folder: Path) -> Pictures:
    try:
        rows = _load(WINOGROUND, None)
    except DataError as error:
        raise DataError(f"{folder} has no folder 'images' with ex_0_img_0.png and so on; and {error}") from error

    def find(number: int, key: str) -> Any:
        if key not in rows.column_names or not 0 <= number < len(rows):
            raise DataError(f"{WINOGROUND.path} has no picture '{key}' of row {number}")
        return rows[number][key]

    return find


def _on_hub(benchmark: LanguageBenchmark) -> Iterator[Item]:
    hub = benchmark.hub
    if hub is None and benchmark.name == "winoground_babylm":
        yield from _winoground_halves(benchmark)
        return
    if hub is None:
        raise DataError(
            f"it is in the BabyLM evaluation's archives only: unpack them ({_ARCHIVES}) and name their folder "
            "(`language.folder=FOLDER` in --model_args, or `folder:` in the task's YAML)"
        )
    for config in hub.configs or (None,):
        rows = _load(hub, config)
        for place, row in enumerate(rows):
            yield benchmark.read(row, config or hub.split, place, lambda _, key, row=row: row[key])


def _winoground_halves(benchmark: LanguageBenchmark) -> Iterator[Item]:
    """Yield each of Winoground's pictures with its own caption first: BabyLM's form of it, unfiltered."""
    for place, row in enumerate(_load(WINOGROUND, None)):
        for own in (0, 1):
            half: dict[str, Any] = {
                **row,
                "caption_0": row[f"caption_{own}"],
                "caption_1": row[f"caption_{1 - own}"],
                "image_idx": place,
                "image_key": f"image_{own}",
            }
            yield benchmark.read(half, "test", place, lambda _, key, row=row: row[key])


def _load(hub: Hub, config: str | None) -> Any:
    """Load a dataset of the hub.

    Raises:
        DataError: it can't be had; for a gated one, with how to get it.
    """
    import datasets

    try:
        return datasets.load_dataset(hub.path, config, split=hub.split)
    except Exception as error:  # no class is common to what datasets raises of data that can't be had
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        how = (
            f"it is gated: agree to its terms at https://huggingface.co/datasets/{hub.path}, then `hf auth login` (or "
            "set HF_TOKEN) with that account, or name a folder with its files"
            if hub.gated
            else "is the hub within reach? Otherwise name a folder with its files"
        )
        raise DataError(f"the dataset {hub.path} can't be loaded; {how} ({what})") from error


def _require_parts(benchmark: LanguageBenchmark, items: list[Item], place: str) -> None:
    """Refuse half a benchmark, whose average would be another's."""
    if not items:
        raise DataError(f"{place} has no rows")
    there: Mapping[str, None] = dict.fromkeys(item.part.partition("/")[0] for item in items)
    lacking = [part for part in benchmark.parts if part not in there]
    if lacking:
        named = ", ".join(lacking[:3]) + (", ..." if len(lacking) > 3 else "")
        raise DataError(
            f"{place} lacks {len(lacking)} of {len(benchmark.parts)} parts ({named}), and the average is over all: "
            "fetch it again"
        )


def _require_rows(sizes: Mapping[str, int], items: list[Item], place: str) -> None:
    """Refuse files that were cut off between two rows, as far as it is known how many there are."""
    counts = Counter(item.part for item in items) + Counter({ALL: len(items)})
    short = {part: size for part, size in sizes.items() if counts[part] < size}
    for part, size in short.items():
        of = f" of {part}" if part else ""
        more = f", and {len(short) - 1} other parts are short too" if len(short) > 1 else ""
        raise DataError(
            f"{place} has {counts[part]} rows{of}, and the source has {size}{more}: the file was cut off, so unpack it "
            "again (--limit asks fewer)"
        )
