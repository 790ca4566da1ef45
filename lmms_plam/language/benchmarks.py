"""The table of benchmarks: where each is found, how its rows are read, what it averages over.

Names of folders, files, paradigms and domains are those of the sources' documentation and of the BabyLM evaluation
pipeline (babylm/evaluation-pipeline-2025 at bf55c11), not of the data, which lie elsewhere (OSF) or are gated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lmms_plam.babyllava.paradigms import PARADIGMS as OWN_PARADIGMS
from lmms_plam.babyllava.pictures import KINDS as OWN_CAPTIONS
from lmms_plam.errors import ConfigError, did_you_mean
from lmms_plam.language import rows
from lmms_plam.language.item import Item

PARADIGMS = (
    "adjunct_island",
    "anaphor_gender_agreement",
    "anaphor_number_agreement",
    "animate_subject_passive",
    "animate_subject_trans",
    "causative",
    "complex_NP_island",
    "coordinate_structure_constraint_complex_left_branch",
    "coordinate_structure_constraint_object_extraction",
    "determiner_noun_agreement_1",
    "determiner_noun_agreement_2",
    "determiner_noun_agreement_irregular_1",
    "determiner_noun_agreement_irregular_2",
    "determiner_noun_agreement_with_adj_2",
    "determiner_noun_agreement_with_adj_irregular_1",
    "determiner_noun_agreement_with_adj_irregular_2",
    "determiner_noun_agreement_with_adjective_1",
    "distractor_agreement_relational_noun",
    "distractor_agreement_relative_clause",
    "drop_argument",
    "ellipsis_n_bar_1",
    "ellipsis_n_bar_2",
    "existential_there_object_raising",
    "existential_there_quantifiers_1",
    "existential_there_quantifiers_2",
    "existential_there_subject_raising",
    "expletive_it_object_raising",
    "inchoative",
    "intransitive",
    "irregular_past_participle_adjectives",
    "irregular_past_participle_verbs",
    "irregular_plural_subject_verb_agreement_1",
    "irregular_plural_subject_verb_agreement_2",
    "left_branch_island_echo_question",
    "left_branch_island_simple_question",
    "matrix_question_npi_licensor_present",
    "npi_present_1",
    "npi_present_2",
    "only_npi_licensor_present",
    "only_npi_scope",
    "passive_1",
    "passive_2",
    "principle_A_c_command",
    "principle_A_case_1",
    "principle_A_case_2",
    "principle_A_domain_1",
    "principle_A_domain_2",
    "principle_A_domain_3",
    "principle_A_reconstruction",
    "regular_plural_subject_verb_agreement_1",
    "regular_plural_subject_verb_agreement_2",
    "sentential_negation_npi_licensor_present",
    "sentential_negation_npi_scope",
    "sentential_subject_island",
    "superlative_quantifiers_1",
    "superlative_quantifiers_2",
    "tough_vs_raising_1",
    "tough_vs_raising_2",
    "transitive",
    "wh_island",
    "wh_questions_object_gap",
    "wh_questions_subject_gap",
    "wh_questions_subject_gap_long_distance",
    "wh_vs_that_no_gap",
    "wh_vs_that_no_gap_long_distance",
    "wh_vs_that_with_gap",
    "wh_vs_that_with_gap_long_distance",
)
"""BLiMP's 67."""

DOMAINS = (
    "agent-properties",
    "material-dynamics",
    "material-properties",
    "physical-dynamics",
    "physical-interactions",
    "physical-relations",
    "quantitative-properties",
    "social-interactions",
    "social-properties",
    "social-relations",
    "spatial-relations",
)
"""EWoK's 11."""

SUPPLEMENT = ("hypernym", "qa_congruence_easy", "qa_congruence_tricky", "subject_aux_inversion", "turn_taking")
"""The files of BLiMP's supplement."""


@dataclass(frozen=True, slots=True)
class Hub:
    """A dataset on the hub.

    Attributes:
        path: its name.
        split: of its rows.
        configs: its configs, each of which is a file's worth of rows; empty: it has one.
        gated: it must be asked for.
    """

    path: str
    split: str
    configs: tuple[str, ...] = ()
    gated: bool = False


