"""Fisher information: against what can be worked out by hand, from the command that writes it to a merge by it."""

from __future__ import annotations

import inspect
import json
import re
from unittest.mock import patch

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from test_harness_runs import config_file, evaluate, exact
from test_merge_families import load
from transformers import AutoModelForCausalLM

from lmms_plam.cli import main
from lmms_plam.config import MergeRecipe
from lmms_plam.errors import MergeError
from lmms_plam.harness.backends import build_backend
from lmms_plam.harness.intercept import intercept_generate
from lmms_plam.harness.model import Plam
from lmms_plam.merge import merge_into
from lmms_plam.merge.information import FisherFile, write_fisher
from lmms_plam.model.estimate import Said, answer, fisher_information, random_prompts, say_next


@pytest.fixture(scope="module")
def model(pairs):
    return AutoModelForCausalLM.from_pretrained(pairs["qwen2_vl"].base_lm, dtype=torch.float32).eval()


def test_of_the_head_it_is_what_the_softmax_says(model):
    """The log-likelihood's gradient is (one-hot - p) h, so that its mean square is p (1 - p) h^2."""
    prompt = torch.tensor([5, 9, 11, 3])
    with torch.no_grad():
        out = model(input_ids=prompt[None], output_hidden_states=True)
        chances, hidden = out.logits[0].softmax(-1), out.hidden_states[-1][0]
    exact = (chances * (1 - chances)).T @ hidden.square()
    said = say_next(model, [prompt] * 1500, seed=3)
    found = fisher_information(model, {"head": model.lm_head.weight}, said)["head"]
    assert found.sum() == pytest.approx(exact.sum().item(), rel=0.05)
    assert found.sum(0).tolist() == pytest.approx(exact.sum(0).tolist(), rel=0.1)


def test_an_answers_likelihood_is_of_its_words_and_not_of_the_prompt(model):
    prompt = torch.tensor([5, 9, 11, 3])
    said = answer(model, {"input_ids": prompt[None]}, 6, torch.Generator().manual_seed(2))
    whole = torch.cat((prompt, said.words))
    assert torch.equal(said.inputs["input_ids"][0], whole[:-1])
    weight = model.model.layers[1].self_attn.q_proj.weight
    weight.requires_grad_(True)
    log = model(input_ids=whole[None]).logits[0].log_softmax(-1)
    likelihood = sum(log[place - 1, whole[place]] for place in range(len(prompt), len(whole)))
    (gradient,) = torch.autograd.grad(likelihood, weight)
    found = fisher_information(model, {"q": weight}, [said])["q"]
    assert torch.allclose(found, gradient.square(), rtol=1e-3, atol=1e-8)
    assert weight.grad is None


def test_the_same_seed_gives_the_same_words_and_another_other_words(model):
    prompts = random_prompts(range(20), 2, 8, seed=1)
    assert torch.equal(torch.stack(prompts), torch.stack(random_prompts(range(20), 2, 8, seed=1)))
    first, again, other = ([one.words for one in say_next(model, prompts, seed)] for seed in (0, 0, 1))
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))


def test_a_weight_on_which_nothing_depends_is_refused_by_name(model):
    idle = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(MergeError, match="'idle' has no gradient"):
        fisher_information(
            model,
            {"idle": idle, "head": model.lm_head.weight},
            [Said({"input_ids": torch.tensor([[1]])}, torch.tensor([2]))],
        )


