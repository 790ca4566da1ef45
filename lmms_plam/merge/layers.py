"""Which decoder layers a recipe means."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, StrictInt, ValidationError

from lmms_plam.config import MergeRecipe
from lmms_plam.errors import ConfigError
from lmms_plam.files import sought_in
from lmms_plam.merge.foreign import complaint


class _Fingerprint(BaseModel):
    weights: str | None = None


class _Plateau(BaseModel):
    """What of a `plateau.json` is read here."""

    onset: StrictInt | None
    verdict: str = "no plateau"
    fingerprint: _Fingerprint | None = None
    queries: str = "all"


def resolve_start_layer(start_layer: int | float | str, depth: int) -> int:
    """Return the first merged decoder layer k0, 0-based.

    Args:
        start_layer: a layer, a fraction of the depth (rounded to the nearest layer), or the path of a `plateau.json`
            that a masking probe wrote, whose onset is taken.
        depth: number of decoder layers of the VLM.

    Raises:
        ConfigError: a layer beyond the depth, a file that can't be read, or a probe that found no plateau.
    """
    if isinstance(start_layer, float):
        return min(round(start_layer * depth), depth - 1)
    layer = _read_onset(start_layer) if isinstance(start_layer, str) else start_layer
    if not 0 <= layer < depth:
        raise ConfigError(
            f"start_layer {layer} lies beyond the decoder, whose {depth} layers are 0 to {depth - 1}"
            + (f" (onset read from {start_layer})" if isinstance(start_layer, str) else "")
        )
    return layer


def resolve_layers(recipe: MergeRecipe, depth: int) -> range:
    """Return the decoder layers that a recipe merges, never empty.

    Raises:
        ConfigError: as `resolve_start_layer`, or an end layer beyond the depth or not above the start layer.
    """
    start = resolve_start_layer(recipe.start_layer, depth)
    end = depth if recipe.end_layer is None else recipe.end_layer
    if end > depth:
        raise ConfigError(
            f"end_layer {end} lies beyond the decoder's {depth} layers; leave it out to merge to the last"
        )
    if end <= start:
        raise ConfigError(f"end_layer {end} must be larger than start_layer {start}: it is the first layer not merged")
    return range(start, end)


def check_probed(recipe: MergeRecipe, weights: str) -> None:
    """Refuse a start layer from the masking probe of another model.

    Args:
        recipe: where its start layer is a number, or a `plateau.json` that names no weights, all is well.
        weights: digest of the untouched VLM's weights.

    Raises:
        ConfigError: the `plateau.json` was found on other weights, or can't be read.
    """
    if not isinstance(recipe.start_layer, str):
        return
    fingerprint = _read(recipe.start_layer).fingerprint
    probed = fingerprint.weights if fingerprint else None
    if probed not in (None, weights):
        raise ConfigError(
            f"{recipe.start_layer} is the plateau of other weights ({probed}) than this VLM's ({weights}): probe this "
            "one, or set start_layer to a layer"
        )


def _read_onset(path: str) -> int:
    plateau = _read(path)
    if plateau.onset is None:
        raise ConfigError(
            f"{path} gives no start layer: the probe's verdict was '{plateau.verdict}'. "
            "Set start_layer to a layer or a fraction of the depth"
        )
    if plateau.queries.startswith("authors"):
        raise ConfigError(
            f"{path} is of a probe that masks as the authors' code does ({plateau.queries}), which leaves text wrongly "
            "masked: take the start layer of an ordinary probe, or set it to a layer"
        )
    return plateau.onset


def _read(path: str) -> _Plateau:
    try:
        return _Plateau.model_validate_json(Path(os.path.expanduser(path)).read_bytes())
    except FileNotFoundError:
        raise ConfigError(
            f"start_layer '{path}' is no file{sought_in(path)}: give a layer, a fraction of the depth, or a probe's "
            "plateau.json"
        ) from None
    except ValidationError as error:
        raise ConfigError(f"{path} is no plateau.json of a masking probe ({complaint(error)})") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path[:200]!r} can't be read as a plateau.json ({error})"[:600]) from error
