"""`plam plateau`: read masking curves again from saved matrices, by another rule or tolerance; no model is loaded."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lmms_plam.errors import DataError

if TYPE_CHECKING:
    from lmms_plam.probes.plateau import Plateau
    from lmms_plam.probes.record import Probe

NAME = "plateau"
HELP = "find the plateau onset again from saved masking probes, by another rule or tolerance"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a run's folder, or a matrix.parquet")
    parser.add_argument("--rule", default="isotonic", help="isotonic (default), segments or kneedle")
    parser.add_argument("--tolerance", type=float, default=1.0, help="least tolerance in points (default 1)")
    parser.add_argument("--share", type=float, default=0.05, help="least tolerance as a share of the rise (0.05)")
    parser.add_argument("--level", type=float, default=0.9, help="nominal coverage of the interval (0.9)")
    parser.add_argument("--draws", type=int, default=2000, help="bootstrap draws (2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (0)")
    parser.add_argument("--metric", help="of the benchmark, such as mean or macro (default: what plateau.json says)")
    parser.add_argument("--perfect-answer", type=float, help="a document's best score (default: the same, else 1)")
    parser.add_argument(
        "--pool", action="store_true", help="also pool several benchmarks of one model, each curve scaled to rise by 1"
    )
    parser.add_argument("--write", action="store_true", help="replace plateau.json, curve.json and the pictures")
    parser.add_argument("--json", action="store_true", help="print what plateau.json would hold, as a list")


def run(arguments: argparse.Namespace) -> int:
    """Analyse every matrix, print a table or JSON, and write the results beside the matrices if asked."""
    from lmms_plam.probes.onset import OnsetRule
    from lmms_plam.probes.record import analyse, pool, read_origin
    from lmms_plam.report.curve import draw_curve

    rule = OnsetRule(arguments.rule, tolerance=arguments.tolerance, share=arguments.share)
    said = {name: getattr(arguments, name) for name in ("metric", "perfect_answer")}
    said = {name: value for name, value in said.items() if value is not None}
    resampling = {"level": arguments.level, "draws": arguments.draws, "seed": arguments.seed}
    probes = []
    for path in _matrices(arguments.paths):
        probe = analyse(path, replace(read_origin(path), **said), rule, **resampling)
        probes.append(probe)
        if arguments.write:
            draw_curve(probe, path.parent)
            probe.write(path.parent)
            print(f"plam: wrote {path.parent}", file=sys.stderr)
    if arguments.pool:
        if len(probes) < 2:
            raise DataError("pooling takes the probes of at least two benchmarks")
        probes.append(pool(probes, rule, arguments.level))
    if arguments.json:
        print(json.dumps([probe.to_dict() for probe in probes], indent=2))
    else:
        _print_table(probes)
    return 0


def _matrices(paths: Sequence[Path]) -> list[Path]:
    """Return the files named, and the masking probes' matrices in the folders named."""
    from lmms_plam.probes.record import MATRIX, is_probe

    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"no file or folder {path}")
        if not path.is_dir():
            if path.suffix != ".parquet":
                raise DataError(f"{path} is no {MATRIX}: give that, or the folder that lmms-eval wrote to")
            found.append(path)
            continue
        here = [matrix for matrix in sorted(path.rglob(MATRIX)) if is_probe(matrix)]
        if not here:
            raise DataError(f"{path} holds no {MATRIX} of a masking probe: give a folder that lmms-eval wrote to")
        found += here
    return list({path.resolve(): path for path in found}.values())


def _print_table(probes: Sequence[Probe]) -> None:
    from rich.console import Console
    from rich.table import Table

    from lmms_plam.report.lengths import cut_off_warning, length_sentence

    console = Console(markup=False, emoji=False)
    table = Table(box=None, pad_edge=False)
    for heading in ("probe", "verdict", "onset", "without labels", "full", "rise"):
        words = heading in ("probe", "verdict")
        table.add_column(heading, justify="left" if words else "right", overflow="fold")
    for probe in probes:
        found = probe.plateau
        table.add_row(
            _label(probe, probes),
            found.verdict,
            _onset(found),
            "" if probe.agreement is None else _onset(probe.agreement),
            f"{found.full:.4g}",
            f"{found.rise:+.3g} ± {found.rise_error:.2g}",
        )
    console.print(table)
    for probe in probes:
        checks = ", ".join(f"{name} {check.value}" for name, check in probe.plateau.cross_checks.items())
        console.print(f"{probe.origin.task}: {probe.plateau.reason}. Cross-checks: {checks}.", highlight=False)
        for line in (length_sentence(probe), cut_off_warning(probe)):
            if line is not None:
                console.print(f"{probe.origin.task}: {line}.", highlight=False)


def _label(probe: Probe, probes: Sequence[Probe]) -> str:
    """Return the task, and what else tells it from other probes of the task."""
    task, alike = probe.origin.task, [other for other in probes if other.origin.task == probe.origin.task]
    if len(alike) == 1:
        return task
    told = [probe.origin.name or "", probe.origin.queries if probe.origin.queries != "all" else ""]
    return f"{task} ({', '.join(part for part in (*told, f'{probe.curve.n_documents:,} documents') if part)})"


def _onset(found: Plateau) -> str:
    low, high = found.estimate.interval
    return "none" if found.onset is None else f"{found.onset} ({low}..{high})"
