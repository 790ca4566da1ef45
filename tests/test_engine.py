"""What the family engine promises beside exactness: sharing, clean-up, generation options, and refusals by name."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from itertools import accumulate

import pytest
import torch
from checkpoints import tiny_model
from engine_prompts import NEW_TOKENS, hidden_from, logits_under, model_for, prompts_for
from flops import count_flops
from test_engine_weights import other_weights
from tiny_configs import LM_ROWS
from torch.profiler import ProfilerActivity, profile
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MllamaConfig,
    MllamaForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    StoppingCriteria,
    StoppingCriteriaList,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lmms_plam.errors import ConfigError, UnsupportedError
from lmms_plam.model import Variant, find_decoder, generate_family, run_plainly
from lmms_plam.model import answers as growing
from lmms_plam.model.decoding import DecodingBatch
from lmms_plam.model.host import CACHE


def all_cuts(model):
    return [Variant(str(cut), cut) for cut in range(find_decoder(model).depth + 1)]


def hooks_of(model):
    return [hook for module in model.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]


def masked_tokens(model, prompts, cut):
    return logits_under(model, prompts, hidden_from(model, prompts, cut))[0]


def assert_generated(answers, sequences):
    """The answers are the sequences up to their padding: what follows an answer's end is one token over and over."""
    for answer, sequence in zip(answers, sequences.tolist(), strict=True):
        assert answer == sequence[: len(answer)]
        assert len(set(sequence[len(answer) :])) <= 1
    assert max(map(len, answers)) == sequences.shape[1]


def test_the_untouched_variant_is_the_model_bit_for_bit():
    model, prompts = model_for("qwen2_5_vl"), prompts_for("qwen2_5_vl", "one image")
    tokens, logits = logits_under(model, prompts, nullcontext())
    alone = generate_family(model, [Variant("base")], prompts, keep_logits=True)
    assert torch.equal(alone.logits[0][0], logits[0]), "alone, at every step"
    prompts = prompts_for("qwen2_5_vl")
    tokens, logits = logits_under(model, prompts, nullcontext())
    family = generate_family(model, all_cuts(model), prompts, keep_logits=True)
    assert torch.equal(family.trunk, model.generate(**prompts))
    for row in range(len(tokens)):
        assert torch.equal(family.logits[-1][row][0], logits[row, 0]), "among others, in prefill"


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_divergence_is_that_of_the_first_tokens_distributions(family):
    model, prompts = model_for(family), prompts_for(family)
    result = generate_family(model, all_cuts(model), prompts, keep_logits=True)
    for variant in range(len(result.tokens)):
        for prompt in range(len(prompts["input_ids"])):
            first, full = (result.logits[place][prompt][0].log_softmax(-1) for place in (variant, -1))
            expected = torch.nn.functional.kl_div(first, full, reduction="sum", log_target=True)
            assert result.divergence[variant][prompt] == pytest.approx(float(expected), abs=1e-5)
    assert result.divergence[0][0] > 0.001
    assert max(map(max, result.divergence[-1:])) == 0


def test_nothing_of_the_engine_is_left_behind():
    model, prompts = model_for("qwen2_5_vl"), prompts_for("qwen2_5_vl")
    before = (dict(ALL_ATTENTION_FUNCTIONS), model.generate(**prompts))
    generate_family(model, all_cuts(model), prompts)
    with pytest.raises(UnsupportedError):
        generate_family(model, all_cuts(model), {**prompts, "num_beams": 2})
    layers = model.model.language_model.layers
    assert len(layers) == find_decoder(model).depth
    assert not hooks_of(model)
    assert not any("forward" in vars(module) for module in model.modules())
    assert dict(ALL_ATTENTION_FUNCTIONS) == before[0]
    assert torch.equal(model.generate(**prompts), before[1])


