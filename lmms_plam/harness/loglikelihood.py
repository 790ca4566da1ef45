"""Log-probabilities of given continuations, through any backend's own prompts.

Most of lmms-eval's backends have no `loglikelihood`, and an older one returns a loss. Here the backend builds its
prompt as for an answer, and the model is then led along the continuation token by token while its logits are read,
so that positions, images and caches are exactly those of generation.
"""

from __future__ import annotations

from typing import Any

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.api.task import ConfigurableMessagesTask
from torch import Tensor

from lmms_plam.errors import UnsupportedError
from lmms_plam.harness.backends import one_at_a_time
from lmms_plam.harness.intercept import Generate, intercept_generate
from lmms_plam.language.border import Passage
from lmms_plam.model import Score, follow


def loglikelihood(backend: lmms, model: Any, requests: list[Instance]) -> list[Score]:
    """Score every request's continuation, one prompt at a time.

    Args:
        backend: an lmms-eval backend whose `generate_until` calls `model.generate`.
        model: its Hugging Face model.
        requests: lmms-eval's loglikelihood requests: (context, continuation, doc_to_visual, doc_id, task, split).

    Raises:
        UnsupportedError: a request without a document (mutual-information scoring), or an empty continuation.
    """
    scores: list[Score | None] = [None] * len(requests)
    current: list[int] = []  # the request that the backend is building a prompt for

    def answer(generate: Generate, **inputs: Any) -> Tensor:
        index = current.pop()
        tokens = _continuation_tokens(
            backend.tokenizer, inputs["input_ids"][0], _continuation(backend, requests[index])
        )
        (scores[index],) = follow(generate, inputs, [Passage(tuple(tokens), 0)])
        return torch.cat([inputs["input_ids"], torch.tensor([tokens], device=inputs["input_ids"].device)], dim=1)

    asked = [_as_generation(backend, request, index, current) for index, request in enumerate(requests)]
    with one_at_a_time(backend), intercept_generate(model, answer):
        backend.generate_until(asked)
    return [score for score in scores if score is not None]


def _as_generation(backend: lmms, request: Instance, index: int, current: list[int]) -> Instance:
    """Rewrite a scoring request as the generation request for its prompt; asking for its image announces it."""
    if len(request.args) != 6:
        raise UnsupportedError(
            f"task {request.task_name}: scoring a continuation without its document is not supported"
        )
    context, _, doc_to_visual, doc_id, task, split = request.args

    def visuals(doc: Any) -> Any:
        current[:] = [index]
        return doc_to_visual(doc)

    def messages(doc: Any) -> Any:
        return ConfigurableMessagesTask._build_user_turn(visuals(doc), context)

    asked: tuple[Any, ...] = (context, {}, visuals) if backend.is_simple else (context, messages, {})
    metadata = {**request.metadata, "task": task, "doc_id": doc_id, "repeats": 1}
    return Instance("generate_until", (*asked, doc_id, task, split), idx=index, metadata=metadata)


def _continuation(backend: lmms, request: Instance) -> str:
    _, target, _, doc_id, task, split = request.args
    continuation: str = target(backend.task_dict[task][split][doc_id]) if callable(target) else target
    return continuation


def _continuation_tokens(tokenizer: Any, prompt: Tensor, continuation: str) -> list[int]:
    """Tokenise a continuation as it follows the prompt.

    A chat template that already ends in white space separates the two itself: the continuation's own is dropped.
    """
    if tokenizer.decode(prompt[-1:])[-1:].isspace():
        continuation = continuation.lstrip()
    tokens: list[int] = tokenizer.encode(continuation, add_special_tokens=False)
    if not tokens:
        raise UnsupportedError(f"the continuation {continuation!r} has no tokens to score")
    return tokens
