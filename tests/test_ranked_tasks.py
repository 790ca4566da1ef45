"""BLiMP, EWoK, Entity Tracking and Winoground through the harness, against a scoring in plain transformers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from family_folders import of_model
from language_data import write_language_data
from PIL import Image
from test_harness_runs import config_file, evaluate, exact

from lmms_plam.errors import ConfigError, DataError, UnsupportedError
from lmms_plam.harness import engine, ranking
from lmms_plam.harness.engine import Engine
from lmms_plam.harness.intercept import intercept_generate
from lmms_plam.harness.model import Plam
from lmms_plam.language import sources
from lmms_plam.language.benchmarks import find_benchmark
from lmms_plam.language.sources import load_items
from lmms_plam.model import Score
from lmms_plam.stats.matrix import ScoreMatrix

TEXT = ("blimp", "blimp_supplement_fast", "ewok", "entity_tracking")


@pytest.fixture(autouse=True)
def _made_up_rows_are_few(monkeypatch):
    monkeypatch.setattr(sources, "SIZES", {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_language_data(tmp_path_factory.mktemp("babylm"), per_part=1)


def asked(pair, tmp_path, folder, simple=False, **content) -> Plam:
    """Return a model in float32 that finds the benchmarks in the folder."""
    settings = {"merge": "none", "language": {"folder": str(folder)}, **content}
    return exact(config_file(pair, tmp_path, **settings), simple=simple)


def told(results, name: str) -> list[list[tuple[float, bool]]]:
    """Return a task's logged pairs by document."""
    return [
        [(float(pair.strip("()[]").split(", ")[0]), "True" in pair) for pair in sample["filtered_resps"]]
        for sample in results["samples"][f"plam_{name}"]
    ]


class Oracle:
    """Scores one text after another by a forward pass each; the softmax and the cut are written out here."""

    def __init__(self, lm: Plam):
        self.model, self.tokenizer = lm.model, lm.tokenizer
        config = lm.model.config.get_text_config()
        start = self.tokenizer.bos_token_id
        self.start = config.bos_token_id if start is None else start

    def raw(self, context: str, completion: str) -> float:
        encoded = self.tokenizer(context + completion, add_special_tokens=False, return_offsets_mapping=True)
        tokens, border = encoded["input_ids"], len(context)
        counted = [end > border for _, end in encoded["offset_mapping"]]
        return self._sum({"input_ids": torch.tensor([[self.start, *tokens]])}, tokens, counted)

    def shown(self, inputs: dict, completion: str) -> float:
        prompt = inputs["input_ids"]
        last = self.tokenizer.decode(prompt[0, -1:])
        blank = "" if last.isspace() or last[-1:].isspace() else " "
        tokens = self.tokenizer.encode(blank + completion, add_special_tokens=False)
        own = {name: value for name, value in inputs.items() if name.startswith(("pixel", "image_"))}
        own["input_ids"] = torch.cat([prompt, torch.tensor([tokens])], 1)
        if "mm_token_type_ids" in inputs:
            kinds = inputs["mm_token_type_ids"]
            own["mm_token_type_ids"] = torch.cat([kinds, torch.zeros(1, len(tokens), dtype=kinds.dtype)], 1)
        return self._sum(own, tokens, [True] * len(tokens))

    def _sum(self, inputs: dict, tokens: list[int], counted: list[bool]) -> float:
        with torch.inference_mode():
            logits = self.model(**inputs).logits[0, -len(tokens) - 1 : -1].double()
        values = [float(row[token] - row.exp().sum().log()) for row, token in zip(logits, tokens, strict=True)]
        return sum(value for value, counts in zip(values, counted, strict=True) if counts)


def prompts_of(lm: Plam, pictures: list[Image.Image], question: str) -> list[dict]:
    """Return the backend's arguments for generate, a picture each."""
    from lmms_eval.api.instance import Instance

    lm.task_dict["shown"] = {"test": pictures}
    seen: list[dict] = []

    def keep(generate, **inputs):
        seen.append(inputs)
        return generate(**inputs)

    def messages(doc):
        content = [{"type": "image", "url": doc}, {"type": "text", "text": question}]
        return [{"role": "user", "content": content}]

    for place in range(len(pictures)):
        options = {"max_new_tokens": 1, "temperature": 0}
        ask = (question, options, lambda doc: [doc]) if lm.is_simple else (question, messages, options)
        metadata = {"task": "shown", "doc_id": place, "repeats": 1, "split": "test"}
        request = Instance("generate_until", (*ask, place, "shown", "test"), idx=0, metadata=metadata)
        with intercept_generate(lm.model, keep):
            lm.backend.generate_until([request])
    return seen


