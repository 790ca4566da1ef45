"""The score matrix survives the disk and refuses what can't be compared."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmms_plam.errors import DataError
from lmms_plam.stats.matrix import ScoreMatrix


def _rows(n_docs: int = 5) -> list[dict[str, object]]:
    return [
        {
            "doc_id": doc,
            "variant": variant,
            "answer": f"{variant}{doc}",
            "score": doc % 2 + place / 4,
            "cluster": f"image {doc // 2}",
            "stratum": "all",
            "figure": str(doc % 3),
        }
        for doc in reversed(range(n_docs))
        for place, variant in enumerate(["merged", "base"])
    ]


def test_rows_land_in_their_cells_whatever_their_order() -> None:
    matrix = ScoreMatrix.from_rows(_rows())
    assert matrix.variants == ("merged", "base")
    assert matrix.doc_ids.tolist() == [0, 1, 2, 3, 4]
    assert matrix.scores.tolist() == [[0, 0.25], [1, 1.25], [0, 0.25], [1, 1.25], [0, 0.25]]
    assert matrix.answers[3].tolist() == ["merged3", "base3"]
    assert matrix.clusters.tolist() == ["image 0", "image 0", "image 1", "image 1", "image 2"]
    assert matrix.columns["figure"].tolist() == ["0", "1", "2", "0", "1"]


def test_parquet_gives_back_what_was_written(tmp_path) -> None:
    matrix = ScoreMatrix.from_rows(_rows())
    matrix.write(tmp_path / "scores.parquet")
    again = ScoreMatrix.read(tmp_path / "scores.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]
    assert again.variants == matrix.variants
    for name in ("doc_ids", "scores", "answers", "clusters", "strata"):
        np.testing.assert_array_equal(getattr(again, name), getattr(matrix, name))
    np.testing.assert_array_equal(again.columns["figure"], matrix.columns["figure"])


def test_cluster_and_stratum_are_optional() -> None:
    matrix = ScoreMatrix.from_rows([{"doc_id": doc, "variant": "a", "score": True} for doc in (7, 3)])
    assert matrix.clusters.tolist() == ["3", "7"]
    assert matrix.strata.tolist() == ["", ""]
    assert matrix.scores.tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.clear(), "no rows"),
        (lambda rows: rows.append(rows[0]), "document 4 has variant 'merged' twice"),
        (lambda rows: rows.pop(), "document 0 has variant 'base' not at all"),
        (lambda rows: rows[2].update(score="half"), "document 3, variant 'merged': the score 'half' is not a number"),
        (
            lambda rows: rows[2].update(score=float("nan")),
            "document 3, variant 'merged': the score is no finite number",
        ),
        (lambda rows: rows[1].update(figure="9"), "has two values of 'figure'"),
        (lambda rows: [row.update(stratum=str(row["doc_id"])) for row in rows], "cluster 'image 0' lies in two strata"),
    ],
)
def test_bad_rows_are_refused_in_one_sentence(change, message) -> None:
    rows = _rows()
    change(rows)
    with pytest.raises(DataError, match=message):
        ScoreMatrix.from_rows(rows)


def test_one_variant_is_no_comparison() -> None:
    matrix = ScoreMatrix.from_rows([{"doc_id": 1, "variant": "base", "score": 1}])
    with pytest.raises(DataError, match="at least 2 variants, and there is only 'base'"):
        matrix.require_variants()
    with pytest.raises(DataError, match="no variant 'merged'"):
        matrix.column("merged")


def test_files_that_hold_no_matrix_are_refused(tmp_path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.parquet can't be read"):
        ScoreMatrix.read(tmp_path / "nowhere.parquet")
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(DataError, match="can't be read as a score matrix"):
        ScoreMatrix.read(tmp_path / "text.parquet")
    pq.write_table(pa.table({"doc_id": [1]}), tmp_path / "half.parquet")
    with pytest.raises(DataError, match="no column 'variant'"):
        ScoreMatrix.read(tmp_path / "half.parquet")
    words = {name: ["1"] for name in ("variant", "answer", "score", "cluster", "stratum")}
    pq.write_table(pa.table({"doc_id": [1], **words}), tmp_path / "words.parquet")
    with pytest.raises(DataError, match="the scores are not numbers"):
        ScoreMatrix.read(tmp_path / "words.parquet")


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("doc_id", ["1", "2"], "'doc_id' must be a whole number in every row, not string"),
        ("doc_id", [0.5, 1.0], "'doc_id' must be a whole number in every row, not double"),
        ("doc_id", [1, None], "'doc_id' must be a whole number in every row, not int64, 1 of them empty"),
        ("doc_id", pa.array([1, 2**63], pa.uint64()), "'doc_id' must be a whole number in every row, not uint64"),
        ("variant", [3, 3], "'variant' must be text in every row, not int64"),
        ("variant", ["a", None], "'variant' must be text in every row, not string, 1 of them empty"),
        ("variant", [["a"], ["a"]], "'variant' must be text"),
        ("cluster", [["a"], ["b"]], "'cluster' must be text"),
        ("figure", [1, 2], "'figure' must be text"),
    ],
)
def test_a_column_of_another_type_is_named(tmp_path, name, values, words) -> None:
    texts = {column: ["x", "x"] for column in ("variant", "answer", "cluster", "stratum")}
    table = pa.table({"doc_id": [1, 2], "score": [0.0, 1.0], **texts, name: values})
    pq.write_table(table, tmp_path / "matrix.parquet")
    with pytest.raises(DataError, match=words):
        ScoreMatrix.read(tmp_path / "matrix.parquet")


def test_texts_of_other_writers_are_read(tmp_path) -> None:
    rows = _rows()
    table = pa.Table.from_pylist(rows)
    table = table.set_column(1, "variant", table["variant"].dictionary_encode())
    table = table.set_column(4, "cluster", table["cluster"].cast(pa.large_string()))
    pq.write_table(table, tmp_path / "matrix.parquet")
    read, made = ScoreMatrix.read(tmp_path / "matrix.parquet"), ScoreMatrix.from_rows(rows)
    assert (read.variants, read.clusters.tolist()) == (made.variants, made.clusters.tolist())
