"""The sets of releases that are tested together lie in the ranges that are declared, the oldest one at their ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads pyproject.toml")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pinned(name):
    """The releases of a file of constraints for this Python."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.lstrip().startswith("#")]
    pins = [Requirement(line) for line in lines]
    return {pin.name: pin for pin in pins if pin.marker is None or pin.marker.evaluate()}


def versions(pin):
    (specifier,) = pin.specifier
    assert specifier.operator == "=="
    return specifier.version


def declared(*extras):
    texts = PROJECT["dependencies"] + [text for extra in extras for text in PROJECT["optional-dependencies"][extra]]
    wanted = [Requirement(text) for text in texts]
    return [requirement for requirement in wanted if requirement.name != PROJECT["name"]]


def test_the_constraints_lie_in_the_ranges():
    pins = pinned("constraints.txt")
    for requirement in declared("test", "dev"):
        assert requirement.specifier.contains(versions(pins[requirement.name.lower()])), requirement


def test_the_oldest_constraints_are_the_lower_ends_of_the_ranges():
    pins = pinned("constraints-oldest.txt")
    for requirement in declared("test"):
        (lowest,) = [part.version for part in requirement.specifier if part.operator == ">="]
        assert pins[requirement.name].specifier.contains(lowest), requirement


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-oldest.txt"])
def test_constraints_name_releases_that_anyone_can_install(name):
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert "+" not in text, "a build of one machine"
    assert not [line for line in text.splitlines() if line.startswith(("-", "/"))]
