"""The score matrix: what every variant scored on every document, the one thing that all inference reads.

On disk it is long-form Parquet, a row for each document and variant: doc_id, variant, answer, score, cluster, stratum,
and any further text columns that a benchmark's metric needs (HallusionBench: question and figure). Where it is known
how answers were given and read: read, cut_off, length, divergence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lmms_plam.errors import DataError
from lmms_plam.files import replacing

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
TextArray = npt.NDArray[Any]

_BEYOND = 1e100  # sums of such scores needn't be finite
_FIXED = ("doc_id", "variant", "answer", "score", "cluster", "stratum")
_FORMATS = ("read", "cut_off", "length")


@dataclass(frozen=True, slots=True, eq=False)
class Formats:
    """How each answer was given and read.

    Attributes:
        read: (n_docs, n_variants) `meant`, `fallback` or `not`: how the benchmark's parser read it; empty if unknown.
        cut_off: (n_docs, n_variants) `yes`, `likely` or `no`: whether the limit on new tokens ended it; empty if
            unknown.
        length: (n_docs, n_variants) its length, in tokens where they were counted; NaN if unknown.
        divergence: (n_docs, n_variants) how far its first token's distribution is from that of the model that all
            variants start from, Kullback-Leibler in nats; NaN if unknown.
    """

    read: TextArray
    cut_off: TextArray
    length: FloatArray
    divergence: FloatArray

    def at(self, rows: Any, columns: Any = slice(None)) -> Formats:
        """Return those of some documents, or of some variants."""
        return Formats(*(getattr(self, one.name)[rows][:, columns] for one in fields(self)))

    def is_cut_off(self) -> BoolArray:
        """Return which answers were cut off, surely or likely, (n_docs, n_variants)."""
        return np.asarray((self.cut_off == "yes") | (self.cut_off == "likely"))

    def mean_length(self) -> list[float | None]:
        """Return the mean length of each variant's answers, None where nobody counted any."""
        return _known_means(self.length)

    def mean_divergence(self) -> list[float | None]:
        """Return the mean divergence of each variant's first tokens, None where nobody measured any."""
        return _known_means(self.divergence)

    def share_cut_off(self) -> list[float | None]:
        """Return the share of each variant's answers cut off, of those of which that is known; None where it isn't."""
        known, cut = self.cut_off != "", self.is_cut_off()
        return [float(own[told].mean()) if told.any() else None for own, told in zip(cut.T, known.T, strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class ScoreMatrix:
    """Scores of the same documents under several variants.

    Attributes:
        doc_ids: (n_docs,) the harness's document ids, ascending.
        variants: names of the variants, in the order of the columns.
        scores: (n_docs, n_variants) the benchmark's own per-document value, mostly in [0, 1]; always finite.
        answers: (n_docs, n_variants) what the variant answered; empty where nobody kept it.
        clusters: (n_docs,) documents that depend on each other share a name (an MME image pair, a POPE image).
        strata: (n_docs,) parts of fixed size that the benchmark averages over (MMStar's 18 categories).
        columns: further (n_docs,) text columns by name.
        formats: how the answers were given and read; None where nobody said.
    """

    doc_ids: IntArray
    variants: tuple[str, ...]
    scores: FloatArray
    answers: TextArray
    clusters: TextArray
    strata: TextArray
    columns: Mapping[str, TextArray] = field(default_factory=dict)
    formats: Formats | None = None

    def __post_init__(self) -> None:
        strata_by_cluster: dict[str, str] = {}
        for cluster, stratum in zip(self.clusters, self.strata, strict=True):
            if strata_by_cluster.setdefault(cluster, stratum) != stratum:
                other = strata_by_cluster[cluster]
                raise DataError(
                    f"cluster '{cluster}' lies in two strata, '{other}' and '{stratum}': strata hold clusters"
                )

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]], source: str = "the scores") -> ScoreMatrix:
        """Build the matrix from long-form rows in any order.

        Args:
            rows: mappings with doc_id, variant and score; answer (default ""), cluster (default: the document itself),
                stratum (default: one for all), read, cut_off and length together, with divergence or without (each None
                where unknown), and further text columns are optional.
            source: what error messages call the rows.

        Raises:
            DataError: no rows, a score that is no finite number, a document twice, or a missing cell.
        """
        return cls._pivot(cls._columns(rows, source), source)

    @classmethod
    def from_partial_rows(
        cls, rows: Iterable[Mapping[str, Any]], stand_in: str, source: str = "the scores"
    ) -> tuple[ScoreMatrix, BoolArray]:
        """Build the matrix from rows as `from_rows` does, where some variants weren't asked on every document.

        Args:
            rows: as `from_rows` takes them.
            stand_in: a variant that was; its scores and answers stand in the cells that are missing, so that there
                a variant's paired difference to it is 0.
            source: what error messages call the rows.

        Returns:
            The matrix, and (n_docs, n_variants) which of its cells were asked.

        Raises:
            DataError: as `from_rows` does, but for cells that are missing for other variants than the stand-in.
        """
        return cls._pivot_partial(cls._columns(rows, source), stand_in, source)

    @staticmethod
    def _columns(rows: Iterable[Mapping[str, Any]], source: str) -> dict[str, list[Any]]:
        """Return rows as long-form columns."""
        rows = list(rows)
        if not rows:
            raise DataError(f"{source}: no rows")
        missing = [name for name in ("doc_id", "variant", "score") if name not in rows[0]]
        if missing:
            raise DataError(f"{source}: no column '{missing[0]}'; there are {', '.join(rows[0])}")
        columns = {
            "doc_id": [row["doc_id"] for row in rows],
            "variant": [str(row["variant"]) for row in rows],
            "score": [_number(row, source) for row in rows],
            "answer": [str(row.get("answer", "")) for row in rows],
            "cluster": [str(row.get("cluster", row["doc_id"])) for row in rows],
            "stratum": [str(row.get("stratum", "")) for row in rows],
        }
        if all(name in rows[0] for name in _FORMATS):
            columns |= {name: [row[name] or "" for row in rows] for name in ("read", "cut_off")}
            columns["length"] = [row["length"] for row in rows]
            columns["divergence"] = [row.get("divergence") for row in rows]
        extra = {name: [str(row[name]) for row in rows] for name in rows[0] if name not in (*_FIXED, *columns)}
        return {**columns, **extra}

    @classmethod
    def read(cls, path: str | Path) -> ScoreMatrix:
        """Read a matrix from long-form Parquet.

        Raises:
            DataError: no such file, no Parquet, or contents that `from_rows` would refuse.
        """
        return cls._pivot(cls._read_columns(path), str(path))

    @classmethod
    def read_partial(cls, path: str | Path, stand_in: str) -> tuple[ScoreMatrix, BoolArray]:
        """Read a matrix as `read` does, and join it as `from_partial_rows` does."""
        return cls._pivot_partial(cls._read_columns(path), stand_in, str(path))

    @classmethod
    def _pivot_partial(cls, columns: dict[str, list[Any]], stand_in: str, source: str) -> tuple[ScoreMatrix, BoolArray]:
        """Fill the missing cells from those of the stand-in, and say which they are."""
        rows: dict[int, int] = {}  # of the stand-in, by document
        variants = dict.fromkeys(columns["variant"])
        for row, (doc_id, variant) in enumerate(zip(columns["doc_id"], columns["variant"], strict=True)):
            if variant == stand_in:
                rows[doc_id] = row
        there = set(zip(columns["doc_id"], columns["variant"], strict=True))
        absent = [(doc_id, variant) for doc_id in rows for variant in variants if (doc_id, variant) not in there]
        for doc_id, variant in absent:
            for name, values in columns.items():
                values.append(variant if name == "variant" else values[rows[doc_id]])
        matrix = cls._pivot(columns, source)
        asked = np.ones(matrix.scores.shape, dtype=np.bool_)
        place = {name: column for column, name in enumerate(matrix.variants)}
        documents = np.searchsorted(matrix.doc_ids, [doc_id for doc_id, _ in absent])
        asked[documents, [place[variant] for _, variant in absent]] = False
        return matrix, asked

    @classmethod
    def _read_columns(cls, path: str | Path) -> dict[str, list[Any]]:
        """Read the long-form columns, and refuse what isn't of their types."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
            table.validate(full=True)  # damaged text, say
            names = table.column_names
        except (OSError, ValueError, pa.ArrowException) as error:
            said = " ".join(str(error).split())
            raise DataError(f"{path} can't be read as a score matrix (Parquet): {said}") from error
        missing = [name for name in _FIXED if name not in names]
        if missing:
            raise DataError(f"{path} is no score matrix: no column '{missing[0]}'; there are {names}")
        if not (pa.types.is_floating(table["score"].type) or pa.types.is_integer(table["score"].type)):
            raise DataError(f"{path}: the scores are not numbers but {table['score'].type}")
        for name in names:
            kind = table[name].type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            if (name == "length" and pa.types.is_integer(kind)) or (
                name == "divergence" and pa.types.is_floating(kind)
            ):
                continue
            if name == "doc_id":
                expected, fits = "a whole number", pa.types.is_integer(kind) and not pa.types.is_uint64(kind)
            else:
                expected, fits = "text", pa.types.is_string(kind) or pa.types.is_large_string(kind)
            if name != "score" and (not fits or table[name].null_count):
                found = f"{kind}, {table[name].null_count} of them empty" if fits else kind
                raise DataError(f"{path} is no score matrix: '{name}' must be {expected} in every row, not {found}")
        return {name: table[name].to_pylist() for name in names}

    @classmethod
    def _pivot(cls, columns: Mapping[str, list[Any]], source: str) -> ScoreMatrix:
        """Turn long-form columns into arrays, or say which document and variant stand in the way."""
        variants = tuple(dict.fromkeys(columns["variant"]))
        place = {name: index for index, name in enumerate(variants)}
        doc_ids, first, doc = np.unique(
            np.asarray(columns["doc_id"], dtype=np.int64), return_index=True, return_inverse=True
        )
        variant = np.array([place[name] for name in columns["variant"]], dtype=np.int64)
        shape = (len(doc_ids), len(variants))
        cell = doc * shape[1] + variant
        seen = np.bincount(cell, minlength=shape[0] * shape[1])
        for problem, what in ((seen > 1, "twice"), (seen == 0, "not at all")):
            if problem.any():
                row, column = divmod(int(problem.argmax()), shape[1])
                raise DataError(
                    f"{source}: document {doc_ids[row]} has variant '{variants[column]}' {what}"
                    f" ({int(problem.sum())} such cells); every document needs every variant once"
                )
        scores = np.array([np.nan if x is None else x for x in columns["score"]], dtype=np.float64)
        usable = np.abs(scores) < _BEYOND
        if not usable.all():
            row = int((~usable).argmax())
            raise DataError(
                f"{source}: document {columns['doc_id'][row]}, variant '{columns['variant'][row]}':"
                " the score is no finite number"
            )
        order = np.argsort(cell)
        formats = _formats(columns, order, shape)
        per_document = {}
        for name in columns:
            if name in ("doc_id", "variant", "score", "answer", *((*_FORMATS, "divergence") if formats else ())):
                continue
            values = np.asarray(columns[name], dtype=np.str_)
            unequal = values != values[first][doc]
            if unequal.any():
                raise DataError(
                    f"{source}: document {columns['doc_id'][int(unequal.argmax())]} has two values of '{name}';"
                    " it must be the same for every variant"
                )
            per_document[name] = values[first]
        return cls(
            doc_ids=doc_ids,
            variants=variants,
            scores=scores[order].reshape(shape),
            answers=np.array(columns["answer"], dtype=object)[order].reshape(shape),
            clusters=per_document.pop("cluster"),
            strata=per_document.pop("stratum"),
            columns=per_document,
            formats=formats,
        )

    def write(self, path: str | Path, asked: BoolArray | None = None) -> None:
        """Write long-form Parquet, first to a temporary file beside it.

        Args:
            path: the file.
            asked: (n_docs, n_variants) which cells to write; None for all.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        n_docs, n_variants = self.scores.shape
        formats = {}
        if self.formats is not None:
            length = pa.array(self.formats.length.ravel(), from_pandas=True).cast(pa.int64())  # NaN becomes null
            formats = {"read": self.formats.read.ravel(), "cut_off": self.formats.cut_off.ravel(), "length": length}
            formats["divergence"] = pa.array(self.formats.divergence.ravel(), from_pandas=True)
        per_document = {"cluster": self.clusters, "stratum": self.strata, **self.columns}
        table = pa.table(
            {
                "doc_id": np.repeat(self.doc_ids, n_variants),
                "variant": list(self.variants) * n_docs,
                "answer": pa.array(self.answers.ravel(), type=pa.string()),
                "score": self.scores.ravel(),
                **formats,
                **{name: np.repeat(values, n_variants).tolist() for name, values in per_document.items()},
            }
        )
        if asked is not None:
            table = table.filter(pa.array(asked.ravel()))
        with replacing(Path(path)) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    @classmethod
    def stack(cls, parts: Sequence[ScoreMatrix]) -> ScoreMatrix:
        """Return the matrix of the documents of several, which have the same variants and no document in common."""
        doc_ids = np.concatenate([part.doc_ids for part in parts])
        order = np.argsort(doc_ids)

        def together(values: Callable[[ScoreMatrix], Any]) -> Any:
            return np.concatenate([values(part) for part in parts])[order]

        formats = None
        if all(part.formats is not None for part in parts):
            formats = Formats(*(together(attrgetter(f"formats.{one.name}")) for one in fields(Formats)))
        return cls(
            doc_ids=doc_ids[order],
            variants=parts[0].variants,
            scores=together(attrgetter("scores")),
            answers=together(attrgetter("answers")),
            clusters=together(attrgetter("clusters")),
            strata=together(attrgetter("strata")),
            columns={name: np.concatenate([part.columns[name] for part in parts])[order] for name in parts[0].columns},
            formats=formats,
        )

    def select(self, keep: BoolArray) -> ScoreMatrix:
        """Return the matrix of some of the documents; `keep` is (n_docs,)."""
        return ScoreMatrix(
            doc_ids=self.doc_ids[keep],
            variants=self.variants,
            scores=self.scores[keep],
            answers=self.answers[keep],
            clusters=self.clusters[keep],
            strata=self.strata[keep],
            columns={name: values[keep] for name, values in self.columns.items()},
            formats=None if self.formats is None else self.formats.at(keep),
        )

    def take(self, variants: Sequence[int]) -> ScoreMatrix:
        """Return the matrix of some of the variants, given their columns."""
        columns = list(variants)
        return replace(
            self,
            variants=tuple(self.variants[column] for column in columns),
            scores=self.scores[:, columns],
            answers=self.answers[:, columns],
            formats=None if self.formats is None else self.formats.at(slice(None), columns),
        )

    def with_variants(self, columns: Mapping[str, tuple[ScoreMatrix, int]]) -> ScoreMatrix:
        """Return the matrix with other variants.

        Args:
            columns: by name, a matrix of the same documents and a column of it.
        """

        def beside(values: Callable[[ScoreMatrix], Any]) -> Any:
            return np.column_stack([values(matrix)[:, column] for matrix, column in columns.values()])

        formats = None
        if all(matrix.formats is not None for matrix, _ in columns.values()):
            parts = (beside(attrgetter(f"formats.{one.name}")) for one in fields(Formats))
            formats = Formats(*parts)
        scores, answers = beside(attrgetter("scores")), beside(attrgetter("answers"))
        return replace(self, variants=tuple(columns), scores=scores, answers=answers, formats=formats)

    def column(self, variant: str) -> int:
        """Return the position of a variant.

        Raises:
            DataError: there is no such variant.
        """
        if variant not in self.variants:
            raise DataError(f"no variant '{variant}'; there are {', '.join(self.variants)}")
        return self.variants.index(variant)

    def require_variants(self, count: int = 2) -> None:
        """Refuse a matrix with too few variants for a comparison.

        Raises:
            DataError: fewer than `count` variants.
        """
        if len(self.variants) < count:
            raise DataError(
                f"a comparison needs at least {count} variants, and there is only '{', '.join(self.variants)}'"
            )


