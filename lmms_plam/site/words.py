"""What a study's numbers say, in sentences made by rules, each of which the page prints beside what it said.

Nothing here looks at more than its arguments: the same numbers give the same words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lmms_plam.report.numbers import p_text

FORMAT_SHARE = 0.1
"""The share of a gain that counts as a part of it."""

RULES = (
    "Points are hundredths of a perfect score. A gain or loss is counted where the interval of the paired"
    " difference to the untouched VLM lies on one side of 0; elsewhere the interval holds 0, which is no proof"
    " that nothing changes.",
    "A recipe is not judged on documents that chose it: where it is the pick of a search on the same benchmark,"
    " the search's gain on unseen documents, by cross-fitting, stands for the comparison's.",
    "Where another benchmark of the same dataset and split chose the recipe, its gain stands with a warning.",
    "The mean over benchmarks takes each alike, gains or not; its interval takes their intervals as those of"
    " independent estimates. It is said of two benchmarks or more.",
    "Holm's adjustment is over all of a model's benchmarks.",
    "Part of a gain is answer format where at least a tenth of it comes from documents of which only one answer"
    " could be read, or one was cut off.",
    "A plateau's onset is said where the probe gave its verdict for one. Of several benchmarks the lowest and the"
    " highest onset are said.",
    "Of a search is said what its pick gains on documents that the choice did not see, and that some recipe is"
    " better than the untouched VLM where the p-value that none is, adjusted for all recipes, is below 0.05.",
    "Language is lost or given back where the interval of the mean over the text benchmarks lies on one side of"
    " 0: of the VLM against its base LM, and of the merged model against the VLM.",
    "Attention is said to change where the p-value of its change in the late layers is below 0.05.",
    "A benchmark that a model was asked several times with one recipe counts once: the record with most documents,"
    " of as many the newest.",
    "The best of a leaderboard is the one with the highest mean; others that hold its place on every benchmark by"
    " the ranks' intervals are said to be level with it.",
)
"""The rules, for the page."""

_ALPHA = 0.05
_MOST_APART, _MOST_NAMED = 2, 3
"""So many searches have a sentence each, and so many benchmarks are named."""

_NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


@dataclass(frozen=True, slots=True)
class Gain:
    """A difference to the untouched VLM on documents that didn't choose the recipe; above 0 is better.

    Attributes:
        benchmark: its name.
        points: the difference.
        low: lower end of its interval; None without one.
        high: upper end.
        level: of the interval.
        p_value: that there is none; None where nobody knows.
        by_format: points of it from documents of which one answer couldn't be read, or was cut off; None alike.
        documents: how many were asked.
        text: whether its documents show no picture.
        cross_fitted: whether a search says it, of its own benchmark.
        shared: whether the recipe was chosen on the same documents as another benchmark asks them.
    """

    benchmark: str
    points: float
    low: float | None
    high: float | None
    level: float = 0.95
    p_value: float | None = None
    by_format: float | None = None
    documents: int = 0
    text: bool = False
    cross_fitted: bool = False
    shared: bool = False

    @property
    def sign(self) -> int:
        """1 for a gain, -1 for a loss, 0 where the interval holds 0 or there is none."""
        if self.low is None or self.high is None:
            return 0
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over benchmarks, in points."""

    points: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 above 0, -1 below, 0 where its interval holds 0."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


@dataclass(frozen=True, slots=True)
class Onset:
    """A probe's finding: the onset k*, None where there is no plateau."""

    benchmark: str
    onset: int | None


@dataclass(frozen=True, slots=True)
class Picked:
    """A search's finding.

    Attributes:
        benchmark: on which it was chosen.
        recipe: the pick, in words.
        gain: on documents that the choice did not see; None where there are too few.
        any_better_p: that no recipe is better, adjusted for looking at all.
    """

    benchmark: str
    recipe: str
    gain: Gain | None
    any_better_p: float | None


