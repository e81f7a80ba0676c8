"""A Sphinx extension that mends what the theme and the notebooks leave undone in a page's HTML.

Wide tables can be scrolled with the keyboard, images load when they are needed and keep their place until then, and
tables to download are files beside the page. The bibliography is a list that screen readers understand.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

_LOGO = {"image_light": "book/_static/logo-light.svg", "image_dark": "book/_static/logo-dark.svg"}
_IMAGE = re.compile(r"<img\b[^>]*>")
_TABLE_FILE = re.compile(r'href="data:text/csv;base64,([^"]+)"')
_SIZE = re.compile(r'<svg\b[^>]*?\bwidth="([\d.]+)(pt|px)?"[^>]*?\bheight="([\d.]+)')
_CSS_PIXELS = {"pt": 4 / 3, "px": 1.0, None: 1.0}


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx (listed in _config.yml under sphinx.extensions)."""
    app.connect("config-inited", _brand)
    app.connect("html-page-context", _mend, priority=900)  # after all who write into the page
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def _brand(app: Any, config: Any) -> None:
    """The book's address, and the logo: in _config.yml the theme's options would replace those of Jupyter Book."""
    config.ogp_site_url = config.ogp_site_url or config.html_baseurl
    if all((Path(app.srcdir) / file).is_file() for file in _LOGO.values()):
        config.html_theme_options.setdefault("logo", {**_LOGO, "text": config.html_title})


def _mend(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    body = context.get("body")
    if not isinstance(body, str) or app.builder.format != "html":
        return
    folder = (Path(app.outdir) / page).parent
    up = "../" * page.count("/")

    def table_file(match: re.Match[str]) -> str:
        content = base64.b64decode(match[1])
        name = f"{hashlib.sha256(content).hexdigest()[:16]}.csv"
        target = Path(app.outdir) / "_downloads" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        return f'href="{up}_downloads/{name}"'

    body = _TABLE_FILE.sub(table_file, body)
    body = _IMAGE.sub(lambda match: _image(app, match[0], folder), body)
    body = body.replace('<figure class="sslmem-scroll">', '<figure class="sslmem-scroll" tabindex="0">')
    # roles that contradict each other: links back are not items of a list
    context["body"] = body.replace('<div role="list" class="citation-list">', '<div class="citation-list">').replace(
        ' role="doc-biblioentry"', ""
    )


def _image(app: Any, tag: str, folder: Path) -> str:
    """The tag with lazy loading and the size of its file, so that the text below does not move."""
    added = "" if "loading=" in tag else ' loading="lazy"'
    source = re.search(r'\bsrc="([^"]+)"', tag)
    if source and not re.search(r"\b(width|height)=", tag) and (size := _size(app, source[1], folder)):
        added += ' width="{}" height="{}"'.format(*size)
    return tag.replace("<img", f"<img{added}", 1)


def _size(app: Any, source: str, folder: Path) -> tuple[int, int] | None:
    """Width and height of a picture of the book in CSS pixels."""
    name = Path(source).name
    originals = {Path(target).name: Path(app.srcdir) / file for file, (_, target) in app.env.images.items()}
    file = originals.get(name, folder / source)  # pictures are copied after the pages are written
    if not file.is_file():
        return None
    if file.suffix == ".svg":
        match = _SIZE.search(file.read_text(encoding="utf-8")[:2000])
        return match and (round(float(match[1]) * (scale := _CSS_PIXELS[match[2]])), round(float(match[3]) * scale))
    from PIL import Image

    with Image.open(file) as picture:
        return picture.size
