"""`plam attention`: a saved record gives the run's own results again, others when asked, and bad input a sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest
from family_folders import of_model
from test_attention_report import FAST, Page, document, planted, save, world
from test_harness_runs import evaluate

from lmms_plam import cli
from lmms_plam.attention.findings import findings
from lmms_plam.attention.look import Maps, pack
from lmms_plam.attention.record import RECORD
from lmms_plam.attention.shown import SHOWN, write_shown
from lmms_plam.attention.summary import summarise
from lmms_plam.stats.comparison import Settings

QUICK = ("--draws", str(FAST.draws))


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "plam" / "plam_attention_task"
    save(place, shown=[document(3), document(5, "same")])
    return place


def plam_attention(*arguments):
    return cli.main(["attention", *map(str, arguments)])


def printed(capsys):
    return json.loads(capsys.readouterr().out)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_runs_own_results_come_again_with_the_same_settings(tmp_path, capsys):
    evaluate("plam", "config=digits", ["plam_attention_digits"], output=tmp_path, limit=42)
    folder = of_model(tmp_path) / "plam_attention_digits"
    before = contents(folder)
    capsys.readouterr()
    assert plam_attention(tmp_path, "--json") == 0
    assert printed(capsys) == [json.loads(before["attention.json"])]
    assert plam_attention(folder, "--write") == 0
    after = contents(folder)
    assert after.keys() == before.keys()
    for name in ("attention.json", RECORD, SHOWN, "matrix.parquet"):
        assert after[name] == before[name]
    assert Page(folder).of("div", "map")


def test_the_command_prints_a_table_and_sentences_and_changes_nothing(folder, capsys):
    before = contents(folder)
    assert plam_attention(folder.parent, *QUICK) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "plam_attention_task attention on the picture, layers 2 to 3" in said
    found = summarise(world(), late=[2, 3], settings=FAST)
    assert all(line in said for line in findings(found))
    assert contents(folder) == before


def test_what_the_scaled_variant_is_is_read_again(folder, capsys):
    path, scaled = folder / "attention.json", {"factor": 0.9, "control_of": []}
    path.write_text(json.dumps({**json.loads(path.read_text()), "scaled": scaled}))
    assert plam_attention(folder, "--json", *QUICK) == 0
    (told,) = printed(capsys)
    assert told["scaled"] == scaled
    assert any("against 'scaled', the VLM scaled by 0.9 without" in line for line in told["findings"])


def test_other_late_layers_references_and_settings_give_other_results(folder, capsys):
    assert (
        plam_attention(
            folder, "--json", "--late", "0-1,3", "--reference", "merged", "--level", "0.9", "--draws", 2000, "--seed", 4
        )
        == 0
    )
    (told,) = printed(capsys)
    expected = summarise(world(), "merged", [0, 1, 3], Settings(0.9, 2000, 4))
    assert told["late"] == [0, 1, 3]
    assert told["findings"] == findings(expected)
    assert told["headline"] == json.loads(json.dumps(expected.to_dict()))["headline"]


def test_pictures_are_drawn_again_in_other_layers_and_of_other_documents(folder, capsys):
    assert "Layer 2, from the answer" in Page(folder).text
    assert plam_attention(folder, "--write", "--layers", "0,1", "--documents", "5", *QUICK) == 0
    page = Page(folder)
    assert "Layer 0, from the answer" in page.text
    assert "Layer 2, from the answer" not in page.text
    assert "the layers asked for (0 to 1)" in page.text
    assert len(page.of("section")) == 1
    assert f"plam: wrote {folder}" in capsys.readouterr().err


def test_without_attention_json_the_last_third_of_layers_is_late_and_the_folder_names_the_task(folder, capsys):
    (folder / "attention.json").unlink()
    assert plam_attention(folder, "--json", *QUICK) == 0
    (told,) = printed(capsys)
    assert (told["task"], told["late"], told["reference"]) == ("plam_attention_task", [3], "untouched")


def test_several_records_of_a_run_are_read_together(folder, capsys):
    save(folder.with_name("plam_attention_other"), world(documents=30))
    assert plam_attention(folder.parent, "--json", *QUICK) == 0
    assert [told["n_documents"] for told in printed(capsys)] == [30, 60]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--late", "9"), "no layer 9 in the record: it has 4, from 0 to 3"),
        (("--write", "--layers", "2,9"), "no layer 9 in the record: it has 4, from 0 to 3"),
        (("--write", "--documents", "3,4"), "no maps of document 4 were kept: there are those of 3, 5"),
        (("--reference", "mergd"), "no variant 'mergd'. Did you mean 'merged'?"),
        (("--layers", "2"), "--layers and --documents say what is drawn on the page: give --write too"),
        (("--level", "95"), "--level lies between 0 and 1, such as 0.95, not 95"),
        (("--draws", "10"), "--draws 10 is too few"),
        (("--seed", "-1"), "--seed is 0 or more, not -1"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence_and_nothing_is_written(folder, capsys, arguments, said):
    before = contents(folder)
    assert plam_attention(folder, *arguments) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert len(errors.strip().splitlines()) == 1
    assert contents(folder) == before


@pytest.mark.parametrize("layers", ["2,", "3-1", "a", "1-2-3", ""])
def test_layers_that_are_none_are_refused_with_an_example(folder, capsys, layers):
    with pytest.raises(SystemExit):
        plam_attention(folder, "--late", layers)
    assert f"takes layers such as 17,18,19 or 17-19, not '{layers}'" in capsys.readouterr().err


def test_folders_without_a_record_are_named(tmp_path, capsys):
    assert plam_attention(tmp_path / "nowhere") == 2
    assert plam_attention(tmp_path) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"plam: no folder {tmp_path / 'nowhere'}: give that of an attention probe"
    assert second.startswith(f"plam: {tmp_path} holds no attention.parquet of an attention probe")


def damage(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def another_record(folder):
    world(documents=30).write(folder / RECORD)


def show(one):
    return lambda folder: write_shown([one], folder)


def shown_with(**changes):
    def spoil(folder):
        write_shown([document(3)], folder)
        (entry,) = json.loads((folder / SHOWN).read_text())
        (folder / SHOWN).write_text(json.dumps([entry | changes]))

    return spoil


ODD_MAP = {"values": pack(np.zeros((1, 2)))}
MISPLACED = {"values": pack(np.zeros((2, 4, 2))), "image": pack(np.zeros(1)), "boxes": pack(np.zeros((1, 4)))}
FEW_LAYERS = {name: Maps(planted(0).values[:, :2], planted(0).places) for name in ("untouched", "merged")}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (damage(RECORD, b"PAR1"), "is of another attention.parquet, whose fingerprint was"),
        (another_record, "is of another attention.parquet, whose fingerprint was"),
        (damage(SHOWN, b"[]"), "is of another shown.json, whose fingerprint was"),
        (damage("attention.json", b"{"), "doesn't say what a record of attention is of"),
        (damage("attention.json", b"[" * 100_000), "doesn't say what a record of attention is of"),
        (damage("attention.json", b'{"task": 5}'), "doesn't say what a record of attention is of: 'task' = 5"),
        (damage("attention.json", b"\xff"), "doesn't say what a record of attention is of"),
    ],
)
def test_a_record_of_something_else_is_refused(folder, capsys, spoil, said):
    spoil(folder)
    assert plam_attention(folder, *QUICK) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert len(errors.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (damage(RECORD, b"PAR1"), "attention.parquet can't be read as a record of attention"),
        (damage(SHOWN, b"{"), "shown.json can't be read as documents to show"),
        (damage(SHOWN, b'["a"]'), "shown.json can't be read as documents to show"),
        (lambda folder: (folder / SHOWN).unlink(), "shown.json can't be read as documents to show"),
        (shown_with(change="odd"), "a document's change is one of better, worse, same, not 'odd'"),
        (shown_with(maps={}), "document 3 has maps of 0 variants, not of two"),
        (shown_with(image="AAAA"), "shown.json can't be read as documents to show"),
        (shown_with(answers=None), "shown.json can't be read as documents to show"),
        (shown_with(maps=dict.fromkeys("ab", ODD_MAP)), "maps of a shape (1, 2) aren't of two sets of queries"),
        (shown_with(maps=dict.fromkeys("ab", MISPLACED)), "places of 1 vision tokens beside maps of 2"),
        (show(document(100)), "no document 100 in the record: it has 60, from 0 to 59"),
        (show(document(3, maps=FEW_LAYERS)), "document 3: no map of layer 2: there are layers 0 to 1"),
    ],
)
def test_files_that_nothing_vouches_for_are_read_or_refused_before_anything_is_written(folder, capsys, spoil, said):
    (folder / "attention.json").unlink()
    spoil(folder)
    before = contents(folder)
    assert plam_attention(folder, "--write", "--late", "2,3", *QUICK) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert len(errors.strip().splitlines()) == 1
    assert contents(folder) == before
