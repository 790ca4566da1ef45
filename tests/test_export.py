"""A merged model written by `plam merge`: its tensors, its files, its answers, kills, refusals, card and upload."""

from __future__ import annotations

import errno
import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import odd_checkpoints as odd
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, snapshot_download
from safetensors.torch import load_file
from test_harness_runs import config_file, evaluate
from transformers import AutoModelForImageTextToText

from lmms_plam.cli import main
from lmms_plam.config import MergeRecipe
from lmms_plam.errors import UnsupportedError
from lmms_plam.files import digest
from lmms_plam.merge import Checkpoint, FurtherFiles, merge_into, plan_merge, read_vocabulary
from lmms_plam.merge.export import Sources, plan_export
from lmms_plam.merge.information import fisher_key, write_fisher
from lmms_plam.merge.names import decoder_tensors, parse_name
from lmms_plam.merge.rewriting import between, copy_replacing
from lmms_plam.merge.stored import StoredModel
from lmms_plam.paths import PACKAGE

WHOLE = {"modules": "all", "qk_norms": True, "start_layer": 0, "schedule": "linear", "lambda_lm": 0.6}
RECIPES = {"late attention": {"start_layer": 2, "lambda_lm": 0.4, "lambda_vlm": 0.7}, "whole decoder": WHOLE}


def export(pair, out: Path, *options: str, merge=None, **content) -> int:
    path = config_file(pair, out.parent, merge=merge or {"start_layer": 1}, **content)
    return main(["merge", f"config={path}", "--out", str(out), *options])


def refused(capsys, pair, out: Path, *options: str, **content) -> str:
    """Export in vain, and return what is said of it: one sentence, and nothing stands at the target."""
    before = sorted(out.rglob("*")) if out.exists() else None
    assert export(pair, out, *options, **content) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert (sorted(out.rglob("*")) if out.exists() else None) == before
    assert not list(out.parent.glob(".*"))
    return last.removeprefix("plam: ")


def with_files(pair, folder: Path, **changed: Path):
    """The pair with other folders."""
    from dataclasses import replace

    return replace(pair, **changed)


def sharded(pair, folder: Path) -> Path:
    """The VLM in two shards, a leftover of another state, and what people keep beside weights."""
    shutil.copytree(pair.vlm, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    odd.write_shards(folder, tensors)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nlanguage:\n- en\n---\n# The VLM\n")
    (folder / "modeling_own.py").write_text("# code of its own\n")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}")
    (folder / "pytorch_model.bin").write_bytes(b"an earlier state")
    (folder / "pytorch_model.bin.index.json").write_text("{}")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    return folder


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_folder_loads_as_the_model_that_a_merge_in_memory_makes_bit_for_bit(pair, tmp_path, recipe):
    assert export(pair, tmp_path / "out", "--verify", merge=recipe) == 0
    exported = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype="auto")
    merged = AutoModelForImageTextToText.from_pretrained(pair.vlm, dtype="auto")
    vocabulary = read_vocabulary(Checkpoint(str(pair.vlm)).place)
    merge_into(merged, str(pair.base_lm), MergeRecipe.model_validate(recipe), vocabulary)
    untouched = AutoModelForImageTextToText.from_pretrained(pair.vlm, dtype="auto").state_dict()
    ours, theirs = exported.state_dict(), merged.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name].view(torch.uint8), tensor.view(torch.uint8)), name
    assert any(not torch.equal(tensor, untouched[name]) for name, tensor in ours.items())


