"""A merged VLM as a checkpoint of its own: the VLM's files as they are, but for the bytes of the merged tensors.

Nothing is loaded. A shard is copied past the merged tensors, whose values take the place of the VLM's: same dtype and
shape, so that header, offsets and index stay true.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from lmms_plam.config import MergeRecipe
from lmms_plam.errors import CheckpointError, UnsupportedError
from lmms_plam.files import digest, replacing
from lmms_plam.merge.apply import merge_tensor
from lmms_plam.merge.building import Building
from lmms_plam.merge.checkpoint import Checkpoint
from lmms_plam.merge.digests import digest_all, digest_tensors
from lmms_plam.merge.further import FurtherFiles
from lmms_plam.merge.model_files import WEIGHT_SUFFIXES
from lmms_plam.merge.names import decoder_tensors, parse_name
from lmms_plam.merge.plan import MergedTensor, MergePlan, plan_merge
from lmms_plam.merge.rewriting import Advance, Replacement, copy_replacing
from lmms_plam.merge.stored import StoredModel
from lmms_plam.merge.vocabulary import read_vocabulary

CARD, RECORD = "README.md", "plam.json"
"""What an export says of itself."""

_RENAMED = {CARD: "README.vlm.md", RECORD: "plam.vlm.json"}
"""What the VLM says of itself is kept, and not passed off as the export's."""

Digests = dict[str, str]
"""What `digest_tensors` says of merged tensors, by key."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What an export is made of: the checkpoints of VLM and base LM, and what else the recipe names."""

    vlm: Checkpoint
    base_lm: Checkpoint
    further: FurtherFiles


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """What an export will write.

    Attributes:
        merge: what is merged; the tensors' names are their keys on disk.
        shards: the VLM's weight files by name, each with the tensors that are merged in it, in the file's order.
        beside: the VLM's other files, by their name in the export.
        left_out: files of the VLM's folder that don't come along: weights and indexes that transformers doesn't load.
        bytes_merged: bytes of the merged tensors.
        bytes_written: bytes of all files that are written, without what is written about the export.
        bytes_read: bytes that are read of base LM and ancestor, once.
        fingerprint: of the recipe, the tensors, and the contents of what isn't weights; equal where exports are.
        stamp: of the fingerprint and the state of the files that are read, as far as sizes and times tell it.
    """

    merge: MergePlan
    shards: Mapping[str, tuple[MergedTensor, ...]]
    beside: Mapping[str, Path]
    left_out: tuple[str, ...]
    bytes_merged: int
    bytes_written: int
    bytes_read: int
    fingerprint: str
    stamp: str

    def bytes_missing(self, done: Collection[str], vlm: Checkpoint) -> int:
        """Return the bytes that are still to be written when some files are done."""
        return self.bytes_written - sum(vlm.place.require(name).stat().st_size for name in self.shards if name in done)


def plan_export(sources: Sources, recipe: MergeRecipe) -> ExportPlan:
    """Settle what an export writes; no weights are read, though those of a hub model are fetched.

    Raises:
        UnsupportedError: quantised or pickled weights, a tied head that is stored too, or what `plan_merge` refuses.
        CheckpointError, MergeError, ConfigError: as `plan_merge`, also for what the VLM's files lack.
    """
    vlm, base_lm, further = sources.vlm, sources.base_lm, sources.further
    vlm.require_unquantised()
    weights = sorted(set(vlm.files.values()))
    for name in weights:
        _require_copyable(name, vlm)
    vlm.fetch()
    model = StoredModel(vlm)
    if "mlp" in recipe.modules:
        _require_same_experts(vlm, base_lm)
    vocabulary = read_vocabulary(vlm.place) if "embeddings" in recipe.modules else None
    merge = plan_merge(model, base_lm, recipe, vocabulary, further, loaded=False)
    keys = [tensor.name for tensor in merge.merged]
    for key in keys:
        vlm.describe(key).require_mergeable(key, vlm.reference)
    _refuse_tied_twice(keys, model, vlm)

    in_order = sorted(merge.merged, key=lambda tensor: vlm.span(tensor.name))
    shards = {name: tuple(one for one in in_order if vlm.files[one.name] == name) for name in weights}
    beside, left_out = _other_files(vlm)
    spans = {key: vlm.span(key) for key in vlm.files}
    named = _named(merge, sources)
    fingerprint = digest_all(
        {
            "lmms-plam": version("lmms-plam"),
            "recipe": recipe.model_dump_json(),
            "merged": repr(merge.merged),
            "vlm": repr([(key, vlm.describe(key), span, vlm.files[key]) for key, span in sorted(spans.items())]),
            "named": repr([(key, one.describe(key)) for one, keys in named for key in keys]),
            **{f"beside {name}": digest(path) for name, path in beside.items()},
        }
    )
    own = [vlm.place.require(name) for name in weights]
    read = [*own, *(one.place.require(name) for one, keys in named for name in sorted({one.files[k] for k in keys}))]
    read += [Path(recipe.fisher).expanduser()] if recipe.fisher else []
    states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in read]
    return ExportPlan(
        merge=merge,
        shards=shards,
        beside=beside,
        left_out=left_out,
        bytes_merged=sum(stop - start for start, stop in map(spans.__getitem__, keys)),
        bytes_written=sum(path.stat().st_size for path in (*own, *beside.values())),
        bytes_read=sum(_bytes_read(tensor, sources) for tensor in merge.merged),
        fingerprint=fingerprint,
        stamp=digest_all({"fingerprint": fingerprint, "states": repr(states)}),
    )