@pytest.mark.parametrize("simple", [False, True])
def test_texts_score_as_in_plain_transformers(pair, folder, tmp_path, simple):
    results = evaluate(asked(pair, tmp_path, folder, simple), "", [f"plam_{name}" for name in TEXT], limit=None)
    oracle = Oracle(asked(pair, tmp_path, folder))
    for name in TEXT:
        items, right = load_items(find_benchmark(name), folder), {}
        for item, pairs in zip(items, told(results, name), strict=True):
            expected = [oracle.raw(item.context, one) for one in item.completions]
            assert [value for value, _ in pairs[: len(expected)]] == pytest.approx(expected, abs=1e-4)
            right.setdefault(item.part, []).append(expected[0] == max(expected))
        files = {}
        for part, values in right.items():
            files.setdefault(part.partition("/")[0], []).append(np.mean(values))
        macro = np.mean([np.mean(means) for means in files.values()])
        assert results["results"][f"plam_{name}"]["acc,none"] == pytest.approx(macro)


def test_captions_score_as_in_plain_transformers(pair, folder, tmp_path):
    tasks = ["plam_winoground", "plam_winoground_babylm"]
    results = evaluate(asked(pair, tmp_path, folder), "", tasks, limit=None)
    lm = asked(pair, tmp_path, folder)
    oracle, question = Oracle(lm), "Describe the picture in one sentence."
    scores = []
    for item, pairs in zip(load_items(find_benchmark("winoground"), folder), told(results, "winoground"), strict=True):
        prompts = prompts_of(lm, [Image.open(path).convert("RGB") for path in item.pictures], question)
        expected = [oracle.shown(prompt, caption) for prompt in prompts for caption in item.completions]
        expected += [oracle.raw("", caption) for caption in item.completions]
        assert [value for value, _ in pairs] == pytest.approx(expected, abs=1e-4)
        (a, b), (c, d) = expected[:2], expected[2:4]
        scores.append((a > b and d > c, a > c and d > b, a > b and d > c and a > c and d > b))
    table = results["results"]["plam_winoground"]
    assert [table[f"{name},none"] for name in ("text", "image", "group")] == pytest.approx(np.mean(scores, axis=0))
    own = told(results, "winoground_babylm")
    whole = told(results, "winoground")
    assert [value for value, _ in own[0][:2]] == pytest.approx([value for value, _ in whole[0][:2]], abs=1e-4)
    assert [value for value, _ in own[1][:2]] == pytest.approx([value for value, _ in whole[0][3:1:-1]], abs=1e-4)


RECIPE = {"start_layer": 2, "lambda_lm": 0.7, "lambda_vlm": 0.3}
OTHER = {"late": {"start_layer": 4, "lambda_lm": 1.0, "lambda_vlm": 0.0}}


def logged(results, task: str, variant: str) -> list[list[list[float]]]:
    """Return a variant's log-probabilities by document, picture and text."""
    return [
        json.loads(one["answer"])
        for sample in results["samples"][task]
        for values in sample.values()
        if isinstance(values, list)
        for one in values
        if isinstance(one, dict) and one.get("variant") == variant
    ]


def test_variants_score_as_models_of_their_own(pair, folder, tmp_path):
    tasks = ["plam_compare_ewok_fast", "plam_compare_winoground"]
    lm = asked(pair, tmp_path, folder, merge=RECIPE, recipes=OTHER)
    ways = lm.proofs
    results = evaluate(lm, "", tasks, limit=3, output=tmp_path / "runs")
    assert {proof.way for proof in ways.values()} == {"engine"}
    for variant, recipe in (("base", "none"), ("merged", RECIPE), ("late", {**RECIPE, **OTHER["late"]})):
        alone = evaluate(
            asked(pair, tmp_path, folder, merge=recipe), "", ["plam_ewok_fast", "plam_winoground"], limit=3
        )
        for name, count in (("ewok_fast", 2), ("winoground", 4)):
            expected = [[value for value, _ in pairs[:count]] for pairs in told(alone, name)]
            found = [
                [value for row in rows for value in row] for rows in logged(results, f"plam_compare_{name}", variant)
            ]
            assert np.array(found) == pytest.approx(np.array(expected), abs=1e-4)
        score = {"ewok_fast": "acc", "winoground": "text"}
        for name, headline in score.items():
            told_here = results["results"][f"plam_compare_{name}"][f"{variant},none"]
            assert told_here == pytest.approx(alone["results"][f"plam_{name}"][f"{headline},none"])
    matrix = ScoreMatrix.read(of_model(tmp_path / "runs") / "plam_compare_winoground" / "matrix.parquet")
    assert set(matrix.variants) == {"base", "merged", "late"}


