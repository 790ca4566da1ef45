"""The benchmark's twelve paradigms: pairs of sentences that differ in one point, which only one of them has right."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from lmms_plam.babyllava.grammar import EXISTENTIAL, Grammar, Phrase, Split, Word
from lmms_plam.babyllava.lexicon import (
    ADJECTIVES,
    BEINGS,
    HANDLING,
    INTRANSITIVE,
    NAMES,
    PEOPLE,
    PLACES,
    POINTING,
    REPORTS,
    SOCIAL,
    THINGS,
    Noun,
    Number,
    Verb,
)

Pair = tuple[str, str]
"""The sentence that is right, and the one that isn't, without the full stop."""

_PLAIN = ("the",)
_SEED = 2510_01845


def _other(number: Number) -> Number:
    return "plural" if number == "singular" else "singular"


class Paradigms(Grammar):
    """Draws pairs of a split: the main clause's subject and verb are the split's own.

    Args:
        rng: of all draws.
        split: whose.
    """

    def __init__(self, rng: random.Random, split: Split) -> None:
        super().__init__(rng)
        self.split = split

    def choose(self, words: Sequence[Word]) -> Word:
        """Draw a noun or a verb, all alike."""
        return self.rng.choice(words)

    def _subject(self, nouns: Sequence[Noun] = (*BEINGS, *NAMES), number: Number | None = None) -> Phrase:
        """Draw a subject with nothing after its noun, so that nothing else in it has a number."""
        noun = self.rng.choice(nouns)
        if not noun.plural:
            return Phrase(noun.singular, noun, "singular")
        if number is None:
            number = self.number()
        adjective = f"{self.rng.choice(ADJECTIVES)} " if self.rng.random() < 0.5 else ""
        return Phrase(f"the {adjective}{noun.form(number)}", noun, number)

    def _done(self, subject: Phrase, verb: Verb) -> str:
        return self.rng.choice((verb.past, verb.present(subject.number), f"{subject.have} {verb.participle}"))

    def determiner_noun_agreement(self) -> Pair:
        """`mary saw these dogs` / `... these dog`."""
        return self._pointed_at("")

    def determiner_noun_agreement_with_adjective(self) -> Pair:
        """`mary saw these red dogs` / `... these red dog`."""
        return self._pointed_at(f"{self.rng.choice(ADJECTIVES)} ")

    def _pointed_at(self, adjective: str) -> Pair:
        subject, number = self._subject(), self.number()
        verbs, nouns = self.rng.choice(((SOCIAL, BEINGS), (HANDLING, THINGS)))
        noun = self.rng.choice(nouns)
        done = self._done(subject, self.verb(subject.noun, verbs, self.split))
        begun = f"{subject.text} {done} {self.rng.choice(POINTING[number])} "
        return f"{begun}{adjective}{noun.form(number)}", f"{begun}{adjective}{noun.form(_other(number))}"

    def subject_verb_agreement(self) -> Pair:
        """`the dogs sleep` / `the dogs sleeps`."""
        return self._agreeing(self._subject(BEINGS))

    def subject_verb_agreement_across_place(self) -> Pair:
        """`the dogs near the cat sleep` / `... sleeps`: a noun of the other number stands between."""
        subject = self._subject(BEINGS)
        between = self.phrase(_other(subject.number), BEINGS, _PLAIN, modified=0)
        return self._agreeing(_longer(subject, f"{self.rng.choice(PLACES)} {between.text}"))

    def subject_verb_agreement_across_clause(self) -> Pair:
        """`the dogs that the cat likes sleep` / `... sleeps`."""
        subject = self._subject(BEINGS)
        between = self.phrase(_other(subject.number), BEINGS, _PLAIN, modified=0)
        return self._agreeing(_longer(subject, self.gap_clause(between)))

    def _agreeing(self, subject: Phrase) -> Pair:
        verb = self.verb(subject.noun, INTRANSITIVE, self.split)
        right, wrong = verb.present(subject.number), verb.present(_other(subject.number))
        return f"{subject.text} {right}", f"{subject.text} {wrong}"

    def anaphor_gender_agreement(self) -> Pair:
        """`mary hurt herself` / `mary hurt himself`."""
        subject = self._subject((*PEOPLE, *NAMES), "singular")
        return self._reflecting(subject, "herself" if subject.reflexive == "himself" else "himself")

    def anaphor_number_agreement(self) -> Pair:
        """`the boys hurt themselves` / `the boys hurt himself`."""
        subject = self._subject(BEINGS)
        return self._reflecting(subject, subject.noun.reflexive if subject.number == "plural" else "themselves")

    def reflexive_c_command(self) -> Pair:
        """`the boys that mary likes hurt themselves` / `... herself`: only the subject binds."""
        subject = self._subject(PEOPLE, "plural")
        between = self.name()
        return self._reflecting(_longer(subject, self.gap_clause(between)), between.reflexive)

    def _reflecting(self, subject: Phrase, wrong: str) -> Pair:
        begun = f"{subject.text} {self._done(subject, self.verb(subject.noun, SOCIAL, self.split))}"
        return f"{begun} {subject.reflexive}", f"{begun} {wrong}"

    def npi_licensor(self) -> Pair:
        """`no dog has ever slept` / `every dog has ever slept`."""
        subject = self._subject(BEINGS)
        positive = "every" if subject.number == "singular" else "many"
        ended = f"{subject.text.removeprefix('the ')} {self._ever(subject.noun, subject.number)}"
        return f"no {ended}", f"{positive} {ended}"

    def npi_scope(self) -> Pair:
        """`no dog that the boys like has ever slept` / `the dog that no boys like has ever slept`."""
        number, inner = self.number(), self.number()
        noun, doer = self.rng.choice(BEINGS), self.rng.choice(BEINGS)
        verb = self.verb(doer, SOCIAL).present(inner)
        ended = self._ever(noun, number)
        frame = "{} " + noun.form(number) + " that {} " + f"{doer.form(inner)} {verb} {ended}"
        return frame.format("no", "the"), frame.format("the", "no")

    def _ever(self, noun: Noun, number: Number) -> str:
        verb = self.verb(noun, INTRANSITIVE, self.split)
        return f"{'has' if number == 'singular' else 'have'} ever {verb.participle}"

    def existential_quantifiers(self) -> Pair:
        """`there is a dog near the box` / `there is every dog near the box`."""
        number = self.number()
        noun, wrong = self.rng.choice((*BEINGS, *THINGS)), {"singular": ("every", "that"), "plural": ("these", "those")}
        be = "is" if number == "singular" else "are"
        right = self.rng.choice(sorted(set(EXISTENTIAL[number]) - {"no"}))
        ended = f"{noun.form(number)} {self.place()}"
        return f"there {be} {right} {ended}", f"there {be} {self.rng.choice(wrong[number])} {ended}"

    def filler_gap(self) -> Pair:
        """`mary knows what the boys took` / `mary knows that the boys took`."""
        knower, doer = self.name(), self._subject()
        begun = f"{knower.text} {self.verb(knower.noun, REPORTS).present('singular')}"
        ended = f"{doer.text} {self.verb(doer.noun, HANDLING, self.split).past}"
        return f"{begun} what {ended}", f"{begun} that {ended}"


