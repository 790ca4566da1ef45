"""What other checkpoints hold for a VLM's decoder tensors: keys, the rows in common, Fisher information."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from lmms_plam.errors import CheckpointError, MergeError
from lmms_plam.merge.checkpoint import Checkpoint
from lmms_plam.merge.diagnosis import diagnose
from lmms_plam.merge.geometry import read_config
from lmms_plam.merge.information import FisherFile, fisher_key
from lmms_plam.merge.names import DecoderTensor, decoder_tensors
from lmms_plam.merge.vocabulary import Rows, read_vocabulary, shared_rows

EMBEDDING = DecoderTensor(None, "embed_tokens.weight")
HEAD = DecoderTensor(None, "lm_head.weight")


@dataclass(frozen=True, slots=True)
class Counterparts:
    """The decoder tensors of a checkpoint by key.

    Attributes:
        source: the checkpoint.
        whose: what it is here, for error messages.
        keys: by tensor; the head of tied weights is the embedding.
        head: key of a head that isn't tied.
    """

    source: Checkpoint
    whose: str
    keys: Mapping[DecoderTensor, str]
    head: str | None

    @classmethod
    def of(cls, source: Checkpoint, whose: str) -> Counterparts:
        """Look at a checkpoint's keys.

        Raises:
            UnsupportedError: quantised weights, or two keys for one tensor.
        """
        source.require_unquantised()
        keys = decoder_tensors(source.files)
        if getattr(read_config(source.config), "tie_word_embeddings", False) and EMBEDDING in keys:
            return cls(source, whose, keys | {HEAD: keys[EMBEDDING]}, None)
        return cls(source, whose, keys, keys.get(HEAD))

    def find(self, tensor: DecoderTensor) -> str:
        """Return the key of a tensor.

        Raises:
            CheckpointError: it has none.
        """
        if tensor in self.keys:
            return self.keys[tensor]
        told = diagnose(self.source.files) or "fetch it again, if it should"
        raise CheckpointError(f"'{self.source.reference}' has no tensor for the decoder's {tensor}: {told}")

    def refuse_surplus(
        self, chosen: Collection[DecoderTensor], used: Collection[DecoderTensor], asked: frozenset[str]
    ) -> None:
        """Refuse tensors that have no counterpart in the VLM, such as biases or q/k norms."""
        layers = {tensor.layer for tensor in used if tensor.layer is not None}
        for tensor, key in self.keys.items():
            if tensor.layer in layers and tensor.modules & asked and tensor not in chosen:
                raise MergeError(
                    f"the {self.whose}'s '{key}' has no counterpart in the VLM: is it the model that the VLM grew "
                    "from, and are q, k and v fused on both sides or on none?"
                )


class Vocabularies:
    """Which rows the VLM has in common with other models; their tokenizers are read when embeddings ask for them."""

    def __init__(self, own: Mapping[str, int] | None) -> None:
        self._own = own
        self._read: dict[str, Mapping[str, int]] = {}

    def rows(self, tensor: DecoderTensor, name: str, parameter: Tensor, key: str, source: Checkpoint) -> Rows:
        """Return the rows of a tensor that stand for the same in both: all of them, except in embeddings.

        Raises:
            MergeError: another shape, or another numbering of tokens.
        """
        count = _count_rows(tensor, name, parameter, key, source)
        if self._own is None or tensor.modules != {"embeddings"}:
            return ((0, count),)
        if source.reference not in self._read:
            self._read[source.reference] = read_vocabulary(source.place)
        return shared_rows(self._own, self._read[source.reference], count, source.reference)


def find_information(
    fisher: FisherFile, tensor: DecoderTensor, parameter: Tensor, of_lm: tuple[int, ...]
) -> tuple[str, str]:
    """Return the keys of the Fisher information of VLM and base LM.

    Raises:
        CheckpointError: a file of other tensors.
    """
    ours, theirs = fisher_key("vlm", tensor), fisher_key("base_lm", tensor)
    fisher.require_shape(ours, parameter.shape)
    fisher.require_shape(theirs, of_lm)
    return ours, theirs


def _count_rows(tensor: DecoderTensor, name: str, parameter: Tensor, key: str, source: Checkpoint) -> int:
    """Return how many rows both sides have, which is all of them except in embeddings."""
    stored = source.describe(key)
    stored.require_mergeable(key, source.reference)
    if stored.shape == parameter.shape:
        return parameter.shape[0]
    if tensor.modules == {"embeddings"} and stored.shape[1:] == parameter.shape[1:]:
        return min(stored.shape[0], parameter.shape[0])
    raise MergeError(
        f"'{key}' of '{source.reference}' has the shape {list(stored.shape)}, "
        f"the VLM's '{name}' has {list(parameter.shape)}"
    )
