"""Images of documents as a reader sees them: small enough for a page or a W&B table."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

_THUMBNAIL = (160, 160)
_PICTURE = (800, 800)


def picture(image: Any, size: tuple[int, int] = _PICTURE) -> Any:
    """Return a PIL image as RGB, made smaller where it is larger than `size`."""
    small = image.convert("RGB")
    small.thumbnail(size)
    return small


def thumbnail(image: Any) -> str:
    """Return a PIL image as an inline HTML picture; empty for None."""
    if image is None:
        return ""
    file = io.BytesIO()
    picture(image, _THUMBNAIL).save(file, "JPEG", quality=85)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}">'


def data_url(image: Image) -> str:
    """Return a picture as a URL that holds it: PNG where it lies over another, else JPEG where that is smaller."""
    found = {}
    for form in ("png",) if image.mode == "RGBA" else ("png", "jpeg"):
        octets = io.BytesIO()
        image.save(octets, form, optimize=True)
        found[form] = octets.getvalue()
    form = min(found, key=lambda name: len(found[name]))
    return f"data:image/{form};base64,{base64.b64encode(found[form]).decode()}"
