"""Minimal pairs and captions: benchmarks that rank given texts by their probability (pure, but for reading data).

`benchmarks` is the table of what there is, `rows` turns each source's own rows into items, `sources` finds them on the
hub or in a folder, `border` says which tokens a completion has, `ranking` what its probabilities are worth.
"""

from __future__ import annotations
