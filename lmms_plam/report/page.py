"""One self-contained HTML page: tables and pictures inline, nothing fetched; light or dark as the reader's screen."""

from __future__ import annotations

import html
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

_STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#222, #e4e4e4); --quiet: light-dark(#595959, #a8a8a8);
  --line: light-dark(#ddd, #3a3a3a); --rule: light-dark(#888, #777); --paper: light-dark(#fff, #141414);
  --link: light-dark(#1f4e79, #8ec1f0); }
:root[data-theme="light"] { color-scheme: light; } :root[data-theme="dark"] { color-scheme: dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 84rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--paper); }
a { color: var(--link); }
h1 { overflow-wrap: anywhere; } .scroll { max-width: 100%; overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .5rem; border-bottom: 1px solid var(--line); }
th { border-bottom: 2px solid var(--rule); vertical-align: bottom; }
td.number { white-space: nowrap; } td.label { overflow-wrap: anywhere; min-width: 7rem; }
td.text { white-space: normal; vertical-align: top; max-width: 24rem; overflow-wrap: anywhere; }
.label { text-align: left; } .number { text-align: right; }
figure { margin: 0; } figcaption { font-size: 13px; line-height: 1.3; } details { margin: 1rem 0; }
summary { cursor: pointer; } .question { white-space: pre-wrap; overflow-wrap: anywhere; }
pre { max-width: 100%; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
.curves, .maps, .legend { display: grid; gap: .75rem; margin: .5rem 0 1rem; }
.curves { grid-template-columns: repeat(auto-fit, minmax(min(21rem, 100%), 1fr)); max-width: 66rem; }
.maps { grid-template-columns: repeat(auto-fill, minmax(min(11rem, 45%), 1fr)); }
.maps.wide, .legend { grid-template-columns: repeat(auto-fill, minmax(min(16rem, 100%), 1fr)); }
.shown { display: flex; flex-wrap: wrap; gap: 0 1.5rem; margin: .5rem 0; } .shown figure { flex: 0 1 20rem; }
.shown > div { flex: 1 1 16rem; min-width: 0; }
.shown p { margin-top: 0; } .whole, .map { outline: 1px solid #ccc; }
.whole, .maps img { display: block; width: 100%; } .legend img { height: 12px; width: 100%; max-width: 240px; }
.map { background: var(--ground) 0 0 / 100% 100%; print-color-adjust: exact; }
section { border-top: 1px solid var(--line); }
ul { color: var(--quiet); overflow-wrap: anywhere; } ul.found { color: inherit; } .found li { margin: .3rem 0; }
svg { max-width: 100%; height: auto; } footer { color: var(--quiet); margin-top: 2rem; }
@media (prefers-color-scheme: dark) { :root:not([data-theme="light"]) svg { filter: invert(.92) hue-rotate(180deg); } }
:root[data-theme="dark"] svg { filter: invert(.92) hue-rotate(180deg); }
@media print { :root, :root[data-theme] { color-scheme: light; } svg { filter: none !important; }
  body { margin: 0; max-width: none; } .scroll { overflow: visible; } }
"""


def page(
    title: str, fragments: Sequence[str], how: str = "", about: str = "", *, style: str = "", script: str = ""
) -> str:
    """Return a whole HTML page.

    Args:
        title: of the page, plain text.
        fragments: HTML and SVG, in order.
        how: how the numbers were made, plain text.
        about: which model answered and when, plain text.
        style: CSS beyond that of all pages.
        script: JavaScript, without which everything can be read too.
    """
    footer = "; ".join(part for part in (about, f"made by lmms-plam {version('lmms-plam')}", how) if part)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{html.escape(title)}</title>\n'
        f"<style>{_STYLE}{style}</style>\n</head>\n<body>\n<main>\n<h1>{html.escape(title)}</h1>\n"
        + "\n".join(fragments)
        + f"\n</main>\n<footer>{html.escape(footer)}</footer>\n"
        + (f"<script>{script}</script>\n" if script else "")
        + "</body>\n</html>\n"
    )


def scrolled(table: str, what: str) -> str:
    """Return an HTML table that scrolls by itself where the screen is narrower, by keyboard too.

    Args:
        table: the element.
        what: it shows, for who can't see it; plain text.
    """
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{html.escape(what)}">\n{table}</div>\n'


def inline_svg(path: Path) -> str:
    """Return an SVG file as a page holds it."""
    return bare_svg(path.read_text(encoding="utf-8"))


def bare_svg(svg: str) -> str:
    """Return an SVG without what stands before its element."""
    return svg[svg.index("<svg") :]
