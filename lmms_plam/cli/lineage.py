"""`plam lineage`: how far a VLM is from its base LM, layer by layer, and which of several models it grew from."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from lmms_plam.cli.arguments import add_model_args, read_model_args
from lmms_plam.errors import ConfigError, MergeError

if TYPE_CHECKING:
    from rich.table import Table

    from lmms_plam.merge.lineage import Lineage

NAME = "lineage"
HELP = "say how far a VLM's weights are from its base LM's, by layer, and which of several models is nearest"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_model_args(parser)
    parser.add_argument(
        "--against", nargs="+", metavar="LM", help="folders or hub ids of language models (default: the base LM)"
    )
    parser.add_argument(
        "--modules", default="attention", help="whose weights: q, k, v, o, mlp, embeddings, joined by +, or all"
    )
    parser.add_argument("--json", action="store_true", help="print the distances as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print a table by layer and a line for each model; exit code 1 if the nearest looks unrelated."""
    from pydantic import ValidationError
    from rich.console import Console
    from rich.progress import track

    from lmms_plam.config import MergeRecipe
    from lmms_plam.errors import first_problem
    from lmms_plam.merge.checkpoint import Checkpoint
    from lmms_plam.merge.lineage import lineage

    settings = read_model_args(arguments)
    try:
        modules = frozenset(MergeRecipe.model_validate({"modules": arguments.modules}).modules)
    except ValidationError as error:
        raise ConfigError(f"--modules: {first_problem(error)}") from None
    candidates = [Checkpoint(reference) for reference in dict.fromkeys(arguments.against or ())]
    if not candidates:
        if settings.base_lm is None:
            raise ConfigError(f"{settings.name}: base_lm is missing: name language models with --against")
        candidates = [Checkpoint(settings.base_lm, settings.base_lm_revision)]
    found: list[Lineage] = []
    misfits: list[str] = []
    errors = Console(stderr=True)
    with Checkpoint(settings.vlm, settings.vlm_revision) as vlm:
        for candidate in track(candidates, "reading", console=errors, transient=True):
            try:
                with candidate:
                    found.append(lineage(vlm, candidate, modules))
            except MergeError as error:  # of several, one that doesn't fit is an answer
                misfits.append(str(error))
    if not found:
        raise MergeError("; ".join(misfits))
    found.sort(key=lambda one: one.distance)
    if arguments.json:
        print(json.dumps({"vlm": settings.vlm, "models": list(map(asdict, found)), "misfits": misfits}, indent=2))
    else:
        Console().print(_table(found))
        for line in (*(one.in_words() for one in found), *(f"doesn't fit: {misfit}" for misfit in misfits)):
            print(line)
        if len(found) > 1:
            print(f"nearest: {found[0].reference}")
    return 1 if found[0].unrelated else 0


def _table(found: Sequence[Lineage]) -> Table:
    from rich.table import Table

    table = Table(title="distance as a part of the other's length, and cosine")
    table.add_column("layer", justify="right")
    for one in found:
        table.add_column(one.reference, justify="right")
    for layers in zip(*(one.layers for one in found), strict=True):
        name = "outside" if layers[0].layer is None else str(layers[0].layer)
        table.add_row(name, *(f"{layer.distance:.3f}  {layer.cosine:.4f}" for layer in layers))
    return table