def _formats(columns: Mapping[str, list[Any]], order: IntArray, shape: tuple[int, int]) -> Formats | None:
    """Return how answers were given and read; None where columns of these names are missing, or a benchmark's own."""
    if not all(name in columns for name in _FORMATS) or any(isinstance(one, str) for one in columns["length"]):
        return None
    read, cut_off = (np.array(columns[name], dtype=object)[order].reshape(shape) for name in ("read", "cut_off"))
    unknown = [None] * len(order)
    length, divergence = (
        np.array([np.nan if one is None else one for one in columns.get(name, unknown)], dtype=np.float64)
        for name in ("length", "divergence")
    )
    return Formats(read, cut_off, length[order].reshape(shape), divergence[order].reshape(shape))


def _known_means(values: FloatArray) -> list[float | None]:
    known = ~np.isnan(values)
    return [float(own[told].mean()) if told.any() else None for own, told in zip(values.T, known.T, strict=True)]


def _number(row: Mapping[str, Any], source: str) -> float:
    score = row["score"]
    if isinstance(score, int):
        return float(max(-_BEYOND, min(score, _BEYOND)))  # some are too large for a float
    if isinstance(score, (float, np.number, np.bool_)):
        return float(score)
    raise DataError(
        f"{source}: document {row['doc_id']}, variant '{row['variant']}': the score {score!r} is not a number"
    )
