"""What exactly answered: a fingerprint over config, weights, prompt files and versions, and the record that says so."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmms_plam.config import ModelConfig
from lmms_plam.errors import UnsupportedError
from lmms_plam.merge import MergeReport

_PACKAGES = ("lmms-plam", "lmms-eval", "torch", "transformers", "accelerate", "safetensors")
_LARGE_FILE = 64 * 2**20
_ROW_WORDS = 1024


@dataclass(frozen=True, slots=True)
class Provenance:
    """Everything that an answer depends on.

    Attributes:
        config: the resolved model config.
        backend: lmms-eval's model type that ran.
        backend_class: its Python class, which differs between a model type's chat and simple variants.
        weights: digest of all parameters and buffers as they answered, after the merge.
        vlm_weights: the same of the untouched VLM, before the merge.
        files: digest of the VLM's small files (tokenizer, chat template, processor), or its commit on the hub.
        merge: what was merged, or None.
        versions: package versions.
    """

    config: ModelConfig
    backend: str
    backend_class: str
    weights: str
    vlm_weights: str
    files: str
    merge: Mapping[str, Any] | None
    versions: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits, equal where the same answers can be expected.

        It covers contents, not names: what a recipe did shows in the weights, and a moved folder changes nothing.
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
        return _digest(json.dumps(answered_by, sort_keys=True).encode())

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
            "merge": self.merge,
            "versions": {**self.versions, "python": platform.python_version()},
        }


def describe(
    config: ModelConfig,
    backend: str,
    backend_class: type,
    model: nn.Module,
    untouched: Mapping[str, str],
    merge: MergeReport | None,
) -> Provenance:
    """Take stock of a loaded and merged model.

    Args:
        config: the resolved model config.
        backend: lmms-eval's model type.
        backend_class: the class behind it that runs.
        model: the Hugging Face model, merged.
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
        files=_files_digest(config.vlm, model),
        merge=merge.to_dict() if merge else None,
        versions={name: version(name) for name in _PACKAGES},
    )


def digest_tensors(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Digest named tensors one by one, bit for bit, each on its own device.

    A tensor's bits are read as rows of 64-bit words and summed along rows and along columns, modulo 2**64: exact in
    any order of summation, at memory speed, and a changed, moved or swapped value shows.

    Raises:
        UnsupportedError: a tensor whose data are elsewhere.
    """
    digests = {}
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise UnsupportedError(f"'{name}' isn't in this process's memory (offloaded); load the VLM whole")
        octets = tensor.detach().contiguous().flatten().view(torch.uint8)
        if octets.storage_offset() % 8:  # a view of a larger tensor, which can't be read by words
            octets = octets.clone()
        whole = octets.numel() - octets.numel() % (8 * _ROW_WORDS)
        rows = octets[:whole].view(torch.int64).view(-1, _ROW_WORDS)
        parts = [part.cpu().numpy().tobytes() for part in (rows.sum(0), rows.sum(1), octets[whole:])]
        digests[name] = _digest(b"".join([f"{tuple(tensor.shape)} {tensor.dtype}".encode(), *parts]))
    return digests


def digest_all(digests: Mapping[str, str]) -> str:
    """Digest named digests, in any order."""
    return _digest(json.dumps(dict(digests), sort_keys=True).encode())


def _files_digest(vlm: str, model: nn.Module) -> str:
    folder = Path(vlm)
    if not folder.is_dir():
        commit = getattr(getattr(model, "config", None), "_commit_hash", None)
        return f"{vlm}@{commit}"
    small = [path for path in folder.iterdir() if path.is_file() and path.stat().st_size <= _LARGE_FILE]
    weights = (".safetensors", ".bin", ".pt", ".md")
    named = sorted(path for path in small if path.suffix not in weights)
    return _digest(b"".join(path.name.encode() + b"\0" + path.read_bytes() for path in named))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
