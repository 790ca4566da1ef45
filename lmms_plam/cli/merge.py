"""`plam merge`: write a merged model as a checkpoint that needs this package no more; no model is loaded."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmms_plam.cli.arguments import add_model_args, read_model_args
from lmms_plam.errors import ConfigError

if TYPE_CHECKING:
    from lmms_plam.config import ModelConfig
    from lmms_plam.merge import Checkpoint
    from lmms_plam.merge.export import ExportPlan, Sources
    from lmms_plam.merge.rewriting import Advance
    from lmms_plam.report.measured import Measured

NAME = "merge"
HELP = "write a merged model as a standard checkpoint, copying all but the merged tensors byte for byte"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_model_args(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the checkpoint goes")
    parser.add_argument("--force", action="store_true", help="replace a model's folder that exists")
    parser.add_argument("--dry-run", action="store_true", help="say what would be read and written; fetch nothing")
    parser.add_argument(
        "--verify", action="store_true", help="read it back and compare all of it; of a finished export, do only that"
    )
    parser.add_argument("--push-to-hub", metavar="USER/NAME", help="upload it; a finished export is uploaded as it is")
    parser.add_argument(
        "--results",
        nargs="+",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="of comparisons of this recipe, whose results the model card shows",
    )


def run(arguments: argparse.Namespace) -> int:
    """Plan the export, then write, verify and upload it as asked."""
    settings = read_model_args(arguments)
    if settings.merge is None or settings.base_lm is None:
        raise ConfigError(f"{settings.name}: merge is none, so the export would be the VLM itself; set a merge")
    from lmms_plam.merge import Checkpoint, FurtherFiles
    from lmms_plam.merge.at_hand import AtHand
    from lmms_plam.merge.building import check_space, check_target, done_before
    from lmms_plam.merge.export import Sources, plan_export
    from lmms_plam.merge.upload import open_repository, upload
    from lmms_plam.report.measured import read_measured

    folder = Path(os.path.abspath(arguments.out.expanduser()))
    measured = read_measured(arguments.results, settings.vlm, settings.merge)
    kind = AtHand if arguments.dry_run else Checkpoint
    with (
        kind(settings.vlm, settings.vlm_revision) as vlm,
        kind(settings.base_lm, settings.base_lm_revision) as base_lm,
        FurtherFiles.of(settings.merge, kind) as further,
    ):
        sources = Sources(vlm, base_lm, further)
        job = _Job(settings, sources, plan_export(sources, settings.merge), folder, measured, arguments)
        job.say()
        if not job.is_finished:
            read = {what: one.place.folder for what, one in job.checkpoints.items()}
            check_target(folder, read, force=arguments.force)
            check_space(folder, job.plan.bytes_missing(done_before(folder, job.plan.stamp), vlm))
        if arguments.dry_run:
            return 0
        if arguments.push_to_hub:
            open_repository(arguments.push_to_hub)
        job.finish() if job.is_finished else job.export()
    if arguments.push_to_hub:
        print(f"uploaded: {upload(folder, arguments.push_to_hub)}")
    return 0


@dataclass(frozen=True)
class _Job:
    """An export as the command line asks for it."""

    settings: ModelConfig
    sources: Sources
    plan: ExportPlan
    folder: Path
    measured: Sequence[Measured]
    arguments: argparse.Namespace

    @property
    def checkpoints(self) -> dict[str, Checkpoint]:
        """The models that are read, by what they are."""
        ancestor = self.sources.further.ancestor
        return {
            "VLM": self.sources.vlm,
            "base LM": self.sources.base_lm,
            **({"ancestor": ancestor} if ancestor else {}),
        }

    @cached_property
    def is_finished(self) -> bool:
        """Whether the folder is this export already, and something is asked of it but to be written."""
        from lmms_plam.merge.export import read_record

        asked = self.arguments.verify or self.arguments.push_to_hub or self.arguments.results
        same = read_record(self.folder).get("fingerprint") == self.plan.fingerprint
        return bool(asked) and same and not self.arguments.force

    def say(self) -> None:
        """Print what will be read and written, and what deserves a look."""
        from lmms_plam.merge.building import free_space

        plan, merge = self.plan, self.plan.merge
        print(
            f"{self.settings.name}: {len(merge.merged)} tensors ({', '.join(merge.modules)}) of decoder layers "
            f"{merge.layers.start} to {merge.layers.stop - 1} of {merge.depth}, {_size(plan.bytes_merged)} of "
            f"{_size(plan.bytes_written)}"
        )
        vlm, *others = [one.reference for one in self.checkpoints.values()]
        print(f"reads {_size(plan.bytes_written)} of {vlm}")
        print(f"reads {_size(plan.bytes_read)} of {' and '.join(others)}")
        print(f"writes {len(plan.shards)} weight files and {len(plan.beside)} others to {self.folder}")
        print(f"needs {_size(plan.bytes_written)} on its disk, which has {_size(free_space(self.folder))} left")
        if plan.left_out:
            print(f"leaves out what transformers doesn't load: {', '.join(plan.left_out)}")
        for warning in (*merge.warnings, *self._unchecked(), *self._unknown()):
            print(f"plam: {warning}", file=sys.stderr)

    def _unchecked(self) -> Iterator[str]:
        assert self.settings.merge is not None
        start = self.settings.merge.start_layer
        if isinstance(start, str):
            yield (
                f"start_layer {self.plan.merge.layers.start} is read from {start}; that it was found on these weights "
                "shows when the model is run, not here"
            )

    def _unknown(self) -> Iterator[str]:
        """Say which parents a card on the hub can't link to."""
        folders = [one.reference for one in self.checkpoints.values() if one.place.commit is None]
        if self.arguments.push_to_hub and folders:
            yield f"the card calls {' and '.join(folders)} by the folder's name, which the hub doesn't know"

    def export(self) -> None:
        """Write the folder, and read it back if asked."""
        from lmms_plam.files import write_text
        from lmms_plam.merge.building import building
        from lmms_plam.merge.export import CARD, RECORD, record, write_export

        assert self.settings.merge is not None
        try:
            with building(self.folder, self.plan.stamp) as place:
                with _progress("writing", self.plan.bytes_missing(place.done, self.sources.vlm)) as advance:
                    digests = write_export(self.plan, self.sources, place, advance)
                told = record(self.plan, self.sources, self.settings.merge, self.folder.name, digests)
                write_text(place.folder / RECORD, json.dumps(told, indent=1) + "\n")
                write_text(place.folder / CARD, self._card(told))
                if self.arguments.verify:
                    self._verify(place.folder)
        except KeyboardInterrupt:
            print(
                "plam: interrupted; finished files are kept, and the same command goes on from there", file=sys.stderr
            )
            raise
        print(f"wrote {self.folder}")

    def finish(self) -> None:
        """Do what is asked of a folder that is written: verify it, and put results on its card."""
        from lmms_plam.files import write_text
        from lmms_plam.merge.export import CARD, read_record

        if self.arguments.verify:
            self._verify(self.folder)
        if self.arguments.results:
            write_text(self.folder / CARD, self._card(read_record(self.folder)))
            print(f"wrote {self.folder / CARD}")

    def _verify(self, folder: Path) -> None:
        from lmms_plam.merge.readback import verify_export

        with _progress("comparing", self.plan.bytes_written) as advance:
            proof = verify_export(self.plan, self.sources, folder, advance)
        print(
            f"verified: {proof.tensors} merged tensors are what the recipe makes, bit for bit, and the other "
            f"{proof.bytes_equal:,} bytes of {proof.files} files the VLM's own"
        )

    def _card(self, told: Mapping[str, Any]) -> str:
        from lmms_plam.harness.model_types import BACKENDS
        from lmms_plam.merge.export import model_name
        from lmms_plam.report.card import Parent, model_card, read_metadata

        parents = [
            Parent(model_name(one), one.place.commit, read_metadata(one.place.folder))
            for one in self.checkpoints.values()
        ]
        backend = self.settings.backend or BACKENDS.get(str(self.sources.vlm.config.get("model_type")))
        place = self.arguments.push_to_hub or self.folder.name
        return model_card(told, parents, place=place, backend=backend, measured=self.measured)


def _size(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e6:,.2f} MB"


@contextmanager
def _progress(doing: str, total: int) -> Iterator[Advance]:
    """Show a bar on a terminal; the value is told how many bytes are done."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn(doing), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(doing, total=total)
        yield lambda count: progress.advance(task, count)