@dataclass(frozen=True, slots=True)
class Looked:
    """What a merge changes in the late layers' attention on the picture, in percentage points."""

    benchmark: str
    points: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Ranked:
    """A model of a leaderboard: its mean score, and the best place that it could hold on each benchmark."""

    model: str
    mean: float
    best_ranks: tuple[int, ...]


def say_plateaus(onsets: Sequence[Onset]) -> str:
    """Say where plateaus begin; empty without a probe."""
    if not onsets:
        return ""
    known = sorted(one.onset for one in onsets if one.onset is not None)
    if not known:
        where = onsets[0].benchmark if len(onsets) == 1 else _all_of(len(onsets))
        return f"No plateau is found on {where}."
    where = f"layer {known[0]}" if known[0] == known[-1] else f"layers {known[0]} to {known[-1]}"
    on = onsets[0].benchmark if len(onsets) == 1 else f"{_of(len(known), len(onsets))}"
    return (
        f"The plateau begins at {where} on {on}{', on the others there is none' if len(known) < len(onsets) else ''}."
    )


def say_gains(recipe: str, gains: Sequence[Gain]) -> list[str]:
    """Say on which benchmarks a recipe gains, loses, or can't be told from the untouched VLM, and the mean.

    Args:
        recipe: what was merged, as the subject of a sentence: "merging from layer 24 on".
        gains: one for each benchmark.
    """
    if not gains:
        return []
    sides = {sign: [one for one in gains if one.sign == sign] for sign in (1, -1, 0)}
    said = []
    for sign, verb in ((1, "gains"), (-1, "loses")):
        if sides[sign]:
            said.append(f"{verb} {_spread(sides[sign])}{_on(sides[sign], gains)}")
    if not said:
        only = f"on {gains[0].benchmark} the interval of {_points(gains[0])} holds 0"
        held = only if len(gains) == 1 else f"on {_all_of(len(gains))} the interval holds 0"
        found = [f"{_capital(recipe)} neither gains nor loses for sure: {held}."]
    else:
        held = f"; {_on(sides[0], gains).strip()} the interval holds 0" if sides[0] else ""
        found = [f"{_capital(recipe)} {' and '.join(said)}{held}."]
    counted = [*sides[1], *sides[-1]]
    kept = survivors(gains)
    if counted and len(gains) > 1 and kept is not None:
        found.append(
            f"After Holm's adjustment over the {_number(len(gains))} benchmarks {_remain(kept, len(counted))}."
        )
    found += [
        f"{_share_word(one.by_format / one.points)} of {one.benchmark}'s {'gain' if one.sign > 0 else 'loss'} is answer"
        f" format ({one.by_format:+.1f} of {one.points:+.1f} points)."
        for one in counted
        if one.by_format is not None and one.points and one.by_format / one.points >= FORMAT_SHARE
    ]
    found += [
        f"The recipe was chosen on the documents of {one.benchmark} as another benchmark asks them: its gain there may"
        " be too large."
        for one in gains
        if one.shared
    ]
    mean = mean_of(gains)
    if mean is not None:
        found.append(
            f"The mean over {_all_of(len(gains))}, gains or not, is {mean.points:+.1f} points"
            f" ({mean.low:+.1f} to {mean.high:+.1f})."
        )
    return found


def say_search(picked: Sequence[Picked]) -> list[str]:
    """Say what searches' picks are worth: a sentence for each of one or two, and one for all of more."""
    if len(picked) > _MOST_APART:
        return [_say_searches(picked)]
    found = []
    for one in picked:
        worth = (
            "; too few documents say what it is worth"
            if one.gain is None
            else f": on documents that the choice did not see it gains {_points(one.gain)}"
        )
        p = one.any_better_p
        better = "" if p is None else f"; {'some' if p < _ALPHA else 'no'} recipe is better than the untouched VLM"
        sure = "" if p is None else f"{'' if p < _ALPHA else ' for sure'} (p {p_text(p)})"
        found.append(f"The search on {one.benchmark} picks {one.recipe}{worth}{better}{sure}.")
    return found


