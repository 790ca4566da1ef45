"""What tests share: an empty hub cache, no network, and the tiny checkpoints."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

if "HF_HOME" not in os.environ:  # workers of pytest-xdist inherit it
    os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="lmms-plam-tests-")
    atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}

import huggingface_hub.constants
import hypothesis
from checkpoints import FAMILIES, TinyPair, build_pair
from tiny_hub import TinyHub, tiny_hub
from tiny_tasks import write_tasks

from benchmarks import benchmarks_at_hand, write_benchmarks

hypothesis.settings.register_profile("unhurried", deadline=None)  # other programs may hold the machine up
hypothesis.settings.load_profile("unhurried")


class Pairs(Mapping[str, TinyPair]):
    """The pairs by family, each written when it is first asked for."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._built: dict[str, TinyPair] = {}

    def __getitem__(self, family: str) -> TinyPair:
        if family not in self._built:
            self._built[family] = build_pair(family, self._factory.mktemp(family))
        return self._built[family]

    def __iter__(self) -> Iterator[str]:
        return iter(FAMILIES)

    def __len__(self) -> int:
        return len(FAMILIES)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    """All pairs by family, built on demand once a session."""
    return Pairs(tmp_path_factory)


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest, pairs: Pairs) -> TinyPair:
    """Each family's pair in turn."""
    return pairs[request.param]


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `tiny_tasks`, for `--include_path`."""
    folder = tmp_path_factory.mktemp("tasks")
    write_tasks(folder)
    return folder


@pytest.fixture(scope="session")
def benchmark_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The datasets of `benchmarks`: a process that runs in this folder finds them under their hub names."""
    folder = tmp_path_factory.mktemp("benchmarks")
    write_benchmarks(folder)
    return folder


@pytest.fixture
def benchmark_fixtures(benchmark_folder: Path) -> Iterator[Path]:
    """Run the test where upstream's unmodified tasks find their datasets; the value is that folder."""
    with benchmarks_at_hand(benchmark_folder):
        yield benchmark_folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyHub]:
    """A hub that huggingface_hub talks to, with an empty cache."""
    with tiny_hub(tmp_path / "hub") as (hub, endpoint):
        constants = {
            "ENDPOINT": endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
        }
        for name, value in constants.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        yield hub


@pytest.fixture
def generated(monkeypatch):
    """Counts the prompts that reach a model's generate for answers, not for checks; can stop after some of them."""

    class Counter:
        prompts = 0
        stop_after: int | None = None

    from transformers import GenerationMixin

    own = GenerationMixin.generate

    def generate(self, *args, **inputs):
        if Counter.stop_after is not None and Counter.prompts >= Counter.stop_after:
            raise KeyboardInterrupt
        Counter.prompts += len(inputs["input_ids"])
        return own(self, *args, **inputs)

    monkeypatch.setattr(GenerationMixin, "generate", generate)
    monkeypatch.setattr("lmms_plam.harness.engine.Engine._prove", lambda *_: None)
    return Counter


@pytest.fixture(scope="session")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two models on two benchmarks with pictures and one of text, as its cells leave it."""
    from simulated_study import write_study

    folder = tmp_path_factory.mktemp("studies") / "small"
    return write_study(folder, ["alpha", "beta"], ["mmstar", "pope", "blimp"], documents=160, text=["blimp"], gain=0.15)
