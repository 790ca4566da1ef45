"""The embedded pair `babyllava` as a user meets it: files, grammar, pictures, benchmarks, and the harness."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from family_folders import of_model
from language_data import write_language_data
from PIL import Image
from safetensors import safe_open
from test_harness_runs import evaluate
from test_ranked_tasks import logged, told

from lmms_plam.babyllava.benchmark import FILES
from lmms_plam.babyllava.corpus import CAPTIONS, DEVELOPMENT_PAIRS, PAIRS, draw_corpus
from lmms_plam.babyllava.grammar import belongs
from lmms_plam.babyllava.lexicon import BEINGS, HANDLING, INTRANSITIVE, NAMES, PEOPLE, SOCIAL, THINGS
from lmms_plam.babyllava.paradigms import PARADIGMS, draw_pairs
from lmms_plam.babyllava.pictures import COLOURS, KINDS, SHAPES, draw_captions, picture_of_row
from lmms_plam.harness.model import Plam
from lmms_plam.language import sources
from lmms_plam.language.benchmarks import find_benchmark
from lmms_plam.language.sources import load_items
from lmms_plam.paths import PACKAGE, data_folder

PAIR = PACKAGE / "babyllava"
LM, VLM = PAIR / "text", PAIR / "multimodal"
ROWS = {name: [json.loads(line) for line in (data_folder("tasks") / name).read_text().splitlines()] for name in FILES}
MINIMAL, CAPTIONED = ROWS["plam_babyllava_pairs.jsonl"], ROWS["plam_babyllava_captions.jsonl"]


def exact(**settings) -> Plam:
    """The shipped pair in float32."""
    return Plam(config="babyllava", device="cpu", **{"backend_args.dtype": "float32", **settings})


def test_the_pair_fits_its_size_and_is_stored_in_bfloat16():
    files = [path for folder in (LM, VLM) for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in files) <= 8 * 2**20
    for path in files:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as tensors:
                assert {tensors.get_tensor(name).dtype for name in tensors.keys()} == {torch.bfloat16}  # noqa: SIM118


def test_the_shipped_rows_are_those_that_the_code_draws():
    assert {name: draw() for name, draw in FILES.items()} == ROWS


# --- the grammar ---


def number_of(word: str) -> str:
    """Look a noun's number up in the lexicon, apart from the code that inflects."""
    singular = {noun.singular for noun in (*BEINGS, *NAMES)}
    return "singular" if word in singular else "plural"


def main_verb(sentence: str) -> str:
    return sentence.rstrip(".").split()[-1]


@pytest.mark.parametrize(
    "paradigm",
    ["subject_verb_agreement", "subject_verb_agreement_across_place", "subject_verb_agreement_across_clause"],
)
def test_only_the_right_sentences_verb_agrees_with_the_first_noun(paradigm):
    third, base = {verb.third for verb in INTRANSITIVE}, {verb.base for verb in INTRANSITIVE}
    nouns = {form for noun in BEINGS for form in (noun.singular, noun.plural)}
    rows = [row for row in MINIMAL if row["UID"] == paradigm]
    for row in rows:
        first = next(word for word in row["sentence_good"].rstrip(".").split() if word in nouns)
        agreeing, other = (third, base) if number_of(first) == "singular" else (base, third)
        assert main_verb(row["sentence_good"]) in agreeing
        assert main_verb(row["sentence_bad"]) in other


def test_the_right_reflexive_is_the_subjects_and_the_wrong_one_isnt():
    known = {noun.singular: noun.reflexive for noun in (*BEINGS, *NAMES)}
    known |= {noun.plural: "themselves" for noun in BEINGS}
    names = ("anaphor_gender_agreement", "anaphor_number_agreement", "reflexive_c_command")
    for row in (row for row in MINIMAL if row["UID"] in names):
        first = next(word for word in row["sentence_good"].split() if word in known)
        assert main_verb(row["sentence_good"]) == known[first]
        assert main_verb(row["sentence_bad"]) != known[first]


def test_pointing_words_agree_with_their_noun_in_the_right_sentence_alone():
    names = ("determiner_noun_agreement", "determiner_noun_agreement_with_adjective")
    singular = {noun.singular for noun in (*BEINGS, *THINGS)}
    for row in (row for row in MINIMAL if row["UID"] in names):
        good, bad = (row[name].rstrip(".").split() for name in ("sentence_good", "sentence_bad"))
        assert good[:-1] == bad[:-1]
        pointing = next(word for word in reversed(good) if word in ("this", "that", "these", "those"))
        plural = pointing in ("these", "those")
        assert (good[-1] in singular, bad[-1] in singular) == (not plural, plural)