def test_a_probe_of_captions_ends_at_the_language_prior(pair, folder, tmp_path):
    lm = asked(pair, tmp_path, folder)
    results = evaluate(lm, "", ["plam_probe_winoground"], limit=None, output=tmp_path / "runs")
    blind, whole = (logged(results, "plam_probe_winoground", cut) for cut in ("0", "5"))
    for rows in blind:  # two pictures of one size, neither of which is seen
        assert rows[0] == pytest.approx(rows[1], abs=1e-4)
    assert all(rows[0] != pytest.approx(rows[1], abs=1e-4) for rows in whole)
    matrix = ScoreMatrix.read(of_model(tmp_path / "runs") / "plam_probe_winoground" / "matrix.parquet")
    assert matrix.scores[:, matrix.column("0")].sum() == 0


def test_recipes_are_searched_on_texts(pairs, folder, tmp_path):
    lm = asked(pairs["qwen2_5_vl"], tmp_path, folder, merge=RECIPE, search={"start_layers": "1 3"})
    results = evaluate(lm, "", ["plam_search_blimp_fast"], limit=None, output=tmp_path / "runs")
    told_here = results["results"]["plam_search_blimp_fast"]
    assert 0 <= told_here["base,none"] <= 1
    assert told_here["recipes_asked,none"] > 1
    place = of_model(tmp_path / "runs") / "plam_search_blimp_fast"
    assert (place / "search.json").exists()


def of_digits(folder, **language) -> Plam:
    settings = {"language.folder": str(folder), "merge": "none", **language}
    return Plam(config="digits", device="cpu", **settings)


def test_a_tokenizer_without_a_start_token_is_said_in_a_sentence(folder):
    with pytest.raises(UnsupportedError, match=r"has no start token \(bos_token\).*name one \(`language.start_token="):
        evaluate(of_digits(folder), "", ["plam_blimp_fast"], limit=1)


def test_digits_ranks_texts_and_captions_after_a_start_token_of_the_users(folder):
    lm = of_digits(folder, **{"language.start_token": "<|im_start|>"})
    results = evaluate(lm, "", ["plam_blimp_fast", "plam_winoground", "plam_winoground_babylm"], limit=None)
    assert results["results"]["plam_blimp_fast"]["ties,none"] >= 1 / 67
    for name in ("text", "image", "group"):
        assert 0 <= results["results"]["plam_winoground"][f"{name},none"] <= 1