def write_export(plan: ExportPlan, sources: Sources, place: Building, advance: Advance) -> Digests:
    """Write a VLM's files with its merged tensors; shards that are done already are left as they are.

    Memory: a merged tensor that is written, the next one with the VLM's, and blocks of a few megabytes.

    Args:
        plan: what to write.
        sources: what it was planned of.
        place: where to.
        advance: is told of the bytes written.

    Returns:
        What each merged tensor became.

    Raises:
        MergeError: NaN, Inf, or an overflow; the text names the tensor.
        CheckpointError: a file that can't be read, or has changed.
    """
    digests: Digests = {}
    for name in plan.shards:
        if name not in place.done:
            made: Digests = {}
            with replacing(place.folder / name) as target:
                pieces = list(replacements(plan, name, sources, made))
                copy_replacing(sources.vlm.place.require(name), target, pieces, advance)
            place.finish(name, made)
        digests |= place.done[name]
    for name, path in plan.beside.items():
        with replacing(place.folder / name) as target:
            shutil.copyfile(path, target)
        advance(path.stat().st_size)
    return digests


def replacements(plan: ExportPlan, shard: str, sources: Sources, digests: Digests) -> Iterator[Replacement]:
    """Yield what takes the place of a shard's bytes, in their order; `digests` gets what each tensor became."""
    for tensor in plan.shards[shard]:
        yield Replacement(tensor.name, *sources.vlm.span(tensor.name), partial(_merge, tensor, sources, digests))


def _merge(tensor: MergedTensor, sources: Sources, digests: Digests) -> Tensor:
    key, vlm = tensor.name, sources.vlm
    own = vlm.rows(key, 0, vlm.describe(key).shape[0])
    merged = merge_tensor(own, sources.base_lm, tensor, sources.further)
    digests |= digest_tensors({key: merged})
    return merged


def _named(merge: MergePlan, sources: Sources) -> list[tuple[Checkpoint, list[str]]]:
    """Return base LM and ancestor with the keys that are read of each."""
    ancestor = sources.further.ancestor
    own = {tensor.source for tensor in merge.merged} | {tensor.ancestor for tensor in merge.merged if not ancestor}
    named = [(sources.base_lm, own)]
    if ancestor is not None:
        named.append((ancestor, {tensor.ancestor for tensor in merge.merged}))
    return [(one, sorted(key for key in keys if key is not None)) for one, keys in named]


def _bytes_read(tensor: MergedTensor, sources: Sources) -> int:
    """Return the bytes of a tensor's rows in base LM and ancestor."""
    ancestor = sources.further.ancestor
    read = [(sources.base_lm, tensor.source), *([(ancestor, tensor.ancestor)] if ancestor else [])]
    rows = sum(last - first for first, last in tensor.rows)
    stored = [one.describe(key) for one, key in read if key is not None]
    return sum(rows * math.prod(one.shape[1:]) * (4 if one.dtype.endswith("32") else 2) for one in stored)


def _require_copyable(name: str, vlm: Checkpoint) -> None:
    """Refuse weights that can't be copied past the merged tensors, or would be written elsewhere."""
    path = PurePosixPath(name)
    if path.suffix != ".safetensors":
        raise UnsupportedError(
            f"the weights of '{vlm.reference}' are pickled ({name}), and an export copies safetensors: load the VLM "
            "with transformers and save it with save_pretrained first"
        )
    if path.is_absolute() or ".." in path.parts:
        raise CheckpointError(f"the index of '{vlm.reference}' names '{name}', which lies outside of its folder")


