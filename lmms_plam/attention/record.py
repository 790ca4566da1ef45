"""The attention record: how much each layer of each variant looked at the picture, document by document.

On disk it is long-form Parquet, `attention.parquet`, a row for each document, variant, set of queries and layer. What
isn't known is null: everything of a document without a picture, the answer's rows of an answer of one token, the
region where nobody knows the right place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lmms_plam.errors import DataError, about, did_you_mean
from lmms_plam.files import replacing
from lmms_plam.stats.matrix import FloatArray, IntArray, TextArray

RECORD = "attention.parquet"
QUERIES = {"ins": "the question", "res": "the answer"}
"""Whose attention it is: the instruction tokens after the picture (T_ins), or the generated tokens (T_res)."""

Measure = Literal["mass", "entropy", "focus", "mass_without_sinks", "inside"]
MEASURES: dict[Measure, str] = {
    "mass": "share of the attention that falls on the picture",
    "entropy": "how evenly the attention on the picture is spread (1 is evenly)",
    "focus": "share of the picture's tokens that hold half of the attention on it",
    "mass_without_sinks": "share of the attention that falls on the picture, without attention sinks",
    "inside": "share of the attention on the picture that falls on the right place",
}
"""What is read in each layer, mean over heads and query tokens, and what it is in words."""

_LISTS = ("images", "heads_mass")
_ROUNDING = 1e-4  # attention is computed in single precision or less


@dataclass(frozen=True, slots=True, eq=False)
class AttentionRecord:
    """Attention on the picture of the same documents under several variants; NaN where it isn't known.

    Attributes:
        doc_ids: (n_docs,) the harness's document ids, ascending.
        variants: names of the variants.
        queries: sets of query tokens, of QUERIES.
        layers: (n_layers,) decoder layers, ascending.
        mass: (n_docs, n_variants, n_queries, n_layers) share of the attention that falls on vision tokens, in [0, 1].
        entropy: alike, of the attention within the picture, over the logarithm of its number of tokens, in [0, 1].
        focus: alike, the share of the picture's tokens in the smallest set that holds half of the attention on it.
        mass_without_sinks: alike, the mass without the vision tokens that are attention sinks.
        inside: alike, the share of the attention on the picture that falls on the right region.
        region: (n_docs,) the share of the picture's tokens that lie in the right region.
        score: (n_docs, n_variants) the benchmark's own per-document value; always finite.
        cluster: (n_docs,) documents that depend on each other share a name.
        images: (n_docs, n_variants, n_queries, n_layers, most images) the mass by image, NaN beyond a document's last;
            None where nobody kept it.
        heads_mass: (n_docs, n_variants, n_queries, n_layers, n_heads) the mass by head, in single precision; None
            where nobody kept it.
    """

    doc_ids: IntArray
    variants: tuple[str, ...]
    queries: tuple[str, ...]
    layers: IntArray
    mass: FloatArray
    entropy: FloatArray
    focus: FloatArray
    mass_without_sinks: FloatArray
    inside: FloatArray
    region: FloatArray
    score: FloatArray
    cluster: TextArray
    images: FloatArray | None = None
    heads_mass: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        shape = self.shape
        if 0 in shape:
            raise DataError(f"a record of attention needs documents, variants, queries and layers, not {shape}")
        expected = {"region": shape[:1], "cluster": shape[:1], "score": shape[:2]} | dict.fromkeys(MEASURES, shape)
        for name, due in expected.items():
            if getattr(self, name).shape != due:
                raise DataError(f"the record's '{name}' has the shape {getattr(self, name).shape}, not {due}")
        for name in _LISTS:
            values = getattr(self, name)
            if values is not None and values.shape[:-1] != shape:
                raise DataError(f"the record's '{name}' has the shape {values.shape}, which doesn't begin with {shape}")
        if not np.isfinite(self.score).all():
            row, column = np.argwhere(~np.isfinite(self.score))[0]
            raise DataError(
                f"document {self.doc_ids[row]}, variant '{self.variants[column]}': the score is no finite number"
            )
        for name in (*MEASURES, "region", *_LISTS):
            values = getattr(self, name)
            outside = None if values is None else (values < -_ROUNDING) | (values > 1 + _ROUNDING)
            if outside is not None and outside.any():
                place = tuple(np.argwhere(outside)[0])
                raise DataError(
                    f"document {self.doc_ids[place[0]]}: '{name}' is {values[place]:g}, and a share lies between 0 and"
                    f" 1 ({int(outside.sum())} such values)"
                )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Documents, variants, sets of queries, layers."""
        return len(self.doc_ids), len(self.variants), len(self.queries), len(self.layers)

    def of(self, measure: Measure, variant: str, queries: str) -> FloatArray:
        """Return a measure of one variant and one set of queries, (n_docs, n_layers).

        Raises:
            DataError: there is no such measure, variant or set of queries.
        """
        if measure not in MEASURES:
            raise DataError(unknown("measure", measure, MEASURES))
        if queries not in self.queries:
            raise DataError(unknown("set of queries", queries, self.queries))
        return np.asarray(getattr(self, measure)[:, self.column(variant), self.queries.index(queries)])

    @property
    def clusters(self) -> IntArray:
        """(n_docs,) the clusters as codes, 0 to their number - 1."""
        return np.unique(self.cluster, return_inverse=True)[1].astype(np.int64)

    def scores(self, variant: str) -> FloatArray:
        """Return a variant's scores, (n_docs,).

        Raises:
            DataError: there is no such variant.
        """
        return np.asarray(self.score[:, self.column(variant)])

    def column(self, variant: str) -> int:
        """Return the position of a variant.

        Raises:
            DataError: there is no such variant.
        """
        if variant not in self.variants:
            raise DataError(unknown("variant", variant, self.variants))
        return self.variants.index(variant)

    def columns(self, layers: Sequence[int]) -> IntArray:
        """Return the positions of some layers, ascending.

        Raises:
            DataError: the record lacks one of them, or none is named.
        """
        return _places(layers, self.layers, "layer")

    def at(self, *, layers: Sequence[int] | None = None, doc_ids: Sequence[int] | None = None) -> AttentionRecord:
        """Return the record of some layers or documents, ascending.

        Raises:
            DataError: the record lacks one of them, or none is named.
        """
        columns = self.columns(self.layers.tolist() if layers is None else layers)
        rows = _places(self.doc_ids if doc_ids is None else doc_ids, self.doc_ids, "document")
        lists = {name: getattr(self, name) for name in _LISTS}
        changed: dict[str, Any] = {
            name: getattr(self, name)[rows] for name in ("doc_ids", "region", "score", "cluster")
        }
        changed |= {name: getattr(self, name)[rows][..., columns] for name in MEASURES}
        changed |= {name: None if own is None else own[rows][..., columns, :] for name, own in lists.items()}
        return replace(self, layers=self.layers[columns], **changed)

    def write(self, path: str | Path) -> None:
        """Write long-form Parquet, first to a temporary file beside it."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        documents, variants, queries, layers = self.shape
        names, cluster = np.unique(self.cluster, return_inverse=True)
        table: dict[str, Any] = {
            "doc_id": np.repeat(self.doc_ids, variants * queries * layers),
            "variant": _named(np.tile(np.repeat(np.arange(variants), queries * layers), documents), self.variants),
            "queries": _named(np.tile(np.repeat(np.arange(queries), layers), documents * variants), self.queries),
            "layer": np.tile(self.layers, documents * variants * queries),
            **{name: pa.array(getattr(self, name).ravel(), from_pandas=True) for name in MEASURES},  # NaN becomes null
            "region": pa.array(np.repeat(self.region, variants * queries * layers), from_pandas=True),
            "score": np.repeat(self.score.ravel(), queries * layers),
            "cluster": _named(np.repeat(cluster, variants * queries * layers), [str(name) for name in names]),
        }
        table |= {name: _as_lists(getattr(self, name)) for name in _LISTS if getattr(self, name) is not None}
        shares = [*MEASURES, *(f"{name}.list.element" for name in _LISTS if name in table)]
        coded = ["doc_id", "variant", "queries", "layer", "region", "score", "cluster"]
        with replacing(Path(path)) as temporary:
            pq.write_table(
                pa.table(table), temporary, compression="zstd", use_dictionary=coded, use_byte_stream_split=shares
            )

    @classmethod
    def read(cls, path: str | Path) -> AttentionRecord:
        """Read a record from long-form Parquet, its rows in any order.

        Raises:
            DataError: no such file, no Parquet, or contents that are no attention of every variant on every document.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path).combine_chunks()
            table.validate(full=True)
        except (OSError, ValueError, pa.ArrowException) as error:
            said = " ".join(str(error).split())
            raise DataError(f"{path} can't be read as a record of attention (Parquet): {said}") from error
        if not table.num_rows:
            raise DataError(f"{path} is a record of attention without rows")
        _check_columns(table, str(path))
        with about(str(path)):
            return cls._pivot(table)

    @classmethod
    def _pivot(cls, table: Any) -> AttentionRecord:
        """Turn long-form columns into arrays, or say which document stands in the way."""
        doc_ids, document = np.unique(table["doc_id"].to_numpy(), return_inverse=True)
        layers, layer = np.unique(table["layer"].to_numpy(), return_inverse=True)
        variants, variant = _codes(table["variant"])
        queries, query = _codes(table["queries"])
        for name in queries:
            if name not in QUERIES:
                raise DataError(unknown("set of queries", name, QUERIES))
        shape = (len(doc_ids), len(variants), len(queries), len(layers))
        cell = np.ravel_multi_index((document, variant, query, layer), shape)
        seen = np.bincount(cell, minlength=int(np.prod(shape)))
        for problem, how in ((seen > 1, "twice"), (seen == 0, "not at all")):
            if problem.any():
                at = np.unravel_index(int(problem.argmax()), shape)
                raise DataError(
                    f"document {doc_ids[at[0]]} has variant '{variants[at[1]]}', queries '{queries[at[2]]}', layer"
                    f" {layers[at[3]]} {how} ({int(problem.sum())} such rows)"
                )
        table = table.take(np.argsort(cell))
        clusters, cluster = _codes(table["cluster"])
        once = {"region": (_floats(table["region"]), 1), "score": (_floats(table["score"]), 2), "cluster": (cluster, 1)}
        values: dict[str, Any] = {}
        for name, (column, axes) in once.items():
            rows = column.reshape(*shape[:axes], -1)
            unequal = ~((rows == rows[..., :1]) | (rows != rows)).all(axis=-1)
            if unequal.any():
                row = np.argwhere(unequal)[0][0]
                raise DataError(
                    f"document {doc_ids[row]} has two values of '{name}', which must be the same in all rows"
                )
            values[name] = rows[..., 0]
        values["cluster"] = np.asarray(clusters, dtype=np.str_)[values["cluster"]]
        values |= {name: _floats(table[name]).reshape(shape) for name in MEASURES}
        values |= {name: _from_lists(table[name], shape) for name in _LISTS if name in table.column_names}
        return cls(
            doc_ids=doc_ids.astype(np.int64),
            variants=variants,
            queries=queries,
            layers=layers.astype(np.int64),
            **values,
        )


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return a sentence for a name that isn't known."""
    known = list(known)
    return f"no {what} '{name}'.{did_you_mean(name, known)} There are: {', '.join(known)}"


