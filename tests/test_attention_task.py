"""The attention probe in the harness: what it reads and keeps, of whom, whatever ends a run, and what it refuses."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from family_folders import of_model
from test_harness_runs import config_file, evaluate
from tiny_tasks import COUNT

from lmms_plam.attention.look import Look, Maps, pack_maps, unpack_maps
from lmms_plam.attention.places import Places
from lmms_plam.attention.record import MEASURES, AttentionRecord
from lmms_plam.attention.shown import choose, read_shown
from lmms_plam.attention.summary import Scaled
from lmms_plam.config import load_config
from lmms_plam.errors import ConfigError, DataError
from lmms_plam.families.attention import scaled_variant
from lmms_plam.stats.matrix import ScoreMatrix

MERGE = {"start_layer": 1, "lambda_lm": 0.7, "lambda_vlm": 0.7}
DIGITS, OWN = "plam_attention_digits", "look_attention"


@pytest.fixture
def own(task_folder, tmp_path):
    """A folder of the user's own, with an attention probe of tiny_look."""
    folder = shutil.copytree(task_folder, tmp_path / "own")
    write_task(folder)
    return folder


def write_task(folder, of="tiny_look", **options):
    told = {"task": OWN, "class": "!function lmms_plam.families.AttentionProbe", "of": of, **options}
    (folder / f"{OWN}.yaml").write_text("".join(f"{name}: {value}\n" for name, value in told.items()))


def record_of(output, task):
    return AttentionRecord.read(of_model(output) / task / "attention.parquet")


def require_equal(one, two, tolerance=0.0):
    assert (one.doc_ids.tolist(), one.variants, one.queries) == (two.doc_ids.tolist(), two.variants, two.queries)
    for name in (*MEASURES, "region", "score", "images", "heads_mass"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), atol=tolerance, rtol=0)


def test_every_family_s_attention_has_its_places(pair, tmp_path):
    path = config_file(pair, tmp_path, merge=MERGE)
    results = evaluate("plam", f"config={path}", [DIGITS], limit=14, output=tmp_path / "runs")
    record = record_of(tmp_path / "runs", DIGITS)
    matrix = ScoreMatrix.read(of_model(tmp_path / "runs") / DIGITS / "matrix.parquet")
    assert record.variants == matrix.variants == ("base", "merged", "scaled")
    assert (record.score == matrix.scores).all()
    question = record.mass[:, :, 0]
    assert ((question > 0) & (question < 1)).all()
    assert (question[:, 0, 0] == question[:, 1, 0]).all(), "below the merge nothing differs"
    assert (question[:, 0, 2:] != question[:, 1, 2:]).any()
    np.testing.assert_allclose(record.images.sum(axis=-1), record.mass, atol=1e-5)
    np.testing.assert_allclose(record.heads_mass.mean(axis=-1), record.mass, atol=1e-5)
    named = [0, 3, 4, 6, 7, 10, 11, 13]  # questions that name one cell or two
    assert np.flatnonzero(~np.isnan(record.region)).tolist() == named
    np.testing.assert_allclose(record.region[named], [1 / 6, 1 / 3, 1 / 3, 1 / 6] * 2, atol=0.1)  # LLaVA crops
    assert not np.isnan(record.inside[named][:, :, 0]).any()
    shown = read_shown(of_model(tmp_path / "runs") / DIGITS)
    assert all(one.maps["base"].places is not None for one in shown)
    assert all(set(one.maps) == set(one.neutral) == {"base", "merged"} for one in shown)
    table = results["results"][DIGITS]
    assert table["base_mass,none"] == pytest.approx(record.mass[:, 0, 0, 1:].mean(), abs=1e-6)
    assert table["difference,none"] == pytest.approx(
        (record.mass[:, 1, 0, 1:] - record.mass[:, 0, 0, 1:]).mean(), abs=1e-6
    )


def test_what_the_scaled_variant_is_depends_on_the_recipes():
    assert scaled_variant(load_config("microworld", {})) == Scaled(0.9)  # of a merge by .5 and .5
    of_sum = {"merge.lambda_lm": 0.7, "merge.lambda_vlm": 0.7, "recipes.scaled.lambda_vlm": 1.4}
    assert scaled_variant(load_config("microworld", of_sum)) == Scaled(1.4, ("merged",))
    alone = {"merge.lambda_lm": 0.7, "merge.lambda_vlm": 0.7, "recipes": "none"}
    assert scaled_variant(load_config("microworld", alone)) == Scaled(1.4, ("merged",))
    assert scaled_variant(load_config("microworld", {"recipes": "none"})) == Scaled()
    mixed = {"recipes.scaled.lambda_lm": 0.1}
    assert scaled_variant(load_config("microworld", mixed)) == Scaled()


