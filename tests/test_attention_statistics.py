"""Does attention explain anything? The record and its statistics, against other libraries and worlds of known truth."""

from __future__ import annotations

import json
import warnings
from dataclasses import fields, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import ndtr
from scipy.stats import mannwhitneyu, somersd
from sklearn.metrics import roc_auc_score

from lmms_plam.attention.findings import findings
from lmms_plam.attention.growth import growth
from lmms_plam.attention.jackknife import band, mean_over_documents, ratio_of_means, single
from lmms_plam.attention.order import order_agreement
from lmms_plam.attention.prediction import prediction
from lmms_plam.attention.record import MEASURES, AttentionRecord
from lmms_plam.attention.regions import right_place
from lmms_plam.attention.relation import relation
from lmms_plam.attention.summary import Scaled, summarise
from lmms_plam.errors import DataError
from lmms_plam.stats.comparison import Settings
from lmms_plam.words import runs

FAST = Settings(draws=500)


def record(mass, score, cluster=None, **others):
    """A record of one measure; the others are half of it, and no region is known unless it is given."""
    n_docs, n_variants, n_queries, n_layers = mass.shape
    unknown = np.full(mass.shape, np.nan)
    values = {
        "entropy": mass / 2,
        "focus": mass / 2,
        "mass_without_sinks": mass / 2,
        "inside": unknown,
        "region": unknown[:, 0, 0, 0],
    } | others
    return AttentionRecord(
        doc_ids=np.arange(n_docs),
        variants=("untouched", "merged", "scaled")[:n_variants],
        queries=("ins", "res")[:n_queries],
        layers=np.arange(n_layers),
        mass=mass,
        score=np.asarray(score, dtype=np.float64),
        cluster=np.arange(n_docs).astype(str) if cluster is None else np.asarray(cluster).astype(str),
        **values,
    )


def layered(rng, rows, layers, kept=0.9):
    """Normal numbers that go together from layer to layer."""
    found = rng.normal(size=(rows, layers))
    for layer in range(1, layers):
        found[:, layer] = kept * found[:, layer - 1] + (1 - kept**2) ** 0.5 * found[:, layer]
    return found