def test_a_start_token_that_is_none_is_refused(folder):
    with pytest.raises(ConfigError, match=r"language.start_token = '<s>' is no token of this tokenizer"):
        evaluate(of_digits(folder, **{"language.start_token": "<s>"}), "", ["plam_blimp_fast"], limit=1)


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ({"folder": "/nowhere"}, "there is no folder '/nowhere'"),
        ({"picture": "white"}, "'picture' = 'white': Input should be 'none' or 'black'"),
        ({"start": "<s>"}, r"no option 'start'. Did you mean 'start_token'\?"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(pairs, tmp_path, folder, language, said):
    lm = asked(pairs["llava"], tmp_path, folder, language={"folder": str(folder), **language})
    with pytest.raises(ConfigError, match=said):
        evaluate(lm, "", ["plam_blimp_fast"], limit=1)


def test_half_a_folder_ends_the_run_before_a_text_is_scored(pairs, tmp_path):
    place = write_language_data(tmp_path / "half", per_part=1)
    for path in sorted((place / "fast_eval/blimp_fast").glob("*.jsonl"))[:30]:
        path.unlink()
    with pytest.raises(DataError, match=r"blimp_fast: .*blimp_fast lacks 30 of 67 parts"):
        evaluate(asked(pairs["llava"], tmp_path, place), "", ["plam_blimp_fast"], limit=1)


def test_a_task_that_ranks_no_texts_is_no_part_of_a_family_of_them(pairs, tmp_path, folder):
    (tmp_path / "odd.yaml").write_text("task: odd\nclass: !function lmms_plam.families.RankedProbe\nof: plam_digits\n")
    with pytest.raises(ConfigError, match="odd: 'plam_digits' ranks no texts"):
        evaluate(asked(pairs["llava"], tmp_path, folder), "", ["odd"], include=tmp_path)


def test_texts_may_follow_a_black_picture(pairs, tmp_path, folder):
    language = {"folder": str(folder), "picture": "black"}
    black = evaluate(asked(pairs["qwen2_vl"], tmp_path, folder, language=language), "", ["plam_ewok_fast"], limit=2)
    lm = asked(pairs["qwen2_vl"], tmp_path, folder)
    oracle = Oracle(lm)
    (prompt,) = prompts_of(lm, [Image.new("RGB", (224, 224))], "")
    for item, found in zip(load_items(find_benchmark("ewok_fast"), folder), told(black, "ewok_fast"), strict=False):
        whole = [oracle.shown(prompt, item.context + one) for one in item.completions]
        context = oracle.shown(prompt, item.context)
        expected = [value - context for value in whole]
        assert [value for value, _ in found[:2]] == pytest.approx(expected, abs=1e-3)


def test_equal_sentences_tie_and_count_as_right(pairs, tmp_path, folder):
    results = evaluate(asked(pairs["internvl"], tmp_path, folder), "", ["plam_blimp"], limit=None)
    (tied,) = (one for one in results["samples"]["plam_blimp"] if one["ties"]["score"])
    assert tied["acc"]["part"] == "passive_1"
    assert tied["acc"]["score"] == 1
    assert results["results"]["plam_blimp"]["ties,none"] == pytest.approx(1 / 67)


def test_scores_that_are_cached_are_not_asked_again(pairs, tmp_path, folder, monkeypatch):
    ran = []
    own = ranking.Asker.rank
    monkeypatch.setattr(ranking.Asker, "rank", lambda *given: ran.append(len(given[2])) or own(*given))
    runs = []
    for _ in range(2):
        lm = asked(pairs["llava"], tmp_path, folder)
        runs.append(evaluate(lm, "", ["plam_ewok_fast"], limit=2, use_cache=str(tmp_path / "cache")))
    assert ran == [2]  # documents, their candidates alone included
    assert told(runs[0], "ewok_fast") == told(runs[1], "ewok_fast")


def test_a_comparison_that_was_cut_short_goes_on(pairs, tmp_path, folder, monkeypatch):
    monkeypatch.setattr(ranking, "_RAW", 2)
    own, ran = Engine.score_texts, []

    def stop(self, task, variants, ground, start, documents):
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(len(documents))
        return own(self, task, variants, ground, start, documents)

    def run():
        lm = asked(pairs["llava"], tmp_path, folder, merge=RECIPE)
        return evaluate(lm, "", ["plam_compare_ewok_fast"], limit=6, output=tmp_path / "runs")

    monkeypatch.setattr(Engine, "score_texts", stop)
    with pytest.raises(KeyboardInterrupt):
        run()
    ran.clear()
    run()
    assert ran == [2]


def test_the_plain_way_scores_as_the_engine_does(pairs, tmp_path, folder, monkeypatch):
    def run():
        lm = asked(pairs["qwen2_5_vl"], tmp_path, folder, merge=RECIPE, engine_check=False)
        results = evaluate(lm, "", ["plam_compare_winoground", "plam_probe_winoground_babylm"], limit=2)
        return [
            np.array(logged(results, task, variant))
            for task, variant in (
                ("plam_compare_winoground", "base"),
                ("plam_compare_winoground", "merged"),
                ("plam_probe_winoground_babylm", "2"),
            )
        ]

    def refuse(*_, **__):
        raise UnsupportedError("not this one")

    quick = run()
    monkeypatch.setattr("lmms_plam.harness.engine.generate_family", refuse)
    for one, other in zip(quick, run(), strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_texts_that_score_otherwise_together_are_scored_apart(pairs, tmp_path, folder, monkeypatch):
    own, ways = engine.score_texts, []

    def deviate(*given, share=True, **options):
        ways.append(share)
        found = own(*given, share=share, **options)
        return [[[Score(one.log_probability - share, False) for one in row] for row in rows] for rows in found]

    monkeypatch.setattr(engine, "score_texts", deviate)
    lm = asked(pairs["llava"], tmp_path, folder)
    evaluate(lm, "", ["plam_ewok_fast"], limit=2)
    assert ways == [True, False, False]
    assert lm.proofs["plam_ewok_fast"].way == "plain"


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_captions_in_batches_score_as_single_ones(pairs, tmp_path, folder, family):
    settings = {"merge": "none", "language": {"folder": str(folder)}}
    runs = []
    for batch_size in (1, 4):
        lm = exact(config_file(pairs[family], tmp_path, **settings), batch_size=batch_size)
        runs.append(told(evaluate(lm, "", ["plam_winoground_babylm"], limit=None), "winoground_babylm"))
    for one, other in zip(*runs, strict=True):
        assert [value for value, _ in one] == pytest.approx([value for value, _ in other], abs=1e-4)
