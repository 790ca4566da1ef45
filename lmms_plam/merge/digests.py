"""Digests of tensors, bit for bit: what is read a second time is compared with what was there the first time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor

from lmms_plam.errors import UnsupportedError

_ROW_WORDS = 1024


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
        digests[name] = digest_bytes(b"".join([f"{tuple(tensor.shape)} {tensor.dtype}".encode(), *parts]))
    return digests


def digest_all(digests: Mapping[str, str]) -> str:
    """Digest named digests, in any order."""
    return digest_bytes(json.dumps(dict(digests), sort_keys=True).encode())


def digest_bytes(content: bytes) -> str:
    """Return 16 hexadecimal digits of a SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]
