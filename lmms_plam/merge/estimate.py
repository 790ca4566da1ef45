"""Diagonal Fisher information of some weights of a causal language model, from its own words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lmms_plam.errors import MergeError


@dataclass(frozen=True, slots=True)
class Said:
    """A prompt with what a model says of it.

    Attributes:
        inputs: the tokens that the model reads, (length,).
        words: what it says after each of the last of them, (n_words,).
    """

    inputs: Tensor
    words: Tensor


def random_prompts(vocabulary: Sequence[int], count: int, length: int, seed: int) -> list[Tensor]:
    """Draw prompts of random tokens: no data are needed for them (arXiv 2603.21705).

    Args:
        vocabulary: tokens to draw from, each as likely as the others.
        count: how many prompts.
        length: tokens in each.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.tensor(list(vocabulary))
    return [tokens[torch.randint(len(tokens), (length,), generator=generator)] for _ in range(count)]


@torch.no_grad()
def say_next(model: PreTrainedModel, prompts: Iterable[Tensor], seed: int) -> Iterator[Said]:
    """Let a model say a next word after each token of a prompt, drawn by its own probabilities."""
    generator = torch.Generator().manual_seed(seed)
    for prompt in prompts:
        logits = model(input_ids=prompt[None].to(model.device), use_cache=False).logits[0]
        chances = logits.float().softmax(-1).cpu()
        yield Said(prompt, torch.multinomial(chances, 1, generator=generator)[:, 0])


@torch.no_grad()
def answer(model: PreTrainedModel, prompts: Iterable[Tensor], length: int, seed: int) -> Iterator[Said]:
    """Let a model answer prompts, each word drawn by its own probabilities, up to a length or its end of answers."""
    generator = torch.Generator().manual_seed(seed)
    ends = model.generation_config.eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends or ())
    for prompt in prompts:
        told, cache, words = prompt[None].to(model.device), None, list[int]()
        while len(words) < length and not (words and words[-1] in ends):
            out = model(input_ids=told, past_key_values=cache, use_cache=True)
            chances = out.logits[0, -1].float().softmax(-1).cpu()
            words.append(int(torch.multinomial(chances, 1, generator=generator)))
            told, cache = torch.tensor([[words[-1]]], device=model.device), out.past_key_values
        yield Said(torch.cat((prompt, torch.tensor(words[:-1], dtype=prompt.dtype))), torch.tensor(words))


def fisher_information(
    model: PreTrainedModel, parameters: Mapping[str, torch.nn.Parameter], said: Iterable[Said]
) -> dict[str, Tensor]:
    """Return the diagonal of the empirical Fisher information, by name, in float32.

    It is the mean over prompts of the squared gradient of the log-likelihood of all that the model said of one. Since
    it drew the words itself, that is the Fisher information of the model (arXiv 2111.09832, section 3). Gradients are
    computed in the model's dtype and squared in float32; the model keeps its weights, and no gradients.

    Args:
        model: the model, in evaluation mode.
        parameters: of the model, by whatever name.
        said: one at a time.

    Raises:
        MergeError: a gradient that is NaN or Inf, or none at all of a parameter; the text names it.
    """
    asked = {id(parameter) for parameter in parameters.values()}
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    for parameter in before:
        parameter.requires_grad_(id(parameter) in asked)
    sums = {name: torch.zeros(parameter.shape, device=parameter.device) for name, parameter in parameters.items()}
    count = 0
    try:
        for one in said:
            with torch.enable_grad():
                logits = model(input_ids=one.inputs[None].to(model.device), use_cache=False).logits[0]
                likelihoods = logits[-len(one.words) :].float().log_softmax(-1)
                likelihoods.gather(1, one.words[:, None].to(logits.device)).sum().backward()
            for name, parameter in parameters.items():
                if parameter.grad is None:
                    raise MergeError(f"'{name}' has no gradient: nothing that the model says depends on it")
                sums[name].addcmul_(parameter.grad.float(), parameter.grad.float())
            model.zero_grad(set_to_none=True)
            count += 1
    finally:
        model.zero_grad(set_to_none=True)
        for parameter, required in before.items():
            parameter.requires_grad_(required)
    for name, total in sums.items():
        total /= count
        if not torch.isfinite(total).all():
            raise MergeError(f"the Fisher information of '{name}' is NaN or Inf: load the model in float32")
    return {name: total.cpu() for name, total in sums.items()}