def test_licensors_stand_where_they_license_in_the_right_sentence_alone():
    for row in (row for row in MINIMAL if row["UID"] in ("npi_licensor", "npi_scope")):
        assert row["sentence_good"].startswith("no ")
        assert not row["sentence_bad"].startswith("no ")
        assert all(" ever " in row[name] for name in ("sentence_good", "sentence_bad"))
    for row in (row for row in MINIMAL if row["UID"] == "existential_quantifiers"):
        assert row["sentence_good"].split()[2] in ("a", "some", "many", "two", "three", "four")
        assert row["sentence_bad"].split()[2] in ("every", "that", "these", "those")


def test_a_gap_follows_what_and_never_that():
    past = {verb.past for verb in HANDLING}
    for row in (row for row in MINIMAL if row["UID"] == "filler_gap"):
        assert main_verb(row["sentence_good"]) in past
        assert row["sentence_bad"] == row["sentence_good"].replace(" what ", " that ")


def test_each_paradigm_has_a_hundred_different_pairs():
    assert Counter(row["UID"] for row in MINIMAL) == dict.fromkeys(PARADIGMS, PAIRS)
    assert len({(row["sentence_good"], row["sentence_bad"]) for row in MINIMAL}) == len(MINIMAL)
    assert all(row["sentence_good"] != row["sentence_bad"] for row in MINIMAL)


def test_training_text_has_no_sentence_and_no_doer_of_the_benchmarks():
    corpus = draw_corpus(36_000)
    read = {*corpus.text, *corpus.more_text}
    for split, count in (("benchmark", PAIRS), ("development", DEVELOPMENT_PAIRS)):
        rows = draw_pairs(split, count)
        assert not read & {row[name] for row in rows for name in ("sentence_good", "sentence_bad")}
    finite = {form: verb for verb in INTRANSITIVE for form in (verb.base, verb.third, verb.past)}
    met = 0
    for sentence in read:
        words = sentence.rstrip(".").split()
        nouns = {form: noun for noun in BEINGS for form in (noun.singular, noun.plural)}
        if len(words) == 3 and words[1] in nouns and words[2] in finite:  # "the dogs sleep."
            assert belongs(nouns[words[1]], finite[words[2]], "train"), sentence
            met += 1
    assert met > 100


def test_splits_of_who_does_what_are_disjoint_and_none_is_empty():
    splits = ("train", "development", "benchmark")
    for noun in PEOPLE:
        for verb in SOCIAL:
            assert sum(belongs(noun, verb, split) for split in splits) == 1
    for split in splits:
        assert any(belongs(noun, verb, split) for noun in PEOPLE for verb in SOCIAL)


# --- the pictures ---


def test_captions_have_the_same_words_and_belong_to_their_own_picture():
    assert Counter(row["tag"] for row in CAPTIONED) == dict.fromkeys(KINDS, 2 * CAPTIONS)
    for one, other in zip(CAPTIONED[::2], CAPTIONED[1::2], strict=True):
        assert (one["image_idx"], one["image_key"], other["image_key"]) == (other["image_idx"], "image_0", "image_1")
        assert (one["caption_0"], one["caption_1"]) == (other["caption_1"], other["caption_0"])
        assert sorted(one["caption_0"].rstrip(".").split()) == sorted(one["caption_1"].rstrip(".").split())


def test_each_picture_shows_what_its_caption_says_and_not_what_the_other_says():
    for row in CAPTIONED:
        assert says(row["caption_0"], row["shapes"]), row
        assert not says(row["caption_1"], row["shapes"]), row


def says(caption: str, shapes: list[dict]) -> bool:
    """Read a caption against the list of shapes, apart from the code that writes them."""
    words = caption.rstrip(".").split()
    things = Counter((shape["colour"], shape["shape"]) for shape in shapes)
    named = [
        (words[place], words[place + 1].removesuffix("es") if words[place + 1] == "crosses" else words[place + 1])
        for place in range(len(words))
        if words[place] in COLOURS
    ]
    named = [(colour, shape if shape in SHAPES else shape.removesuffix("s")) for colour, shape in named]
    if set(named) != set(things):
        return False
    numbers = [{"two": 2, "three": 3, "four": 4}[word] for word in words if word in ("two", "three", "four")]
    if numbers:
        return [things[name] for name in named] == numbers
    at = {(shape["colour"], shape["shape"]): shape for shape in shapes}
    one, other = (at[name] for name in named)
    if "big" in words:
        return (one["half"] > other["half"]) == (words.index("big") < words.index("small"))
    if "and" in words:
        return True
    across, down = other["x"] - one["x"], other["y"] - one["y"]
    return {"left": across > 10, "right": across < -10, "above": down > 10, "below": down < -10}[
        next(word for word in words if word in ("left", "right", "above", "below"))
    ]