def say_language(lost: Sequence[Gain], back: Sequence[Gain], pictures: Sequence[Gain]) -> str:
    """Say what a VLM lost in language, what the merge gives back, and what that costs on pictures; empty without text.

    Args:
        lost: the VLM against its base LM on text: below 0 where language was lost.
        back: the merged model against the VLM on text.
        pictures: the same on pictures.
    """
    parts = [
        _changed(
            lost, "against its base LM the VLM", ("has gained", "has lost", "has neither lost nor gained for sure")
        ),
        _changed(back, "the merge", ("gives back", "takes a further", "gives nothing back for sure")),
    ]
    known = [part for part in parts if part]
    if not known:
        return ""
    if back and pictures:
        known.append(_changed(pictures, "on pictures it", ("gains", "costs", "neither gains nor costs for sure")))
    return f"On text, {'; '.join(known)}."


def say_attention(looked: Sequence[Looked]) -> list[str]:
    """Say whether the merged layers look at the picture more or less, as `say_search` does."""
    if len(looked) > _MOST_APART:
        sure = [one for one in looked if one.p_value < _ALPHA]
        more = [one.benchmark for one in sure if one.points > 0]
        less = [one.benchmark for one in sure if one.points < 0]
        on_more, on_less = (_where(names, len(looked)) for names in (more, less))
        return [f"The merged layers look at the picture more{on_more} and less{on_less}; elsewhere no change is sure."]
    found = []
    for one in looked:
        known = one.p_value < _ALPHA
        how = "no more and no less for sure" if not known else "more" if one.points > 0 else "less"
        points = f"{one.points:+.1f} points of all attention, {one.low:+.1f} to {one.high:+.1f}"
        found.append(f"On {one.benchmark} the merged layers look at the picture {how} ({points}).")
    return found


def say_ranks(ranked: Sequence[Ranked], benchmarks: int, where: str) -> str:
    """Say who leads a leaderboard, and who can't be told from it; empty with one model.

    Args:
        ranked: the models that have a mean.
        benchmarks: over how many it is taken.
        where: the leaderboard's name within a sentence.
    """
    if len(ranked) < 2:
        return ""
    first, *others = sorted(ranked, key=lambda one: -one.mean)
    level = [one.model for one in others if one.best_ranks and all(rank == 1 for rank in one.best_ranks)]
    over = "" if benchmarks == 1 else f", the mean over {_number(benchmarks)} benchmarks"
    said = f"On the {where} {first.model} stands first of {_number(len(ranked))} ({first.mean:.1f} points{over})"
    if not level:
        return f"{said}."
    named = ", ".join(level) if len(level) < 4 else _number(len(level)) + " others"
    return f"{said}; {named} could hold its place{' on every benchmark' if benchmarks > 1 else ''}."


def mean_of(gains: Sequence[Gain]) -> Mean | None:
    """Return the mean over two benchmarks or more that all have an interval, with its own; else None."""
    if len(gains) < 2 or len({one.level for one in gains}) > 1:
        return None
    ends = [(one.low, one.high) for one in gains if one.low is not None and one.high is not None]
    if len(ends) < len(gains):
        return None
    half = sum(((high - low) / 2) ** 2 for low, high in ends) ** 0.5 / len(gains)
    points = sum(one.points for one in gains) / len(gains)
    return Mean(points, points - half, points + half)


def survivors(gains: Sequence[Gain]) -> int | None:
    """Return how many counted differences remain after Holm's adjustment; None where a p-value isn't known."""
    p_values = [one.p_value for one in gains]
    if any(p is None for p in p_values):
        return None
    ordered = sorted((p, one) for p, one in zip(p_values, range(len(gains)), strict=True) if p is not None)
    alpha, left = 1 - gains[0].level, set()
    for place, (p, which) in enumerate(ordered):
        if p > alpha / (len(ordered) - place):
            break
        left.add(which)
    return sum(gains[which].sign != 0 for which in left)


