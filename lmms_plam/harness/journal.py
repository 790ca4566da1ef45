"""Answers on disk as soon as they are given, so that a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

Key = tuple[int, str]
"""Document id and variant."""


def prompt_digest(*parts: Any) -> str:
    """Digest what an answer depends on besides model, document and variant: prompt text and generation arguments."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def journal_files(folder: Path) -> list[Path]:
    """Return the files of all processes."""
    return sorted(folder.glob("answers.*.jsonl"))


class Journal:
    """One JSON line an answer, handed to the operating system batch by batch; one file for each process.

    Only answers of the same model fingerprint and the same prompt count on reading; a line that a kill cut short is
    skipped.

    Args:
        folder: where the files lie; made if missing.
        fingerprint: the model's.
        rank: this process's number.
    """

    def __init__(self, folder: Path, fingerprint: str, rank: int = 0):
        self.folder, self.fingerprint = folder, fingerprint
        folder.mkdir(parents=True, exist_ok=True)
        self._known = self._read()
        self._file = (folder / f"answers.{rank}.jsonl").open("a", encoding="ascii")
        self._file.write("\n")  # after a line that was cut short

    def _read(self) -> dict[tuple[str, int, str], str]:
        known = {}
        for path in journal_files(self.folder):
            for line in path.read_bytes().splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if entry["fingerprint"] == self.fingerprint:
                    known[entry["prompt"], entry["doc_id"], entry["variant"]] = entry["answer"]
        return known

    def find(self, prompt: str, doc_id: int, variant: str) -> str | None:
        """Return an answer that was given before, if any."""
        return self._known.get((prompt, doc_id, variant))

    def write(self, prompt: str, answers: Mapping[Key, str]) -> None:
        """Add the answers of a batch, from then on safe from this process's end."""
        for (doc_id, variant), answer in answers.items():
            entry = {"fingerprint": self.fingerprint, "prompt": prompt, "doc_id": doc_id, "variant": variant}
            self._file.write(json.dumps({**entry, "answer": answer}) + "\n")
        self._file.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
