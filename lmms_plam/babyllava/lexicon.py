"""The words of the pair's English, regular and irregular, none of which begins with a vowel after `a`.

Lists of nouns, names and verbs go from the frequent to the rare: text draws the n-th with a weight of 1/n.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

Number = Literal["singular", "plural"]
NUMBERS: tuple[Number, Number] = ("singular", "plural")


@dataclass(frozen=True, slots=True)
class Noun:
    """A noun or a name, which has no plural.

    Attributes:
        singular: its singular.
        plural: its plural; a name has none.
        reflexive: how it refers to itself, in the singular.
    """

    singular: str
    plural: str
    reflexive: str

    def form(self, number: Number) -> str:
        """Return the form of a number."""
        return self.singular if number == "singular" else self.plural


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb's forms: `see`, `sees`, `saw`, `seen`."""

    base: str
    third: str
    past: str
    participle: str

    def present(self, number: Number) -> str:
        """Return what agrees with a subject of a number."""
        return self.third if number == "singular" else self.base


def _nouns(reflexive: str, *forms: str) -> tuple[Noun, ...]:
    pairs = (form.partition("/") for form in forms)
    return tuple(Noun(singular, plural, reflexive) for singular, _, plural in pairs)


def _verbs(*forms: str) -> tuple[Verb, ...]:
    return tuple(Verb(*form.split("/")) for form in forms)


def _listed(text: str) -> list[str]:
    """Return words with a plural in `s`, or what it says after a slash: `boy mouse/mice`."""
    return [word if "/" in word else f"{word}/{word}s" for word in text.split()]


_MEN = "boy man/men king father brother son prince waiter monk husband nephew duke lord"
_WOMEN = (
    "girl woman/women queen mother sister daughter princess/princesses waitress/waitresses nun wife/wives niece "
    "lady/ladies"
)
_ANIMALS = (
    "cat dog bird horse mouse/mice wolf/wolves cow pig fox/foxes bear duck goose/geese lion tiger rabbit frog hen goat "
    "calf/calves camel"
)
BEINGS = tuple(
    noun
    for alike in zip_longest(
        _nouns("himself", *_listed(_MEN)), _nouns("herself", *_listed(_WOMEN)), _nouns("itself", *_listed(_ANIMALS))
    )
    for noun in alike
    if noun is not None
)
PEOPLE = tuple(noun for noun in BEINGS if noun.reflexive != "itself")
_HE = (
    "tom john paul david peter james mark luke simon george henry frank max carl roger steven brian kevin thomas "
    "michael"
)
_SHE = (
    "mary susan lucy jane rose kate laura sarah helen diana nancy betty carol julia linda martha nora ruth sally wendy"
)
NAMES = tuple(
    Noun(name, "", reflexive)
    for pair in zip(_HE.split(), _SHE.split(), strict=True)
    for name, reflexive in zip(pair, ("himself", "herself"), strict=True)
)
THINGS = _nouns(
    "itself",
    *_listed(
        "ball box/boxes book cake cup knife/knives hat toy shelf/shelves table chair lamp key coin boat brush/brushes "
        "dish/dishes glass/glasses leaf/leaves loaf/loaves stone pen phone ring rope spoon shirt shoe wheel basket "
        "bottle button candle carpet drum flag fork"
    ),
)

INTRANSITIVE = _verbs(
    "sleep/sleeps/slept/slept",
    "run/runs/ran/run",
    "laugh/laughs/laughed/laughed",
    "fall/falls/fell/fallen",
    "smile/smiles/smiled/smiled",
    "swim/swims/swam/swum",
    "jump/jumps/jumped/jumped",
    "wait/waits/waited/waited",
    "sing/sings/sang/sung",
    "sit/sits/sat/sat",
    "cry/cries/cried/cried",
    "dance/dances/danced/danced",
    "sneeze/sneezes/sneezed/sneezed",
    "wake/wakes/woke/woken",
    "stand/stands/stood/stood",
    "work/works/worked/worked",
    "walk/walks/walked/walked",
    "talk/talks/talked/talked",
    "vanish/vanishes/vanished/vanished",
    "nod/nods/nodded/nodded",
    "cough/coughs/coughed/coughed",
    "yawn/yawns/yawned/yawned",
    "shout/shouts/shouted/shouted",
    "kneel/kneels/knelt/knelt",
    "blink/blinks/blinked/blinked",
)
SOCIAL = _verbs(
    "see/sees/saw/seen",
    "like/likes/liked/liked",
    "help/helps/helped/helped",
    "hurt/hurts/hurt/hurt",
    "know/knows/knew/known",
    "watch/watches/watched/watched",
    "love/loves/loved/loved",
    "praise/praises/praised/praised",
    "follow/follows/followed/followed",
    "blame/blames/blamed/blamed",
    "trust/trusts/trusted/trusted",
    "fear/fears/feared/feared",
    "teach/teaches/taught/taught",
    "forget/forgets/forgot/forgotten",
    "bite/bites/bit/bitten",
    "save/saves/saved/saved",
    "scare/scares/scared/scared",
    "touch/touches/touched/touched",
    "hate/hates/hated/hated",
    "calm/calms/calmed/calmed",
    "feed/feeds/fed/fed",
    "draw/draws/drew/drawn",
)
"""With a being for an object, or oneself."""
HANDLING = _verbs(
    "take/takes/took/taken",
    "find/finds/found/found",
    "carry/carries/carried/carried",
    "hold/holds/held/held",
    "lose/loses/lost/lost",
    "bring/brings/brought/brought",
    "buy/buys/bought/bought",
    "sell/sells/sold/sold",
    "break/breaks/broke/broken",
    "steal/steals/stole/stolen",
    "throw/throws/threw/thrown",
    "want/wants/wanted/wanted",
    "drop/drops/dropped/dropped",
    "paint/paints/painted/painted",
    "wash/washes/washed/washed",
    "fix/fixes/fixed/fixed",
    "choose/chooses/chose/chosen",
    "pull/pulls/pulled/pulled",
    "push/pushes/pushed/pushed",
    "keep/keeps/kept/kept",
)
"""With a thing for an object."""
REPORTS = _verbs("say/says/said/said", "know/knows/knew/known")
"""With a clause for an object, or with `what`."""
THINK = _verbs("think/thinks/thought/thought")
"""With a clause for an object, never with `what`."""

COLOURS = ("red", "blue", "green", "yellow", "purple", "pink", "brown")
ADJECTIVES = (*COLOURS, "big", "small", "young", "happy", "tall", "quiet")
PLACES = ("near", "behind", "with", "above", "below", "left of", "right of")
NUMERALS = ("two", "three", "four")
DETERMINERS: dict[Number, tuple[str, ...]] = {
    "singular": ("the", "the", "a", "a", "this", "that", "every", "no"),
    "plural": ("the", "the", "some", "these", "those", "many", "no", *NUMERALS),
}
"""`the` and `a` stand more than once as they are drawn more often."""
POINTING: dict[Number, tuple[str, ...]] = {"singular": ("this", "that"), "plural": ("these", "those")}
