"""Small benchmarks of minimal pairs in the sources' own schemas and BabyLM's folder layout, for running offline.

Rows are made up; their fields, and the files' names and places, are the released ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from lmms_plam.language.benchmarks import DOMAINS, PARADIGMS

SUPPLEMENT = ("hypernym", "qa_congruence_easy", "qa_congruence_tricky", "subject_aux_inversion", "turn_taking")
NOUNS = ("cat", "dog", "bird", "fish", "book", "chart", "image", "square")


def write_language_data(folder: Path, per_part: int = 2) -> Path:
    """Write all of BabyLM's files below the folder, with so many rows a paradigm or domain."""
    for place in ("full_eval/blimp_filtered", "fast_eval/blimp_fast"):
        for paradigm in PARADIGMS:
            write_rows(folder / place / f"{paradigm}.jsonl", blimp_rows(paradigm, per_part))
    for place in ("full_eval/supplement_filtered", "fast_eval/supplement_fast"):
        for stem in SUPPLEMENT:
            rows = ({key: row[key] for key in ("sentence_good", "sentence_bad")} for row in blimp_rows(stem, per_part))
            write_rows(folder / place / f"{stem}.jsonl", rows)
    for place in ("full_eval/ewok_filtered", "fast_eval/ewok_fast"):
        for domain in DOMAINS:
            write_rows(folder / place / f"{domain}.jsonl", ewok_rows(domain, per_part))
    for place, files in (
        ("full_eval/entity_tracking", ("regular", "ambiref", "move_contents")),
        ("fast_eval/entity_tracking_fast", ("regular",)),
    ):
        for file in files:
            write_rows(folder / place / f"{file}.jsonl", tracking_rows(per_part))
    write_rows(folder / "full_eval/winoground_filtered/winoground.jsonl", babylm_winoground_rows(3))
    write_pictures(folder / "full_eval/winoground_filtered/images", 3)
    write_rows(folder / "winoground/examples.jsonl", winoground_rows(3))
    write_pictures(folder / "winoground/images", 3)
    return folder


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def blimp_rows(paradigm: str, count: int) -> list[dict[str, Any]]:
    rows = []
    for number in range(count):
        one, other = NOUNS[(number + len(paradigm)) % 8], NOUNS[(number + 3) % 8]
        rows.append(
            {
                "sentence_good": f"The {one}s that see the {other} sleep.",
                "sentence_bad": f"The {one}s that see the {other} sleeps.",
                "field": "syntax_semantics" if "npi" in paradigm else "syntax",
                "linguistics_term": paradigm.partition("_")[0],
                "UID": paradigm,
                "simple_LM_method": True,
                "one_prefix_method": False,
                "two_prefix_method": False,
                "lexically_identical": False,
                "pairID": str(number),
            }
        )
    if paradigm == "passive_1":  # the source has pairs of equal sentences in it
        rows[0]["sentence_bad"] = rows[0]["sentence_good"]
    return rows


def ewok_rows(domain: str, count: int) -> list[dict[str, Any]]:
    rows = []
    for number in range(count):
        thing = NOUNS[(number + len(domain)) % 8]
        rows.append(
            {
                "Domain": domain,
                "ConceptA": "left",
                "ConceptB": "right",
                "Target1": f"The {thing} is on the left of the image.",
                "Target2": f"The {thing} is on the right of the image.",
                "Context1": f"Ali sees the {thing} beside the left half of the image.",
                "Context2": f"Ali sees the {thing} beside the right half of the image.",
                "ContextDiff": "left | right",
                "ContextType": "direct",
                "TargetDiff": "concept swap",
                "MetaTemplateID": number,
            }
        )
    return rows


def tracking_rows(count: int) -> list[dict[str, Any]]:
    rows = []
    for operations in range(3):
        for number in range(count):
            one, other, third = (NOUNS[(number + operations + step) % 8] for step in range(3))
            moves = f" Move the {one} from Box 0 to Box 1." * operations
            rows.append(
                {
                    "sample_id": number,
                    "numops": operations,
                    "input_prefix": f"Box 0 contains the {one}, Box 1 contains the {other}.{moves} Box 1 contains",
                    "options": [f" the {other}.", f" the {third}.", f" the {one} and the {third}.", " nothing."],
                }
            )
    return rows


def winoground_rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": number,
            "image_0": f"ex_{number}_img_0",
            "image_1": f"ex_{number}_img_1",
            "caption_0": f"a {NOUNS[number]} above a {NOUNS[number + 1]}",
            "caption_1": f"a {NOUNS[number + 1]} above a {NOUNS[number]}",
            "num_main_preds": 1,
            "tag": "Noun",
            "secondary_tag": "",
            "collapsed_tag": "Object" if number else "Relation",
        }
        for number in range(count)
    ]


def babylm_winoground_rows(count: int) -> list[dict[str, Any]]:
    rows = []
    for row in winoground_rows(count):
        for own in (0, 1):
            rows.append(
                {
                    "caption_0": row[f"caption_{own}"],
                    "caption_1": row[f"caption_{1 - own}"],
                    "image_idx": row["id"],
                    "image_key": f"image_{own}",
                    "tag": row["tag"],
                    "secondary_tag": row["secondary_tag"],
                    "collapsed_tag": row["collapsed_tag"],
                }
            )
    return rows


def write_pictures(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    colours = ("red", "green", "blue", "white", "black", "orange")
    for number in range(count):
        for own in (0, 1):
            picture = Image.new("RGB", (56, 56), colours[(2 * number + own) % 6])
            picture.paste(Image.new("RGB", (20, 30 + own), colours[(number + own + 3) % 6]), (4 + number, 8))
            picture.save(folder / f"ex_{number}_img_{own}.png")