def in_clusters(rng, documents, size, layers=1):
    """Clusters, and normal numbers half of whose variance their documents share."""
    cluster = np.arange(documents) // size
    shared, own = layered(rng, documents // size + 1, layers), layered(rng, documents, layers)
    return cluster, (shared[cluster] + own) / 2**0.5


def pair_world(rng, documents=400, size=2, layers=3, pull=0.0):
    """Two variants: documents in clusters change score seldom, the likelier to gain the more attention grows (pull)."""
    cluster, ease = in_clusters(rng, documents, size)
    _, grown = in_clusters(rng, documents, size, layers)
    before = ease[:, 0] + 0.5 * rng.normal(size=documents) > -0.3
    tide = 1.2 * rng.normal(size=documents) + 0.4 * rng.normal(size=documents // size + 1)[cluster]
    after = np.where(tide + pull * grown.mean(axis=1) > 1.6, True, np.where(tide < -1.6, False, before))
    start = 0.3 + 0.03 * ease + 0.02 * rng.normal(size=(documents, layers))
    mass = np.stack([start, start + 0.02 + 0.01 * grown], axis=1)[:, :, None].clip(0, 1)
    return record(mass, np.stack([before, after], axis=1), cluster)


shares = st.one_of(st.just(np.nan), st.floats(0, 1))


@st.composite
def records(draw):
    shape = tuple(draw(st.integers(1, limit)) for limit in (4, 3, 2, 3))
    values = {name: draw(hnp.arrays(np.float64, shape, elements=shares)) for name in MEASURES}
    return replace(
        record(
            values.pop("mass"),
            draw(hnp.arrays(np.float64, shape[:2], elements=st.floats(-5, 5))),
            draw(
                st.lists(
                    st.text(st.characters(exclude_categories=["Cs"]), max_size=3), min_size=shape[0], max_size=shape[0]
                )
            ),
            region=draw(hnp.arrays(np.float64, shape[:1], elements=shares)),
            **values,
        ),
        images=draw(st.none() | hnp.arrays(np.float64, (*shape, 2), elements=st.floats(0, 1))),
        heads_mass=draw(st.none() | hnp.arrays(np.float32, (*shape, 3), elements=st.floats(0, 1, width=32))),
    )


@settings(max_examples=60)
@given(written=records(), seed=st.integers(0, 9))
def test_a_record_comes_back_as_it_was_written_whatever_the_order_of_rows(written, seed, tmp_path_factory):
    path = tmp_path_factory.mktemp("record") / "attention.parquet"
    written.write(path)
    same(AttentionRecord.read(path), written)
    table = pq.read_table(path)
    blocks = np.random.default_rng(seed).permutation(
        len(written.layers)
    )  # the first rows still name the variants first
    order = np.argsort(blocks[table["layer"].to_numpy()], kind="stable")
    pq.write_table(table.take(order), path)
    same(AttentionRecord.read(path), written)


def same(found, expected):
    for one in fields(AttentionRecord):
        a, b = getattr(found, one.name), getattr(expected, one.name)
        if one.name in ("variants", "queries"):
            assert a == b
        elif a is None or b is None:
            assert a is b
        else:
            assert a.dtype.kind == b.dtype.kind
            np.testing.assert_array_equal(a, b)


@settings(max_examples=80)
@given(small=records(), seed=st.integers(0, 3), documents=st.integers(1, 30))
def test_whatever_is_recorded_is_summed_up_or_refused(small, seed, documents):
    rows = np.random.default_rng(seed).integers(0, len(small.doc_ids), documents)
    names = ("doc_ids", "score", "region", *MEASURES)
    grown = replace(
        small,
        **{name: getattr(small, name)[rows] for name in names} | {"doc_ids": np.arange(documents)},
        cluster=np.arange(documents).astype(str),
        images=None,
        heads_mass=None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = summarise(grown, settings=FAST)
        except DataError:
            assert documents == 1 or np.isnan(grown.mass).all()
            return
        text = json.dumps(found.to_dict(), allow_nan=False) + " ".join(findings(found))
    assert not any(word in text for word in ("nan", "inf ", "NaN"))


def test_images_are_lists_as_long_as_a_document_has_pictures(tmp_path):
    images = np.full((2, 1, 1, 1, 3), np.nan)
    images[0, ..., :1], images[1, ..., :3] = 0.5, 0.1
    written = record(np.full((2, 1, 1, 1), 0.5), np.ones((2, 1)), images=images)
    written.write(tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet")["images"].to_pylist() == [[0.5], [0.1, 0.1, 0.1]]
    same(AttentionRecord.read(tmp_path / "a.parquet"), written)


def test_what_is_unknown_is_null_on_disk(tmp_path):
    mass = np.array([0.5, np.nan]).reshape(2, 1, 1, 1)
    record(mass, np.ones((2, 1))).write(tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet")["mass"].to_pylist() == [0.5, None]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda table: table.drop_columns(["mass"]), "no record of attention: no column 'mass'"),
        (
            lambda table: table.slice(1),
            r"document 0 has variant 'untouched', queries 'ins', layer 0 not at all \(1 such",
        ),
        (lambda table: pa.concat_tables([table, table.slice(3, 1)]), "layer 1 twice"),
        (lambda table: put(table, "mass", pa.array([3.0] * len(table))), "'mass' is 3, and a share lies between"),
        (lambda table: put(table, "score", pa.array(range(len(table)), pa.float64())), "two values of 'score'"),
        (lambda table: put(table, "score", pa.array([None] * len(table), pa.float64())), "score is no finite number"),
        (lambda table: put(table, "cluster", pa.array(map(str, range(len(table))))), "two values of 'cluster'"),
        (lambda table: put(table, "region", pa.array([0.1] * 3 + [0.2] * (len(table) - 3))), "two values of 'region'"),
        (
            lambda table: put(table, "layer", pa.array(["first"] * len(table))),
            "'layer' must be whole numbers, not string",
        ),
        (lambda table: put(table, "variant", pa.array([None] * len(table), pa.string())), "'variant' is empty in"),
        (lambda table: put(table, "queries", pa.array(["inn"] * len(table))), "Did you mean 'ins'"),
        (lambda table: table.slice(0, 0), "a record of attention without rows"),
    ],
)
def test_a_damaged_or_foreign_record_is_refused_in_one_sentence(damage, message, tmp_path):
    path = tmp_path / "attention.parquet"
    record(np.full((3, 1, 1, 2), 0.5), np.ones((3, 1))).write(path)
    pq.write_table(damage(pq.read_table(path)), path)
    with pytest.raises(DataError, match=message):
        AttentionRecord.read(path)


def put(table, name, column):
    return table.set_column(table.column_names.index(name), name, column)


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "a.parquet").write_text("no Parquet")
    for name in ("a.parquet", "missing.parquet"):
        with pytest.raises(DataError, match=f"{name} can't be read as a record of attention"):
            AttentionRecord.read(tmp_path / name)


def test_some_layers_and_documents_can_be_taken():
    rng = np.random.default_rng(0)
    whole = record(rng.random((5, 2, 2, 4)), rng.random((5, 2)), images=rng.random((5, 2, 2, 4, 2)))
    part = whole.at(layers=[3, 1], doc_ids=[4, 0])
    assert (part.layers.tolist(), part.doc_ids.tolist()) == ([1, 3], [0, 4])
    np.testing.assert_array_equal(part.mass, whole.mass[[0, 4]][..., [1, 3]])
    np.testing.assert_array_equal(part.images, whole.images[[0, 4]][..., [1, 3], :])
    for wanted, message in (({"layers": [4]}, "no layer 4 in"), ({"doc_ids": []}, "no document is named")):
        with pytest.raises(DataError, match=message):
            whole.at(**wanted)
    with pytest.raises(DataError, match="Did you mean 'merged'"):
        whole.of("mass", "merge", "ins")


def test_the_area_under_the_curve_is_that_of_other_libraries_with_ties_and_gaps():
    rng = np.random.default_rng(1)
    attention, score = rng.normal(size=(200, 4)).round(1), (rng.random(200) < 0.7).astype(float)
    attention[:30, 2] = np.nan
    found = order_agreement(attention, score, np.arange(200) // 3)
    for column, value in enumerate(found.value):
        known = np.isfinite(attention[:, column])
        own, right = attention[known, column], score[known] == 1
        assert value == pytest.approx(roc_auc_score(right, own))
        assert value == pytest.approx(mannwhitneyu(own[right], own[~right]).statistic / right.sum() / (~right).sum())
    assert found.documents.tolist() == [200, 200, 170, 200]


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), levels=st.integers(2, 12), size=st.integers(1, 4))
def test_graded_scores_give_somers_d_and_what_is_left_out_is_left_out(seed, levels, size):
    rng = np.random.default_rng(seed)
    attention, score = rng.normal(size=(30, 2)).round(1), rng.integers(0, levels, 30).astype(float)
    score[0], score[-1] = 0, 1
    cluster = rng.permutation(np.arange(30) // size)
    found = order_agreement(attention, score, cluster)
    for column in range(2):
        assert found.value[column] == pytest.approx((somersd(score, attention[:, column]).statistic + 1) / 2)
        for one in range(cluster.max() + 1):
            kept = cluster != one
            if np.ptp(score[kept]):
                without = (somersd(score[kept], attention[kept, column]).statistic + 1) / 2
                assert found.left_out[one, column] == pytest.approx(without)
            else:
                assert np.isinf(found.left_out[one, column])


def test_the_standard_error_is_the_textbooks():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(80, 1))
    alone = single(mean_over_documents(values, np.arange(80)), "mean", FAST)
    assert alone.estimate.standard_error == pytest.approx(values.std(ddof=1) / 80**0.5)
    paired = single(mean_over_documents(values, np.arange(80) // 2), "mean", FAST)
    assert paired.estimate.standard_error == pytest.approx(values.reshape(40, 2).mean(axis=1).std(ddof=1) / 40**0.5)
    assert paired.estimate.clusters == 40


def test_the_standard_error_of_an_area_is_that_of_obuchowski():
    rng = np.random.default_rng(3)
    cluster, attention = in_clusters(rng, 600, 3)
    right = attention[:, 0] + 2 * rng.normal(size=600) > 0
    of_right, of_wrong = attention[right, 0], attention[~right, 0]
    area = roc_auc_score(right, attention[:, 0])
    parts = []
    for own, others, sign, side in ((of_right, of_wrong, 1, right), (of_wrong, of_right, -1, ~right)):
        placement = (sign * (own[:, None] - others) > 0).mean(axis=1) - area
        parts.append(np.bincount(cluster[side], weights=placement, minlength=200) / len(own))
    having = [len(np.unique(cluster[side])) for side in (right, ~right)]
    variance = sum(count / (count - 1) * (part**2).sum() for count, part in zip(having, parts, strict=True))
    variance += 2 * 200 / 199 * (parts[0] * parts[1]).sum()
    found = band(order_agreement(attention, right.astype(float), cluster), FAST, 0.5)
    assert found.error[0] == pytest.approx(variance**0.5, rel=0.01)


@pytest.mark.parametrize(("documents", "size", "layers"), [(40, 2, 1), (40, 2, 24), (300, 3, 24)])
def test_bands_of_means_hold_for_all_layers_as_often_as_they_say(documents, size, layers):
    rng, covered, rejected = np.random.default_rng(4), 0, 0
    for _ in range(400):
        cluster, values = in_clusters(rng, documents, size, layers)
        found = band(mean_over_documents(values, cluster), FAST)
        covered += not (found.above | found.below).any()
        rejected += (found.p_value <= 0.05).any()
    assert 0.925 <= covered / 400 <= 0.975
    assert 0.025 <= rejected / 400 <= 0.075


@pytest.mark.parametrize(
    ("documents", "size", "layers", "share", "shift"),
    [
        (300, 3, 1, 0.6, 0.0),
        (300, 3, 24, 0.6, 0.0),
        (400, 1, 1, 0.05, 1.0),
        (400, 2, 24, 0.05, 1.0),
        (200, 2, 1, 0.6, 2.0),
    ],
)
def test_intervals_of_areas_cover_as_often_as_they_say(documents, size, layers, share, shift):
    rng, covered, tried = np.random.default_rng(5), 0, 0
    for _ in range(400):
        cluster, attention = in_clusters(rng, documents, size, layers)
        right = (ndtr(in_clusters(rng, documents, size)[1][:, 0]) < share).astype(float)
        if min(right.sum(), documents - right.sum()) < 10:
            continue
        tried += 1
        found = band(order_agreement(attention + shift * right[:, None], right, cluster), FAST, 0.5, odds=True)
        truth = ndtr(shift / 2**0.5)
        covered += ((found.low <= truth) & (truth <= found.high)).all()
    assert tried > 300
    assert 0.925 <= covered / tried <= 0.985


@pytest.mark.parametrize(("documents", "size"), [(400, 2), (1000, 5)])
def test_no_relation_is_found_about_as_often_as_the_level_says(documents, size):
    rng, rejected = np.random.default_rng(6), {"all": [], "failures": [], "halves": []}
    for _ in range(500):
        world = pair_world(rng, documents, size, layers=1)
        for among in ("all", "failures"):
            found = relation(world, "untouched", "merged", "ins", [0], among=among, settings=FAST)
            if found.order:
                rejected[among].append(found.order.p_value <= 0.05)
            if among == "all":
                rejected["halves"].append(found.halves.p_value <= 0.05)
    for rates in rejected.values():
        assert len(rates) > 400
        assert 0.03 <= np.mean(rates) <= 0.07


def test_a_relation_that_exists_is_found():
    rng = np.random.default_rng(7)
    for among in ("all", "failures"):
        found = [
            relation(pair_world(rng, 1000, pull=1.0), "untouched", "merged", "ins", [1, 2], among=among, settings=FAST)
            for _ in range(40)
        ]
        assert np.mean([one.order.direction == 1 for one in found]) > 0.9
        assert np.mean([one.halves.value for one in found]) > 0.03


def test_among_failures_is_asked_who_becomes_right_and_not_whether_failures_gain():
    world = pair_world(np.random.default_rng(8), 1000)
    found = relation(world, "untouched", "merged", "ins", [1, 2], among="failures", settings=FAST)
    failed = world.score[:, 0] == 0
    grown = (world.mass[:, 1, 0] - world.mass[:, 0, 0])[:, 1:].mean(axis=1)
    assert found.order.value == pytest.approx(roc_auc_score(world.score[failed, 1], grown[failed]))
    assert (found.documents, found.lost) == (int(failed.sum()), 0)
    assert found.gained == int(world.score[failed, 1].sum())
    assert found.order.direction == 0, "that failures gain, as they must, is no relation"


def test_halves_are_told_apart_at_the_median():
    world = pair_world(np.random.default_rng(9), 300)
    found = relation(world, "untouched", "merged", "ins", [0, 1, 2], settings=FAST)
    grown = (world.mass[:, 1, 0] - world.mass[:, 0, 0]).mean(axis=1)
    change, more = world.score[:, 1] - world.score[:, 0], grown > np.median(grown)
    assert found.halves.value == pytest.approx(change[more].mean() - change[~more].mean())


def test_layers_that_are_not_merged_are_known_not_to_change_and_cost_nothing():
    rng = np.random.default_rng(10)
    mass = np.repeat(rng.uniform(0.2, 0.4, (60, 1, 1, 12)), 2, axis=1)
    mass[:, 1, 0, 10:] += 0.01 + 0.01 * rng.normal(size=(60, 2))
    world = record(mass, np.ones((60, 2)))
    found = growth(world, "untouched", "merged", "ins", [10, 11], settings=FAST)
    assert (found.difference.p_value[:10] == 1).all()
    assert (found.difference.low[:10] == 0).all()
    assert (found.grows, found.falls) == ([10, 11], [])
    fewer = growth(world.at(layers=[10, 11]), "untouched", "merged", "ins", [10, 11], settings=FAST)
    np.testing.assert_allclose(found.difference.low[10:], fewer.difference.low)
    assert found.late.difference.value == pytest.approx((mass[:, 1, 0, 10:] - mass[:, 0, 0, 10:]).mean())
    assert found.late.after - found.late.before == pytest.approx(found.late.difference.value)


def test_documents_without_a_picture_are_left_out_and_counted():
    world = pair_world(np.random.default_rng(11), 100)
    mass = world.mass.copy()
    mass[:20] = np.nan
    mass[20, 1, 0, 0] = np.nan  # one layer of one variant
    gaps = replace(world, mass=mass)
    found = growth(gaps, "untouched", "merged", "ins", [1, 2], settings=FAST)
    assert (found.left_out, found.difference.documents.tolist()) == (21, [79, 80, 80])
    whole = growth(world.at(doc_ids=range(20, 100)), "untouched", "merged", "ins", [1, 2], settings=FAST)
    np.testing.assert_allclose(found.difference.value[1:], whole.difference.value[1:])
    assert found.late == whole.late


@pytest.mark.parametrize("all_are", [0.0, 1.0])
def test_where_all_answers_are_alike_nobody_can_tell(all_are):
    world = replace(pair_world(np.random.default_rng(12), 100), score=np.full((100, 2), all_are))
    found = prediction(world, "merged", "ins", [1, 2], settings=FAST)
    assert found.by_layer is None
    assert found.missing == f"all 100 documents have the same score, {all_are:g}"
    of_growth = relation(world, "untouched", "merged", "ins", [1, 2], settings=FAST)
    assert of_growth.missing == "all 100 documents have the same change in score, 0"
    said = " ".join(findings(summarise(world, settings=FAST)))
    assert f"under 'merged' nobody can tell: all 100 documents have the same score, {all_are:g}" in said
    if all_are:
        assert "'untouched' gets no document wrong" in said


def test_a_handful_of_changes_is_too_few_to_tell():
    world = pair_world(np.random.default_rng(13), 200)
    score = np.ones((200, 2))
    score[:9, 1] = 0
    found = relation(replace(world, score=score, cluster=np.arange(200).astype(str)), "untouched", "merged", "ins", [2])
    assert found.order is None
    assert found.missing == "only 9 of 200 clusters have another change in score than the rest: too few to tell"


def test_prediction_finds_the_layer_that_tells_and_corrects_for_having_looked_at_all():
    rng = np.random.default_rng(14)
    mass = rng.uniform(0.2, 0.4, (300, 1, 1, 8))
    right = mass[:, 0, 0, 5] + 0.05 * rng.normal(size=300) > 0.3
    found = prediction(record(mass, right[:, None]), "untouched", "ins", [5], settings=FAST)
    assert np.flatnonzero(found.by_layer.above).tolist() == [5]
    assert found.late.value == pytest.approx(roc_auc_score(right, mass[:, 0, 0, 5]))
    assert not found.graded
    rejected = 0
    for _ in range(300):
        mass = rng.uniform(0.2, 0.4, (100, 1, 1, 8))
        noise = record(mass, rng.random((100, 1)) < 0.6)
        rejected += (prediction(noise, "untouched", "ins", [5], settings=FAST).by_layer.p_value <= 0.05).any()
    assert 0.02 <= rejected / 300 <= 0.08


def region_world(rng, documents, factor):
    region = rng.uniform(0.05, 0.2, documents)
    region[::5] = np.nan
    luck = rng.lognormal(-0.125, 0.5, (documents, 2, 1, 4))
    luck[:, 1] *= factor
    inside = (region[:, None, None, None] * luck).clip(0, 1)
    mass = rng.uniform(0.2, 0.4, inside.shape)
    return record(mass, rng.random((documents, 2)) < 0.5, inside=inside, region=region)


def test_attention_that_knows_nothing_of_the_right_place_gives_it_its_share():
    rng, covered = np.random.default_rng(15), 0
    for _ in range(300):
        covered += not (lambda found: found.above | found.below)(
            right_place(region_world(rng, 150, 1), "untouched", "ins", [2, 3], settings=FAST).ratio
        ).any()
    assert 0.92 <= covered / 300 <= 0.98


def test_attention_on_the_right_place_is_told_from_its_size():
    world = region_world(np.random.default_rng(16), 400, 1.5)
    found = right_place(world, "merged", "ins", [2, 3], settings=FAST)
    known = ~np.isnan(world.region)
    assert found.region == pytest.approx(world.region[known].mean())
    assert found.late.value == pytest.approx(world.inside[known, 1, 0, 2:].mean() / world.region[known].mean())
    assert found.late.direction == 1
    assert found.ratio.above.all()
    said = " ".join(findings(summarise(world, late=[2, 3], settings=FAST)))
    assert "times its share" in said
    assert "more than if spread evenly; of all layers, most in layer " in said
    assert " times; against 'untouched' +" in said
    assert right_place(pair_world(np.random.default_rng(0)), "merged", "ins", [2], settings=FAST) is None


CONTROL = Scaled(1.4, ("merged",))


def control_world(rng, own):
    """Scaling adds .03 in the last four layers; the merge adds as much and something of its own."""
    mass = rng.uniform(0.2, 0.4, (200, 1, 2, 12)) + np.zeros((1, 3, 1, 1))
    mass[:, 1:, :, 8:] += 0.03 + 0.01 * rng.normal(size=(200, 2, 2, 4))
    mass[:, 1, :, 8:] += own
    return record(mass, rng.random((200, 3)) < 0.6)


def test_the_merge_is_told_from_scaling():
    for own, words in (
        (0.0, "looks at the picture no more or less for sure"),
        (0.01, "looks at the picture more, +1.0"),
    ):
        found = summarise(control_world(np.random.default_rng(17), own), late=range(8, 12), settings=FAST)
        beyond = found.control_of("merged", "ins").late.difference
        assert beyond.estimate.ci_low <= own <= beyond.estimate.ci_high
        both = [found.growth_of(name, "ins").late.difference.value for name in ("merged", "scaled")]
        assert beyond.value == pytest.approx(both[0] - both[1])
        assert any("against 'scaled'" in line and words in line for line in findings(found))
    world = pair_world(np.random.default_rng(18))
    assert summarise(world, settings=FAST).control == ()


@pytest.mark.parametrize(
    ("scaled", "what", "scaling"),
    [
        (
            CONTROL,
            ", the VLM scaled by the same sum of coefficients without any of the base LM,",
            True,
        ),
        (Scaled(0.9), ", the VLM scaled by 0.9 without any of the base LM,", False),
        (None, "", False),
    ],
)
def test_the_same_sum_is_said_only_of_a_merge_s_own_control(scaled, what, scaling):
    world = control_world(np.random.default_rng(17), 0.01)
    said = findings(summarise(world, late=range(8, 12), settings=FAST, scaled=scaled))
    (line,) = [line for line in said if line.startswith("against 'scaled'")]
    assert line.startswith(f"against 'scaled'{what} 'merged' looks at the picture more")
    assert line.endswith("that is the merge's own, and the rest is scaling") == scaling


def test_a_summary_says_the_same_in_the_table_the_file_and_the_sentences():
    found = summarise(control_world(np.random.default_rng(19), 0.02), late=range(8, 12), settings=FAST)
    head = found.headlines()[0]
    late = found.growth_of("merged", "ins").late
    assert (head.variant, head.merged, head.difference) == ("merged", late.after, late.difference.value)
    assert head.relation == found.relation_of("merged", "ins").order.value
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content["headline"]["merged"]["difference"] == late.difference.value
    assert (content["late"], content["n_documents"]) == ([8, 9, 10, 11], 200)
    assert len(content["growth"]) == 2 * 2 * 4
    said = findings(found)
    assert said[0].startswith(
        f"in layers 8 to 11 the question gives the picture {late.before:.1%} of its attention under 'untouched' and "
        f"{late.after:.1%} under 'merged'"
    )
    assert "of all layers, it grows in layers 8 to 11 for sure" in said[0]


def test_late_layers_are_the_last_third_unless_somebody_says_what_is_merged():
    world = control_world(np.random.default_rng(20), 0.0)
    assert summarise(world, settings=FAST).late == (8, 9, 10, 11)
    assert summarise(world, late=[9, 3], settings=FAST).late == (3, 9)
    with pytest.raises(DataError, match="no layer 12 in the record"):
        summarise(world, late=range(8, 13), settings=FAST)


def test_answers_of_one_token_and_documents_without_a_picture_are_said():
    world = control_world(np.random.default_rng(21), 0.0)
    mass = world.mass.copy()
    mass[:, :, 1] = np.nan
    mass[:7] = np.nan
    found = summarise(replace(world, mass=mass), settings=FAST)
    assert (found.queries, found.without) == (("ins",), 7)
    assert findings(found)[0].startswith("7 of 200 documents have no attention on a picture")
    with pytest.raises(DataError, match="no document has any attention on a picture"):
        summarise(replace(world, mass=np.full(mass.shape, np.nan)))
    with pytest.raises(DataError, match="all documents form one cluster"):
        summarise(replace(world, cluster=np.full(200, "a")))


def test_attention_inside_a_region_may_predict_too():
    world = region_world(np.random.default_rng(22), 300, 1.0)
    score = (world.inside[:, :, 0].mean(axis=-1) > 0.12).astype(float)
    found = summarise(replace(world, score=np.where(np.isnan(score), 0.0, score)), settings=FAST)
    assert found.prediction_of("merged", "ins", "inside").late.direction == 1
    assert found.relation_of("merged", "ins", "inside").order.direction == 1


def test_one_document_more_or_less_moves_a_ratio_as_it_should():
    above, below = np.array([[1.0], [2.0], [4.0]]), np.array([[2.0], [2.0], [np.nan]])
    found = ratio_of_means(above, below, np.array([0, 1, 1]))
    assert (found.value[0], found.documents[0]) == (0.75, 2)
    assert found.left_out[:, 0].tolist() == [1.0, 0.5]


def test_numbers_in_a_row_are_joined():
    assert runs([0, 2, 3, 4, 8]) == "0, 2 to 4, 8"