def test_a_comparison_in_the_same_run_has_the_same_answers(pairs, tmp_path):
    path, tasks = config_file(pairs["qwen2_5_vl"], tmp_path, merge=MERGE), [DIGITS, "plam_compare_digits"]
    evaluate("plam", f"config={path}", tasks, output=tmp_path / "runs")
    one, two = (ScoreMatrix.read(of_model(tmp_path / "runs") / task / "matrix.parquet") for task in tasks)
    assert one.answers[:, :2].tolist() == two.answers.tolist()


def test_the_neutral_prompt_is_asked_of_what_may_be_shown_and_only_if_wanted(pairs, own, tmp_path, generated):
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge={"start_layer": 4, "lambda_lm": 0.05, "lambda_vlm": 0.95})
    write_task(own, pictures=1)  # six changed documents and two others at most
    evaluate("plam", f"config={path}", [OWN], limit=COUNT, include=own, output=tmp_path / "runs")
    matrix = ScoreMatrix.read(of_model(tmp_path / "runs") / OWN / "matrix.parquet")
    changed = int((matrix.answers[:, 0] != matrix.answers[:, 1]).sum())
    assert 0 < changed < COUNT
    assert generated.prompts == COUNT + changed + min(2, COUNT - changed)
    generated.prompts = 0
    write_task(own, neutral='""')
    evaluate("plam", f"config={path}", [OWN], limit=COUNT, include=own, output=tmp_path / "other")
    assert generated.prompts == COUNT
    assert all(not one.neutral for one in read_shown(of_model(tmp_path / "other") / OWN))


def test_the_neutral_prompt_keeps_the_pictures_of_chat_and_simple_prompts(pairs, own, tmp_path):
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge=MERGE)
    for name, simple in (("chat", False), ("simple", True)):
        evaluate("plam", f"config={path}", [OWN], limit=2, include=own, output=tmp_path / name, force_simple=simple)
        for one in read_shown(of_model(tmp_path / name) / OWN):
            for variant, maps in one.maps.items():
                assert one.neutral[variant].values.shape == maps.values.shape
                assert not np.allclose(one.neutral[variant].values[0], maps.values[0])


def test_a_killed_run_goes_on_and_reads_the_same(pairs, own, tmp_path, generated):
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge=MERGE)
    options = {"limit": COUNT, "include": own}
    evaluate("plam", f"config={path}", [OWN], output=tmp_path / "whole", **options)
    whole, generated.prompts, generated.stop_after = generated.prompts, 0, 4
    with pytest.raises(KeyboardInterrupt):
        evaluate("plam", f"config={path}", [OWN], output=tmp_path / "runs", **options)
    generated.prompts, generated.stop_after = 0, None
    evaluate("plam", f"config={path}", [OWN], output=tmp_path / "runs", **options)
    assert generated.prompts == whole - 4
    require_equal(record_of(tmp_path / "runs", OWN), record_of(tmp_path / "whole", OWN))
    one, two = (read_shown(of_model(tmp_path / name) / OWN) for name in ("runs", "whole"))
    assert [shown.doc_id for shown in one] == [shown.doc_id for shown in two]


def test_answers_of_a_cache_are_asked_again_since_nothing_was_read_of_them(pairs, own, tmp_path, generated):
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge=MERGE)
    for run in ("one", "two"):
        generated.prompts = 0
        options = {"include": own, "use_cache": str(tmp_path / "cache"), "output": tmp_path / run}
        evaluate("plam", f"config={path}", [OWN], limit=COUNT, **options)
        assert generated.prompts >= COUNT
    require_equal(record_of(tmp_path / "one", OWN), record_of(tmp_path / "two", OWN))


def test_heads_and_control_can_be_left_out(pairs, tmp_path):
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge=MERGE, attention={"heads": False, "control": False})
    evaluate("plam", f"config={path}", [DIGITS], output=tmp_path / "runs")
    record = record_of(tmp_path / "runs", DIGITS)
    assert record.variants == ("base", "merged")
    assert record.heads_mass is None


def test_a_family_whose_places_are_not_known_is_named_and_its_numbers_are_there(pairs, tmp_path, monkeypatch):
    from lmms_plam.model import placing

    monkeypatch.setattr(placing, "_LAYOUTS", {"llava": placing._LAYOUTS["llava"]})
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge=MERGE)
    evaluate("plam", f"config={path}", [DIGITS], output=tmp_path / "runs")
    record = record_of(tmp_path / "runs", DIGITS)
    assert (record.mass[:, :, 0] > 0).all()
    assert np.isnan(record.region).all()
    assert all(
        maps.places is None for one in read_shown(of_model(tmp_path / "runs") / DIGITS) for maps in one.maps.values()
    )


