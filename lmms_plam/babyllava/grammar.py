"""The seeded grammar: sentences in which number, licensors, reflexives and gaps are as English has them.

A sentence is drawn by composing phrases; nothing is aimed at the benchmark's paradigms, which are configurations that
come up by themselves, some of them seldom. Who does what is divided among splits: of the pairs of a subject's noun and
its verb a tenth is the benchmark's and a tenth the development's, and no clause of the training text has one of those.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from lmms_plam.babyllava.lexicon import (
    ADJECTIVES,
    BEINGS,
    DETERMINERS,
    HANDLING,
    INTRANSITIVE,
    NAMES,
    NUMBERS,
    PLACES,
    REPORTS,
    SOCIAL,
    THINGS,
    THINK,
    Noun,
    Number,
    Verb,
)

Split = Literal["train", "development", "benchmark"]

Word = TypeVar("Word")

_BUCKETS: dict[Split, range] = {"train": range(8), "development": range(8, 9), "benchmark": range(9, 10)}


@dataclass(frozen=True, slots=True)
class Phrase:
    """A noun phrase.

    Attributes:
        text: its words.
        noun: its head.
        number: of the head.
        negative: whether it begins with `no`, which licenses `ever` in what it is the subject of.
    """

    text: str
    noun: Noun
    number: Number
    negative: bool = False

    @property
    def reflexive(self) -> str:
        """How it refers to itself."""
        return self.noun.reflexive if self.number == "singular" else "themselves"

    @property
    def be(self) -> str:
        """`is` or `are`."""
        return "is" if self.number == "singular" else "are"

    @property
    def have(self) -> str:
        """`has` or `have`."""
        return "has" if self.number == "singular" else "have"

    @property
    def do(self) -> str:
        """`does` or `do`."""
        return "does" if self.number == "singular" else "do"


def belongs(noun: Noun, verb: Verb, split: Split) -> bool:
    """Say whether a split has clauses in which this noun is the subject of this verb."""
    return zlib.crc32(f"{noun.singular} {verb.base}".encode()) % 10 in _BUCKETS[split]


class Grammar:
    """Draws phrases and sentences.

    Args:
        rng: of all draws.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def choose(self, words: Sequence[Word]) -> Word:
        """Draw a noun or a verb, by Zipf's law."""
        return self.rng.choices(words, [1 / rank for rank in range(1, len(words) + 1)])[0]

    def number(self) -> Number:
        """Draw a number."""
        return self.rng.choice(NUMBERS)

    def phrase(
        self,
        number: Number | None = None,
        nouns: Sequence[Noun] = BEINGS,
        determiners: Sequence[str] | None = None,
        modified: float = 0.3,
    ) -> Phrase:
        """Draw a noun phrase.

        Args:
            number: of its head; None: either.
            nouns: its head is one of them.
            determiners: it begins with one of them; None: any of its number.
            modified: how probable an adjective is, and something after the noun: a place or a relative clause.
        """
        if number is None:
            number = self.number()
        determiner = self.rng.choice(determiners or DETERMINERS[number])
        noun = self.choose(nouns)
        words = [determiner]
        if self.rng.random() < modified:
            words.append(self.rng.choice(ADJECTIVES))
        words.append(noun.form(number))
        if self.rng.random() < modified:
            words.append(self._after(noun, number))
        return Phrase(" ".join(words), noun, number, determiner == "no")

    def name(self) -> Phrase:
        """Draw a name."""
        noun = self.choose(NAMES)
        return Phrase(noun.singular, noun, "singular")

    def subject(self, modified: float = 0.3) -> Phrase:
        """Draw who does something: most often a phrase, else a name."""
        return self.name() if self.rng.random() < 0.3 else self.phrase(modified=modified)

    def place(self) -> str:
        """Draw where something is: `near these cats`."""
        nouns = self.rng.choice((BEINGS, THINGS))
        return f"{self.rng.choice(PLACES)} {self.phrase(nouns=nouns, modified=0).text}"

    def _after(self, noun: Noun, number: Number) -> str:
        if noun not in BEINGS or self.rng.random() < 0.5:
            return self.place()
        return self.gap_clause() if self.rng.random() < 0.5 else self._own_clause(noun, number)

    def gap_clause(self, subject: Phrase | None = None) -> str:
        """Draw a relative clause whose object is the noun before it: `that the boys like`."""
        subject = subject or self.subject(modified=0)
        return f"that {subject.text} {self._finite(subject, self.verb(subject.noun, SOCIAL))}"

    def _own_clause(self, noun: Noun, number: Number) -> str:
        verb = self.verb(noun, SOCIAL)
        return f"that {self._finite(Phrase('', noun, number), verb)} {self.subject(modified=0).text}"

    def verb(self, noun: Noun, verbs: Sequence[Verb], split: Split = "train") -> Verb:
        """Draw what a noun does, of a split.

        Raises:
            LookupError: it does nothing there.
        """
        known = [verb for verb in verbs if belongs(noun, verb, split)]
        if not known:
            raise LookupError(f"{noun.singular} does nothing in the split {split}")
        return self.choose(known)

    def _finite(self, subject: Phrase, verb: Verb) -> str:
        return verb.past if self.rng.random() < 0.3 else verb.present(subject.number)

    def _tensed(self, subject: Phrase, verb: Verb) -> str:
        """Draw a verb with its auxiliaries; `ever` only with a negative subject."""
        way = self.rng.random()
        if way < 0.6:
            return self._finite(subject, verb)
        if way < 0.7:
            return f"{subject.do} not {verb.base}" if not subject.negative else self._finite(subject, verb)
        adverb = "ever " if subject.negative else "never "
        return f"{subject.have} {adverb if self.rng.random() < 0.6 else ''}{verb.participle}"

    def clause(self, modified: float = 0.3) -> str:
        """Draw a clause: who does or is what."""
        subject = self.subject(modified)
        kind = self.rng.choices(("alone", "social", "self", "handling", "adjective", "place"), (4, 4, 3, 3, 1, 1))[0]
        if kind == "adjective":
            return f"{subject.text} {subject.be} {self.rng.choice(ADJECTIVES)}"
        if kind == "place":
            return f"{subject.text} {subject.be} {self.place()}"
        if kind == "alone":
            return f"{subject.text} {self._tensed(subject, self.verb(subject.noun, INTRANSITIVE))}"
        verb = self.verb(subject.noun, HANDLING if kind == "handling" else SOCIAL)
        objects = {
            "self": lambda: subject.reflexive,
            "social": lambda: self.subject(modified).text,
            "handling": lambda: self.phrase(nouns=THINGS, modified=modified).text,
        }
        return f"{subject.text} {self._tensed(subject, verb)} {objects[kind]()}"

    def existential(self) -> str:
        """Draw a sentence that says that something is somewhere: `there are two cats near the box`."""
        number = self.number()
        thing = self.phrase(number, self.rng.choice((BEINGS, THINGS)), EXISTENTIAL[number], modified=0.15)
        return f"there {thing.be} {thing.text} {self.place()}"

    def report(self) -> str:
        """Draw a sentence with a gap or without: `mary knows what the boys took`, `... that the boys took a cup`."""
        knower = self.subject(modified=0)
        if self.rng.random() < 0.5:
            verb, told = self.verb(knower.noun, (*REPORTS, *THINK)), f"that {self.clause(modified=0.1)}"
        else:
            doer = self.subject(modified=0)
            verb, told = self.verb(knower.noun, REPORTS), f"what {doer.text} {self._finite(doer, self._handles(doer))}"
        return f"{knower.text} {self._finite(knower, verb)} {told}"

    def _handles(self, doer: Phrase) -> Verb:
        return self.verb(doer.noun, HANDLING)

    def about_things(self) -> str:
        """Draw where a thing is, in the words of captions: `the red ball is left of a box`."""
        thing = self.phrase(nouns=THINGS, modified=0.3)
        return f"{thing.text} {thing.be} {self.place()}"

    def sentence(self) -> str:
        """Draw a sentence of the training text."""
        makers = (self.clause, self.existential, self.report, self.about_things)
        while True:
            try:
                return self.rng.choices(makers, (7, 1, 2, 1))[0]() + "."
            except LookupError:  # who was drawn does nothing of the kind that was drawn
                continue


EXISTENTIAL: dict[Number, tuple[str, ...]] = {
    "singular": ("a", "a", "no"),
    "plural": ("some", "many", "no", "two", "three", "four"),
}
"""What may follow `there is` and `there are`."""
