"""What exactly answered: a fingerprint over config, weights, prompt files and versions, and the record that says so."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from lmms_plam.config import ModelConfig
from lmms_plam.merge import Checkpoint, MergeReport
from lmms_plam.merge.digests import digest_all, digest_bytes, digest_tensors
from lmms_plam.merge.model_files import WEIGHT_SUFFIXES

_PACKAGES = ("lmms-plam", "lmms-eval", "torch", "transformers", "accelerate", "safetensors")
_LARGE_FILE = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Provenance:
    """Everything that an answer depends on.

    Attributes:
        config: the resolved model config.
        backend: lmms-eval's model type that ran.
        backend_class: its Python class, which differs between a model type's chat and simple variants.
        weights: digest of all parameters and buffers as they answered, after the merge.
        vlm_weights: the same of the untouched VLM, before the merge.
        files: digest of the VLM's small files: tokenizer, chat template, processor, generation defaults, code.
        vlm_commit: the VLM's commit on the hub; None of a folder.
        merge: what was merged, or None.
        versions: package versions.
    """

    config: ModelConfig
    backend: str
    backend_class: str
    weights: str
    vlm_weights: str
    files: str
    vlm_commit: str | None
    merge: Mapping[str, Any] | None
    versions: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits, equal where the same answers can be expected.

        It covers all that an answer depends on: weights, small files, backend and its arguments, package versions. It
        goes by contents, not names: what a recipe did shows in the weights, and a moved folder changes nothing.
        """
        return self.fingerprint_with(self.weights)

    def fingerprint_with(self, weights: str) -> str:
        """Return the fingerprint that other weights would have, by their digest."""
        answered_by = {
            "backend": self.backend_class,
            "backend_args": self.config.backend_args,
            "weights": weights,
            "files": self.files,
            "versions": dict(self.versions),
        }
        return digest_bytes(json.dumps(answered_by, sort_keys=True).encode())

    def to_dict(self) -> dict[str, Any]:
        """Return the record as it is written beside the results."""
        return {
            "fingerprint": self.fingerprint,
            "config": self.config.model_dump(mode="json"),
            "backend": self.backend,
            "backend_class": self.backend_class,
            "weights": self.weights,
            "vlm_weights": self.vlm_weights,
            "files": self.files,
            "vlm_commit": self.vlm_commit,
            "merge": self.merge,
            "versions": {**self.versions, "python": platform.python_version()},
        }


def describe(
    config: ModelConfig,
    backend: str,
    backend_class: type,
    model: nn.Module,
    vlm: Checkpoint,
    untouched: Mapping[str, str],
    merge: MergeReport | None,
) -> Provenance:
    """Take stock of a loaded and merged model.

    Args:
        config: the resolved model config.
        backend: lmms-eval's model type.
        backend_class: the class behind it that runs.
        model: the Hugging Face model, merged.
        vlm: the checkpoint that it was loaded from.
        untouched: what `digest_tensors` said of its state before the merge; only merged tensors are read again.
        merge: what was merged.
    """
    written = {model.get_parameter(tensor.name).data_ptr() for tensor in merge.merged} if merge else set()
    changed = {name: tensor for name, tensor in model.state_dict().items() if tensor.data_ptr() in written}
    return Provenance(
        config=config,
        backend=backend,
        backend_class=f"{backend_class.__module__}.{backend_class.__qualname__}",
        weights=digest_all({**untouched, **digest_tensors(changed)}),
        vlm_weights=digest_all(untouched),
        files=files_digest(vlm.place.folder),
        vlm_commit=vlm.place.commit,
        merge=merge.to_dict() if merge else None,
        versions={name: version(name) for name in _PACKAGES},
    )


def files_digest(folder: Path) -> str:
    """Digest a model's small files by name and content, those of its subfolders too, as some templates have one.

    Left out are the weights, which have a digest of their own, and what no answer depends on.
    """
    names = sorted(path.relative_to(folder) for pattern in ("*", "*/*") for path in folder.glob(pattern))
    return digest_all(
        {
            name.as_posix(): digest_bytes((folder / name).read_bytes())
            for name in names
            if not any(part.startswith(".") for part in name.parts)
            and not name.name.endswith((*WEIGHT_SUFFIXES, ".index.json", ".md"))
            and (folder / name).is_file()
            and (folder / name).stat().st_size <= _LARGE_FILE
        }
    )