METHODS = {
    "slerp": {},
    "task_arithmetic": {"ancestor": "{folder}/ancestor"},
    "ties": {"ancestor": "{folder}/ancestor", "density": 0.5},
    "dare_linear": {"ancestor": "{folder}/ancestor", "density": 0.5, "seed": 3},
    "dare_ties": {"ancestor": "{folder}/ancestor", "density": 0.5, "seed": 3},
    "fisher": {"fisher": "{folder}/fisher.safetensors"},
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_exported_as_it_merges_in_memory(pairs, tmp_path, method):
    pair = pairs["llava_onevision"]
    odd.edit(odd.copied(pair.base_lm, tmp_path / "ancestor"), odd.others)
    merged = AutoModelForImageTextToText.from_pretrained(pair.vlm, dtype="auto")
    generator = torch.Generator().manual_seed(1)
    write_fisher(
        tmp_path / "fisher.safetensors",
        {
            fisher_key(whose, tensor): torch.rand(merged.get_parameter(name).shape, generator=generator)
            for tensor, name in decoder_tensors(name for name, _ in merged.named_parameters()).items()
            for whose in ("vlm", "base_lm")
        },
        {},
    )
    fields = {k: v.format(folder=tmp_path) if isinstance(v, str) else v for k, v in METHODS[method].items()}
    recipe = {"method": method, "start_layer": 2, "lambda_lm": 0.4, "lambda_vlm": 0.6, **fields}
    out = tmp_path / "out"
    assert export(pair, out, "--verify", merge=recipe) == 0
    report = merge_into(merged, str(pair.base_lm), MergeRecipe.model_validate(recipe))
    exported = AutoModelForImageTextToText.from_pretrained(out, dtype="auto").state_dict()
    for name, tensor in merged.state_dict().items():
        assert torch.equal(exported[name].view(torch.uint8), tensor.view(torch.uint8)), name
    assert len(json.loads((out / "plam.json").read_text())["merged"]) == len(report.merged)
    assert str(tmp_path) not in (out / "plam.json").read_text() + (out / "README.md").read_text()
    parents = ModelCard.load(out / "README.md").data.base_model
    assert parents == ["vlm", "base_lm", *(["ancestor"] if "ancestor" in fields else [])]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_plan_from_headers_is_that_of_the_loaded_model(pair, recipe):
    settings = MergeRecipe.model_validate(recipe)
    model = AutoModelForImageTextToText.from_pretrained(pair.vlm, dtype="auto")
    with Checkpoint(str(pair.vlm)) as vlm, Checkpoint(str(pair.base_lm)) as base_lm:
        plans = (
            plan_merge(StoredModel(vlm), base_lm, settings, loaded=False),
            plan_merge(model, base_lm, settings),
        )
    ours, theirs = (
        {parse_name(one.name): (one.source, one.coefficients, one.rows) for one in plan.merged} for plan in plans
    )
    assert ours == theirs
    ours, theirs = ({parse_name(name) for name in plan.kept} for plan in plans)
    assert ours == theirs


def test_the_exported_folder_answers_in_the_harness_as_plam_does_token_for_token(pair, tmp_path, task_folder):
    recipe = {"start_layer": 1, "lambda_lm": 0.8, "lambda_vlm": 0.2}
    assert export(pair, tmp_path / "out", merge=recipe) == 0
    options = {"include": task_folder, "limit": 6, "device": "cpu", "gen_kwargs": "max_new_tokens=12"}
    config = tmp_path / "pair.yaml"
    backend_args = {"device_map": "cpu", **pair.backend_args}
    arguments = ",".join(f"{name}={value}" for name, value in backend_args.items())
    runs = {
        "ours": evaluate("plam", f"config={config}", ["tiny_look"], **options),
        "untouched": evaluate("plam", f"config={config},merge=none", ["tiny_look"], **options),
        "exported": evaluate(pair.backend, f"pretrained={tmp_path / 'out'},{arguments}", ["tiny_look"], **options),
    }
    answers = {
        name: {sample["doc_id"]: sample["filtered_resps"] for sample in run["samples"]["tiny_look"]}
        for name, run in runs.items()
    }
    assert len(answers["ours"]) == 6
    assert answers["exported"] == answers["ours"]
    assert answers["untouched"] != answers["ours"]


def test_exported_digits_answer_as_plam_does_token_for_token(tmp_path):
    assert main(["merge", "config=digits", "--out", str(tmp_path / "out"), "--verify"]) == 0
    pixels = "min_pixels=18816,max_pixels=18816"
    own = evaluate(
        "qwen2_5_vl", f"pretrained={tmp_path / 'out'},device_map=cpu,{pixels}", ["plam_digits"], limit=24, device="cpu"
    )
    ours = evaluate("plam", "config=digits", ["plam_digits"], limit=24)
    answers = [{s["doc_id"]: s["filtered_resps"] for s in run["samples"]["plam_digits"]} for run in (own, ours)]
    assert len(answers[0]) == 24
    assert answers[0] == answers[1]


def test_an_identity_recipe_gives_byte_identical_shards(pair, tmp_path):
    recipe = {"modules": "all", "qk_norms": True, "start_layer": 0, "lambda_lm": 0, "lambda_vlm": 1}
    assert export(pair, tmp_path / "out", merge=recipe) == 0
    for path in pair.vlm.iterdir():
        assert filecmp.cmp(path, tmp_path / "out" / path.name, shallow=False), path.name


def test_all_files_come_along_but_leftovers_and_the_vlms_own_card(pairs, tmp_path, capsys):
    vlm = sharded(pairs["qwen2_5_vl"], tmp_path / "vlm")
    out = tmp_path / "out"
    assert export(with_files(pairs["qwen2_5_vl"], tmp_path, vlm=vlm), out, "--verify") == 0
    assert "leaves out what transformers doesn't load: pytorch_model.bin, pytorch" in capsys.readouterr().out
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    theirs = {path.relative_to(vlm).as_posix() for path in vlm.rglob("*") if path.is_file()}
    assert names - theirs == {"README.vlm.md", "plam.json"}
    assert theirs - names == {"pytorch_model.bin", "pytorch_model.bin.index.json", ".gitattributes"}
    assert (out / "README.vlm.md").read_text() == (vlm / "README.md").read_text()
    for name in (theirs & names) - {"README.md"}:
        same = filecmp.cmp(vlm / name, out / name, shallow=False)
        assert same is not name.endswith(".safetensors"), name


def test_an_export_of_an_export_keeps_the_record_of_the_first(pairs, tmp_path):
    pair = pairs["qwen2_5_vl"]
    assert export(pair, tmp_path / "first") == 0
    again = with_files(pair, tmp_path, vlm=tmp_path / "first")
    assert export(again, tmp_path / "second", "--verify", merge={"start_layer": 3}) == 0
    assert filecmp.cmp(tmp_path / "first" / "plam.json", tmp_path / "second" / "plam.vlm.json", shallow=False)


def test_buffers_that_old_checkpoints_store_are_kept(pairs, tmp_path):
    def add(tensors):
        name = next(key for key in tensors if "layers.3.self_attn.q_proj.weight" in key)
        return {**tensors, name.replace("q_proj.weight", "rotary_emb.inv_freq"): torch.ones(8)}

    pair = pairs["llava"]
    vlm = odd.edit(odd.copied(pair.vlm, tmp_path / "vlm"), add)
    assert export(with_files(pair, tmp_path, vlm=vlm), tmp_path / "out", "--verify") == 0
    (stored,) = (value for key, value in load_file(tmp_path / "out" / "model.safetensors").items() if "inv_freq" in key)
    assert torch.equal(stored, torch.ones(8))


def test_a_copy_through_memory_is_the_same(tmp_path, monkeypatch):
    def never(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    source = tmp_path / "one"
    source.write_bytes(os.urandom(9 << 20))
    copies = []
    for copy in (os.copy_file_range, never):
        monkeypatch.setattr(os, "copy_file_range", copy)
        copies.append(tmp_path / copy.__name__)
        copy_replacing(source, copies[-1], [], lambda _: None)
    assert digest(copies[0]) == digest(copies[1]) == digest(source)


def test_what_lies_between_spans_is_the_rest_of_the_file():
    assert list(between([(0, 2), (2, 5), (7, 9)], 12)) == [(5, 7), (9, 12)]
    assert list(between([(3, 9)], 9)) == [(0, 3)]
    assert list(between([], 0)) == []


KILLED = """
import signal, threading
from lmms_plam.cli import main
from lmms_plam.merge import export
own, seen = export._merge, []
def merge(tensor, *rest):
    if "layers.{layer}." in tensor.name:
        signal.pthread_kill(threading.main_thread().ident, signal.{signal})  # as Ctrl-C does
    return own(tensor, *rest)
export._merge = merge
raise SystemExit(main(["merge", "config={config}", "--out", "{out}"]))
"""


@pytest.fixture
def in_shards(pairs, tmp_path):
    pair = pairs["qwen2_5_vl"]
    return with_files(pair, tmp_path, vlm=sharded(pair, tmp_path / "vlm"))


def kill(pair, out: Path, how: str, layer: int) -> int:
    """Stop an export while it writes the shard with that layer."""
    config = config_file(pair, out.parent, merge={"start_layer": 1})
    code = KILLED.format(signal=how, config=config, out=out, layer=layer)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode


def last_shard(folder: Path) -> tuple[str, int]:
    """The second shard, and a layer of which it has a query weight."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    file = max(index.values())
    return file, max(
        int(key.split(".")[2]) for key in index if index[key] == file and "layers" in key and "q_proj.w" in key
    )


@pytest.mark.parametrize(("how", "code"), [("SIGKILL", -signal.SIGKILL), ("SIGINT", 130)])
def test_a_killed_export_goes_on_without_copying_finished_shards_again(in_shards, tmp_path, how, code, monkeypatch):
    out, (second, layer) = tmp_path / "out", last_shard(in_shards.vlm)
    assert kill(in_shards, out, how, layer) == code
    assert not out.exists()
    written = []
    own = copy_replacing
    monkeypatch.setattr("lmms_plam.merge.export.copy_replacing", lambda *a: (written.append(a[0].name), own(*a)))
    assert export(in_shards, out, "--verify") == 0
    assert written == [second]
    assert not list(tmp_path.glob(".out*"))
    assert not list(out.rglob(".*"))
    whole = tmp_path / "whole"
    assert export(in_shards, whole) == 0
    record = [json.loads((folder / "plam.json").read_text()) for folder in (out, whole)]
    assert record[0]["merged"] == record[1]["merged"]


@pytest.mark.parametrize("changed", ["recipe", "weights", "tokenizer"])
def test_a_killed_export_of_anything_else_starts_over(in_shards, tmp_path, changed, monkeypatch):
    out, (_, layer) = tmp_path / "out", last_shard(in_shards.vlm)
    kill(in_shards, out, "SIGKILL", layer)
    recipe = {"start_layer": 1}
    if changed == "recipe":
        recipe["lambda_lm"] = 0.1
    elif changed == "weights":
        os.utime(in_shards.vlm / "model-00001-of-00002.safetensors")
    else:
        odd.edit_json(in_shards.vlm / "tokenizer_config.json", other=1)
    written = []
    own = copy_replacing
    monkeypatch.setattr("lmms_plam.merge.export.copy_replacing", lambda *a: (written.append(a[0].name), own(*a)))
    assert export(in_shards, out, "--verify", merge=recipe) == 0
    assert len(written) == 2


def test_an_existing_folder_is_replaced_with_force_alone_and_only_a_models(pairs, tmp_path, capsys):
    pair, out = pairs["qwen2_5_vl"], tmp_path / "out"
    assert export(pair, out) == 0
    (out / "mine.txt").write_text("kept until it is replaced")
    assert "exists: name another folder, or replace it with --force" in refused(capsys, pair, out)
    assert export(pair, out, "--force", merge={"start_layer": 3}) == 0
    assert not (out / "mine.txt").exists()
    assert json.loads((out / "plam.json").read_text())["layers"] == [3, 5]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("")
    assert "is no model's folder" in refused(capsys, pair, mine, "--force")


def test_the_folders_that_are_read_are_never_replaced(pairs, tmp_path, capsys):
    pair = pairs["qwen2_5_vl"]
    vlm = shutil.copytree(pair.vlm, tmp_path / "models" / "vlm")
    pair = with_files(pair, tmp_path, vlm=vlm)
    before = digest(vlm / "model.safetensors")
    for out in (vlm, vlm.parent, vlm / "merged"):
        assert export(pair, out, "--force") == 2
        assert "the folder of the VLM" in capsys.readouterr().err
    assert digest(vlm / "model.safetensors") == before
    (vlm.parent / "pair.yaml").unlink(missing_ok=True)


def test_a_dry_run_says_what_would_be_read_and_written_and_writes_nothing(pairs, tmp_path, capsys):
    pair = pairs["qwen3_vl"]
    assert export(pair, tmp_path / "out", "--dry-run", merge={"start_layer": 3}) == 0
    said = capsys.readouterr().out
    size = sum(path.stat().st_size for path in pair.vlm.iterdir())
    assert f"{size / 1e6:,.2f} MB" in said
    assert "8 tensors (q, k, v, o) of decoder layers 3 to 4 of 5" in said
    assert "on its disk, which has" in said
    assert [path.name for path in tmp_path.iterdir()] == ["pair.yaml"]


def test_bytes_foretold_are_those_read_and_written(pair, tmp_path):
    recipe = MergeRecipe.model_validate(WHOLE)
    with Checkpoint(str(pair.vlm)) as vlm, Checkpoint(str(pair.base_lm)) as base_lm:
        plan = plan_export(Sources(vlm, base_lm, FurtherFiles()), recipe)
        headers = base_lm.bytes_read
        assert export(pair, tmp_path / "out", merge=WHOLE) == 0
        for tensor in plan.merge.merged:
            for start, stop in tensor.rows if tensor.source else ():
                base_lm.rows(tensor.source, start, stop)
        assert base_lm.bytes_read - headers == plan.bytes_read
    beside = {"plam.json", "README.md"}
    written = sum(path.stat().st_size for path in (tmp_path / "out").iterdir() if path.name not in beside)
    assert written == plan.bytes_written


def missing_shard(source: Path, target: Path) -> Path:
    folder = odd.copied(source, target)
    odd.write_shards(folder, load_file(folder / "model.safetensors"))[1].unlink()
    (folder / "model.safetensors").unlink()
    return folder


def outside(source: Path, target: Path) -> Path:
    folder = odd.copied(source, target)
    (folder / "model.safetensors").rename(folder.parent / "stray.safetensors")
    keys = load_file(folder.parent / "stray.safetensors")
    index = {"weight_map": dict.fromkeys(keys, "../stray.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def pickled(source: Path, target: Path) -> Path:
    folder = odd.copied(source, target)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def fp8_undeclared(source: Path, target: Path) -> Path:
    def quantise(tensors):
        return {k: v.to(torch.float8_e4m3fn) if "layers.3.self_attn.q_proj.w" in k else v for k, v in tensors.items()}

    return odd.edit(odd.copied(source, target), quantise)


VLMS = {
    "declared fp8": (odd.fp8, "are quantised (fp8): merging needs the unquantised"),
    "gptq that isn't declared": (
        lambda source, target: odd.packed(source, target, "gptq", declared=False),
        "is of quantised weights",
    ),
    "fp8 that isn't declared": (fp8_undeclared, "is stored as F8_E4M3"),
    "an adapter": (odd.with_adapter, "holds a LoRA adapter"),
    "a wrapper's prefix": (odd.prefixed, "has the prefix of a PEFT wrapper"),
    "a missing shard": (missing_shard, "has no model-00002-of-00002.safetensors"),
    "a shard elsewhere": (outside, "names '../stray.safetensors', which lies outside of its folder"),
    "pickles": (pickled, "are pickled (pytorch_model.bin), and an export copies safetensors"),
    "no key weights": (
        lambda source, target: odd.without(source, target, "k_proj.weight"),
        "decoder layer 1 of the VLM has no weight of k",
    ),
}


@pytest.mark.parametrize(("make", "words"), VLMS.values(), ids=VLMS)
def test_a_vlm_that_cant_be_exported_is_refused_in_a_sentence(pairs, tmp_path, capsys, make, words):
    pair = pairs["qwen3_vl"]
    odd_pair = with_files(pair, tmp_path, vlm=make(pair.vlm, tmp_path / "vlm"))
    for number, options in enumerate([(), ("--dry-run",)]):
        assert words in refused(capsys, odd_pair, tmp_path / f"out{number}", *options)


def test_tied_weights_that_are_stored_twice_are_refused_where_one_is_merged(pairs, tmp_path, capsys):
    def twice(tensors):
        (embedding,) = (value for key, value in tensors.items() if key.endswith("embed_tokens.weight"))
        return {**tensors, "lm_head.weight": embedding.clone()}

    pair = pairs["qwen3_vl"]
    vlm = odd.edit(odd.copied(pair.vlm, tmp_path / "vlm"), twice)
    pair = with_files(pair, tmp_path, vlm=vlm)
    said = refused(capsys, pair, tmp_path / "out", merge=WHOLE)
    assert "stores its tied weights twice" in said
    assert "lm_head.weight" in said
    assert export(pair, tmp_path / "out", "--verify") == 0


def test_experts_that_are_stored_in_other_pieces_are_refused_by_name(pairs, tmp_path, capsys):
    def experts(tensors):
        return {k.replace("mlp.up_proj", "mlp.experts.0.up_proj"): v for k, v in tensors.items()}

    pair = pairs["qwen3_vl"]
    base_lm = odd.edit(odd.copied(pair.base_lm, tmp_path / "lm"), experts)
    pair = with_files(pair, tmp_path, base_lm=base_lm)
    said = refused(capsys, pair, tmp_path / "out", merge={"modules": "mlp", "start_layer": 3})
    assert "mlp.experts.0.up_proj.weight' is of a mixture of experts" in said


def test_a_recipe_that_merges_nothing_is_refused(pairs, tmp_path, capsys):
    path = config_file(pairs["qwen2_5_vl"], tmp_path)
    assert main(["merge", f"config={path}", "--out", str(tmp_path / "out")]) == 2
    assert "merge is none, so the export would be the VLM itself" in capsys.readouterr().err


def test_a_base_lm_that_doesnt_fit_is_refused(pairs, tmp_path, capsys):
    pair = with_files(pairs["qwen2_5_vl"], tmp_path, base_lm=pairs["llava"].base_lm)
    assert "doesn't fit the VLM's decoder" in refused(capsys, pair, tmp_path / "out")


def test_a_base_lm_that_holds_nan_leaves_nothing(pairs, tmp_path, capsys):
    def spoil(tensors):
        next(value for key, value in tensors.items() if "layers.4.self_attn.o_proj" in key)[0] = torch.nan
        return tensors

    pair = pairs["qwen2_5_vl"]
    pair = with_files(pair, tmp_path, base_lm=odd.edit(odd.copied(pair.base_lm, tmp_path / "lm"), spoil))
    assert "holds NaN or Inf" in refused(capsys, pair, tmp_path / "out")


def test_a_disk_that_is_too_small_is_said_before_the_first_byte(pairs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lmms_plam.merge.building.free_space", lambda _: 100_000)
    said = refused(capsys, pairs["qwen2_5_vl"], tmp_path / "out")
    assert "and its disk has 0.00 GB left" in said


@pytest.mark.parametrize("name", ["copy_replacing", "shutil.copyfile"])
def test_a_disk_that_is_full_in_the_end_is_one_sentence_and_no_folder(pairs, tmp_path, capsys, monkeypatch, name):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"lmms_plam.merge.export.{name}", full)
    assert export(pairs["qwen2_5_vl"], tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "out can't be written ([Errno 28] No space left on device)" in said
    assert ("the same command goes on from there" in said) is (name == "shutil.copyfile")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", ["model-00002-of-00002.safetensors", "tokenizer.json", "more.safetensors"])
def test_verify_finds_what_isnt_the_recipes_or_the_vlms(in_shards, tmp_path, capsys, file):
    out = tmp_path / "out"
    assert export(in_shards, out) == 0
    assert export(in_shards, out, "--verify") == 0
    assert "verified: " in capsys.readouterr().out
    path = out / file
    content = bytearray(path.read_bytes() if path.exists() else b"{}")
    content[-1] ^= 1
    path.write_bytes(content)
    assert export(in_shards, out, "--verify") == 2
    said = capsys.readouterr().err
    assert f"{path}" in said


def test_verify_names_the_tensor_that_differs(in_shards, tmp_path, capsys):
    out = tmp_path / "out"
    assert export(in_shards, out) == 0
    with Checkpoint(str(out)) as exported:
        places = {key: (exported.files[key], exported.span(key)[0]) for key in exported.files}
    merged, kept = "model.layers.3.self_attn.q_proj.weight", "model.layers.0.self_attn.q_proj.weight"
    for key, words in ((merged, "isn't what the recipe makes"), (kept, "isn't the VLM's")):
        file, start = places[key]
        content = bytearray((out / file).read_bytes())
        content[start] ^= 1
        (out / file).write_bytes(content)
        assert export(in_shards, out, "--verify") == 2
        said = capsys.readouterr().err
        assert key in said
        assert words in said
        content[start] ^= 1
        (out / file).write_bytes(content)
    assert export(in_shards, out, "--verify") == 0


def test_a_model_on_the_hub_is_exported_from_its_snapshot_with_commits_on_record(pairs, tmp_path, hub):
    pair = pairs["qwen2_vl"]
    vlm = sharded(pair, tmp_path / "vlm")
    commits = hub.push("someone/vlm", vlm), hub.push("someone/lm", pair.base_lm)
    path = tmp_path / "hub.yaml"
    path.write_text(yaml.safe_dump({"vlm": "someone/vlm", "base_lm": "someone/lm", "merge": {"start_layer": 3}}))
    arguments = ["merge", f"config={path}", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--dry-run"]) == 2
    assert not any(name.endswith(".safetensors") for name in hub.fetched)
    assert main([*arguments, "--verify"]) == 0
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert main([*arguments[:-1], str(tmp_path / "other"), "--dry-run"]) == 0
    record = json.loads((tmp_path / "out" / "plam.json").read_text())
    assert [record["sources"][one] for one in ("vlm", "base_lm")] == [
        {"model": "someone/vlm", "commit": commits[0]},
        {"model": "someone/lm", "commit": commits[1]},
    ]
    data = ModelCard.load(tmp_path / "out" / "README.md").data
    assert data.base_model == ["someone/vlm", "someone/lm"]
    assert data.base_model_relation == "merge"
    assert data.license == "apache-2.0"
    assert data.language == ["en"]


def test_the_record_says_what_each_merged_tensor_became(pairs, tmp_path):
    from lmms_plam.merge import digest_tensors

    pair, out = pairs["llava"], tmp_path / "out"
    assert export(pair, out, merge={"start_layer": 4, "lambda_lm": 0.25, "lambda_vlm": 0.75}) == 0
    record = json.loads((out / "plam.json").read_text())
    stored = load_file(out / "model.safetensors")
    assert {one["name"]: one["digest"] for one in record["merged"]} == digest_tensors(
        {one["name"]: stored[one["name"]] for one in record["merged"]}
    )
    assert all(one["coefficients"] == {"lm": 0.25, "vlm": 0.75} for one in record["merged"])
    assert record["recipe"]["start_layer"] == 4
    assert str(tmp_path) not in (out / "plam.json").read_text() + (out / "README.md").read_text()


def test_the_card_shows_the_comparison_with_its_interval_as_model_index(tmp_path, capsys):
    evaluate("plam", "config=digits", ["plam_compare_digits"], limit=40, output=tmp_path / "runs")
    (found,) = (tmp_path / "runs").rglob("comparison.json")
    told = json.loads(found.read_text())[0]
    out = tmp_path / "out"
    options = ("--results", str(tmp_path / "runs"))
    assert main(["merge", "config=digits", "--out", str(out), *options]) == 0
    card = ModelCard.load(out / "README.md")
    result = card.data.eval_results[0]
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("plam_digits", told["metric"], told["b"])
    assert result.metric_args["ci_low"] == told["ci_low"]
    assert result.metric_args["difference"] == told["difference"]
    assert f"{told['difference']:+.4g} | {told['ci_low']:+.4g} to {told['ci_high']:+.4g} (95%)" in card.text
    assert "lmms-eval --model qwen2_5_vl --model_args pretrained=out" in card.text
    capsys.readouterr()
    assert main(["merge", "config=digits", "merge.lambda_lm=0.3", "--out", str(tmp_path / "no"), *options]) == 2
    assert "isn't of" in capsys.readouterr().err
    assert main(["merge", "config=digits", "--out", str(tmp_path / "no"), "--results", str(PACKAGE / "digits")]) == 2
    assert "holds no comparison.json" in capsys.readouterr().err


def test_results_are_put_on_the_card_of_a_finished_export(tmp_path):
    evaluate("plam", "config=digits", ["plam_compare_digits"], limit=20, output=tmp_path / "runs")
    out = str(tmp_path / "out")
    assert main(["merge", "config=digits", "--out", out]) == 0
    before = digest(tmp_path / "out" / "model.safetensors"), (tmp_path / "out" / "README.md").read_text()
    assert "## Scores" not in before[1]
    assert main(["merge", "config=digits", "--out", out, "--results", str(tmp_path / "runs")]) == 0
    assert "## Scores" in (tmp_path / "out" / "README.md").read_text()
    assert digest(tmp_path / "out" / "model.safetensors") == before[0]


def test_a_pushed_export_is_on_the_hub_as_it_was_written(pairs, tmp_path, hub, capsys):
    pair, out = pairs["qwen2_5_vl"], tmp_path / "out"
    assert export(pair, out, "--push-to-hub", "someone/merged") == 0
    assert "uploaded: " in capsys.readouterr().out
    fetched = Path(snapshot_download("someone/merged"))
    names = {path.name for path in out.iterdir()}
    assert {path.name for path in fetched.iterdir()} == names
    for name in names:
        assert filecmp.cmp(out / name, fetched / name, shallow=False), name
    assert export(pair, out, "--push-to-hub", "someone/again") == 0
    assert digest(Path(snapshot_download("someone/again")) / "plam.json") == digest(out / "plam.json")


def test_a_repository_without_permission_is_said_before_the_first_byte(pairs, tmp_path, hub, capsys):
    hub.forbidden.add("another")
    said = refused(capsys, pairs["qwen2_5_vl"], tmp_path / "out", "--push-to-hub", "another/merged")
    assert said.startswith("'another/merged' on the hub can't be written to (no permission: log in with")
    assert "takes USER/NAME, not 'a/b/c'" in refused(
        capsys, pairs["qwen2_5_vl"], tmp_path / "out", "--push-to-hub", "a/b/c"
    )


def test_pickled_shards_have_no_span(pairs):
    with Checkpoint(str(pairs["llava"].base_lm)) as source, pytest.raises(UnsupportedError, match="is pickled"):
        source.span(next(iter(source.files)))