def test_a_failure_inside_leaves_the_model_as_it_was(monkeypatch):
    model, prompts = model_for("qwen2_5_vl"), prompts_for("qwen2_5_vl")
    last = find_decoder(model).layers[-1]
    monkeypatch.setattr(last.mlp, "forward", lambda states: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate_family(model, all_cuts(model), prompts)
    assert not hooks_of(model)


def test_answers_end_where_generate_ends_them_and_leave_the_batch(monkeypatch):
    model, prompts = model_for("llava"), prompts_for("llava", max_new_tokens=8, eos_token_id=LM_ROWS - 1)
    plain = [masked_tokens(model, prompts, cut).tolist() for cut in range(6)]

    def expected(cut, row, ends):
        tokens = plain[cut][row]
        return tokens[: min([tokens.index(end) for end in ends if end in tokens], default=7) + 1]

    def lengths(ends):
        return {len(expected(cut, row, ends)) for cut in range(6) for row in range(3)}

    ends = max(([one, two] for one in plain[1][0] for two in plain[4][1]), key=lambda ends: len(lengths(ends) - {1}))
    assert len(lengths(ends) - {1}) > 2
    rows = []
    step = DecodingBatch.step
    monkeypatch.setattr(
        DecodingBatch, "step", lambda self, tokens, *rest: rows.append(len(tokens)) or step(self, tokens, *rest)
    )
    result = generate_family(model, all_cuts(model), {**prompts, "eos_token_id": ends, "pad_token_id": 0})
    assert result.tokens == [[expected(cut, row, ends) for row in range(3)] for cut in range(6)]
    assert torch.equal(result.trunk, model.generate(**{**prompts, "eos_token_id": ends, "pad_token_id": 0}))
    asked = [answer for cut in range(5) for answer in result.tokens[cut][:2]] + result.tokens[5]
    assert sum(rows) == sum(len(answer) - 1 for answer in asked), "a step is for those who need it"


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 2, "min_new_tokens": 3},
        {"suppress_tokens": [3, 5], "bad_words_ids": [[225], [353, 86]]},
        {"use_cache": False},
        {"cache_implementation": "static"},
    ],
    ids=lambda options: "+".join(options),
)
def test_generation_options_are_applied(options):
    model, prompts = model_for("qwen2_vl"), prompts_for("qwen2_vl", **options)
    result = generate_family(model, all_cuts(model), prompts)
    for cut in range(6):
        assert_generated(result.tokens[cut], masked_tokens(model, prompts, cut))


def test_generation_config_of_the_checkpoint_is_applied():
    model, prompts = copy.deepcopy(model_for("qwen2_vl")), prompts_for("qwen2_vl")
    without = generate_family(model, all_cuts(model), prompts)
    model.generation_config.repetition_penalty = 1.5
    result = generate_family(model, all_cuts(model), prompts)
    assert result.tokens != without.tokens
    for cut in range(6):
        assert_generated(result.tokens[cut], masked_tokens(model, prompts, cut))


def test_a_generation_config_among_the_arguments_is_applied():
    model, prompts = model_for("llava"), prompts_for("llava")
    without = {name: value for name, value in prompts.items() if name not in ("do_sample", "max_new_tokens")}
    end = int(masked_tokens(model, prompts, 2)[0, 1])
    given = {"generation_config": GenerationConfig(max_new_tokens=NEW_TOKENS, eos_token_id=end, pad_token_id=0)}
    result = generate_family(model, all_cuts(model), without | given)
    assert len(result.tokens[2][0]) == 2
    assert result.tokens == run_plainly(model, all_cuts(model), without | given).tokens
    given = {"generation_config": GenerationConfig(max_new_tokens=NEW_TOKENS, return_dict_in_generate=True)}
    with pytest.raises(UnsupportedError, match="return_dict_in_generate"):
        generate_family(model, all_cuts(model), without | given)


def test_prompts_without_an_image_are_answered_once():
    model, prompts = model_for("llava"), prompts_for("llava")
    result = generate_family(model, all_cuts(model), prompts)
    assert result.vision_tokens[2] == 0 < min(result.vision_tokens[:2])
    assert len({str(result.tokens[cut][2]) for cut in range(6)}) == 1
    text = {name: prompts[name][2:] for name in ("input_ids", "attention_mask")}
    options = {"do_sample": False, "max_new_tokens": NEW_TOKENS}
    only = generate_family(model, all_cuts(model), {**text, **options})
    assert only.vision_tokens == [0]
    ordinary = count_flops(lambda: model.generate(**text, **options))
    assert count_flops(lambda: generate_family(model, all_cuts(model), {**text, **options})) <= ordinary


def test_groups_that_fit_the_budget_give_the_same_answers(monkeypatch):
    model, prompts = model_for("gemma3"), prompts_for("gemma3")
    whole = generate_family(model, all_cuts(model), prompts)
    sizes = []
    run = growing.run_branches
    monkeypatch.setattr(
        growing, "run_branches", lambda batch, tree, *rest: sizes.append(len(tree.paths)) or run(batch, tree, *rest)
    )
    for budget, groups in ((1, [1] * 6), (2**40, [6])):
        sizes.clear()
        result = generate_family(model, all_cuts(model), prompts, memory_budget=budget)
        assert result.tokens == whole.tokens
        assert torch.equal(result.trunk, whole.trunk)
        assert sizes == groups


