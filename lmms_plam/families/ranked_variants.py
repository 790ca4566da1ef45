"""Comparisons, searches and probes of tasks that rank given texts: the same texts scored by every variant.

task: plam_compare_blimp
class: !function lmms_plam.families.RankedComparison
of: plam_blimp

lmms-eval sees one answer for each variant and document: the log-probabilities, as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmms_eval.api.instance import Instance

from lmms_plam.config import ModelConfig
from lmms_plam.errors import ConfigError, about
from lmms_plam.families.comparison import Comparison
from lmms_plam.families.probe import MaskingProbe
from lmms_plam.families.ranked import RankedDocuments, RankedOptions, RankedTask
from lmms_plam.families.search import RecipeSearch
from lmms_plam.families.task import FamilyTask, read_options
from lmms_plam.harness import host
from lmms_plam.harness.prompts import RANKING
from lmms_plam.harness.ranking import SHOWS


class RankedFamily(FamilyTask):
    """What makes a family task of one that ranks texts: how it is read, and what is asked of a document."""

    @classmethod
    def _read(cls, config: Mapping[str, Any], settings: ModelConfig) -> tuple[Any, dict[str, Any]]:
        options = read_options(cls.options_class, config, cls.overrides(settings))
        with about(options.task):
            wrapped = host.family_config(options.of)
            if wrapped is None or not issubclass(wrapped["class"], RankedTask):
                raise ConfigError(f"'{options.of}' ranks no texts: {cls.__name__} takes tasks of the class RankedTask")
            ranked = RankedOptions.read(wrapped, settings)
        return options, ranked.as_task("generate_until")

    def construct_requests(self, doc_id: int, ctx: str, **kwargs: Any) -> list[Instance]:
        """Return a request for each variant, with all texts that it is to score."""
        requests = super().construct_requests(doc_id, ctx, **kwargs)
        ranking = self.ranked.ranking(self.eval_docs_no_media[doc_id])
        for request in requests:
            request.metadata |= {RANKING: ranking, SHOWS: self.doc_to_visual}
        return requests

    @property
    def ranked(self) -> RankedOptions:
        """The options of the task that it is made of."""
        options: RankedOptions = RankedOptions.model_validate(self.config.dataset_kwargs)
        return options


class RankedComparison(RankedFamily, Comparison, RankedDocuments):
    """The untouched VLM against the merged model and further recipes, on texts to rank."""


class RankedSearch(RankedFamily, RecipeSearch, RankedDocuments):
    """A search of recipes, on texts to rank."""


class RankedProbe(RankedFamily, MaskingProbe, RankedDocuments):
    """The masking curve of texts to rank after a picture; at cut 0 it is the language prior that ranks them."""
