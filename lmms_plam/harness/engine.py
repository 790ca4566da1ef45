"""Which way variants are answered: by the family engine, once it has proved itself on the model at hand, or one by one.

The first prompts of every task are answered both ways, and the first ones with pictures are answered again with other
pictures. An engine that deviates is left for the plain way, and a plain way that can't hide pictures ends the run.
Variants that change more than decoder layers share the vision tower alone, and are answered one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any

from loguru import logger
from transformers import PreTrainedModel

from lmms_plam.errors import PlamError, UnsupportedError
from lmms_plam.language.border import Passage
from lmms_plam.model import (
    FamilyResult,
    QueryScope,
    Score,
    Variant,
    WeightSet,
    check_engine,
    check_hiding,
    find_decoder,
    follow_plainly,
    generate_family,
    installed_whole,
    pictures_seen_once,
    rounding,
    run_plainly,
    score_texts,
    vision_positions,
)


@dataclass(slots=True)
class Proof:
    """What is known of the ways to answer a task's variants.

    Attributes:
        way: `engine` or `plain`.
        why: why not the engine, empty if it is used.
        variants: how many variants were answered both ways; 0 if the engine wasn't checked.
        largest: the largest difference of a logit between them.
        allowed: what rounding allows.
        hidden: the largest difference of a logit that another picture makes while hidden; None if not looked at.
        seen: the same while seen.
        alone: how many variants change more than decoder layers, and so are answered one by one whatever the way.
    """

    way: str = "engine"
    why: str = ""
    variants: int = 0
    largest: float | None = None
    allowed: float | None = None
    hidden: float | None = None
    seen: float | None = None
    alone: int = 0


class Engine:
    """Answers prompts with variants of a model.

    Args:
        model: the Hugging Face model.
        weights: returns a weight set by its name.
        memory_budget: bytes that variants may take together; it may be changed later.
        check: whether the engine must prove itself first.
        proofs: by task, how it was answered and what checks showed; filled in here.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        weights: Callable[[str], WeightSet],
        memory_budget: int,
        *,
        check: bool,
        proofs: dict[str, Proof],
    ):
        self._model = model
        self._weights = weights
        self.memory_budget = memory_budget
        self._check = check
        self._looked_at_hiding: set[str] = set()
        self._said: set[str] = set()
        self.proofs = proofs

    def answer(
        self,
        task: str,
        variants: Sequence[Variant],
        scope: QueryScope,
        ground: str | None,
        inputs: dict[str, Any],
        reads: bool = False,
    ) -> FamilyResult:
        """Answer a batch of prompts with every variant.

        Args:
            task: the family task that asks.
            variants: what to run.
            scope: from which queries a cut hides vision.
            ground: a weight set to put in place of the loaded weights first: what variants name is put over it.
            inputs: the backend's arguments for `model.generate`.
            reads: whether attention to vision is read.

        Raises:
            UnsupportedError: pictures can't be hidden from this model either way.
        """
        if ground is not None:
            with self._grounded(ground):
                return self.answer(task, _over(ground, variants), scope, None, inputs, reads)
        alone = [one for one in variants if one.weights is not None and self._weights(one.weights).outside]
        if not alone:
            return self._share(task, variants, scope, inputs, reads)
        shared = [one for one in variants if one not in alone]
        sets = self._named(alone)
        with pictures_seen_once(self._model):
            first = self._share(task, shared, scope, inputs, reads) if shared else None
            rest = run_plainly(
                self._model, alone, inputs, weights=sets, query_scope=scope, read_attention=reads, trunk=first
            )
        if not shared:
            self.proofs.setdefault(task, Proof("plain", "every variant changes more than decoder layers"))
        self.proofs[task].alone = max(self.proofs[task].alone, len(alone))
        self._say(
            f"{task}: beyond the decoder layers (embedding, final norm or head) something differs in "
            f"{', '.join(one.name for one in alone)}: each runs by itself, which takes longer"
        )
        return rest if first is None else _joined(variants, shared, first, alone, rest)

    def _share(
        self, task: str, variants: Sequence[Variant], scope: QueryScope, inputs: dict[str, Any], reads: bool
    ) -> FamilyResult:
        """Answer variants that differ in decoder layers alone."""
        options: dict[str, Any] = {"weights": self._named(variants), "query_scope": scope}
        if self._check:
            self._prove(task, variants, inputs, options, reads)
        asked = self._model, variants, inputs
        engine = partial(generate_family, *asked, memory_budget=self.memory_budget, read_attention=reads, **options)
        plainly = partial(run_plainly, *asked, read_attention=reads, **options)
        return self._either_way(task, engine, plainly, "each variant runs by itself")

    def _either_way(
        self, task: str, engine: Callable[[], FamilyResult], plainly: Callable[[], FamilyResult], otherwise: str
    ) -> FamilyResult:
        """Answer by the engine as long as it can, or plainly, of which a sentence says what happens `otherwise`."""
        if self.proofs.setdefault(task, Proof()).way == "engine":
            try:
                return engine()
            except UnsupportedError as error:  # these prompts, perhaps not the next ones
                self._say(f"{error}; {otherwise}, which takes longer")
            except PlamError:
                raise
            except Exception as error:
                self._give_up(task, f"it fails with {type(error).__name__}: {error}")
        return plainly()

    def score(
        self,
        task: str,
        variants: Sequence[Variant],
        scope: QueryScope,
        ground: str | None,
        inputs: dict[str, Any],
        continuations: Sequence[Sequence[Passage]],
    ) -> FamilyResult:
        """Score continuations of a batch of prompts with every variant; see `answer`.

        Args:
            task: the task that asks.
            variants: what to run.
            scope: from which queries a cut hides vision.
            ground: as in `answer`.
            inputs: the backend's arguments for `model.generate`.
            continuations: by prompt.

        Raises:
            UnsupportedError: pictures can't be hidden from this model either way.
        """
        if ground is not None:
            with self._grounded(ground):
                return self.score(task, _over(ground, variants), scope, None, inputs, continuations)
        options: dict[str, Any] = {"weights": self._named(variants), "query_scope": scope}
        if self._check:
            self._prove(task, variants, inputs, options, reads=False)
        asked, budget = (self._model, variants, inputs), self.memory_budget
        engine = partial(generate_family, *asked, memory_budget=budget, continuations=continuations, **options)
        plainly = partial(follow_plainly, *asked, continuations, **options)
        return self._either_way(task, engine, plainly, "each text is scored by itself")

    def score_texts(
        self,
        task: str,
        variants: Sequence[Variant],
        ground: str | None,
        start: int,
        documents: Sequence[Sequence[Passage]],
    ) -> list[list[list[Score]]]:
        """Score raw texts with every variant; without pictures those that differ by cuts alone are alike.

        Returns:
            By variant, document and text.

        Raises:
            UnsupportedError: a variant that silences attention, or a model without a language head.
        """
        if ground is not None:
            with self._grounded(ground):
                return self.score_texts(task, _over(ground, variants), None, start, documents)
        if silent := [one.name for one in variants if one.silent is not None]:
            raise UnsupportedError(f"{task}: variant '{silent[0]}' silences attention: raw texts can't be scored so")
        names = list(dict.fromkeys(variant.weights for variant in variants))
        weights = [None if name is None else self._weights(name) for name in names]
        if self._check and task not in self.proofs:
            self._prove_sharing(task, start, documents[:1])
        share = self.proofs.setdefault(task, Proof()).way == "engine"
        found = dict(zip(names, score_texts(self._model, start, documents, weights, share=share), strict=True))
        return [found[variant.weights] for variant in variants]

    def _prove_sharing(self, task: str, start: int, documents: Sequence[Sequence[Passage]]) -> None:
        """Score a task's first texts as parts of one sequence and each by itself."""
        proof = self.proofs[task] = Proof()
        ours, theirs = (score_texts(self._model, start, documents, share=share)[0] for share in (True, False))
        pairs = [
            (one.log_probability, other.log_probability)
            for own, due in zip(ours, theirs, strict=True)
            for one, other in zip(own, due, strict=True)
        ]
        proof.variants, proof.largest = 1, max(abs(one - other) for one, other in pairs)
        proof.allowed = rounding(self._model) * max(abs(other) for _, other in pairs)
        if not proof.largest <= proof.allowed:
            self._give_up(
                task,
                f"texts that share their beginning score otherwise by {proof.largest:.3g}, and rounding allows "
                f"{proof.allowed:.1g}",
            )

    @contextmanager
    def _grounded(self, ground: str) -> Iterator[None]:
        """Put a weight set in place of the loaded weights while open."""
        with installed_whole(self._weights(ground), self._model, find_decoder(self._model).by_index()):
            yield

    def _named(self, variants: Sequence[Variant]) -> list[WeightSet]:
        """Return the weight sets that variants name."""
        return [self._weights(name) for name in dict.fromkeys(one.weights for one in variants) if name]

    def _prove(
        self,
        task: str,
        variants: Sequence[Variant],
        inputs: Mapping[str, Any],
        options: Mapping[str, Any],
        reads: bool,
    ) -> None:
        """Check both ways on a task's first prompts, and hiding on the first that have pictures."""
        if task not in self.proofs:
            proof = self.proofs[task] = Proof()
            try:
                found = check_engine(self._model, variants, inputs, read_attention=reads, **options)
            except UnsupportedError as error:
                proof.why = str(error)
            else:
                proof.variants, proof.largest, proof.allowed = found.variants, found.largest, found.allowed
                if found.deviation:
                    self._give_up(task, found.deviation)
                else:
                    logger.info(
                        f"{task}: engine checked on this model: {found.variants} variants, largest difference of a "
                        f"logit {found.largest:.1e} where rounding allows {found.allowed:.1e}"
                    )
        depth = find_decoder(self._model).depth
        hides = any(variant.hidden(depth) for variant in variants)
        if hides and task not in self._looked_at_hiding and self._shows_pictures(inputs):
            self._looked_at_hiding.add(task)
            self._prove_hiding(task, inputs)

    def _prove_hiding(self, task: str, inputs: Mapping[str, Any]) -> None:
        proof, family = self.proofs[task], partial(generate_family, memory_budget=self.memory_budget)
        for way, answer in (("plain", run_plainly), ("engine", family)):
            if way == "engine" and (proof.way == "plain" or proof.why):
                continue
            found = check_hiding(self._model, partial(answer, self._model, keep_logits=True), inputs)
            if found is None:
                self._say(f"{task}: the prompts' pictures have no name that is known, so hiding them isn't checked")
                return
            proof.hidden, proof.seen = found.hidden, found.seen
            if not found.holds:
                what = (
                    f"with pictures hidden from all layers, another picture changes a logit by {found.hidden:.3g}, and "
                    f"rounding allows {found.allowed:.1g}"
                )
                if way == "engine":
                    self._give_up(task, what)
                    continue
                raise UnsupportedError(f"pictures can't be hidden from this model ({_versions()}): {what}")
            if found.seen <= found.allowed:
                self._say(
                    f"{task}: another picture of the same size makes no difference to the first answers even where "
                    "all layers see it: do pictures reach the model?"
                )

    def _shows_pictures(self, inputs: Mapping[str, Any]) -> bool:
        input_ids = inputs.get("input_ids", inputs.get("inputs"))
        return input_ids is not None and bool(vision_positions(self._model, input_ids, inputs).any())

    def _give_up(self, task: str, deviation: str) -> None:
        """Leave the engine for the plain way, for the rest of a task."""
        proof = self.proofs[task]
        proof.way, proof.why = "plain", deviation
        logger.warning(
            f"{task}: the engine deviates on this model ({_versions()}): {deviation}; so each variant runs by itself, "
            "which takes longer"
        )

    def _say(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            logger.warning(message)


def _joined(
    variants: Sequence[Variant],
    shared: Sequence[Variant],
    first: FamilyResult,
    alone: Sequence[Variant],
    rest: FamilyResult,
) -> FamilyResult:
    """Return the answers of both ways in the variants' order."""
    places = {one: place for place, one in enumerate((*shared, *alone))}
    tokens = (*first.tokens, *rest.tokens)
    readouts = (*(first.readouts or ()), *(rest.readouts or ()))
    divergence = (*(first.divergence or ()), *(rest.divergence or ()))
    return replace(
        first,
        tokens=[tokens[places[one]] for one in variants],
        divergence=[divergence[places[one]] for one in variants] if len(divergence) == len(places) else None,
        readouts=[readouts[places[one]] for one in variants] if len(readouts) == len(places) else None,
    )


def _over(ground: str, variants: Sequence[Variant]) -> list[Variant]:
    """Return variants as they are over a ground: what names it has the weights that are then in place."""
    return [replace(one, weights=None if one.weights == ground else one.weights) for one in variants]


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("lmms-plam", "transformers", "torch"))
