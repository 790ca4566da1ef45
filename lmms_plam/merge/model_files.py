"""Where a model's files are: a folder, or one commit of a model on the hub."""

from __future__ import annotations

import os
from collections.abc import Collection
from functools import cached_property
from pathlib import Path

import huggingface_hub.constants
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from lmms_plam.errors import CheckpointError, ConfigError

WEIGHT_SUFFIXES = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".gguf",
    ".h5",
    ".msgpack",
    ".onnx",
    ".onnx_data",
    ".tflite",
)
"""What weights are called: a hub model's are fetched one by one, its other files all at once."""


class ModelFiles:
    """The files of a model. Of a hub model everything comes from one commit, settled when the first file is asked for.

    Args:
        reference: folder of the model, or its id on the hub.
        revision: branch, tag or commit on the hub; by default the main branch.

    Raises:
        ConfigError: a revision of a folder.
    """

    def __init__(self, reference: str, revision: str | None = None) -> None:
        self.reference = reference
        self._revision = revision
        self._is_folder = os.path.isdir(reference)
        if self._is_folder and revision is not None:
            raise ConfigError(f"'{reference}' is a folder, and only models on the hub have a revision ('{revision}')")

    @cached_property
    def folder(self) -> Path:
        """The folder; of a hub model the cached one of its commit, with all files but the weights.

        Raises:
            CheckpointError: it is neither a folder here, nor on the hub or, offline, in its cache.
        """
        if self._is_folder:
            return Path(self.reference)
        if os.path.isabs(self.reference):
            raise CheckpointError(f"'{self.reference}' is no folder")
        return self._snapshot(self._revision, ignore_patterns=[f"*{suffix}" for suffix in WEIGHT_SUFFIXES])

    @property
    def commit(self) -> str | None:
        """The commit of a hub model, None of a folder."""
        return None if self._is_folder else self.folder.name

    def find(self, name: str) -> Path | None:
        """Return a file, fetched if need be, or None where the model has none of that name."""
        path = self.folder / name
        found = os.path.isfile(path)
        if self._is_folder or found or not name.endswith(WEIGHT_SUFFIXES):
            return path if found else None
        try:
            return Path(hf_hub_download(self.reference, name, revision=self.commit))
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError) and not huggingface_hub.constants.HF_HUB_OFFLINE:
                raise self._unreachable(name, error) from error
            return None
        except Exception as error:  # as above
            raise self._unreachable(name, error) from error

    def fetch(self, names: Collection[str]) -> Path:
        """Return a folder that holds these files too, side by side with those that aren't weights.

        Raises:
            CheckpointError: one is missing, or can't be fetched.
        """
        if not self._is_folder and not all(os.path.isfile(self.folder / name) for name in names):
            self._snapshot(self.commit, allow_patterns=list(names))
        for name in names:
            self.require(name)
        return self.folder

    def require(self, name: str, purpose: str = "") -> Path:
        """Return a file as `find` does.

        Raises:
            CheckpointError: there is none; the text adds what it is for.
        """
        if path := self.find(name):
            return path
        raise CheckpointError(f"'{self.reference}' has no {name}{purpose}: fetch the model again")

    def _snapshot(self, revision: str | None, **patterns: list[str]) -> Path:
        try:
            return Path(snapshot_download(self.reference, revision=revision, **patterns))
        except Exception as error:  # the hub's errors have no base class of their own; a full disk ends here too
            at = f" at revision '{revision}'" if revision else ""
            raise CheckpointError(
                f"'{self.reference}'{at} is no folder in {Path.cwd()}, and can't be fetched from the hub: "
                + " ".join(str(error).split())
            ) from error

    def _unreachable(self, name: str, error: Exception) -> CheckpointError:
        return CheckpointError(f"{name} of '{self.reference}' can't be fetched: " + " ".join(str(error).split()))