@pytest.mark.parametrize("kind", ["cuts", "weights"])
def test_branches_take_no_more_memory_than_the_budget(kind):
    model, prompts = tiny_model("llava", layers=12), prompts_for("llava", "one image")
    variants, sets = all_cuts(model), []
    if kind == "weights":
        sets = [other_weights(model, f"{start} {one}", range(start, 12)) for start in (4, 8) for one in range(8)]
        variants = [Variant("base"), *(Variant(one.name, weights=one.name) for one in sets)]

    def peak(run):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            run()
        events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
        return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))

    def branches(budget):
        return peak(lambda: generate_family(model, variants, prompts, weights=sets, memory_budget=budget)) - ordinary

    ordinary = peak(lambda: model.generate(**prompts))
    whole = branches(2**40)
    for budget in (whole, whole // 2):
        assert branches(budget) <= budget


def test_text_before_the_first_image_is_computed_once():
    model = model_for("llava")
    prompts = prompts_for("llava", "one image")

    def with_text_before(count):
        extra = torch.full((1, count), 50)
        ids = torch.cat([prompts["input_ids"][:, :1], extra, prompts["input_ids"][:, 1:]], dim=1)
        return {**prompts, "input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 1}

    short, long = with_text_before(1), with_text_before(65)
    extra = count_flops(lambda: model.generate(**long)) - count_flops(lambda: model.generate(**short))
    family = [
        count_flops(lambda chosen=chosen: generate_family(model, all_cuts(model), chosen)) for chosen in (short, long)
    ]
    assert family[1] - family[0] <= 1.25 * extra  # the rest: queries of the branches meet more keys


class Unknown(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores


class OwnCache(DynamicCache):
    pass


class Never(StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        return torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"do_sample": True}, "sample"),
        ({"num_beams": 3}, "beam_search"),
        ({"logits_processor": LogitsProcessorList([Unknown()])}, "Unknown"),
        ({"stopping_criteria": StoppingCriteriaList([Never()])}, "Never"),
        ({"guidance_scale": 1.5}, "UnbatchedClassifierFreeGuidanceLogitsProcessor"),
        ({"prompt_lookup_num_tokens": 3}, "assisted_generation"),
        ({"return_dict_in_generate": True}, "return_dict_in_generate"),
        ({"stop_strings": ["x"]}, "stop_strings"),
        ({"max_time": 100.0}, "MaxTimeCriteria"),
        ({"prefix_allowed_tokens_fn": lambda batch, ids: [5]}, "prefix_allowed_tokens_fn"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_engine_cannot_apply_is_refused_by_name(options, named):
    model, prompts = model_for("qwen2_vl"), prompts_for("qwen2_vl", **options)
    with pytest.raises(UnsupportedError, match=named):
        generate_family(model, all_cuts(model), prompts)


def test_caches_that_may_change_what_they_hold_are_refused_by_name(monkeypatch):
    model, prompts = copy.deepcopy(model_for("qwen2_vl")), prompts_for("qwen2_vl")
    monkeypatch.setattr(
        model, "_prepare_cache_for_generation", lambda config, kwargs, *rest: kwargs.update({CACHE: OwnCache()})
    )
    with pytest.raises(UnsupportedError, match="OwnCache"):
        generate_family(model, all_cuts(model), prompts)


def test_prompts_that_the_engine_cannot_lay_out_are_refused():
    model, prompts = model_for("llava"), prompts_for("llava")
    flipped = {
        **prompts,
        "input_ids": prompts["input_ids"].flip(1),
        "attention_mask": prompts["attention_mask"].flip(1),
    }
    with pytest.raises(UnsupportedError, match="padded on the right"):
        generate_family(model, all_cuts(model), flipped)
    prompts = prompts_for("llava", "one image")
    ends = (prompts["input_ids"] == model.config.image_token_id).nonzero()[-1, 1] + 1
    cropped = {
        name: value[:, :ends] if name in ("input_ids", "attention_mask") else value for name, value in prompts.items()
    }
    with pytest.raises(UnsupportedError, match="ends with a vision token"):
        generate_family(model, all_cuts(model), cropped)
    with pytest.raises(UnsupportedError, match="input_ids"):
        generate_family(model, all_cuts(model), {"max_new_tokens": 1})


def test_prompts_that_read_ahead_are_refused_where_they_would_be_borrowed():
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": 64}
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = PaliGemmaConfig(
        text_config={**small, **tokens, "model_type": "gemma", "num_key_value_heads": 1, "head_dim": 16},
        vision_config={**small, "model_type": "siglip_vision_model", "image_size": 28, "patch_size": 14},
        image_token_index=60,
        projection_dim=32,
    )
    torch.manual_seed(0)
    model = PaliGemmaForConditionalGeneration(config).eval()

    def prompts(ids):
        ids = torch.tensor([ids])
        images = {"pixel_values": torch.randn(1, 3, 28, 28), "token_type_ids": torch.zeros_like(ids)}
        return {"input_ids": ids, **images, "max_new_tokens": 3, "do_sample": False}

    first, later = prompts([*[60] * 4, 1, 9, 8]), prompts([1, *[60] * 4, 9, 8])
    result = generate_family(model, all_cuts(model), first)
    for cut in range(4):
        assert_generated(result.tokens[cut], masked_tokens(model, first, cut))
    with pytest.raises(UnsupportedError, match="read what comes after it"):
        generate_family(model, all_cuts(model), later)
    with pytest.raises(UnsupportedError, match="read what comes after it"):
        generate_family(model, all_cuts(model), first, query_scope="last")


def test_models_without_vision_in_the_sequence_are_refused_by_name():
    small = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    text = {**small, "num_hidden_layers": 3, "cross_attention_layers": [1], "vocab_size": 64, "pad_token_id": 0}
    rope = {"rope_type": "default", "rope_theta": 1e4}
    vision = {"hidden_size": 32, "intermediate_size": 32, "attention_heads": 2, "num_hidden_layers": 2}
    vision |= {"num_global_layers": 1, "image_size": 28, "patch_size": 14, "vision_output_dim": 64}
    config = MllamaConfig(
        text_config={**text, "rope_parameters": rope},
        vision_config={**vision, "intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1]]},
    )
    with pytest.raises(UnsupportedError, match=r"Mllama.*cross-attention"):
        find_decoder(MllamaForConditionalGeneration(config))
    encoder = T5ForConditionalGeneration(
        T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=32)
    )
    with pytest.raises(UnsupportedError, match="encoder-decoder"):
        find_decoder(encoder)
    flash = copy.deepcopy(model_for("llava"))
    flash.model.language_model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(UnsupportedError, match="flash_attention_2"):
        find_decoder(flash)


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ([], "at least one"),
        ([Variant("a"), Variant("a", 1)], "'a' is there twice"),
        ([Variant("a", 6)], r"cut 6 is not in 0\.\.5"),
        (
            [Variant("a", 3, until=2)],
            r"hidden from layer 3 can't be read again from layer 2 on, which is not in 3\.\.5",
        ),
        ([Variant("a", 3, until=6)], r"from layer 6 on, which is not in 3\.\.5"),
        ([Variant("a", until=2)], "hidden from layer None"),
        ([Variant("a", None, "merged")], "no weight set 'merged'"),
    ],
)
def test_families_that_cannot_be_meant_are_refused(variants, message):
    model = model_for("llava")
    with pytest.raises(ConfigError, match=message):
        generate_family(model, variants, prompts_for("llava"))
    with pytest.raises(ConfigError, match=message):
        run_plainly(model, variants, prompts_for("llava"))


def test_the_plain_way_does_what_the_engine_refuses():
    model = model_for("qwen2_5_vl")
    variants = [Variant("base"), Variant("2", 2)]
    greedy = prompts_for("qwen2_5_vl")
    assert run_plainly(model, all_cuts(model), greedy).tokens == generate_family(model, all_cuts(model), greedy).tokens
    for options in ({"num_beams": 3}, {"do_sample": True, "temperature": 2.0}, {"stopping_criteria": [Never()]}):
        prompts = prompts_for("qwen2_5_vl", **options)
        torch.manual_seed(0)
        result = run_plainly(model, variants, prompts)
        torch.manual_seed(0)
        assert torch.equal(result.trunk, model.generate(**prompts))
        with hidden_from(model, prompts, 2):
            expected = model.generate(**prompts)[:, prompts["input_ids"].shape[1] :]
        assert_generated(result.tokens[1], expected)
    assert not hooks_of(model)
