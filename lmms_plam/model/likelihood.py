"""Log-probabilities of raw texts under several sets of weights: candidates share their beginning, documents a batch.

A document is a row: what its candidates begin with, once, and then the rest of each. A mask lets each rest read the
beginning and itself, and positions go on from the beginning, so that every token sees what it would see in its own
text. Under further weights a batch enters at the first layer that they change: what lies below is computed once; under
those that change more than decoder layers it is computed anew.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lmms_plam.errors import UnsupportedError
from lmms_plam.language.border import Passage
from lmms_plam.model.host import Decoder, find_decoder, forward_replaced, hooked
from lmms_plam.model.variants import WeightSet, installed_whole

_LOGIT_BYTES = 2**29
"""What a batch's logits may take, float32."""

_FEWEST, _MOST, _MOST_ON_CPU = 128, 8192, 1024
"""Tokens of a batch, whatever the vocabulary; more than a CPU's cache holds makes a batch slower there."""


@dataclass(frozen=True, slots=True)
class Score:
    """log P(text), in nats, and whether greedy decoding would have produced it."""

    log_probability: float
    is_greedy: bool


@dataclass(frozen=True, slots=True)
class _Row:
    """A document's candidates as one sequence.

    Attributes:
        tokens: the common beginning, then each candidate's rest.
        positions: of each in its own text.
        owners: by token, whose rest it is; -1: everybody's beginning.
        queries: by candidate, where in the row stands what predicts each scored token.
        targets: by candidate, the scored tokens.
        candidates: by passage, which candidate it is; equal passages are one.
    """

    tokens: list[int]
    positions: list[int]
    owners: list[int]
    queries: list[list[int]]
    targets: list[tuple[int, ...]]
    candidates: list[int]

    @property
    def first(self) -> int:
        """The first place whose logits are needed."""
        return min(places[0] for places in self.queries)


def score_texts(
    model: PreTrainedModel,
    start: int,
    documents: Sequence[Sequence[Passage]],
    weights: Sequence[WeightSet | None] = (None,),
    *,
    share: bool = True,
) -> list[list[list[Score]]]:
    """Score the candidates of documents under sets of weights.

    Args:
        model: a language model, or a vision-language model that is given text alone.
        start: the token that every text begins with.
        documents: by document, its candidates.
        weights: what answers; None: the weights as loaded.
        share: whether candidates of a document share their beginning; else each is a row by itself, as it also is where
            layers read a window of the last tokens.

    Returns:
        By set of weights, document and candidate. Candidates of the same tokens have the very same score.

    Raises:
        UnsupportedError: a model without a language head.
    """
    _require_head(model)
    decoder = find_decoder(model) if any(weights) else None
    share = share and not _slides(model)
    rows = _rows(start, documents, share)
    scores: list[dict[tuple[int, int], Score]] = [{} for _ in weights]
    for batch in _batches([row for _, row in rows], _tokens_at_once(model)):
        for place, found in enumerate(_score_batch(model, decoder, [rows[one][1] for one in batch], weights)):
            for one, own in zip(batch, found, strict=True):
                owner, row = rows[one]
                for passage, candidate in enumerate(row.candidates):
                    scores[place][owner[0], owner[1] + passage] = own[candidate]
    return [
        [[found[number, place] for place in range(len(passages))] for number, passages in enumerate(documents)]
        for found in scores
    ]


def _require_head(model: PreTrainedModel) -> None:
    if model.get_output_embeddings() is None:
        raise UnsupportedError(f"{type(model).__name__} has no language head, so that no text has a probability")


def _slides(model: PreTrainedModel) -> bool:
    kinds = getattr(model.config.get_text_config(decoder=True), "layer_types", None) or ()
    return any(kind != "full_attention" for kind in kinds)


def _rows(start: int, documents: Sequence[Sequence[Passage]], share: bool) -> list[tuple[tuple[int, int], _Row]]:
    """Return the rows, each with its document and the place of its first candidate there."""
    rows = []
    for number, passages in enumerate(documents):
        if share:
            rows.append(((number, 0), _row(start, passages)))
        else:
            rows += [((number, place), _row(start, [passage])) for place, passage in enumerate(passages)]
    return rows


def _row(start: int, passages: Sequence[Passage]) -> _Row:
    different = list(dict.fromkeys(passages))
    texts = [(start, *passage.tokens) for passage in different]
    common = _common(texts)
    row = _Row(list(texts[0][:common]), list(range(common)), [-1] * common, [], [], [])
    for owner, (text, passage) in enumerate(zip(texts, different, strict=True)):
        places = [*range(common), *range(len(row.tokens), len(row.tokens) + len(text) - common)]
        row.tokens.extend(text[common:])
        row.positions.extend(range(common, len(text)))
        row.owners.extend([owner] * (len(text) - common))
        row.queries.append(places[passage.start : len(text) - 1])
        row.targets.append(passage.scored)
    row.candidates.extend(different.index(passage) for passage in passages)
    return row


