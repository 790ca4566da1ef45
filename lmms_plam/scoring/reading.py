"""How a benchmark's parser read an answer: as meant, by a fallback that may be wrong, or not at all.

The parsers are the benchmarks' own and say what they made of an answer, but not how sure that is: a letter that opens a
prose sentence counts like one that is the answer. So each answer is also looked at for what it plainly says; where the
parser found the same, it was read as meant.
"""

from __future__ import annotations

import re
from typing import Literal

Reading = Literal["meant", "fallback", "not"]
"""`meant`: the parser took what the answer plainly says; `fallback`: it took something else, such as a guess, a first
letter or an option's text within a sentence; `not`: it found nothing."""

_BARE = re.compile(r"\W*([A-Za-z])\W*")
_FIRST = re.compile(r"[^\w]*([A-Z])\s*[).:,*。：、）]")
_SAID = re.compile(
    r"(?i:answer|option|choice|答案|选项?)\s*(?:is|是|为|：|:)?\s*[^\w]*([A-Z])(?=[^\w]*$|\s*[).:,*。：、）])"
)
_LAST_LINE = re.compile(r"\n\W*([A-Z])\W*$")
_PHRASE = 5  # words in what "a single word or phrase" can be


def stated_letter(answer: str) -> str:
    """Return the option letter that an answer plainly says, in upper case: alone, first, or as "the answer is"."""
    if match := _BARE.fullmatch(answer):
        return match[1].upper()
    said = _SAID.findall(answer)
    match = _FIRST.match(answer) or _LAST_LINE.search(answer)
    return said[-1] if said else match[1] if match else ""


def read_letter(answer: str, found: str, option: str = "") -> Reading:
    """Say how a parser of option letters read an answer.

    Args:
        answer: the answer.
        found: the letter that the parser made of it; empty for none.
        option: the text of that option, which an answer may say instead, where it is known.
    """
    if not found:
        return "not"
    says_text = bool(option) and _plain(answer) == _plain(option)
    return "meant" if says_text or stated_letter(answer) == found.upper() else "fallback"


def read_yes_no(answer: str, found: str) -> Reading:
    """Say how a parser of yes and no read an answer, given what it found: neither of them for nothing."""
    if found not in ("yes", "no"):
        return "not"
    first = re.match(r"\W*(\w+)", answer)
    return "meant" if first and first[1].lower() == found else "fallback"


def read_phrase(answer: str) -> Reading:
    """Say how exact match read an answer to "a single word or phrase": a sentence can't be what it looks for."""
    return "meant" if 0 < len(answer.split()) <= _PHRASE else "not"


def read_any(answer: str) -> Reading:
    """Say how a parser that takes any text read an answer."""
    return "meant" if answer.strip() else "not"


def _plain(text: str) -> str:
    return re.sub(r"\W+", " ", text).strip().lower()