def test_training_shows_no_two_things_together_that_the_benchmark_does():
    def together(shapes) -> tuple:
        return tuple(sorted({word for shape in shapes for word in shape}))

    trained = {together([(one.colour, one.shape) for one in scene.shapes]) for scene in draw_corpus(36_000).scenes}
    for split in ("benchmark", "development"):
        asked = {together([(one["colour"], one["shape"]) for one in row["shapes"]]) for row in draw_captions(split, 25)}
        assert not trained & asked


def test_a_row_says_where_each_colour_is_painted():
    for row in CAPTIONED[::40]:
        pixels = np.asarray(picture_of_row(row))
        for shape in row["shapes"]:
            assert tuple(pixels[shape["y"], shape["x"]]) == COLOURS[shape["colour"]]


# --- the models in the harness ---


@pytest.fixture(scope="module")
def plain():
    """Both models and their words in plain transformers, float32."""
    from transformers import AutoProcessor, LlamaForCausalLM, LlavaForConditionalGeneration

    return (
        LlamaForCausalLM.from_pretrained(LM, dtype=torch.float32).eval(),
        LlavaForConditionalGeneration.from_pretrained(VLM, dtype=torch.float32).eval(),
        AutoProcessor.from_pretrained(VLM),
    )


def plain_score(model, ids: list[int], counted: int, **pictures) -> float:
    """Sum the log-probabilities of a sequence's last tokens; the softmax is written out."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids]), **pictures).logits[0].double()
    return sum(
        float(logits[place - 1, ids[place]] - logits[place - 1].exp().sum().log())
        for place in range(len(ids) - counted, len(ids))
    )


def test_texts_and_captions_score_as_in_plain_transformers(plain, tmp_path):
    _, vlm, processor = plain
    lm = exact(merge="none")
    results = evaluate(lm, "", ["plam_babyllava_pairs", "plam_babyllava_captions"], limit=5)
    for row, pairs in zip(MINIMAL, told(results, "babyllava_pairs"), strict=False):
        for name, (found, _) in zip(("sentence_good", "sentence_bad"), pairs, strict=True):
            tokens = processor.tokenizer.encode(row[name])
            ids = [processor.tokenizer.bos_token_id, *tokens]
            assert found == pytest.approx(plain_score(vlm, ids, len(tokens)), abs=1e-4)
    for row, pairs in zip(CAPTIONED, told(results, "babyllava_captions"), strict=False):
        for name, (found, _) in zip(("caption_0", "caption_1"), pairs, strict=False):
            inputs = processor(text=f"<image><s>{row[name]}", images=[picture_of_row(row)], return_tensors="pt")
            ids = inputs["input_ids"][0].tolist()
            counted = len(ids) - 2
            assert found == pytest.approx(plain_score(vlm, ids, counted, pixel_values=inputs["pixel_values"]), abs=1e-4)


def test_text_may_follow_a_black_picture_as_the_paper_scores_it(plain):
    _, vlm, processor = plain
    results = evaluate(exact(merge="none", **{"language.picture": "black"}), "", ["plam_babyllava_pairs"], limit=3)
    black = processor(text="<image><s>", images=[Image.new("RGB", (224, 224))], return_tensors="pt")["pixel_values"]
    for row, pairs in zip(MINIMAL, told(results, "babyllava_pairs"), strict=False):
        for name, (found, _) in zip(("sentence_good", "sentence_bad"), pairs, strict=True):
            inputs = processor(text=f"<image><s>{row[name]}", images=[Image.new("RGB", (64, 64))], return_tensors="pt")
            ids = inputs["input_ids"][0].tolist()
            assert found == pytest.approx(plain_score(vlm, ids, len(ids) - 2, pixel_values=black), abs=1e-4)


def test_the_merge_of_the_whole_is_the_average_by_hand_and_alpha_1_is_the_language_model(plain, tmp_path):
    text, vlm, processor = plain
    own, other = vlm.model.language_model.state_dict(), text.model.state_dict()
    by_hand = {name: (own[name].double() + other[name].double()) / 2 for name in own}
    merged = exact()
    found = merged.model.model.language_model.state_dict()
    assert found.keys() == by_hand.keys()
    for name, value in by_hand.items():
        torch.testing.assert_close(found[name].double(), value, atol=1e-6, rtol=1e-5)
    assert torch.equal(merged.model.lm_head.weight, merged.model.get_input_embeddings().weight)
    for part in ("vision_tower", "multi_modal_projector"):
        untouched = getattr(vlm.model, part).state_dict()
        for name, value in getattr(merged.model.model, part).state_dict().items():
            assert torch.equal(value, untouched[name])
    results = evaluate(merged, "", ["plam_compare_babyllava_pairs"], limit=4, output=tmp_path)
    for row, values in zip(MINIMAL, logged(results, "plam_compare_babyllava_pairs", "language_model"), strict=False):
        for name, value in zip(("sentence_good", "sentence_bad"), values[0], strict=True):
            tokens = processor.tokenizer.encode(row[name])
            ids = [processor.tokenizer.bos_token_id, *tokens]
            assert value == pytest.approx(plain_score(text, ids, len(tokens)), abs=1e-4)


def test_the_pair_is_probed_searched_and_looked_at(tmp_path):
    tasks = ["plam_probe_babyllava_captions", "plam_search_babyllava_pairs", "plam_attention_digits"]
    lm = exact()
    results = evaluate(lm, "", tasks, limit=4, output=tmp_path)["results"]
    assert {proof.way for proof in lm.proofs.values()} == {"engine"}
    assert results["plam_search_babyllava_pairs"]["recipes_asked,none"] == 4  # alpha .3, .5, .8, and none
    for task in tasks:
        assert (of_model(tmp_path) / task).is_dir()


def test_blind_the_captions_are_ranked_by_language_alone(tmp_path):
    results = evaluate(exact(merge="none"), "", ["plam_probe_babyllava_captions"], limit=8, output=tmp_path)
    blind = logged(results, "plam_probe_babyllava_captions", "0")
    for one, other in zip(blind[::2], blind[1::2], strict=True):  # one item's two pictures, neither of which is seen
        assert one[0] == pytest.approx(other[0][::-1], abs=1e-4)


def test_the_pair_runs_on_the_sources_benchmarks_too(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "SIZES", {})  # a few rows stand for all
    folder = write_language_data(tmp_path / "babylm", per_part=1)
    lm = exact(**{"language.folder": str(folder)})
    names = ("blimp", "winoground_babylm")
    tasks = [f"plam_{name}" for name in names] + [f"plam_search_{name}" for name in names]
    results = evaluate(lm, "", [*tasks, "plam_babyllava_pairs"], limit=2, output=tmp_path / "runs")["results"]
    assert all(task in results for task in tasks)
    assert 0 <= results["plam_babyllava_pairs"]["acc,none"] <= 1


def test_the_pairs_own_items_are_read_from_the_package_whatever_the_folder(tmp_path):
    items = load_items(find_benchmark("babyllava_captions"), tmp_path)
    assert len(items) == 400
    assert len({item.cluster for item in items}) == 200
    assert {item.part for item in items} == set(KINDS)


def test_the_shipped_models_score_what_their_report_says():
    from transformers import AutoTokenizer, LlamaForCausalLM, LlavaForConditionalGeneration

    from lmms_plam.babyllava.answering import score_captions, score_pairs
    from lmms_plam.babyllava.encoder import features
    from lmms_plam.babyllava.pictures import black

    report = json.loads((PAIR / "training.json").read_text())["seed 0"]["mixed"]["benchmark"]
    text = LlamaForCausalLM.from_pretrained(LM, dtype=torch.bfloat16).eval()
    vlm = LlavaForConditionalGeneration.from_pretrained(VLM, dtype=torch.bfloat16).eval()
    tokenizer, encoder = AutoTokenizer.from_pretrained(LM), vlm.model.vision_tower.dinov2
    shown = features(encoder, [picture_of_row(row) for row in CAPTIONED], "mean")
    measured = {
        "text_on_pairs": score_pairs(text, tokenizer, MINIMAL),
        "multimodal_on_pairs": score_pairs(vlm, tokenizer, MINIMAL),
        "multimodal_on_pairs_after_black": score_pairs(vlm, tokenizer, MINIMAL, features(encoder, [black()], "mean")),
        "multimodal_on_captions": score_captions(vlm, tokenizer, CAPTIONED, shown),
    }
    for name, scores in measured.items():  # bfloat16 differs a little from one processor to the next
        assert scores["accuracy"] == pytest.approx(report[name]["accuracy"], abs=0.015), name
