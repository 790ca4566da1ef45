"""How long the answers of finished runs are, and which of them the limit on new tokens seems to have cut off.

lmms-eval logs neither the end token nor, for most backends, the number of tokens, and the limit only where the task's
YAML or the command line set one. So what is said here is likely, not known: cut off is an answer that is as long as the
limit, or as the longest of its runs, and doesn't end as a sentence does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmms_plam.audit.lengths import count_pieces, ends_sentence, most_tokens, wall
from lmms_plam.runs.samples import TaskRun
from lmms_plam.scoring.record import CutOff, Sample, answer_of


@dataclass(frozen=True, slots=True)
class LoggedEnding:
    """How long an answer is, in tokens or else in words and marks, and whether it was cut off."""

    length: int
    cut_off: CutOff


Endings = Mapping[int, LoggedEnding]
"""By document id."""


def read_endings(
    runs: Mapping[str, TaskRun], samples: Mapping[str, Mapping[int, Sample]]
) -> tuple[dict[str, Endings], tuple[str, ...]]:
    """Read off logged answers how they ended.

    Args:
        runs: of one task, by name.
        samples: by run, its samples by document id.

    Returns:
        By run, how each document's answer ended; and what a reader must know.
    """
    answers = {name: {doc_id: answer_of(one) for doc_id, one in own.items()} for name, own in samples.items()}
    counted = {name: {doc_id: _tokens(one) for doc_id, one in own.items()} for name, own in samples.items()}
    in_tokens = all(count is not None for own in counted.values() for count in own.values())
    lengths = {
        name: {
            doc_id: (counted[name][doc_id] or 0) if in_tokens else count_pieces(text) for doc_id, text in own.items()
        }
        for name, own in answers.items()
    }
    unfinished = {
        name: {doc_id: lengths[name][doc_id] for doc_id, text in own.items() if not ends_sentence(text)}
        for name, own in answers.items()
    }
    longest = wall([length for own in unfinished.values() for length in own.values()])
    endings: dict[str, Endings] = {}
    found = unsaid = False
    for name, run in runs.items():
        limit = _limit(run)
        least = limit if in_tokens and limit is not None else longest
        cut = {
            doc_id
            for doc_id, length in unfinished[name].items()
            if least is not None
            and length >= least
            and (in_tokens or limit is None or most_tokens(answers[name][doc_id]) >= limit)
        }
        endings[name] = {
            doc_id: LoggedEnding(length, "likely" if doc_id in cut else "no")
            for doc_id, length in lengths[name].items()
        }
        found, unsaid = found or bool(cut), unsaid or limit is None
    return endings, _notes(found, unsaid, f"{longest} {'tokens' if in_tokens else 'words and marks'}")


def _notes(found: bool, unsaid: bool, longest: str) -> tuple[str, ...]:
    """Say what is likely and not known, given whether answers count as cut off and whether a log lacks its limit."""
    no_limit = "the logs don't say the limit on new tokens"
    if unsaid and not found:
        return (f"{no_limit}, and no answers look as if one had cut them off",)
    if not found:
        return ()
    why = no_limit if unsaid else "the logs don't say which answers ended by themselves"
    as_long = f"as long as the longest ({longest} or more)" if unsaid else "as long as the limit allows"
    return (f"{why}: answers {as_long} that end no sentence are taken for cut off, which is likely and not known",)


def _tokens(sample: Sample) -> int | None:
    """Return how many tokens lmms-eval counted of an answer, if the backend told it."""
    counts: Any = sample.get("token_counts")
    first = counts[0] if isinstance(counts, list) and counts else counts
    count = first.get("output_tokens") if isinstance(first, Mapping) else None
    return count if type(count) is int and count >= 0 else None


def _limit(run: TaskRun) -> int | None:
    """Return the limit on new tokens that a run's task had, where its results say."""
    arguments = run.told.config.get("generation_kwargs")
    limit = arguments.get("max_new_tokens") if isinstance(arguments, Mapping) else None
    return limit if type(limit) is int and limit > 0 else None
