"""MathVista without a judge: its prompts, and scores by what an answer plainly says.

lmms-eval's own task has a judge extract the answer from whatever isn't bare, and can't be imported without the package
Levenshtein and a judge's key. Here rules extract it, or nobody: what they can't decide counts as wrong and is counted.
What was extracted is compared as upstream compares it, with two exceptions. A float is rounded to the question's
precision, which the dataset holds as 1.0 or 2.0, with which upstream's rounding fails, so that every float is wrong
there; and a list is compared by its numbers, not by its blanks.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lmms_plam.errors import DataError
from lmms_plam.scoring.reading import Reading, read_phrase, stated_letter

Rule = Literal["letter", "words", "number", "list", "undecided"]

REMARKS: Mapping[Rule, str] = {
    "letter": "are scored by the option's letter that they state",
    "words": "are scored by the option whose words they hold",
    "number": "are scored by the number that they state",
    "list": "are scored by the list that they state",
    "undecided": "can't be decided without a judge and count as wrong",
}
"""What a reader of the scores is told of each rule's answers."""

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_PLACES = {1: ("one decimal place", "1.2, 1.3, 1.4"), 2: ("two decimal places", "1.23, 1.34, 1.45")}
_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")
_SAID = re.compile(r".*(?:answer|答案)\W*?(?:\b(?:is|are)\b|[:：是为])(.+)", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.,/^])[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))(?![\d/]|,\d|\.\d|e[-+]?\d)")
_FIRST_NUMBER = re.compile(rf"[^\w.−-]*({_NUMBER.pattern})(?!\s*[-−+*/×÷^\\])")
_LIST = re.compile(r"\[[^\[\]]*\]")


@dataclass(frozen=True, slots=True)
class Extraction:
    """What the rules made of an answer.

    Attributes:
        found: the option's text, the number or the list; None where nothing is decided.
        rule: which rule found it.
        read: `meant` where the answer plainly states it, `fallback` where it only holds nothing else of that kind.
    """

    found: str | None
    rule: Rule
    read: Reading


_NOTHING = Extraction(None, "undecided", "not")


def extract(answer: str, doc: Mapping[str, Any]) -> Extraction:
    """Extract what an answer says: first what it concludes with ("the answer is", a box), then all of it if short.

    Failing these, what its last line holds is taken if nothing else of that kind stands there.

    Args:
        answer: the model's.
        doc: the document, for `question_type`, `answer_type` and `choices`.
    """
    stated = [*_conclusions(answer), answer.strip()]
    last = (answer.strip().splitlines() or [""])[-1]
    if doc["question_type"] == "multi_choice":
        return _option(stated, last, doc["choices"])
    return _list(stated, last) if doc["answer_type"] == "list" else _number(stated, last)


def is_right(found: str | None, doc: Mapping[str, Any]) -> bool:
    """Say whether what was extracted is the answer: an option's text, an integer, a float at its precision, a list."""
    if found is None:
        return False
    right, kind = str(doc["answer"]).strip(), doc["answer_type"]
    if doc["question_type"] == "multi_choice":
        return found.strip() == right
    if kind == "integer":
        return str(int(float(found))) == right  # cut, not rounded, as upstream does
    if kind == "float":
        precision = int(doc["precision"])
        return round(float(found), precision) == round(float(right), precision)
    return bool(_numbers(found)) and _numbers(found) == _numbers(right)


def doc_to_visual(doc: Mapping[str, Any]) -> list[Any]:
    """Return the document's picture."""
    return [doc["decoded_image"].convert("RGB")]


def doc_to_text(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, Any]) -> str:
    """Return upstream's prompt of a `shot_type`, without examples, captions and recognised text.

    Raises:
        DataError: a number of decimal places for which upstream has no words.
    """
    form = lmms_eval_specific_kwargs["shot_type"]
    bare = form == "format-prompt"
    asked = doc["question"] if bare else f"Question: {doc['question']}"
    lines = [f"{asked} (Unit: {doc['unit']})" if doc["unit"] else asked]
    if doc["choices"]:
        marked = "{}. {}" if bare else "({}) {}"
        options = [marked.format(*pair) for pair in zip(_LETTERS, doc["choices"], strict=False)]
        lines += options if bare else ["Choices:", *options]
    lines.append(_directly(doc) if bare else _at_the_end(doc))
    return "\n".join([*lines, "Solution:"] if form == "solution" else lines).strip()


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what is known of an answer, under the task's metric."""
    extraction = extract(results[0], doc)
    return {
        "accuracy": {
            "question_id": doc["pid"],
            "score": float(is_right(extraction.found, doc)),
            "extraction": extraction.found,
            "rule": extraction.rule,
            "read": extraction.read,
            "task": doc["metadata"]["task"],
        }
    }


