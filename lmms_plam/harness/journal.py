"""Answers on disk as soon as they are given, so that a killed run goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from lmms_plam.files import write_text
from lmms_plam.scoring.record import Ending

Key = tuple[int, str]
"""Document id, and who answers: a variant of a model, by its fingerprint."""


def forget(folder: Path, done: Collection[Key]) -> None:
    """Drop the answers, of all processes, of whoever has answered nothing but what is kept elsewhere by now.

    Where somebody has answered more, all of their answers stay for the larger run that they belong to.
    """
    entries = {
        path: [(entry.key, line) for line in path.read_bytes().splitlines() if (entry := _read(line)) is not None]
        for path in _files(folder)
    }
    unfinished = {key[1] for found in entries.values() for key, _ in found if key not in done}
    for path, found in entries.items():
        left = [line for key, line in found if key[1] in unfinished]
        if left:
            write_text(path, b"\n".join([*left, b""]).decode("ascii"))
        else:
            path.unlink()


def read_observed(folder: Path) -> dict[Key, Any]:
    """Return what was observed while answers were given, by all processes."""
    entries = (_read(line) for path in _files(folder) for line in path.read_bytes().splitlines())
    return {entry.key: entry.observed for entry in entries if entry is not None and entry.observed is not None}


class Journal:
    """One JSON line an answer, handed to the operating system batch by batch; one file for each process.

    Only answers to the same prompt count on reading; a line that a kill cut short is skipped.

    Args:
        folder: where the files lie; made if missing.
        rank: this process's number.
    """

    def __init__(self, folder: Path, rank: int = 0):
        folder.mkdir(parents=True, exist_ok=True)
        entries = (_read(line) for path in _files(folder) for line in path.read_bytes().splitlines())
        self._known = {entry.key: entry for entry in entries if entry is not None}
        self._file = (folder / f"answers.{rank}.jsonl").open("a", encoding="ascii")
        self._file.write("\n")  # after a line that was cut short

    def __contains__(self, key: Key) -> bool:
        """Whether an answer was given before, to this prompt or another."""
        return key in self._known

    def find(self, key: Key, prompt: str) -> str | None:
        """Return the answer that was given to a prompt before, if any."""
        known = self._known.get(key)
        return known.answer if known is not None and known.prompt == prompt else None

    def ending(self, key: Key) -> Ending | None:
        """Return how an answer that was given before ended; None where that wasn't kept."""
        return self._known[key].ending

    def observed(self, key: Key) -> Any:
        """Return what was observed when an answer was given before; None where nothing was kept."""
        return self._known[key].observed

    def write(
        self,
        prompt: str,
        answers: Mapping[Key, str],
        endings: Mapping[Key, Ending] | None = None,
        observed: Mapping[Key, Any] | None = None,
    ) -> None:
        """Add the answers of a batch, from then on safe from this process's end.

        Args:
            prompt: digest of what was asked.
            answers: by key.
            endings: how they ended.
            observed: what was observed on the way, as JSON can hold it.
        """
        for key, answer in answers.items():
            doc_id, variant = key
            ending = {} if endings is None else asdict(endings[key])
            seen = {"observed": observed[key]} if observed is not None and key in observed else {}
            entry = {"doc_id": doc_id, "variant": variant, "prompt": prompt, **ending, **seen, "answer": answer}
            self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("answers.*.jsonl"))


@dataclass(frozen=True, slots=True)
class _Entry:
    key: Key
    prompt: str
    answer: str
    ending: Ending | None
    observed: Any = None


def _read(line: bytes) -> _Entry | None:
    """Return an entry; None for what is no entry, or only half of one."""
    try:
        entry = json.loads(line)
        key = int(entry["doc_id"]), str(entry["variant"])
        ending = None
        if "tokens" in entry:
            ending = Ending(int(entry["tokens"]), bool(entry["cut_off"]), entry.get("divergence"))
        return _Entry(key, str(entry["prompt"]), str(entry["answer"]), ending, entry.get("observed"))
    except (ValueError, LookupError, TypeError):
        return None
