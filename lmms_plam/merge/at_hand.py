"""A look at models on the hub without their weights: configs and indexes are fetched, tensors are not."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from lmms_plam.errors import CheckpointError
from lmms_plam.merge.checkpoint import Checkpoint
from lmms_plam.merge.model_files import WEIGHT_SUFFIXES, ModelFiles


class NotHere(CheckpointError):
    """Weights on the hub of which not even the header is in the cache."""


class AtHand(Checkpoint):
    """A checkpoint of which configs and indices are fetched from the hub, and no weights."""

    def __init__(self, reference: str, revision: str | None = None) -> None:
        super().__init__(reference, revision)
        self.place = _Cached(reference, revision)


class _Cached(ModelFiles):
    """The files of a model of which no weights are fetched."""

    def find(self, name: str) -> Path | None:
        if self.commit is not None and name.endswith(WEIGHT_SUFFIXES) and not (self.folder / name).is_file():
            if (self.folder / f"{name}.index.json").is_file():
                return None  # in shards, as far as can be told without asking for it
            raise NotHere(f"{name} of '{self.reference}' isn't in the cache, and isn't fetched for a look alone")
        return super().find(name)

    def fetch(self, names: Collection[str]) -> Path:
        for name in names:
            self.require(name)
        return self.folder
