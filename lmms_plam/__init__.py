"""Plateau-guided merging of vision-language models, measured inside lmms-eval."""

from __future__ import annotations

__version__ = "0.1.0"
