"""Each source's own rows, turned into items.

A reader takes a row, the stem of its file and its place there, and images by number and key where there are any.
Schemas: BLiMP (Warstadt et al. 2020), EWoK (Ivanova et al. 2024), Entity Tracking (Kim & Schuster 2023) and Winoground
(Thrush et al. 2022), as published and as the BabyLM evaluation of 2025 hands them on. The fields' names are those of
the sources' documentation and of the pipeline's code, not of the data: a row without one says which names it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lmms_plam.errors import DataError, did_you_mean
from lmms_plam.language.item import Item, check_completions, same

Row = Mapping[str, Any]

Pictures = Callable[[int, str], Any]
"""Given Winoground's row number and `image_0` or `image_1`: the picture."""


def read_blimp(row: Row, file: str, place: int, pictures: Pictures | None = None) -> Item:
    """Read a minimal pair of sentences; the paradigm is the row's UID, or else the file's name."""
    where = f"{file}, row {place}"
    pair = _text(row, "sentence_good", where), _text(row, "sentence_bad", where)
    check_completions(where, pair)
    part = str(row.get("UID") or file)
    kind = str(row.get("linguistics_term") or row.get("linguistic_term") or "supplement")
    return Item(f"{part}/{row.get('pairID') or row.get('pair_id') or place}", part, kind, pair)


def read_ewok(row: Row, file: str, place: int, pictures: Pictures | None = None) -> Item:
    """Read a context with a target that fits and one that doesn't; the second context isn't shown, as BabyLM does.

    Rows with the same two contexts and the same two targets depend on each other.
    """
    where = f"{file}, row {place}"
    contexts = [_text(row, name, where) for name in ("Context1", "Context2")]
    targets = [_text(row, name, where) for name in ("Target1", "Target2")]
    completions = tuple(f" {target}" for target in targets)
    check_completions(where, completions)
    part = _text(row, "Domain", where)
    quartet = f"{part}/{same(*contexts, *targets)}"
    return Item(f"{part}/{file}/{place}", part, str(row.get("ContextType", "")), completions, contexts[0], quartet)


def read_entity_tracking(row: Row, file: str, place: int, pictures: Pictures | None = None) -> Item:
    """Read what happened to boxes, and what one of them may hold; the first option is right.

    Parts are a file's numbers of operations. An option may begin another: the source ranks them all the same.
    """
    where = f"{file}, row {place}"
    context, options = _text(row, "input_prefix", where), row.get("options")
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise DataError(f"{where}: 'options' is no list of texts")
    check_completions(where, options, begins=True)
    if "numops" not in row:
        raise DataError(_lacking(row, "numops", where))
    operations = f"{row['numops']} operations"
    return Item(f"{file}/{place}", f"{file}/{operations}", operations, tuple(options), context)


def read_winoground(row: Row, file: str, place: int, pictures: Pictures | None = None) -> Item:
    """Read two captions and two pictures; the first caption belongs to the first picture."""
    where = f"{file}, row {place}"
    captions = _text(row, "caption_0", where), _text(row, "caption_1", where)
    check_completions(where, captions)
    number = int(row.get("id", place))
    shown = tuple(_picture(pictures, number, key, where) for key in ("image_0", "image_1"))
    tag = _text(row, "collapsed_tag", where)
    return Item(str(number), tag, str(row.get("tag", "")), captions, pictures=shown)


def read_winoground_babylm(row: Row, file: str, place: int, pictures: Pictures | None = None) -> Item:
    """Read one picture of Winoground with its caption first; the rows of both pictures depend on each other."""
    where = f"{file}, row {place}"
    captions = _text(row, "caption_0", where), _text(row, "caption_1", where)
    check_completions(where, captions)
    key = _text(row, "image_key", where)
    if "image_idx" not in row:
        raise DataError(_lacking(row, "image_idx", where))
    number = int(row["image_idx"])
    shown = (_picture(pictures, number, key, where),)
    tag = _text(row, "collapsed_tag", where)
    return Item(f"{number}/{key}", tag, str(row.get("tag", "")), captions, cluster=str(number), pictures=shown)


def _text(row: Row, name: str, where: str) -> str:
    value = row.get(name)
    if name not in row:
        raise DataError(_lacking(row, name, where))
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: '{name}' = {value!r} is no text")
    return value


def _lacking(row: Row, name: str, where: str) -> str:
    return f"{where}: no '{name}'.{did_you_mean(name, row)} There are: {', '.join(row)}"


def _picture(pictures: Pictures | None, number: int, key: str, where: str) -> Any:
    if pictures is None:
        raise DataError(f"{where}: there are no pictures to show")
    return pictures(number, key)
