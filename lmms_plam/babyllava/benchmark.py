"""The pair's own benchmarks: minimal pairs in BLiMP's rows, choices of a caption in those of BabyLM's Winoground.

The rows were drawn once, apart from all that training sees, and lie beside the task files, where they are read without
a hub; `python -m lmms_plam.babyllava.benchmark` writes the same files again. Pictures are drawn from what a row says.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from lmms_plam.babyllava.corpus import CAPTIONS, PAIRS
from lmms_plam.babyllava.paradigms import draw_pairs
from lmms_plam.babyllava.pictures import draw_captions
from lmms_plam.paths import data_folder

FILES: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "plam_babyllava_pairs.jsonl": lambda: draw_pairs("benchmark", PAIRS),
    "plam_babyllava_captions.jsonl": lambda: draw_captions("benchmark", CAPTIONS),
}
"""By file, how its rows are drawn."""


def main() -> None:
    """Write the rows where the tasks expect them."""
    for name, draw in FILES.items():
        path = data_folder("tasks") / name
        path.write_text("".join(json.dumps(row) + "\n" for row in draw()), encoding="utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