def _require_same_experts(vlm: Checkpoint, base_lm: Checkpoint) -> None:
    """Refuse experts that the two sides store in other pieces."""
    ours, theirs = (_expert_forms(source) for source in (vlm, base_lm))
    for form, key in (ours | theirs).items():
        if (form in ours) != (form in theirs):
            raise UnsupportedError(
                f"'{key}' is of a mixture of experts that VLM and base LM store in other pieces, so that they can't be "
                "merged: leave mlp out of modules"
            )


def _expert_forms(source: Checkpoint) -> dict[str, str]:
    """Return a key of each kind of expert tensor, by its name without numbers."""
    found = {key: parse_name(key) for key in source.files if ".experts." in key}
    return {re.sub(r"\.\d+\.", ".N.", tensor.suffix): key for key, tensor in found.items() if tensor is not None}


def _refuse_tied_twice(keys: Collection[str], model: StoredModel, vlm: Checkpoint) -> None:
    """Refuse a head that the config ties to the embedding and the files hold as well, where one of them is merged."""
    if not getattr(model.config, "tie_word_embeddings", False):
        return
    stored = [key for tensor, key in decoder_tensors(vlm.files).items() if tensor.modules == {"embeddings"}]
    if len(stored) > 1 and set(stored) & set(keys):
        raise UnsupportedError(
            f"'{vlm.reference}' stores its tied weights twice ({' and '.join(stored)}), so that merging them could "
            "leave two that differ: load the VLM with transformers and save it with save_pretrained first"
        )


def _other_files(vlm: Checkpoint) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Return the files of a VLM's folder that aren't weights, by their name in the export, and what is left out."""
    folder = vlm.place.folder
    found: dict[str, Path] = {}
    left_out = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(".") for part in relative.parts):
            continue
        name = relative.as_posix()
        if name.endswith(WEIGHT_SUFFIXES) or (name.endswith(".index.json") and name != vlm.index):
            if name not in vlm.files.values():
                left_out.append(name)
        else:
            found[_RENAMED.get(name, name)] = path
    return found, tuple(left_out)


def record(plan: ExportPlan, sources: Sources, recipe: MergeRecipe, name: str, digests: Digests) -> dict[str, Any]:
    """Return what `plam.json` holds: the recipe, what it was made of, and what each merged tensor became."""
    layers, further = plan.merge.layers, sources.further
    named = {"vlm": sources.vlm, "base_lm": sources.base_lm, "ancestor": further.ancestor}
    return {
        "name": name,
        "fingerprint": plan.fingerprint,
        "recipe": recipe.model_dump(mode="json") | _elsewhere(plan, sources, recipe),
        "layers": [layers.start, layers.stop],
        "depth": plan.merge.depth,
        "sources": {what: _source(one) for what, one in named.items() if one is not None},
        "fisher": further.fisher.about if further.fisher else None,
        "weights": digest_all(digests),
        "merged": [{**tensor.to_dict(), "digest": digests[tensor.name]} for tensor in plan.merge.merged],
        "kept": plan.merge.kept,
        "left_out": plan.left_out,
        "warnings": plan.merge.warnings,
        "versions": {package: version(package) for package in ("lmms-plam", "torch", "transformers", "safetensors")},
    }


def read_record(folder: Path) -> dict[str, Any]:
    """Return what a folder's `plam.json` holds; nothing where it has none that can be read."""
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _elsewhere(plan: ExportPlan, sources: Sources, recipe: MergeRecipe) -> dict[str, Any]:
    """Return what a recipe says by paths, which mean nothing elsewhere, in other words."""
    ancestor = sources.further.ancestor
    return {
        "start_layer": plan.merge.layers.start,
        **({"ancestor": model_name(ancestor)} if ancestor else {}),
        **({"fisher": Path(recipe.fisher).name} if recipe.fisher else {}),
    }


def _source(checkpoint: Checkpoint) -> dict[str, str | None]:
    """Return what a model is called and its commit."""
    return {"model": model_name(checkpoint), "commit": checkpoint.place.commit}


def model_name(checkpoint: Checkpoint) -> str:
    """Return a model's id on the hub, or the name of its folder."""
    return checkpoint.reference if checkpoint.place.commit is not None else Path(checkpoint.reference).resolve().name
