"""The model type `plam`: one of lmms-eval's own backends, with a base language model merged into its weights."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.utils import simple_parse_args_string
from loguru import logger

from lmms_plam.config import DEFAULT_CONFIG, MergeRecipe, ModelConfig, folder_name, load_config
from lmms_plam.errors import ConfigError, about
from lmms_plam.harness import host
from lmms_plam.harness.answering import ANCHOR, Course, Endings, Observed, Observer, Taster, answer_families, is_family
from lmms_plam.harness.backends import backend_name, build_backend, check_batch_size, own_copies
from lmms_plam.harness.engine import Engine, Proof
from lmms_plam.harness.intercept import no_silent_failure
from lmms_plam.harness.journal import Key, forget
from lmms_plam.harness.loglikelihood import loglikelihood
from lmms_plam.harness.prompts import RANKING, request_digest
from lmms_plam.harness.provenance import describe
from lmms_plam.harness.ranking import Asker, rank_requests
from lmms_plam.merge import (
    BASE,
    Checkpoint,
    Donors,
    Kept,
    MergeReport,
    Parts,
    check_probed,
    digest_all,
    digest_read,
    digest_tensors,
    lazy_layers,
    merge_into,
    plan_merge,
    read_vocabulary,
    sampled_lineage,
    untouched_keys,
    untouched_tensors,
)
from lmms_plam.model import Variant, WeightSet


class Plam(lmms):
    """Runs a VLM through lmms-eval's own backend, prompts and answers included, after merging its weights.

    `lmms-eval --model plam --model_args config=NAME_OR_PATH,FIELD=VALUE,...`, where FIELD is any field of the config,
    dotted (`merge.start_layer=20`). Whatever isn't said here is the backend's.

    Args:
        config: name of a shipped model config, or the path of a YAML file.
        batch_size: prompts a batch.
        max_batch_size: taken because lmms-eval gives it; the backends have no use for it.
        device: torch device; left out, CUDA where there is one, else the CPU.
        overrides: config fields by dotted name.

    Attributes:
        backend: the wrapped lmms-eval model.
        backend_name: its model type in lmms-eval.
        folder_name: what the folder of this model's family tasks is called.
        provenance: what exactly answers, with its fingerprint.
        courses: by family task, in which order it asks, where answers decide that.
        proofs: by family task, how its variants were answered, and what was checked before.
        tasters: by family task, what looks at its first answer before more are asked for.
        endings: by family task, how its answers ended.
        observers: by family task, what looks at attention while it is answered.
        observed: by family task, what that kept.
        answered: by folder, the journal's entries that a family task has put into its matrix.
        failures: by task, why it has no result although others may.
    """

    is_simple = False
    _force_simple = False

    def __init__(
        self,
        config: str = DEFAULT_CONFIG,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        **overrides: Any,
    ) -> None:
        check_batch_size(batch_size)
        settings = load_config(str(config), overrides)
        self.folder_name = folder_name(settings, overrides)
        self._vlm = Checkpoint(settings.vlm, settings.vlm_revision)
        self._base_lm = Checkpoint(settings.base_lm, settings.base_lm_revision) if settings.base_lm else None
        self.backend_name = backend_name(settings, self._vlm)
        if settings.merge is not None:
            self._vlm.require_unquantised()
        self.backend = build_backend(
            settings, self._vlm, batch_size=batch_size, device=device, force_simple=self._force_simple
        )
        self.is_simple = self.backend.is_simple
        self._loaded = digest_tensors(self.model.state_dict())
        vlm_weights = digest_all(self._loaded)
        probed = {f"recipes.{name}": recipe for name, recipe in settings.recipes.items()}
        if settings.merge is not None:
            probed["merge"] = settings.merge
        for name, recipe in probed.items():
            with about(name):
                check_probed(recipe, vlm_weights)
        merge: MergeReport | None = None
        if settings.merge is not None and self._base_lm is not None:
            vocabulary = self._vocabulary_for([settings.merge])
            self._tell_lineage(settings.merge)
            merge = merge_into(self.model, self._base_lm, settings.merge, vocabulary)
            for warning in merge.warnings:
                logger.warning(f"{settings.name}: {warning}")
        self._merge = merge
        self._donors: Donors | None = None
        self._kept: Kept | None = None
        self._planned: dict[str, WeightSet] = {}
        self._digests: dict[str, str] = {}
        self.courses: dict[str, Course] = {}
        self.proofs: dict[str, Proof] = {}
        self.tasters: dict[str, Taster] = {}
        self.endings: dict[str, Endings] = {}
        self.observers: dict[str, Observer] = {}
        self.observed: dict[str, Observed] = {}
        self.answered: dict[Path, set[Key]] = {}
        self.failures: dict[str, str] = {}
        self.provenance = describe(
            settings, self.backend_name, type(self.backend), self.model, self._vlm, self._loaded, merge
        )
        host.announce(self)
        logger.info(
            f"{settings.name} through {self.backend_name}: {merge.summary() if merge else 'nothing merged'}; "
            f"weights {self.provenance.weights}, fingerprint {self.provenance.fingerprint}"
        )

    def _tell_lineage(self, recipe: MergeRecipe) -> None:
        """Say how far the VLM is from its base LM, before the two are merged."""
        assert self._base_lm is not None
        with self._base_lm:
            found = sampled_lineage(self.model, self._base_lm, plan_merge(self.model, self._base_lm, recipe))
        if found is not None:
            (logger.warning if found.unrelated else logger.info)(f"lineage, from a few rows: {found.in_words()}")

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Plam:
        """Build the model as lmms-eval does, from the text of `--model_args`.

        Raises:
            ConfigError: a part of the text that is no FIELD=VALUE.
        """
        try:
            simple_parse_args_string(arg_string)
        except ValueError:
            parts = [part.strip() for part in arg_string.split(",")]
            loose = next((part for part in parts if "=" not in part), arg_string)
            raise ConfigError(
                f"'{loose}' in --model_args is no FIELD=VALUE: a comma begins the next field, so write several values "
                "with a plus sign, as in merge.modules=q+k"
            ) from None
        model: Plam = super().create_from_arg_string(arg_string, additional_config)
        return model

    def __getattr__(self, name: str) -> Any:
        """Everything else (tokenizer, task_dict, accelerator, chat_template, ...) is the backend's."""
        if name == "backend":
            raise AttributeError(name)  # not built yet
        return getattr(self.backend, name)

    @property
    def model(self) -> torch.nn.Module:
        """The loaded Hugging Face model."""
        model: torch.nn.Module = self.backend.model
        return model

    @cached_property
    def base_weights(self) -> WeightSet:
        """Weights that turn the merged model into the untouched VLM.

        Raises:
            ConfigError: nothing was merged.
        """
        parts = Parts.of(self._untouched)
        return WeightSet(BASE, parts.layers, untouched_keys(self._untouched), parts.outside)

    @cached_property
    def other_weights(self) -> dict[str, WeightSet]:
        """Weights that turn the merged model into its other variants: `base`, and the config's further recipes.

        Raises:
            ConfigError: nothing was merged.
        """
        recipes = self.provenance.config.recipes
        weights = {BASE: self.base_weights}
        if recipes and self._base_lm is not None:
            weights |= self._plan(self._base_lm, recipes, over_merged=True)
        return weights

    def plan_recipes(self, recipes: Mapping[str, MergeRecipe]) -> None:
        """Make variants of recipes, by name: weights over those of the untouched VLM, computed when they are needed.

        Raises:
            ConfigError: no base LM.
            MergeError, CheckpointError: a base LM that doesn't fit, or can't be read.
        """
        if self._base_lm is None:
            raise ConfigError(f"{self.provenance.config.name}: no base_lm, so there is nothing to merge")
        self._planned |= self._plan(self._base_lm, recipes, over_merged=False)

    def _plan(
        self, base_lm: Checkpoint, recipes: Mapping[str, MergeRecipe], *, over_merged: bool
    ) -> dict[str, WeightSet]:
        """Return weights of recipes, to put over the merged VLM's or over the untouched one's."""
        if self._donors is None or self._kept is None:
            self._donors = Donors(base_lm, next(self.model.parameters()).device)
            self._kept = Kept(self.engine.memory_budget // 2)
            self.engine.memory_budget -= self._kept.budget
        untouched = self._untouched if self._merge is not None else {}
        with base_lm:
            found = lazy_layers(
                self.model,
                base_lm,
                self._donors,
                recipes,
                untouched,
                self._kept,
                self._vocabulary_for(recipes.values()),
                over_merged=over_merged,
            )
            for name, lazy in found.items():
                read, untouched_vlm = digest_read(lazy), self.provenance.vlm_weights
                self._digests[name] = digest_all({"untouched": untouched_vlm, "read": read, "recipe": repr(lazy)})
        return {name: WeightSet(name, lazy, lazy.keys_by_layer, lazy.outside) for name, lazy in found.items()}

    def _vocabulary_for(self, recipes: Iterable[MergeRecipe]) -> Mapping[str, int] | None:
        """Return the VLM's row of each token, where recipes merge embeddings."""
        return read_vocabulary(self._vlm.place) if any("embeddings" in one.modules for one in recipes) else None

    def _weights(self, name: str) -> WeightSet:
        if name == BASE:
            return self.base_weights
        return self._planned.get(name) or self.other_weights[name]

    @cached_property
    def _untouched(self) -> dict[str, torch.Tensor]:
        settings = self.provenance.config
        require_merge(settings)
        assert self._merge is not None
        with self._vlm:
            names = [tensor.name for tensor in self._merge.merged]
            return untouched_tensors(self.model, self._vlm, names, self._loaded)

    def identify(self, variant: Variant) -> str:
        """Return a variant's name with the fingerprint of what answers."""
        provenance = self.provenance
        if variant.weights is None:
            return f"{variant.name}@{provenance.fingerprint}"
        if variant.weights == BASE:
            return f"{variant.name}@{provenance.fingerprint_with(provenance.vlm_weights)}"
        if variant.weights not in self._digests:
            self._weights(variant.weights)  # which plans it
        return f"{variant.name}@{provenance.fingerprint_with(self._digests[variant.weights])}"

    def generate_until(self, requests: list[Instance]) -> list[Any]:
        """Answer prompts as the backend does, and those of family tasks for every variant at once.

        Raises:
            GenerationError: the backend failed, also where it would have answered with an empty string.
        """
        families = [index for index, request in enumerate(requests) if is_family(request)]
        if not families:
            return self._ask("generate_until", requests)
        self._take_rank()
        members = [requests[index] for index in families]
        with no_silent_failure(self.backend, members) as in_hand:
            told = answer_families(
                self.backend,
                self.model,
                self.engine,
                members,
                self.courses,
                self.tasters,
                in_hand,
                self.endings,
                self.observers,
                self.observed,
            )
        answers: dict[int, Any] = dict(zip(families, told, strict=True))
        plain = [index for index in range(len(requests)) if index not in answers]
        if plain:
            answers |= zip(plain, self._ask("generate_until", [requests[index] for index in plain]), strict=True)
        return [answers[index] for index in range(len(requests))]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[Any]:
        """Hold conversations as the backend does."""
        return self._ask("generate_until_multi_round", requests)

    def generate_visual_cot(self, requests: list[Instance]) -> list[Any]:
        """Draw and answer as the backend does."""
        return self._ask("generate_visual_cot", requests)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return (log-probability of the continuation, would greedy decoding produce it) for each request."""
        self._take_rank()
        ranked = [index for index, request in enumerate(requests) if RANKING in request.metadata]
        other = [index for index, request in enumerate(requests) if RANKING not in request.metadata]
        answers: dict[int, tuple[float, bool]] = {}
        with no_silent_failure(self.backend, requests) as in_hand:
            if ranked:
                asker = Asker(self.backend, self.model, self.engine, in_hand)
                answers |= zip(ranked, rank_requests(asker, [requests[index] for index in ranked]), strict=True)
            if other:
                found = loglikelihood(self.backend, self.model, [requests[index] for index in other])
                answers |= {
                    index: (score.log_probability, score.is_greedy) for index, score in zip(other, found, strict=True)
                }
        return [answers[index] for index in range(len(requests))]

    def _ask(self, request_type: str, requests: list[Instance]) -> list[Any]:
        self._take_rank()
        with no_silent_failure(self.backend, requests):
            answers: list[Any] = getattr(self.backend, request_type)(own_copies(requests))
        return answers

    def _take_rank(self) -> None:
        """lmms-eval tells the model, not the backend, which of several processes it is."""
        self.backend._rank, self.backend._world_size = self.rank, self.world_size

    @cached_property
    def engine(self) -> Engine:
        """What answers for variants."""
        settings = self.provenance.config
        budget = int(settings.family_memory * 2**30)
        return Engine(self.model, self._weights, budget, check=settings.engine_check, proofs=self.proofs)

    @property
    def fingerprint(self) -> str:
        """What lmms-eval's response cache keys answers by."""
        return self.provenance.fingerprint

    def prompt(self, request: Instance) -> str:
        """Return a digest of all that a request asks: texts, pictures, generation arguments.

        It is never the same again where attention is read, which a cached answer has none of.
        """
        if is_family(request) and request.metadata[ANCHOR].reads:
            return os.urandom(8).hex()
        document = self.task_dict[request.task_name][request.metadata["split"]][request.doc_id]
        return request_digest(request, document)

    def record(self) -> dict[str, Any]:
        """Return what belongs beside the results."""
        proofs = {task: asdict(proof) for task, proof in self.proofs.items()}
        return {**self.provenance.to_dict(), "engine": proofs}

    def results_written(self) -> None:
        """Forget the answers that are part of written results; until then a next run would have gone on from them."""
        for place, answered in self.answered.items():
            forget(place, answered)
        self.answered.clear()
        self.failures.clear()

    def clean(self) -> None:
        """Free the weights, as the harness asks after the last request."""
        self.backend.clean()


def require_merge(settings: ModelConfig) -> None:
    """Refuse a config under which there is nothing but the untouched VLM.

    Raises:
        ConfigError: it merges nothing.
    """
    if settings.merge is None:
        raise ConfigError(f"{settings.name}: merge is none, so nothing compares with the untouched VLM; set a merge")


def running() -> Plam | None:
    """Return the `plam` model that lmms-eval runs, if any."""
    guest = host.running()
    return guest if isinstance(guest, Plam) else None


class PlamSimple(Plam):
    """`plam` under `--force_simple`: the backend's simple variant."""

    is_simple = True
    _force_simple = True
