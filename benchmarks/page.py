"""How long the page of a large study takes to build, how large it is, and how soon a browser paints it.

    OMP_NUM_THREADS=1 python benchmarks/page.py [--models 5] [--benchmarks 9] [--documents 1000] [--out FOLDER]

A simulated study: every model with four steps (probe, search, comparison, attention) on every benchmark, 40 documents
with pictures. The first paint is the mean of three starts of a headless Chromium, where playwright and one are there;
its screen is 1280 x 800 pixels, the page a local file.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from simulated_study import write_study

from lmms_plam.cli import main

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
_BENCHMARKS = (
    *("mmstar", "mmbench_en_dev", "mmbench_cn_dev", "mme", "mmmu_val"),
    *("gqa", "pope", "realworldqa", "seedbench_2_plus"),
)
_STARTS = 3


def first_paint(page: Path) -> float | None:
    """Return seconds until something of a page is painted, mean of a few starts; None without a browser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return None
    found = []
    with sync_playwright() as playwright:
        for _ in range(_STARTS):
            started = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
            tab = started.new_page(viewport={"width": 1280, "height": 800})
            tab.goto(page.resolve().as_uri())
            entries = "performance.getEntriesByName('first-contentful-paint').map(entry => entry.startTime)"
            found.append(tab.evaluate(entries)[0] / 1000)
            started.close()
    return statistics.mean(found)


def build(study: Path, site: Path) -> float:
    """Build a study's page by the command, and return how many seconds that took."""
    begun = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):
        code = main(["report", str(study), "--out", str(site)])
    assert code == 0
    return time.perf_counter() - begun


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=5)
    parser.add_argument("--benchmarks", type=int, default=9)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--out", type=Path, help="keep study and site here; a study that lies here is used again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary)
        study, site = folder / "study", folder / "site"
        if not study.exists():
            models = [f"model_{letter}" for letter in "abcdefghij"[: arguments.models]]
            write_study(study, models, _BENCHMARKS[: arguments.benchmarks], documents=arguments.documents)
        seconds = build(study, site)
        page = site / "index.html"
        paint = first_paint(page)
        table = Table("", "measured", "at most", title=f"{arguments.models} models x {arguments.benchmarks} benchmarks")
        table.add_row("built in", f"{seconds:.1f} s", "30 s")
        table.add_row("size", f"{page.stat().st_size / 1e6:.1f} MB", "15 MB")
        table.add_row("first paint", "no browser" if paint is None else f"{paint:.2f} s", "1.5 s")
        Console().print(table)


if __name__ == "__main__":
    _main()
