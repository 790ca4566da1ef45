"""Diagonal Fisher information of some weights of a causal language model, from its own words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from lmms_plam.errors import MergeError
from lmms_plam.model.host import next_logits, whole_inputs


@dataclass(frozen=True, slots=True)
class Said:
    """A prompt with what a model says of it.

    Attributes:
        inputs: the arguments of the model's forward on all that it reads, pictures included; a single row.
        words: what it says after each of the last tokens of it, (n_words,).
    """

    inputs: Mapping[str, Any]
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
        inputs = {"input_ids": prompt[None].to(model.device), "use_cache": False}
        yield Said(inputs, _draw(model(**inputs).logits[0], generator))


def answer(model: PreTrainedModel, generate_kwargs: Mapping[str, Any], length: int, generator: torch.Generator) -> Said:
    """Let a model answer a prompt, each word drawn by its own probabilities, up to a length or its end of answers.

    Args:
        model: the model.
        generate_kwargs: the keyword arguments of `model.generate`, for a single prompt; what they say of how to choose
            words is left aside.
        length: words at most.
        generator: of the draws.
    """

    def loop(
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: GenerationConfig,
        **model_kwargs: Any,
    ) -> Said:
        ends = generation_config.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends or ())
        ids, kwargs, words = input_ids, model_kwargs, list[int]()
        while len(words) < length and not (words and words[-1] in ends):
            if words:
                ids = torch.cat((ids, ids.new_tensor([[words[-1]]])), dim=1)
            logits, kwargs = next_logits(model, ids, kwargs, is_first=not words)
            words += _draw(logits, generator).tolist()
        return Said(whole_inputs(model, ids, kwargs), torch.tensor(words))

    one = {**generate_kwargs, "max_new_tokens": length, "do_sample": False, "num_beams": 1}
    said: Said = type(model).generate(model, **one, custom_generate=loop)
    return said


def _draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a word for each row of logits [rows, vocabulary]."""
    return torch.multinomial(logits.float().softmax(-1).cpu(), 1, generator=generator)[:, 0]


@dataclass(slots=True)
class Information:
    """The diagonal of the empirical Fisher information of some parameters, gathered prompt by prompt.

    It is the mean over prompts of the squared gradient of the log-likelihood of all that the model said of one. Since
    it drew the words itself, that is the Fisher information of the model (arXiv 2111.09832, section 3). Gradients are
    computed in the model's dtype and squared in float32.

    Attributes:
        model: the model, in evaluation mode.
        parameters: of the model, by whatever name.
        sums: of squared gradients, by name.
        count: how many prompts they are of.
    """

    model: PreTrainedModel
    parameters: Mapping[str, torch.nn.Parameter]
    sums: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0

    def add(self, said: Said) -> None:
        """Take in what the model said of a prompt.

        Raises:
            MergeError: no gradient at all of a parameter; the text names it.
        """
        with torch.enable_grad():
            logits = self.model(**said.inputs).logits[0, -len(said.words) :].float()
            likelihoods = logits.log_softmax(-1)
            likelihoods.gather(1, said.words[:, None].to(logits.device)).sum().backward()
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                raise MergeError(f"'{name}' has no gradient: nothing that the model says depends on it")
            total = self.sums.setdefault(name, torch.zeros(parameter.shape, device=parameter.device))
            total.addcmul_(parameter.grad.float(), parameter.grad.float())
        self.model.zero_grad(set_to_none=True)
        self.count += 1

    def mean(self) -> dict[str, Tensor]:
        """Return the information by name, in float32, on the CPU.

        Raises:
            MergeError: a gradient that is NaN or Inf; the text names its parameter.
        """
        for name, total in self.sums.items():
            if not torch.isfinite(total).all():
                raise MergeError(f"the Fisher information of '{name}' is NaN or Inf: load the model in float32")
        return {name: (total / self.count).cpu() for name, total in self.sums.items()}


@contextmanager
def gathering(model: PreTrainedModel, parameters: Mapping[str, torch.nn.Parameter]) -> Iterator[Information]:
    """Gather the information of these parameters while open; the model keeps its weights, and no gradients."""
    asked = {id(parameter) for parameter in parameters.values()}
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    for parameter in before:
        parameter.requires_grad_(id(parameter) in asked)
    try:
        yield Information(model, parameters)
    finally:
        model.zero_grad(set_to_none=True)
        for parameter, required in before.items():
            parameter.requires_grad_(required)


def fisher_information(
    model: PreTrainedModel, parameters: Mapping[str, torch.nn.Parameter], said: Iterable[Said]
) -> dict[str, Tensor]:
    """Return the `Information` of all that was said, by name, in float32.

    Raises:
        MergeError: as `Information.add` and `Information.mean`.
    """
    with gathering(model, parameters) as information:
        for one in said:
            information.add(one)
        return information.mean()