@pytest.mark.parametrize(
    ("content", "options", "what"),
    [
        ({"merge": "none"}, {}, "merge is none, so nothing compares with the untouched VLM"),
        ({"merge": MERGE}, {"of": "plam_digits_text"}, f"task {OWN}: no document shows a picture that attention"),
        ({"merge": MERGE}, {"regions": "bbox"}, "regions: the dataset has no column 'bbox'"),
        ({"merge": MERGE}, {"head": "true"}, f"task {OWN}: no option 'head'. Did you mean 'heads'"),
        ({"merge": MERGE, "attention": {"boxes": "xyxy"}}, {}, f"task {OWN}: 'boxes' = 'xyxy'"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(pairs, own, tmp_path, content, options, what):
    write_task(own, **options)
    path = config_file(pairs["qwen2_5_vl"], tmp_path, **content)
    with pytest.raises(ConfigError, match=what.replace("(", r"\(")):
        evaluate("plam", f"config={path}", [OWN], include=own, output=tmp_path / "runs")


def test_a_region_outside_its_picture_is_refused_with_its_document(pairs, own, tmp_path):
    import datasets

    rows = datasets.Dataset.from_parquet(str(own / "tiny.parquet"), keep_in_memory=True)
    rows.add_column("box", [[0, 0, 42, 42], [0, 0, 85, 42]] * (COUNT // 2)).to_parquet(own / "tiny.parquet")
    write_task(own, regions="box")
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge=MERGE)
    evaluate("plam", f"config={path}", [OWN], limit=1, include=own, output=tmp_path / "runs")
    with pytest.raises(DataError, match=r"document 1: the region \(0, 0, 1.012, 0.5\) isn't one inside the picture"):
        evaluate("plam", f"config={path}", [OWN], include=own, output=tmp_path / "runs")
    write_task(own, regions="box", boxes="ltwh")
    with pytest.raises(DataError, match=r"document 1: the region \(0, 0, 1.012, 0.5\)"):
        evaluate("plam", f"config={path}", [OWN], include=own, output=tmp_path / "runs")


def test_documents_are_chosen_by_what_became_of_them_and_their_number():
    before = dict.fromkeys(range(9), 0.0) | {7: 1.0, 8: 1.0}
    after = dict.fromkeys(range(9), 0.0) | {2: 1.0, 5: 1.0, 6: 1.0, 8: 1.0}
    assert choose(before, after, 2) == {2: "better", 5: "better", 7: "worse", 0: "same", 1: "same"}


def test_a_look_is_what_a_loop_over_tokens_says():
    rng = np.random.default_rng(0)
    mass = rng.random((2, 3, 4))
    values = rng.random((2, 3, 5)) / 5
    edges = [(0, 0, 0.5, 1), (0.5, 0, 1, 1), (np.nan,) * 4, (0, 0, 1, 0.5), (0, 0.5, 1, 1)]
    places = Places(np.array([0, 0, 0, 1, 1]), np.array(edges))
    sinks = np.zeros((3, 5), dtype=bool)
    sinks[1, 0] = True
    entropy = np.where(mass > 0.9, np.nan, mass)
    look = Look.of(mass, entropy, mass, Maps(values, places), sinks, [(0, 0, 0.25, 1)])
    assert look.region == pytest.approx(0.25)
    np.testing.assert_allclose(look.inside, 0.5 * values[..., 0] / (values[..., 0] + values[..., 1]))
    np.testing.assert_allclose(look.images[..., 1], values[..., 3] + values[..., 4])
    np.testing.assert_allclose(look.mass_without_sinks[:, 1], values[:, 1, 1:].sum(axis=-1))
    np.testing.assert_allclose(look.entropy, np.nanmean(entropy, axis=-1))
    whole = Look.of(mass, entropy, mass, Maps(values, places), sinks, [(0, 0, 1, 1)])
    assert np.isnan(whole.region), "a region that is the whole picture tells nothing"
    again = Look.unpack(json.loads(json.dumps(look.pack(heads=True))))
    np.testing.assert_allclose(again.heads_mass, mass, rtol=1e-6)
    maps = unpack_maps(json.loads(json.dumps(pack_maps(Maps(values, places)))))
    np.testing.assert_allclose(maps.values, values, rtol=1e-3)
    np.testing.assert_allclose(maps.places.boxes, places.boxes, rtol=1e-6)