def _say_searches(picked: Sequence[Picked]) -> str:
    gains = [one.gain for one in picked if one.gain is not None]
    sure = [gain.benchmark for gain in gains if gain.sign > 0]
    better = [one.benchmark for one in picked if one.any_better_p is not None and one.any_better_p < _ALPHA]
    mean = mean_of(gains)
    said = f", {mean.points:+.1f} points on average ({mean.low:+.1f} to {mean.high:+.1f})" if mean is not None else ""
    return (
        f"On documents that their choice did not see the picks of {_number(len(picked))} searches gain"
        f"{_where(sure, len(picked))}{said}; some recipe is better than the untouched VLM{_where(better, len(picked))}."
    )


def _where(names: Sequence[str], of: int) -> str:
    """Say on which of several benchmarks, by name where they are few."""
    if not names:
        return " on none"
    named = f" ({', '.join(names)})" if len(names) <= _MOST_NAMED and len(names) < of else ""
    return f" on {_of(len(names), of)}{named}"


def _changed(gains: Sequence[Gain], who: str, verbs: tuple[str, str, str]) -> str:
    """Say what a mean over benchmarks is, by the verb for above 0, below 0, or neither; of one, its own difference."""
    if not gains:
        return ""
    only = gains[0]
    one = mean_of(gains)
    if one is None:
        if len(gains) > 1 or only.low is None or only.high is None:
            return ""
        one = Mean(only.points, only.low, only.high)
    up, down, neither = verbs
    if one.sign == 0:
        return f"{who} {neither} ({one.points:+.1f} points, {one.low:+.1f} to {one.high:+.1f})"
    ends = sorted((abs(one.low), abs(one.high)))
    verb = up if one.sign > 0 else down
    return f"{who} {verb} {abs(one.points):.1f} points ({ends[0]:.1f} to {ends[1]:.1f})"


def _spread(gains: Sequence[Gain]) -> str:
    """Say one gain, or the smallest and the largest of several."""
    ordered = sorted(gains, key=lambda one: abs(one.points))
    if len(ordered) == 1:
        return f"{_size(ordered[0])}"
    return f"{_size(ordered[0])} to {_size(ordered[-1])}"


def _size(one: Gain) -> str:
    """Say the size of a counted gain or loss with its interval."""
    assert one.low is not None
    assert one.high is not None
    low, high = sorted((abs(one.low), abs(one.high)))
    return f"{abs(one.points):.1f} points ({low:.1f} to {high:.1f})"


def _points(one: Gain) -> str:
    if one.low is None or one.high is None:
        return f"{one.points:+.1f} points (no interval)"
    return f"{one.points:+.1f} points ({one.low:+.1f} to {one.high:+.1f})"


def _on(some: Sequence[Gain], of: Sequence[Gain]) -> str:
    names = [one.benchmark for one in some]
    return f" on {names[0]}" if len(of) == 1 else _where(names, len(of))


def _of(some: int, of: int) -> str:
    return _all_of(of) if some == of else f"{_number(some)} of {_number(of)} benchmarks"


def _all_of(count: int) -> str:
    return "both benchmarks" if count == 2 else f"all {_number(count)} benchmarks"


def _number(count: int) -> str:
    return _NUMBERS[count] if count < len(_NUMBERS) else str(count)


def _remain(kept: int, counted: int) -> str:
    if kept == counted:
        return "it remains" if counted == 1 else "all of them remain"
    return f"{_number(kept) if kept else 'none'} of them {'remain' if kept > 1 else 'remains'}"


def _share_word(share: float) -> str:
    return "All" if share >= 0.995 else "Most" if share > 0.5 else "Part"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
