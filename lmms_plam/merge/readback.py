"""Proof of an export: what was merged is computed again, and all else compared with the VLM's files byte by byte."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lmms_plam.errors import CheckpointError
from lmms_plam.merge.checkpoint import Checkpoint
from lmms_plam.merge.export import CARD, RECORD, Digests, ExportPlan, Sources, read_record, replacements
from lmms_plam.merge.model_files import WEIGHT_SUFFIXES
from lmms_plam.merge.rewriting import Advance, between, first_difference, holds


@dataclass(frozen=True, slots=True)
class Proof:
    """What was found to be as it must.

    Attributes:
        tensors: merged tensors that were computed again and are the same, bit for bit.
        bytes_equal: bytes that are the VLM's own: other tensors, headers, and the files beside the weights.
        files: files that were compared.
    """

    tensors: int
    bytes_equal: int
    files: int


def verify_export(plan: ExportPlan, sources: Sources, folder: Path, advance: Advance) -> Proof:
    """Read an export back and compare all of it.

    Args:
        plan: what it must be.
        sources: what it was made of.
        folder: the export.
        advance: is told of the bytes compared.

    Raises:
        CheckpointError: the first thing that isn't as it must be: a file, a tensor, or a record of something else.
    """
    if read_record(folder).get("fingerprint") != plan.fingerprint:
        raise CheckpointError(f"the {RECORD} of {folder} is missing, or of another recipe or other sources")
    _refuse_others(plan, folder)
    vlm, tensors, equal = sources.vlm, 0, 0
    digests: Digests = {}
    for name in plan.shards:
        source, target = vlm.place.require(name), folder / name
        _require_same_size(source, target)
        spans = []
        for one in replacements(plan, name, sources, digests):
            if not holds(target, one):
                raise CheckpointError(f"'{one.key}' in {target} isn't what the recipe makes: export it again")
            advance(one.stop - one.start)
            spans.append((one.start, one.stop))
        tensors += len(spans)
        size = source.stat().st_size
        rest = list(between(spans, size))
        differs = first_difference(source, target, rest, advance)
        if differs is not None:
            raise CheckpointError(f"{_at(differs, name, vlm)} in {target} isn't the VLM's: export it again")
        equal += sum(stop - start for start, stop in rest)
    for name, source in plan.beside.items():
        target, size = folder / name, source.stat().st_size
        _require_same_size(source, target)
        if first_difference(source, target, [(0, size)], advance) is not None:
            raise CheckpointError(f"{target} isn't the VLM's {source.name}: export it again")
        equal += size
    return Proof(tensors, equal, len(plan.shards) + len(plan.beside))


def _refuse_others(plan: ExportPlan, folder: Path) -> None:
    """Refuse weights beside those of the export, which whoever loads the folder might take instead."""
    known = {*plan.shards, *plan.beside, CARD, RECORD}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name not in known and name.endswith((*WEIGHT_SUFFIXES, ".index.json")):
            raise CheckpointError(f"{path} is no part of the export: remove it, or export again")


def _require_same_size(source: Path, target: Path) -> None:
    if not target.is_file():
        raise CheckpointError(f"{target} is missing: export it again")
    if source.stat().st_size != target.stat().st_size:
        raise CheckpointError(f"{target} has not the size of the VLM's {source.name}: export it again")


def _at(position: int, shard: str, vlm: Checkpoint) -> str:
    """Return what lies at a byte of a shard."""
    for key, file in vlm.files.items():
        start, stop = vlm.span(key) if file == shard else (0, 0)
        if start <= position < stop:
            return f"'{key}'"
    return "the header"
