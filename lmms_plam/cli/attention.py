"""`plam attention`: read records of attention again: other late layers, another reference, other maps; no model loaded.

Maps are drawn of the documents that the run kept, in whichever layers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmms_plam.cli.inference import add_settings, print_table, read_settings
from lmms_plam.errors import DataError

if TYPE_CHECKING:
    from lmms_plam.attention.shown import ShownDocument
    from lmms_plam.attention.summary import AttentionFindings

NAME = "attention"
HELP = "test and draw attention again from saved records: in other layers, of other documents"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="of an attention probe, or of a run with several"
    )
    parser.add_argument(
        "--late",
        type=_layers,
        metavar="K,K or K-K",
        help="layers whose mean is tested (default: what attention.json says, at first those that are merged)",
    )
    parser.add_argument(
        "--reference", metavar="VARIANT", help="compare with this one (default: alike, the untouched VLM)"
    )
    parser.add_argument(
        "--layers",
        type=_layers,
        metavar="K,K or K-K",
        help="draw maps of these layers (default: the two late ones where attention changes most)",
    )
    parser.add_argument("--documents", type=_numbers, metavar="ID,ID", help="draw maps of these documents only")
    add_settings(parser)
    parser.add_argument("--write", action="store_true", help="replace attention.json, the page and the curves")
    parser.add_argument("--json", action="store_true", help="print what attention.json would hold, as a list")


def run(arguments: argparse.Namespace) -> int:
    """Analyse every record, print what was found or JSON, and write the results beside the records if asked."""
    from rich.console import Console
    from rich.progress import track

    from lmms_plam.attention.origin import read_origin
    from lmms_plam.attention.record import RECORD, AttentionRecord
    from lmms_plam.attention.shown import read_shown
    from lmms_plam.attention.summary import summarise
    from lmms_plam.errors import about
    from lmms_plam.report.attention import to_dict, write

    settings = read_settings(arguments)
    if not arguments.write and (arguments.layers or arguments.documents):
        raise DataError("--layers and --documents say what is drawn on the page: give --write too")
    console = Console(stderr=True)
    told, summed = [], []
    for folder in track(_folders(arguments.folders), "testing", console=console, transient=True):
        origin, record = read_origin(folder), AttentionRecord.read(folder / RECORD)
        late = origin.late if arguments.late is None else arguments.late
        with about(str(folder)):
            found = summarise(record, arguments.reference or origin.reference, late, settings, origin.scaled)
            if arguments.write:
                if arguments.layers:
                    record.columns(arguments.layers)
                shown = _select(read_shown(folder), arguments.documents)
                write(origin.task, origin.about, record, found, shown, folder, arguments.layers)
                print(f"plam: wrote {folder}", file=sys.stderr)
        told.append(to_dict(origin.task, origin.about, found, folder))
        summed.append((origin.task, found))
    if arguments.json:
        print(json.dumps(told, indent=2))
    else:
        _print(summed)
    return 0


def _folders(paths: Sequence[Path]) -> list[Path]:
    """Return the folders named that hold a record, and those in the folders named."""
    from lmms_plam.attention.record import RECORD

    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            raise DataError(f"no folder {path}: give that of an attention probe")
        here = [record.parent for record in sorted(path.rglob(RECORD))]
        if not here:
            raise DataError(f"{path} holds no {RECORD} of an attention probe: give a folder that lmms-eval wrote to")
        found += here
    return list({path.resolve(): path for path in found}.values())


def _select(shown: Sequence[ShownDocument], wanted: Sequence[int] | None) -> list[ShownDocument]:
    """Return the wanted documents, or all."""
    known = {one.doc_id: one for one in shown}
    for doc_id in wanted or ():
        if doc_id not in known:
            kept = ", ".join(map(str, sorted(known))) or "none"
            raise DataError(f"no maps of document {doc_id} were kept: there are those of {kept}")
    return [one for one in shown if wanted is None or one.doc_id in wanted]


def _print(summed: Sequence[tuple[str, AttentionFindings]]) -> None:
    from rich.console import Console

    from lmms_plam.attention.findings import findings
    from lmms_plam.report.attention import table

    console = Console(markup=False, emoji=False)
    for task, found in summed:
        console.print(f"\n{task}", style="bold", highlight=False)
        print_table(table(found))
        for line in findings(found):
            console.print(f"- {line}", highlight=False)


def _layers(text: str) -> list[int]:
    """Return layers such as 4,6 or 4-8."""
    try:
        ends = [[int(end) for end in part.split("-")] for part in text.split(",")]
        layers = sorted({layer for first, *last in ends for layer in range(first, (last or [first])[0] + 1)})
        if not layers or any(len(part) > 2 or part[0] > part[-1] for part in ends):
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes layers such as 17,18,19 or 17-19, not '{text}'") from None
    return layers


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes numbers separated by commas, such as 3,14, not '{text}'") from None
