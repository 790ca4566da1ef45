"""A look: what was read of one answer's attention to the picture, small enough to be kept for every document."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from lmms_plam.attention.places import Places, Region, overlap
from lmms_plam.attention.record import MEASURES, QUERIES, AttentionRecord
from lmms_plam.errors import DataError
from lmms_plam.stats.matrix import BoolArray, FloatArray, ScoreMatrix

WHOLE = 0.99
"""A region that holds more of the picture than this tells nothing of where attention falls."""


@dataclass(frozen=True, slots=True, eq=False)
class Maps:
    """What each of n vision tokens gets, mean over heads and query tokens.

    Attributes:
        values: (2, layers, n) from the question and from the answer; NaN for an answer of one token.
        places: where the tokens lie in the pictures; None where that isn't known.
    """

    values: FloatArray
    places: Places | None


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """One answer's attention to vision; first from the question, then from the answer, NaN where it isn't known.

    Attributes:
        mass: (2, layers), as the rest mean over heads and query tokens: the attention that falls on vision.
        entropy: alike, of the attention within vision, over the logarithm of its number of tokens.
        focus: alike, the share of vision tokens that hold half of it.
        mass_without_sinks: alike, the mass without attention sinks.
        inside: alike, the share of the attention on the picture that falls on the asked regions; NaN where none is
            known, or it is all of the picture.
        region: (), the share of the picture's tokens in the regions; NaN alike.
        images: (2, layers, pictures) the mass by picture; a single one where places aren't known.
        heads_mass: (2, layers, heads) the mass by head; without heads where that is left out.
    """

    mass: FloatArray
    entropy: FloatArray
    focus: FloatArray
    mass_without_sinks: FloatArray
    inside: FloatArray
    region: FloatArray
    images: FloatArray
    heads_mass: FloatArray

    @classmethod
    def of(
        cls,
        mass: FloatArray,
        entropy: FloatArray,
        focus: FloatArray,
        maps: Maps,
        sinks: BoolArray,
        regions: Sequence[Region] = (),
    ) -> Look:
        """Sum up what was read.

        Args:
            mass: (2, layers, heads).
            entropy: alike.
            focus: alike.
            maps: what each vision token gets.
            sinks: (layers, n) which vision tokens are attention sinks.
            regions: in the first picture, as shares of its sides; without any, or without places, nothing is known.

        Raises:
            DataError: a region that is empty or reaches out of the picture.
        """
        values, places = maps.values, maps.places
        number = np.zeros(values.shape[-1], dtype=np.int64) if places is None else places.image
        images = np.stack([values[..., number == one].sum(axis=-1) for one in range(number.max() + 1)], axis=-1)
        inside, region = np.full(values.shape[:2], np.nan), np.nan
        if places is not None and len(regions):
            asked, own = overlap(places, 0, regions), places.placed & (places.image == 0)
            region = float(asked[own].mean())
            if region < WHOLE:
                whole = values[..., own].sum(axis=-1)
                inside = np.divide((values * asked).sum(axis=-1), whole, out=inside, where=whole > 0)
            else:
                region = np.nan
        return cls(
            mass=mass.mean(axis=-1),
            entropy=_known_mean(entropy),
            focus=_known_mean(focus),
            mass_without_sinks=np.where(sinks, 0, values).sum(axis=-1),
            inside=inside,
            region=np.array(region),
            images=images,
            heads_mass=mass,
        )

    def pack(self, *, heads: bool) -> dict[str, Any]:
        """Return the fields as JSON can hold them, those by head only if asked for."""
        return {one.name: pack(getattr(self, one.name)) for one in fields(self) if heads or one.name != "heads_mass"}

    @classmethod
    def unpack(cls, packed: Mapping[str, Any]) -> Look:
        """Make a look again of what `pack` returned."""
        told = {one.name: unpack(packed[one.name]) for one in fields(cls) if one.name in packed}
        told.setdefault("heads_mass", np.empty((*told["mass"].shape, 0)))
        return cls(**told)


def join(looks: Mapping[tuple[int, str], Look], matrix: ScoreMatrix) -> AttentionRecord:
    """Join looks, by document id and variant's name, and scores.

    Raises:
        DataError: nobody has looked at anything.
    """
    if not looks:
        raise DataError("no attention was read: do the prompts show pictures, and were the answers from a cache?")
    some = next(iter(looks.values()))
    shape = len(matrix.doc_ids), len(matrix.variants), *some.mass.shape
    most = max(look.images.shape[-1] for look in looks.values())
    measures: dict[str, FloatArray] = {name: np.full(shape, np.nan) for name in MEASURES}
    region, images = np.full(shape[0], np.nan), np.full((*shape, most), np.nan)
    heads = np.full((*shape, some.heads_mass.shape[-1]), np.nan, dtype=np.float32)
    for row, doc_id in enumerate(matrix.doc_ids.tolist()):
        for column, variant in enumerate(matrix.variants):
            look = looks.get((doc_id, variant))
            if look is not None:
                for name, values in measures.items():
                    values[row, column] = getattr(look, name)
                region[row] = float(look.region)
                images[row, column, ..., : look.images.shape[-1]] = look.images
                heads[row, column] = look.heads_mass
    return AttentionRecord(
        doc_ids=matrix.doc_ids,
        variants=tuple(matrix.variants),
        queries=tuple(QUERIES),
        layers=np.arange(shape[-1]),
        **measures,
        region=region,
        score=matrix.scores,
        cluster=matrix.clusters,
        images=images,
        heads_mass=heads if heads.shape[-1] else None,
    )


def pack(values: npt.NDArray[Any], precision: type = np.float32) -> dict[str, Any]:
    """Return numbers as JSON can hold them, in a precision."""
    octets = np.ascontiguousarray(values, dtype=precision).tobytes()
    return {"shape": list(values.shape), "type": np.dtype(precision).str, "data": base64.b64encode(octets).decode()}


def unpack(packed: Mapping[str, Any]) -> FloatArray:
    """Return the numbers that `pack` was given, up to the precision."""
    values = np.frombuffer(base64.b64decode(packed["data"]), dtype=packed["type"])
    found: FloatArray = values.reshape(packed["shape"]).astype(np.float64)
    return found


def pack_maps(maps: Maps) -> dict[str, Any]:
    """Return maps as JSON can hold them, with three decimal digits."""
    packed = {"values": pack(maps.values, np.float16)}
    if maps.places is not None:
        packed |= {"image": pack(maps.places.image, np.int32), "boxes": pack(maps.places.boxes)}
    return packed


def unpack_maps(packed: Mapping[str, Any]) -> Maps:
    """Make maps again of what `pack_maps` returned."""
    places = None
    if "boxes" in packed:
        places = Places(unpack(packed["image"]).astype(np.int64), unpack(packed["boxes"]))
    return Maps(unpack(packed["values"]), places)


def _known_mean(values: FloatArray) -> FloatArray:
    """Return means over heads, of those heads that are known."""
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0).sum(axis=-1), known.sum(axis=-1)
    means: FloatArray = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    return means
