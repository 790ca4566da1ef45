"""Matplotlib's SVG pictures as a page of many holds them: words as words, which can be found, and nothing unseen."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Sequence

_UNSEEN = re.compile(r"<metadata>.*?</metadata>|<style.*?</style>", re.DOTALL)
_WORDS = re.compile(
    r'<!-- (?P<said>.*?) -->\s*<g(?P<style>(?: style="[^"]*")?) '
    r'transform="(?P<place>[^"]*?) scale\((?P<scale>[\d.]+) -[\d.]+\)">\s*'
    r"(?:<defs>(?:\s*<path [^>]*/>)*\s*</defs>\s*)?(?P<letters>(?:<use [^>]*/>\s*)+)</g>",
    re.DOTALL,
)
_LETTER = re.compile(r'href="#(?P<font>[\w-]+)-[0-9a-f]+"(?: transform="translate\((?P<x>[\d.]+))?')
_PLACE = re.compile(r'\b(?P<name>d|x|y|points|transform)="(?P<value>[^"]*)"')
_NUMBER = re.compile(r"-?\d+\.\d{2,}")
_REFERRED = re.compile(r"(?:href=\"#|url\(#)([\w-]+)")
_IDENTITY = re.compile(r' id="([\w.-]+)"')
_EMPTY = re.compile(r"<defs>\s*</defs>|<g>\s*</g>")
_SIZE = re.compile(r'(<svg[^>]*?) width="([\d.]+)pt" height="[\d.]+pt"')
_FONTS = "DejaVu Sans,Verdana,sans-serif"
_EM = 100  # of the letters' own units
_LAST = 60  # of them, what the last letter takes, which matplotlib doesn't say: the mean of all


def slim(svg: str, words: str, hover: Sequence[str] = (), source: str = "") -> str:
    """Return an SVG element as a page holds it.

    Outlines of letters become text of the same width, wherever it is shown; places are rounded to hundredths of a
    point; what nothing refers to loses its name, so that many pictures can share a page.

    Args:
        svg: the element, as matplotlib wrote it.
        words: what it shows, for who can't see it; plain text.
        hover: what is said of each point of a line with so many markers, where the mouse is over it.
        source: where it is from, which tells names apart of pictures that are drawn alike.
    """
    svg = re.sub(r"<!--.*?-->", "", _WORDS.sub(_as_text, _UNSEEN.sub("", svg)), flags=re.DOTALL)
    svg = _PLACE.sub(_shorter, svg)
    referred = set(_REFERRED.findall(svg))
    svg = _IDENTITY.sub(lambda found: found[0] if found[1] in referred else "", svg)
    if source:
        own = hashlib.sha256(source.encode()).hexdigest()[:8]
        svg = re.sub(rf'(id="|href="#|url\(#)({"|".join(map(re.escape, referred))})\b', rf"\1\2-{own}", svg)
    svg = re.sub(r">\s+<", "><", svg)
    while _EMPTY.search(svg):
        svg = _EMPTY.sub("", svg)
    svg = svg.replace("xlink:href", "href").replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    svg = _tell(svg, hover) if hover else svg
    named = rf'\1 class="plot" role="img" aria-label="{_escaped(words)}" font-family="{_FONTS}" style="width:\2pt"'
    return _SIZE.sub(named, svg, count=1)


def _tell(svg: str, hover: Sequence[str]) -> str:
    """Name the points of the first line that has so many markers, which a browser shows where the mouse is."""
    markers = re.search(rf'(?:<use href="#m[\w-]+" [^>]*/>){{{len(hover)}}}', svg)
    if markers is None:
        return svg
    told = iter(hover)
    named = re.sub("/>", lambda _: f"><title>{html.escape(next(told))}</title></use>", markers[0])
    return svg[: markers.start()] + named + svg[markers.end() :]


def _as_text(found: re.Match[str]) -> str:
    """Return a line of text for the outlines of its letters."""
    letters = list(_LETTER.finditer(found["letters"]))
    width = (float(letters[-1]["x"] or 0) + _LAST) * float(found["scale"])
    bold = ' font-weight="bold"' if "Bold" in letters[-1]["font"] else ""
    size = f' font-size="{_EM * float(found["scale"]):g}"{bold}'
    fit = f' textLength="{width:.1f}" lengthAdjust="spacingAndGlyphs"' if len(letters) > 1 else ""
    return f'<text{found["style"]} transform="{found["place"]}"{size}{fit}>{found["said"]}</text>'


def _shorter(found: re.Match[str]) -> str:
    """Return an attribute's places in hundredths of a point, but for scales."""
    value = " ".join(found["value"].split())
    if "scale" not in value and "matrix" not in value:
        value = _NUMBER.sub(lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), value)
    return f'{found["name"]}="{value}"'


def _escaped(words: str) -> str:
    return html.escape(words).replace("\\", "&#92;")  # which a replacement would read
