"""Models on the hub: everything that is read of one comes from one commit, which the record names."""

from __future__ import annotations

import json
import shutil

import odd_checkpoints as odd
import pytest
import torch
from safetensors.torch import load_file
from test_harness_model import Documents, ask, plam

from lmms_plam.config import ModelConfig
from lmms_plam.errors import CheckpointError, ConfigError, UnsupportedError
from lmms_plam.harness.backends import _where
from lmms_plam.merge import Checkpoint

VLM, LM = "someone/vlm", "someone/lm"


@pytest.fixture(params=["qwen2_5_vl", "llava"])
def pair(pairs, request):
    """A family whose backend takes no revision, and one whose does."""
    return pairs[request.param]


def with_other_weights(source, target):
    folder = odd.copied(source, target)
    odd.write(folder, odd.others(load_file(folder / "model.safetensors")))
    return folder


def test_a_pinned_vlm_is_read_at_its_revision_by_all_who_read_it(pair, hub, tmp_path):
    other = with_other_weights(pair.vlm, tmp_path / "other")
    (other / "chat_template.jinja").write_text("{{ 'nothing of this' }}")
    hub.push(VLM, other)
    hub.push(VLM, pair.vlm, "v1")
    expected = plam(pair, tmp_path, merge={"start_layer": 1})
    found = plam(pair, tmp_path, vlm=VLM, vlm_revision="v1", merge={"start_layer": 1})
    assert found.provenance.fingerprint == expected.provenance.fingerprint
    assert all(torch.equal(found._untouched[name], value) for name, value in expected._untouched.items())
    assert ask(found, Documents(count=2)) == ask(expected, Documents(count=2))
    assert plam(pair, tmp_path, vlm=VLM, merge="none").provenance.weights != expected.provenance.vlm_weights


def test_a_branch_that_moves_during_a_run_changes_nothing(pair, hub, tmp_path):
    hub.push(VLM, pair.vlm)
    model = plam(pair, tmp_path, vlm=VLM, merge={"start_layer": 1})
    hub.push(VLM, with_other_weights(pair.vlm, tmp_path / "other"))
    assert model._untouched


def test_the_record_names_the_commits_that_revisions_stood_for(pairs, hub, tmp_path):
    pair = pairs["qwen2_5_vl"]
    vlm, lm = hub.push(VLM, pair.vlm, "v1"), hub.push(LM, pair.base_lm)
    where = {"vlm": VLM, "vlm_revision": "v1", "base_lm": LM}
    record = json.loads(json.dumps(plam(pair, tmp_path, merge={"start_layer": 1}, **where).record()))
    assert (record["vlm_commit"], record["merge"]["base_lm_commit"]) == (vlm, lm)
    assert record["config"]["vlm_revision"] == "v1"
    folders = plam(pair, tmp_path, merge={"start_layer": 1}).record()
    assert (folders["vlm_commit"], folders["merge"]["base_lm_commit"]) == (None, None)
    assert folders["fingerprint"] == record["fingerprint"]


@pytest.mark.parametrize(("file", "counts"), [("chat_template.jinja", True), ("README.md", False)])
def test_a_commit_changes_the_fingerprint_if_answers_may_depend_on_it(pairs, hub, tmp_path, file, counts):
    pair = pairs["qwen2_5_vl"]
    folder = shutil.copytree(pair.vlm, tmp_path / "vlm")
    hub.push(VLM, folder)
    before = plam(pair, tmp_path, vlm=VLM, merge="none").provenance
    (folder / file).write_text("{{ 'another' }}")
    hub.push(VLM, folder)
    after = plam(pair, tmp_path, vlm=VLM, merge="none").provenance
    assert after.vlm_commit != before.vlm_commit
    assert after.weights == before.weights
    assert (after.fingerprint != before.fingerprint) == counts


def test_a_revision_that_the_backend_alone_would_see_is_refused_by_name(pairs, tmp_path):
    with pytest.raises(ConfigError, match=r"backend_args\.revision: use vlm_revision instead"):
        plam(pairs["llava"], tmp_path, **{"backend_args.revision": "v1"})


def test_a_revision_that_a_backend_cant_be_given_is_refused_by_name(pairs, hub, tmp_path):
    hub.push(VLM, pairs["qwen2_5_vl"].vlm, "v1")
    options = {"vlm": VLM, "vlm_revision": "v1", "backend": "gemma3", "backend_args": {}, "merge": "none"}
    with pytest.raises(UnsupportedError, match=r"backend 'gemma3' takes no revision: download 'someone/vlm' at 'v1'"):
        plam(pairs["qwen2_5_vl"], tmp_path, **options)


def test_a_backend_that_goes_by_a_models_name_keeps_it_and_is_given_the_commit(hub, pairs):
    commit = hub.push(VLM, pairs["qwen2_5_vl"].vlm, "v1")
    config = ModelConfig(name="x", vlm=VLM, vlm_revision="v1", backend="idefics2")
    vlm = Checkpoint(VLM, "v1")
    assert _where(config, vlm, "idefics2", {"revision"}) == {"pretrained": VLM, "revision": commit}
    assert _where(config, vlm, "llava_hf", {"revision"}) == {"pretrained": str(vlm.place.folder)}


@pytest.mark.parametrize("argument", ["subfolder", "variant", "use_safetensors"])
def test_what_else_would_choose_weights_is_refused_by_name(pairs, tmp_path, argument):
    with pytest.raises(ConfigError, match=rf"takes no argument '{argument}'"):
        plam(pairs["llava"], tmp_path, **{f"backend_args.{argument}": "v1"})


@pytest.mark.parametrize("field", ["vlm", "base_lm"])
def test_a_revision_that_isnt_there_is_named(pairs, hub, tmp_path, field):
    pair = pairs["qwen2_5_vl"]
    hub.push(VLM, pair.vlm)
    hub.push(LM, pair.base_lm)
    where = {"vlm": VLM, "base_lm": LM, f"{field}_revision": "v9", "merge": {"start_layer": 1}}
    with pytest.raises(CheckpointError, match=rf"'{where[field]}' at revision 'v9'.* can't be fetched"):
        plam(pair, tmp_path, **where)
