"""The standing of a search that goes on: what was asked so far, added block by block, as a matrix when it is needed.

Each answer is read once, when its block is there, however many looks follow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container

from lmms_plam.stats.matrix import ScoreMatrix


class Standing:
    """Scores of blocks of documents, of which recipes are asked one round after another."""

    def __init__(self) -> None:
        self._blocks: dict[int, dict[str, tuple[ScoreMatrix, int]]] = defaultdict(dict)

    def add(self, block: int, matrix: ScoreMatrix) -> None:
        """Add what some recipes scored on all documents of a block, numbered from 0."""
        self._blocks[block] |= {name: (matrix, column) for column, name in enumerate(matrix.variants)}

    def matrix(self, n_blocks: int, but: Container[str] = ()) -> ScoreMatrix:
        """Return the scores of the recipes that were asked on all of the first blocks, without those named in `but`."""
        blocks = [self._blocks[number] for number in range(n_blocks)]
        names = [name for name in blocks[0] if name not in but and all(name in block for block in blocks)]
        parts = [{name: block[name] for name in names} for block in blocks]
        return ScoreMatrix.stack([part[names[0]][0].with_variants(part) for part in parts])
