"""Pictures as the bytes of a file, with what they show written into it."""

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image


def png(picture: "Image", text: str, *, keyword: str = "Title", **options: Any) -> bytes:
    """A PNG of `picture` with `text` under `keyword`; `options` are those of Pillow's writer."""
    from PIL.PngImagePlugin import PngInfo

    information = PngInfo()
    information.add_text(keyword, text)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=information, **options)
    return buffer.getvalue()