def _common(texts: Sequence[tuple[int, ...]]) -> int:
    """Return how many tokens all texts begin with."""
    for place, tokens in enumerate(zip(*texts, strict=False)):
        if len(set(tokens)) > 1:
            return place
    return min(map(len, texts))


def _tokens_at_once(model: PreTrainedModel) -> int:
    head = model.get_output_embeddings().weight
    fitting = _LOGIT_BYTES // (torch.float32.itemsize * int(head.shape[0]))
    return max(_FEWEST, min(_MOST_ON_CPU if head.device.type == "cpu" else _MOST, fitting))


def _batches(rows: Sequence[_Row], tokens: int) -> Iterator[list[int]]:
    """Yield places of rows that are about as long as each other and together, padded, hold so many tokens at most."""
    batch: list[int] = []
    for place in sorted(range(len(rows)), key=lambda one: len(rows[one].tokens)):
        if batch and (len(batch) + 1) * len(rows[place].tokens) > tokens:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _score_batch(
    model: PreTrainedModel, decoder: Decoder | None, rows: Sequence[_Row], weights: Sequence[WeightSet | None]
) -> list[list[list[Score]]]:
    """Return the scores by set of weights, row and candidate."""
    inputs, offset = _inputs(model, rows)
    starts = {one.start for one in weights if one is not None and not one.outside}
    entering = _Entering()
    with torch.inference_mode(), entering.kept(decoder, starts):
        loaded = model(**inputs).logits
    found = []
    for one in weights:
        logits = loaded
        if one is not None and decoder is not None:
            below = nullcontext() if one.outside else entering.given(decoder, one.start)
            with torch.inference_mode(), installed_whole(one, model, decoder.by_index()), below:
                logits = model(**inputs).logits
        found.append([_read(row, logits[place], offset) for place, row in enumerate(rows)])
    return found


def _read(row: _Row, logits: Tensor, offset: int) -> list[Score]:
    """Read a row's scores off its logits [positions, vocabulary], whose first position is `offset`."""
    places = torch.tensor([place - offset for own in row.queries for place in own], device=logits.device)
    targets = torch.tensor([token for own in row.targets for token in own], device=logits.device)
    chosen = logits[places].float()
    values = chosen.log_softmax(dim=-1).gather(1, targets[:, None])[:, 0].double().cpu()
    greedy = (chosen.argmax(dim=-1) == targets).cpu()
    sizes = [len(own) for own in row.targets]
    return [
        Score(float(value.sum()), bool(right.all()))
        for value, right in zip(values.split_with_sizes(sizes), greedy.split_with_sizes(sizes), strict=True)
    ]


def _inputs(model: PreTrainedModel, rows: Sequence[_Row]) -> tuple[dict[str, Any], int]:
    """Return the arguments of the model's forward, and the first position of whose logits it returns."""
    width, device = max(len(row.tokens) for row in rows), model.get_input_embeddings().weight.device
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    positions, owners = torch.zeros_like(tokens), torch.full_like(tokens, -2)
    for place, row in enumerate(rows):
        size = len(row.tokens)
        tokens[place, :size] = torch.tensor(row.tokens)
        positions[place, :size] = torch.tensor(row.positions)
        owners[place, :size] = torch.tensor(row.owners)
    inputs: dict[str, Any] = {"input_ids": tokens.to(device), "use_cache": False, "return_dict": True}
    if all(set(row.owners) == {-1} for row in rows):  # each a text by itself, as any model takes it
        inputs["attention_mask"] = (owners != -2).long().to(device)
    else:
        reads = (owners[:, None, :] == -1) | (owners[:, None, :] == owners[:, :, None])
        reads &= torch.ones(width, width, dtype=torch.bool).tril()
        mask = torch.zeros(len(rows), 1, width, width, dtype=model.dtype)
        mask.masked_fill_(~reads[:, None], torch.finfo(model.dtype).min)
        inputs |= {"attention_mask": mask.to(device), "position_ids": positions.to(device)}
    first = min(row.first for row in rows)
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        return inputs, 0
    return inputs | {"logits_to_keep": width - first}, first


@dataclass(slots=True)
class _Entering:
    """Hidden states that enter decoder layers, kept of one forward and given to others."""

    states: dict[int, Tensor] = field(default_factory=dict)

    @contextmanager
    def kept(self, decoder: Decoder | None, layers: set[int]) -> Iterator[None]:
        """Keep what enters these layers while open."""

        def keep(layer: int) -> Any:
            def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
                self.states[layer] = args[0] if args else kwargs["hidden_states"]

            return hook

        handles = [
            decoder.layers[layer].register_forward_pre_hook(keep(layer), with_kwargs=True)
            for layer in layers
            if decoder is not None
        ]
        with hooked(handles):
            yield

    @contextmanager
    def given(self, decoder: Decoder, start: int) -> Iterator[None]:
        """While open, the layers below `start` compute nothing and hand on what entered it."""
        states = self.states[start]
        with ExitStack() as stack:
            for layer in decoder.layers[:start]:
                stack.enter_context(forward_replaced(layer, lambda *args, **kwargs: states))
            yield