@pytest.mark.parametrize("text", [None, "What is this?\n\nAnd that?\nNo more.\n"])
def test_the_command_writes_what_a_merge_takes_for_every_family(pair, text, tmp_path, capsys):
    if text and pair.family not in ("qwen2_vl", "llava"):
        pytest.skip("the families differ in how they are loaded, and not in how they answer")
    config = config_file(pair, tmp_path, merge={"start_layer": 2})
    file = tmp_path / "f.safetensors"
    (tmp_path / "prompts.txt").write_text(text or "")
    more = ["--prompts", str(tmp_path / "prompts.txt")] if text else []
    order = ["fisher", f"config={config}", "--out", str(file), "--limit", "2", "--tokens", "5", *more]
    assert main(order) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"  merge.method=fisher,merge.fisher={file}"
    tensors = load_file(file)
    assert all(tensor.dtype == torch.float32 and (tensor >= 0).all() for tensor in tensors.values())
    assert all(tensor.any() for name, tensor in tensors.items() if "weight" in name)
    about = FisherFile(str(file)).about
    assert (about["vlm"], about["base_lm"]) == (str(pair.vlm), str(pair.base_lm))
    assert about["asked"]["prompts"] == 2
    assert ("digest" in about["asked"]) is bool(text)
    assert set(about["weights"]) == {"vlm", "base_lm"}
    merged = Plam(config=str(config), **{"merge.method": "fisher", "merge.fisher": str(file), "device": "cpu"})
    report = merged.provenance.merge
    assert report["fisher"] == json.loads(json.dumps(about))
    assert {
        f"{whose}.{one['name'].split('language_model.')[-1]}" for one in report["merged"] for whose in about["weights"]
    } == set(tensors)
    with safe_open(file, framework="pt") as opened:
        assert opened.metadata()["format"] == "lmms-plam fisher 1"


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava", "internvl"])
def test_from_a_task_it_is_the_squared_gradient_of_answers_to_the_backends_own_prompts(
    pairs, family, task_folder, tmp_path, capsys
):
    """The oracle reads each prompt with its picture anew for every word, and asks autograd for one tensor at a time."""
    pair, file, count, length = pairs[family], tmp_path / "f.safetensors", 3, 4
    config = config_file(pair, tmp_path, merge={"start_layer": 3, "modules": "q+o"})
    order = ["fisher", f"config={config}", "--out", str(file), "--task", "tiny_look", "--include_path"]
    order += [str(task_folder), "--limit", str(count), "--tokens", str(length), "--seed", "5"]
    with in_float32():
        assert main(order) == 0
    said = capsys.readouterr().err
    assert f"{count} prompts of tiny_look: the VLM answers them as lmms-eval renders them, the base LM their" in said
    model, prompts = prompts_of(config, task_folder, count)
    weights = {
        f"vlm.{one.split('language_model.')[-1]}": weight.requires_grad_(True)
        for one, weight in model.named_parameters()
        if re.search(r"language_model.*layers\.3\.self_attn\.[qo]_proj\.weight", one)
    }
    generator, sums = torch.Generator().manual_seed(5), dict.fromkeys(weights, 0)
    for inputs, ends in prompts:
        words, likelihood = [], 0
        while len(words) < length and not (words and words[-1] in ends):
            longer = torch.cat((inputs["input_ids"], torch.tensor([words], dtype=torch.long)), 1)
            grown = {"input_ids": longer, "attention_mask": torch.ones_like(longer)}
            if "mm_token_type_ids" in inputs:
                grown["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, len(words)))
            log = model(**{**inputs, **grown}, use_cache=False).logits[0, -1].log_softmax(-1)
            words.append(int(torch.multinomial(log.detach().exp(), 1, generator=generator)))
            likelihood = likelihood + log[words[-1]]
        for name, gradient in zip(weights, torch.autograd.grad(likelihood, weights.values()), strict=True):
            sums[name] = sums[name] + gradient.square() / count
    found = load_file(file)
    for name, due in sums.items():
        assert torch.allclose(found[name], due, rtol=1e-3, atol=1e-6 * float(due.max())), name
    about = FisherFile(str(file)).about["asked"]
    assert (about["task"], about["limit"], about["prompts"], about["seed"]) == ("tiny_look", count, count, 5)
    assert len(about["digest"]) == 16
    assert about["base_lm"] == "their words without pictures, in its own chat template where it has one"
    assert len(sums) == 2


def in_float32():
    def build(*arguments, **options):
        backend = build_backend(*arguments, **options)
        backend.model.float()
        return backend

    return patch("lmms_plam.harness.backends.build_backend", build)


def prompts_of(config, folder, count):
    """Return the model and, from an ordinary run of lmms-eval, each prompt's inputs and the tokens that end answers."""
    lm, prompts = exact(config, merge="none"), []
    model = lm.model  # which lmms-eval lets go at its end

    def answer(generate, **inputs):
        kept = inspect.signature(model.forward).parameters.keys() - {"use_cache"}
        ends = inputs.get("eos_token_id", model.generation_config.eos_token_id)
        given = {name: value for name, value in inputs.items() if name in kept}
        prompts.append((given, [ends] if isinstance(ends, int) else ends or []))
        return generate(**inputs)

    with intercept_generate(model, answer):
        evaluate(lm, "", ["tiny_look"], include=folder, limit=count)
    return model, prompts


def test_it_refuses_what_it_cannot_do_before_it_loads_anything(pairs, task_folder, tmp_path, capsys):
    pair = pairs["qwen2_vl"]
    config = config_file(pair, tmp_path, merge={"start_layer": 2})
    (tmp_path / "there").write_text("")

    def refused(*more, out="f.safetensors", config=config):
        assert main(["fisher", f"config={config}", "--out", str(tmp_path / out), *more]) == 2
        return capsys.readouterr().err

    assert "exists: remove it" in refused(out="there")
    assert "is no folder" in refused(out="no/f.safetensors")
    assert "are at least 1" in refused("--limit", "0")
    assert "holds no line of text" in refused("--prompts", str(tmp_path / "there"))
    assert "can't be read as text" in refused("--prompts", str(tmp_path / "none"))
    mistyped = "plam: --task: there is no task 'plam_microwold'. Did you mean 'plam_microworld'?"
    assert mistyped in refused("--task", "plam_microwold")
    assert "its prompts are given texts" in refused("--task", "tiny_choice", "--include_path", str(task_folder))
    assert "is a Python class" in refused("--task", "plam_compare_digits")
    assert "its documents can't be had" in refused("--task", "mmstar")
    (tmp_path / "other").mkdir()
    without = config_file(pair, tmp_path / "other", merge="none")
    assert "they say which weights are estimated" in refused(config=without)


def test_the_estimate_covers_layers_and_modules_of_the_recipe_whatever_its_method(pairs, tmp_path, capsys):
    pair = pairs["qwen2_5_vl"]
    merge = {"start_layer": 1, "end_layer": 2, "modules": "o+mlp", "method": "ties", "density": 0.5, "lambda_lm": 0}
    config = config_file(pair, tmp_path, merge={**merge, "schedule": "linear"})
    file = tmp_path / "f.safetensors"
    assert main(["fisher", f"config={config}", "--out", str(file), "--limit", "1", "--tokens", "4"]) == 0
    assert {name.split(".", 1)[1] for name in load_file(file)} == {
        f"layers.1.{part}.weight" for part in ("self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    }


def test_more_information_in_the_vlm_keeps_more_of_it(pairs, tmp_path):
    pair = pairs["qwen2_5_vl"]
    name = "layers.3.self_attn.o_proj.weight"
    recipe = {"method": "fisher", "modules": "o", "start_layer": 3, "end_layer": 4}
    recipe["fisher"] = str(tmp_path / "f.safetensors")
    model = load(pair)
    parameter = model.get_parameter(f"model.language_model.{name}")
    before = parameter.detach().clone()
    ones = torch.ones(parameter.shape)
    write_fisher(tmp_path / "f.safetensors", {f"vlm.{name}": 1e6 * ones, f"base_lm.{name}": ones}, {})
    merge_into(model, str(pair.base_lm), MergeRecipe.model_validate(recipe))
    assert torch.allclose(parameter.float(), before.float(), rtol=0.01, atol=1e-4)
