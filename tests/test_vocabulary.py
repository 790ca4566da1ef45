"""Embeddings are merged row by row of the same token, or not at all."""

from __future__ import annotations

import json

import odd_checkpoints as odd
import pytest
import torch
from test_harness_model import plam
from test_merge_apply import qwen_lm, qwen_vlm, recipe, snapshot
from transformers import AutoTokenizer

from lmms_plam.errors import CheckpointError, MergeError
from lmms_plam.merge import merge_into
from lmms_plam.merge.vocabulary import shared_rows

EMBEDDING = "model.language_model.embed_tokens.weight"


def test_rows_are_shared_where_both_sides_name_the_same_token_or_none():
    vlm = {"a": 0, "b": 1, "<image>": 2, "c": 4}
    lm = {"a": 0, "b": 1, "c": 4, "<spare>": 6}
    assert shared_rows(vlm, lm, 8, "lm") == ((0, 2), (3, 6), (7, 8))
    assert shared_rows(vlm, lm, 2, "lm") == ((0, 2),)
    assert shared_rows(vlm, vlm, 5, "lm") == ((0, 5),)


def test_a_row_that_was_given_to_another_token_is_kept():
    assert shared_rows({"a": 0, "<image>": 1, "b": 2}, {"a": 0, "<reserved>": 1, "b": 2}, 3, "lm") == ((0, 1), (2, 3))


def test_another_numbering_is_refused_with_a_token():
    with pytest.raises(MergeError, match=r"'lm' numbers tokens otherwise .*'b' is 2 there and 1 in the VLM"):
        shared_rows({"a": 0, "b": 1}, {"a": 0, "c": 1, "b": 2}, 3, "lm")


def test_only_shared_rows_are_merged(tmp_path, monkeypatch):
    monkeypatch.setattr("lmms_plam.merge.counterparts.read_vocabulary", lambda place: {"a": 0, "b": 1, "d": 3})
    model, other = qwen_vlm(), qwen_vlm()
    before, lm = snapshot(model), qwen_lm(tmp_path)
    fields = {"modules": "embeddings", "start_layer": 0, "lambda_lm": 1, "lambda_vlm": 0}
    merge_into(other, lm, recipe(**fields))
    report = merge_into(model, lm, recipe(**fields), {"a": 0, "b": 1, "c": 2, "d": 3})
    for name in (EMBEDDING, "lm_head.weight"):
        merged, whole = model.get_parameter(name), other.get_parameter(name)
        kept = torch.tensor([row == 2 for row in range(len(merged))])
        assert torch.equal(merged[kept], before[name][kept])
        assert torch.equal(merged[~kept], whole[~kept])
    assert report.merged[0].rows == ((0, 2), (3, 40))


def renumbered(folder):
    """Swap two words of a tokenizer."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocab = content["model"]["vocab"]
    first, second = sorted(vocab, key=vocab.__getitem__)[40:42]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    path.write_text(json.dumps(content))
    return folder


MERGE = {"modules": "embeddings", "start_layer": 0}


def test_a_base_lm_whose_tokenizer_numbers_words_otherwise_lends_no_embeddings(pairs, tmp_path):
    pair = pairs["qwen2_5_vl"]
    lm = renumbered(odd.copied(pair.base_lm, tmp_path / "lm"))
    assert AutoTokenizer.from_pretrained(lm).get_vocab() != AutoTokenizer.from_pretrained(pair.base_lm).get_vocab()
    with pytest.raises(MergeError, match="numbers tokens otherwise"):
        plam(pair, tmp_path, base_lm=str(lm), merge=MERGE)
    assert plam(pair, tmp_path, base_lm=str(lm), merge={"start_layer": 0})


def test_a_base_lm_without_a_tokenizer_lends_no_embeddings(pairs, tmp_path):
    pair = pairs["qwen2_5_vl"]
    lm = odd.copied(pair.base_lm, tmp_path / "lm")
    for path in [*lm.glob("*token*"), *lm.glob("vocab*")]:
        path.unlink()
    with pytest.raises(CheckpointError, match=r"'.*lm' has no tokenizer that can be read"):
        plam(pair, tmp_path, base_lm=str(lm), merge=MERGE)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava", "llava_onevision", "internvl"])
def test_of_released_pairs_all_words_are_merged(pairs, tmp_path, family):
    pair = pairs[family]
    words = AutoTokenizer.from_pretrained(pair.base_lm).get_vocab()
    report = plam(pair, tmp_path, merge=MERGE).provenance.merge
    rows = {row for start, stop in report["merged"][0]["rows"] for row in range(start, stop)}
    assert set(words.values()) <= rows