def _places(wanted: Sequence[int] | IntArray, known: IntArray, what: str) -> IntArray:
    """Return where some of the ascending numbers stand."""
    missing = np.setdiff1d(np.asarray(wanted, dtype=np.int64), known)
    if missing.size or not len(wanted):
        which = f"no {what} {missing[0]} in the record" if missing.size else f"no {what} is named"
        raise DataError(f"{which}: it has {len(known)}, from {known[0]} to {known[-1]}")
    return np.flatnonzero(np.isin(known, wanted))


def _named(codes: IntArray, names: Sequence[str]) -> Any:
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(names, pa.string()))


def _codes(column: Any) -> tuple[tuple[str, ...], IntArray]:
    """Return the distinct texts of a column, in the order of their first rows, and each row's place among them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    names = pc.unique(column)
    return tuple(names.to_pylist()), pc.index_in(column, names).to_numpy().astype(np.int64)


def _floats(column: Any) -> FloatArray:
    """Return numbers, null as NaN."""
    return np.asarray(column.to_numpy(), dtype=np.float64)


def _as_lists(values: npt.NDArray[Any]) -> Any:
    """Return the last axis as lists that end with the last known number."""
    import pyarrow as pa

    rows = values.reshape(-1, values.shape[-1])
    known = ~np.isnan(rows)
    ends = np.concatenate([[0], np.cumsum(known.sum(axis=1))])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(rows[known]))


def _from_lists(column: Any, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return lists as a last axis, the shorter ones filled with NaN."""
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    flat = pc.list_flatten(column).to_numpy()
    longest = int(lengths.max(initial=0))
    rows = np.full((len(lengths), longest), np.nan, dtype=flat.dtype)
    rows[np.arange(longest) < lengths[:, None]] = flat
    return rows.reshape(*shape, longest)


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return any(fits(kind) for fits in (pa.types.is_floating, pa.types.is_integer, pa.types.is_null))


def _check_columns(table: Any, source: str) -> None:
    """Refuse a table whose columns aren't those of a record."""
    import pyarrow as pa

    kinds = {
        "whole numbers": (("doc_id", "layer"), pa.types.is_integer),
        "text": (
            ("variant", "queries", "cluster"),
            lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
        ),
        "numbers": (("score", *MEASURES, "region"), _is_number),
        "lists of numbers": (
            [name for name in _LISTS if name in table.column_names],
            lambda kind: pa.types.is_list(kind) and pa.types.is_floating(kind.value_type),
        ),
    }
    for expected, (names, fits) in kinds.items():
        for name in names:
            if name not in table.column_names:
                raise DataError(
                    f"{source} is no record of attention: no column '{name}'; there are {', '.join(table.column_names)}"
                )
            kind = table[name].type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            if not fits(kind):
                raise DataError(f"{source} is no record of attention: '{name}' must be {expected}, not {kind}")
            if expected in ("whole numbers", "text") and table[name].null_count:
                raise DataError(
                    f"{source} is no record of attention: '{name}' is empty in {table[name].null_count} rows"
                )