@dataclass(frozen=True, slots=True)
class LanguageBenchmark:
    """A benchmark, full or fast.

    Attributes:
        name: what tasks call it.
        read: turns a row into an item.
        folders: where its files lie below the user's folder, each tried in turn; none: beside the tasks, where its file
            comes with the package.
        parts: what must be there: paradigms, domains, or files.
        hub: where it is found without a folder; None: only in a folder.
        averages: the registered metric that the headline is: `macro` over parts, `macro_of_files`, or `mean`.
        scoring: `rank`: the right candidate among all; `winoground`: two captions of two pictures.
        chance: the headline where candidates are drawn at random; None where items differ.
        shown: number of pictures of an item.
        alone: whether candidates are also scored without context and pictures, for mutual information.
    """

    name: str
    read: Callable[..., Item]
    folders: tuple[str, ...]
    parts: tuple[str, ...] = ()
    hub: Hub | None = None
    averages: Literal["macro", "macro_of_files", "mean"] = "macro"
    scoring: Literal["rank", "winoground"] = "rank"
    chance: float | None = 0.5
    shown: int = 0
    alone: bool = False


WINOGROUND = Hub("facebook/winoground", "test", gated=True)
_EWOK = Hub("ewok-core/ewok-core-1.0", "test", gated=True)

_BENCHMARKS = (
    LanguageBenchmark(
        "blimp",
        rows.read_blimp,
        ("full_eval/blimp_filtered", "blimp_filtered", "data"),
        PARADIGMS,
        Hub("nyu-mll/blimp", "train", PARADIGMS),
    ),
    LanguageBenchmark("blimp_fast", rows.read_blimp, ("fast_eval/blimp_fast", "blimp_fast"), PARADIGMS),
    LanguageBenchmark(
        "blimp_supplement", rows.read_blimp, ("full_eval/supplement_filtered", "supplement_filtered"), SUPPLEMENT
    ),
    LanguageBenchmark(
        "blimp_supplement_fast", rows.read_blimp, ("fast_eval/supplement_fast", "supplement_fast"), SUPPLEMENT
    ),
    LanguageBenchmark("ewok", rows.read_ewok, ("full_eval/ewok_filtered", "ewok_filtered"), DOMAINS, _EWOK, alone=True),
    LanguageBenchmark("ewok_fast", rows.read_ewok, ("fast_eval/ewok_fast", "ewok_fast"), DOMAINS, alone=True),
    LanguageBenchmark(
        "entity_tracking",
        rows.read_entity_tracking,
        ("full_eval/entity_tracking", "entity_tracking"),
        ("regular", "ambiref", "move_contents"),
        averages="macro_of_files",
        chance=None,
    ),
    LanguageBenchmark(
        "entity_tracking_fast",
        rows.read_entity_tracking,
        ("fast_eval/entity_tracking_fast", "entity_tracking_fast"),
        ("regular",),
        averages="macro_of_files",
        chance=None,
    ),
    LanguageBenchmark(
        "winoground",
        rows.read_winoground,
        ("winoground", "data"),
        hub=WINOGROUND,
        averages="mean",
        scoring="winoground",
        chance=0.25,
        shown=2,
        alone=True,
    ),
    LanguageBenchmark(
        "winoground_babylm",
        rows.read_winoground_babylm,
        ("full_eval/winoground_filtered", "winoground_filtered"),
        averages="mean",
        shown=1,
        alone=True,
    ),
    LanguageBenchmark("babyllava_pairs", rows.read_blimp, (), tuple(OWN_PARADIGMS)),
    LanguageBenchmark("babyllava_captions", rows.read_winoground_babylm, (), tuple(OWN_CAPTIONS), shown=1, alone=True),
)

BENCHMARKS = {benchmark.name: benchmark for benchmark in _BENCHMARKS}
"""By name."""


def find_benchmark(name: str) -> LanguageBenchmark:
    """Return a benchmark.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"no benchmark '{name}'.{did_you_mean(name, BENCHMARKS)} Known: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