def accuracy(results: Sequence[Mapping[str, Any]]) -> float:
    """Return the share of right answers in percent; the undecided count as wrong."""
    return 100 * float(sum(result["score"] for result in results)) / len(results)


def _directly(doc: Mapping[str, Any]) -> str:
    if doc["question_type"] == "multi_choice":
        return "Answer with the option's letter from the given choices directly."
    wanted = {"integer": "single integer number", "list": "Python list"}.get(doc["answer_type"])
    if wanted is None:
        wanted = f"single floating-point number with {_places(doc)[0]}"
    return f"Answer the question using a {wanted}."


def _at_the_end(doc: Mapping[str, Any]) -> str:
    if doc["question_type"] == "multi_choice":
        return "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end."
    if doc["answer_type"] == "integer":
        wanted, final, example = "an integer answer", "value", "1, 2, 3"
    elif doc["answer_type"] == "list":
        wanted, final, example = "a Python list as an answer", "list", "[1, 2, 3], [1.2, 1.3, 1.4]"
    else:
        places, example = _places(doc)
        wanted, final = f"a floating-point number with {places}", "value"
    end = f"and provide the final {final}, e.g., {example}, at the end."
    return f"Hint: Please answer the question requiring {wanted} {end}"


def _places(doc: Mapping[str, Any]) -> tuple[str, str]:
    if doc["precision"] not in _PLACES:
        raise DataError(
            f"question {doc['pid']}: MathVista's prompt has words for 1 or 2 decimals, not {doc['precision']}"
        )
    return _PLACES[int(doc["precision"])]


def _conclusions(answer: str) -> list[str]:
    """Return what an answer says that its answer is, the last said and the last boxed; most binding first."""
    found = []
    if boxes := _BOXED.findall(answer):
        found.append(boxes[-1])
    if said := _SAID.findall(answer):
        found.append(said[-1])
    return found


def _option(stated: Sequence[str], last: str, choices: Sequence[str]) -> Extraction:
    letters = _LETTERS[: len(choices)]
    for text in stated:
        same = [choice for choice in choices if _plain(choice) == _plain(text)]
        if len(same) == 1:
            return Extraction(same[0], "words", "meant")
        letter = stated_letter(_unmarked(text))
        if letter and letter in letters:
            return Extraction(choices[letters.index(letter)], "letter", "meant")
    held = [choice for choice in choices if _holds(_plain(last), _plain(choice))]
    if len(held) == 1:
        return Extraction(held[0], "words", "fallback")
    return _NOTHING


def _holds(text: str, words: str) -> bool:
    """Say whether words stand in a text, not as a part of a longer word or number."""
    return bool(words) and re.search(rf"(?<![\w.]){re.escape(words)}(?!\w|\.\d)", text) is not None


def _number(stated: Sequence[str], last: str) -> Extraction:
    *concluded, whole = stated
    for text in concluded:
        said = _unmarked(text).rpartition("=")[2]
        first, every = _FIRST_NUMBER.match(said), _NUMBER.findall(said)
        if first or len(every) == 1:
            return Extraction(_digits(first[1] if first else every[0]), "number", "meant")
    every = _NUMBER.findall(_unmarked(last).rpartition("=")[2])
    if len(every) != 1:
        return _NOTHING
    return Extraction(_digits(every[0]), "number", "meant" if read_phrase(whole) == "meant" else "fallback")


def _list(stated: Sequence[str], last: str) -> Extraction:
    *concluded, whole = stated
    for text in (*concluded, last):
        found = [piece for piece in _LIST.findall(text) if _numbers(piece)]
        if len(found) == 1:
            plainly = text is not last or _LIST.fullmatch(whole)
            return Extraction(found[0], "list", "meant" if plainly else "fallback")
    return _NOTHING


def _numbers(text: str) -> list[float]:
    """Return a list's numbers; none where it isn't a list of numbers."""
    try:
        return [float(number) for number in ast.literal_eval(text)]
    except (ValueError, TypeError, SyntaxError):
        return []


def _digits(number: str) -> str:
    return number.replace(",", "").replace("−", "-")


def _unmarked(text: str) -> str:
    """Leave out Markdown's and LaTeX's marks."""
    return re.sub(r"\*\*|\\text|\\[()\[\]]|[${}`]", "", text)


def _plain(text: str) -> str:
    return " ".join(_unmarked(text).split()).strip(" .\"'").casefold()