def _longer(phrase: Phrase, after: str) -> Phrase:
    return Phrase(f"{phrase.text} {after}", phrase.noun, phrase.number, phrase.negative)


_Draw = Callable[[Paradigms], Pair]

PARADIGMS: dict[str, tuple[str, _Draw]] = {
    "determiner_noun_agreement": ("agreement", Paradigms.determiner_noun_agreement),
    "determiner_noun_agreement_with_adjective": (
        "agreement",
        Paradigms.determiner_noun_agreement_with_adjective,
    ),
    "subject_verb_agreement": ("agreement", Paradigms.subject_verb_agreement),
    "subject_verb_agreement_across_place": ("agreement", Paradigms.subject_verb_agreement_across_place),
    "subject_verb_agreement_across_clause": ("agreement", Paradigms.subject_verb_agreement_across_clause),
    "anaphor_gender_agreement": ("reference", Paradigms.anaphor_gender_agreement),
    "anaphor_number_agreement": ("reference", Paradigms.anaphor_number_agreement),
    "reflexive_c_command": ("reference", Paradigms.reflexive_c_command),
    "npi_licensor": ("licensing", Paradigms.npi_licensor),
    "npi_scope": ("licensing", Paradigms.npi_scope),
    "existential_quantifiers": ("licensing", Paradigms.existential_quantifiers),
    "filler_gap": ("gaps", Paradigms.filler_gap),
}
"""By name, of which kind a paradigm is and how it draws a pair."""


def draw_pairs(split: Split, count: int) -> list[dict[str, Any]]:
    """Draw a split's pairs, so many of each paradigm, all different, in the form of BLiMP's rows."""
    rows = []
    for name, (kind, draw) in PARADIGMS.items():
        paradigms = Paradigms(random.Random(f"{_SEED} {split} {name}"), split)
        found: dict[Pair, None] = {}
        while len(found) < count:
            try:
                found.setdefault(draw(paradigms))
            except LookupError:  # who was drawn does nothing in this split
                continue
        for number, (good, bad) in enumerate(found):
            rows.append(
                {
                    "sentence_good": f"{good}.",
                    "sentence_bad": f"{bad}.",
                    "linguistics_term": kind,
                    "UID": name,
                    "pairID": str(number),
                }
            )
    return rows
