"""A folder that appears whole or not at all, and whose writing goes on after a kill."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmms_plam.errors import ConfigError, PlamError
from lmms_plam.files import write_text

_STATE = ".export.json"
_RESERVE = 1 << 20
"""Bytes for what is small: the card, the record, the system's own."""


class Building:
    """A folder under construction.

    Args:
        folder: where it lies until it is done.
        stamp: tells what goes into it; what an earlier run has done counts if it was under the same.
    """

    def __init__(self, folder: Path, stamp: str) -> None:
        self.folder = folder
        self._stamp = stamp
        self.done: dict[str, Any] = _read_state(folder, stamp)
        """By file that is finished, what is to be remembered of it."""

    def begin(self) -> None:
        """Make the folder, or clear it of what can't be gone on with."""
        if self.folder.exists() and not self.done:
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.rglob(".*"):
            if path.is_file() and path.name != _STATE:
                path.unlink()  # half a file

    def finish(self, name: str, remembered: Any) -> None:
        """Note that a file is whole."""
        self.done[name] = remembered
        write_text(self.folder / _STATE, json.dumps({"stamp": self._stamp, "done": self.done}))

    def end(self) -> None:
        """Remove what was only for going on."""
        (self.folder / _STATE).unlink(missing_ok=True)


@contextmanager
def building(folder: Path, stamp: str) -> Iterator[Building]:
    """Yield a folder to write into, which comes to stand at `folder` once the block has ended well.

    What stood there is gone then, and not before. After a refusal nothing is left; after an interruption, a kill or a
    failed write, what is done is, and the next call under the same stamp goes on from there.

    Raises:
        PlamError: it can't be written to.
    """
    place = Building(_unfinished(folder), stamp)
    try:
        place.begin()
        yield place
        place.end()
        aside = folder.with_name(f".{folder.name}.replaced")
        if folder.exists():
            folder.rename(aside)
        place.folder.rename(folder)
        if aside.exists():
            shutil.rmtree(aside)
    except PlamError:
        shutil.rmtree(place.folder, ignore_errors=True)
        raise
    except OSError as error:
        kept = "; what is done is kept, and the same command goes on from there" if place.done else ""
        raise PlamError(f"{folder} can't be written ({error}){kept}") from error


def done_before(folder: Path, stamp: str) -> Collection[str]:
    """Return the files that `building` would not have written again."""
    return _read_state(_unfinished(folder), stamp)


def check_target(folder: Path, sources: Mapping[str, Path], *, force: bool) -> None:
    """Refuse a folder that is in the way, or that holds or lies in what is read.

    Args:
        folder: where something is to be written.
        sources: folders that are read, by what they are.
        force: whether a model's folder may be replaced.

    Raises:
        ConfigError: the folder may not be written.
    """
    whole = folder.resolve()
    for what, source in sources.items():
        read = source.resolve()
        if whole == read or whole in read.parents or read in whole.parents:
            raise ConfigError(f"--out {folder} and the folder of the {what}, {source}, lie in one another")
    if not os.path.lexists(folder):
        return
    if not force:
        raise ConfigError(f"--out {folder} exists: name another folder, or replace it with --force")
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / "config.json").is_file()):
        raise ConfigError(f"--out {folder} is no model's folder, which --force would replace: name another folder")


def check_space(folder: Path, needed: int) -> None:
    """Refuse a disk that is too small.

    Args:
        folder: what will be written, or a folder below one that exists.
        needed: bytes.

    Raises:
        ConfigError: there is less room.
    """
    free = free_space(folder)
    if free < needed + _RESERVE:
        raise ConfigError(
            f"--out {folder} needs {needed / 1e9:,.2f} GB, and its disk has {free / 1e9:,.2f} GB left: name a folder "
            "on another"
        )


def free_space(folder: Path) -> int:
    """Return the bytes that the disk of a folder, which needn't exist, has left."""
    near = folder.absolute()
    while not near.exists():
        near = near.parent
    return shutil.disk_usage(near).free


def _unfinished(folder: Path) -> Path:
    """Return where a folder lies until it is done."""
    return folder.with_name(f".{folder.name}.unfinished")


def _read_state(folder: Path, stamp: str) -> dict[str, Any]:
    """Return what is remembered of the files that are finished under a stamp."""
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        done = state["done"] if state["stamp"] == stamp else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {name: told for name, told in done.items() if (folder / name).is_file()}
