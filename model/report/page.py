"""A page that is one file: templates, style sheet and script go into it, and nothing is fetched when it is opened.

What a page shows comes from others: names of files, slides and domains. Templates escape all of it, the script sets it
as text, and the page's own Content-Security-Policy lets no other script run and nothing be fetched from a network.
"""

import base64
import datetime
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from model.constants import GENERATOR, REPORT
from model.errors import UserError, one_line
from model.files import write_whole

PICTURES = "report_pictures"
"""Folder of the pictures that do not fit into a page, beside it."""

OURS = re.compile(r"[0-9]+(-map)?\.webp")
"""What pictures in it are called; others are none of ours."""

HERE = Path(__file__).parent

LARGEST = 5_000_000
"""Bytes of a page, at most."""


class ReportError(UserError):
    """A page cannot be written."""


def render(template: str, content: Mapping[str, Any], folder: Path = HERE) -> str:
    """The text of a page.

    Args:
        template: name of a template that extends `base.html`.
        content: its variables.
        folder: where the template is; `base.html` and its parts are always found.
    """
    templates = FileSystemLoader([folder, HERE])
    environment = Environment(
        loader=templates, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    parts = {name: (HERE / name).read_text(encoding="utf-8") for name in ("style.css", "gallery.js")}
    allowed = {name: f"sha256-{_sha256(text)}" for name, text in parts.items()}
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return environment.get_template(template).render(
        content, parts=parts, allowed=allowed, now=now, generator=GENERATOR
    )


def write_page(path: Path, text: str) -> None:
    """Writes a page, whole or not at all; what is no UTF-8 in a name is written as an escape.

    Raises:
        ReportError: it cannot be written.
    """
    try:
        write_whole(path, text)
    except OSError as error:
        raise ReportError(f"{path} cannot be written ({error.strerror}); give a writable folder with space.") from error


def clear_report(folder: Path) -> None:
    """Removes the page of an earlier run, so that none is taken for that of a run that fails.

    Raises:
        ReportError: it cannot be removed, or the folder of its pictures is a link to elsewhere.
    """
    pictures = folder / PICTURES
    if pictures.is_symlink():
        raise ReportError(f"{pictures} is a link; remove it, since pictures are written there.")
    try:
        for file in (folder / REPORT, *folder.glob(f".{REPORT}.*")):  # the last of a process that was killed
            file.unlink(missing_ok=True)
        for file in pictures.glob("*.webp"):
            if OURS.fullmatch(file.name):
                file.unlink()
    except OSError as error:
        raise ReportError(f"The report in {folder} cannot be removed ({error.strerror}); remove it.") from error


def legible(text: str) -> str:
    """A text on one line, of bounded length, with what is not printed as escapes."""
    return one_line(UserError(text))


def data_uri(content: bytes, kind: str) -> str:
    """A file's content as an address; `kind` is its media type, such as `image/webp`."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
