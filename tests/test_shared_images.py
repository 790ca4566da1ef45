"""A mean of questions about the same images, which nobody declared, is said; and seeing it costs next to nothing."""

from __future__ import annotations

from typing import Any

import datasets
import pytest
from PIL import Image, UnidentifiedImageError
from test_compare_runs import plain, write_run
from tiny_tasks import picture

from lmms_plam.cli import main
from lmms_plam.scoring.images import say_shared_images

TEXT, IMAGE = datasets.Value("string"), datasets.Image()
DIFFERENT = list(range(6))
TWICE = [0, 1, 2, 0, 1, 0]


def dataset(kinds: dict[str, Any], **columns: list[Any]) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))


def pictures(places: list[int | None]) -> list[Image.Image | None]:
    return [None if place is None else picture(place) for place in places]


@pytest.mark.parametrize(
    ("kind", "column", "values", "count"),
    [
        (IMAGE, "image", pictures(TWICE), 5),
        (IMAGE, "anything", pictures(TWICE), 5),
        (IMAGE, "image", pictures(DIFFERENT), 0),
        (IMAGE, "image", pictures([0, None, None, 0, 1, 2]), 2),
        (IMAGE, "image", pictures([0] * 6), 6),
        (datasets.List(IMAGE), "images", [pictures([place, 9]) for place in TWICE], 5),
        (datasets.List(IMAGE), "images", [pictures([0, place]) for place in DIFFERENT], 0),
        (TEXT, "image_id", list(map(str, TWICE)), 5),
        (TEXT, "imageId", list(map(str, TWICE)), 5),
        (TEXT, "img_path", [f"{place}.png" for place in TWICE], 5),
        (TEXT, "video", [f"{place}.mp4" for place in TWICE], 5),
        (datasets.Value("int64"), "image_id", TWICE, 5),
        (TEXT, "image", ["x", "", "", "y", None, None], 0),
        (TEXT, "image_id", ["all"] * 6, 0),
        (TEXT, "img_type", list(map(str, TWICE)), 0),
        (TEXT, "question", list(map(str, TWICE)), 0),
    ],
)
def test_a_column_shows_whether_questions_share_their_image(kind, column, values, count):
    documents = dataset({"before": TEXT, column: kind}, before=list("abcdef"), **{column: values})
    said = say_shared_images(documents, range(6), "mine")
    assert len(said) == bool(count)
    if count:
        assert said[0].startswith(f"{count} of 6 questions share their image with another ('{column}')")
        assert f"`metadata: {{plam: {{cluster: {column}}}}}` in the task's YAML" in said[0]


def test_only_documents_that_were_asked_count():
    documents = dataset({"image": IMAGE}, image=pictures(TWICE))
    assert say_shared_images(documents, {0, 1, 2}, "mine") == []
    assert say_shared_images(documents, {0, 1, 2, 4}, "mine")[0].startswith("2 of 4 questions")


def test_no_image_is_decoded():
    broken = {"bytes": b"no picture", "path": None}
    documents = dataset({"image": datasets.Image(decode=False)}, image=[broken, broken]).cast_column("image", IMAGE)
    with pytest.raises(UnidentifiedImageError):
        documents[0]
    assert say_shared_images(documents, range(2), "mine")[0].startswith("2 of 2")


def test_what_is_no_dataset_shows_nothing():
    assert say_shared_images([{"image_id": 1}, {"image_id": 1}], range(2), "mine") == []


@pytest.mark.parametrize(
    ("task", "metadata", "process_docs", "said"),
    [
        ("mine", {}, None, "`metadata: {plam: {cluster: image}}` in the task's YAML declares it"),
        ("mine", {"plam": {"cluster": "image"}}, None, ""),
        ("mine", {}, "<function drop_some>", ""),
        ("mmstar", {}, None, "`plam compare` takes clusters by --clusters mmstar=FILE"),
    ],
)
@pytest.mark.parametrize("command", ["compare", "leaderboard"])
def test_a_cached_dataset_shows_it_of_finished_runs(command, task, metadata, process_docs, said, tmp_path, capsys):
    folder = tmp_path / "dataset"
    folder.mkdir()
    dataset({"image": IMAGE}, image=pictures(TWICE)).to_parquet(folder / "test-00000-of-00001.parquet")
    config = {"dataset_path": str(folder), "test_split": "test", "metadata": metadata, "process_docs": process_docs}
    row = {"question_id": 1, "l2_category": "geometry", "score": 1.0}
    samples = plain(6, math=row, average=row)
    base, merged = (write_run(tmp_path / "runs" / name, {task: samples}, configs={task: config}) for name in "ab")
    places = [str(base), str(merged)] if command == "compare" else [str(tmp_path / "runs")]
    assert main([command, *places, "--draws", "1000", "--json"]) == 0
    printed = capsys.readouterr().err
    assert ("5 of 6 questions share their image with another ('image')" in printed) == bool(said)
    assert said in printed
