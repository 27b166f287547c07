"""What programs write into a TIFF's description, and what it means for its pages.

To most programs a page is an image. To some a page is a colour, or a thumbnail; others write one directory for many
images that follow each other in the file. Only the text of the description is looked at, never a file that it names.
"""

import html
import json
import re
from dataclasses import dataclass

from model.images.rgb import MAX_CROPS, plausible_mpp

REFUSED_TAGS = {
    33628: "MetaMorph",
    33629: "MetaMorph",
    34361: "FluoView",
    34412: "Zeiss LSM",
    65420: "Hamamatsu NDPI",
}
"""Tags of programs whose directories are planes, channels or layers, or of which one stands for many images."""

_PIXELS = re.compile(r"<(?:\w+:)?Pixels\b([^<>]{0,2000})>")
_ATTRIBUTE = re.compile(r"""\b(\w+)\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_SAMPLES = re.compile(r"""<(?:\w+:)?Channel\b[^<>]{0,2000}?\bSamplesPerPixel\s*=\s*["']([0-9]{1,9})["']""")
_UNITS: dict[str, float] = dict.fromkeys(("µm", "μm", "um", "\\u00B5m", "micron", "microns"), 1)
_UNITS |= {"\u00c5": 1e-4, "\u212b": 1e-4, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}
"""µm of a unit as programs spell it; an unknown one says nothing."""


@dataclass(frozen=True)
class Flavour:
    """What a description says.

    Attributes:
        name: of the program or format; empty for a plain TIFF.
        images: how many the file holds; None where that is not said.
        colours_apart: whether the colours of one image are on pages of their own.
        first_page_only: whether the other pages are smaller copies, a label or an overview.
        mpp: µm per pixel; None where that is not said or not plausible.
        per_unit: µm of the unit that the resolution tags count in; None for the tags' own.
    """

    name: str = ""
    images: int | None = None
    colours_apart: bool = False
    first_page_only: bool = False
    mpp: float | None = None
    per_unit: float | None = None


def flavour_of(description: str, shape: tuple[int, int, int]) -> Flavour:
    """Understands a description.

    Args:
        description: of the first page.
        shape: height, width and channels of the first page.

    Raises:
        ValueError: it says what cannot be.
    """
    if description.startswith("ImageJ="):
        return _imagej(description, shape[2])
    if description.startswith("Aperio"):
        match = re.search(r"\bMPP\s*=\s*([0-9.]+)", description)
        mpp = _number(match[1]) if match else 0.0
        return Flavour("Aperio", first_page_only=True, mpp=plausible_mpp(mpp, mpp))
    if "<OME" in description[:2000] or ":OME " in description[:2000]:
        return _ome(description, shape[2])
    if description.startswith('{"shape":'):
        return _shaped(description, shape)
    return Flavour()


def _imagej(description: str, samples: int) -> Flavour:
    lines = dict(line.partition("=")[::2] for line in description.splitlines())
    images = _count(lines.get("images", "1"))
    return Flavour(
        "ImageJ",
        images=images,
        colours_apart=samples == 1 and _count(lines.get("channels", "1")) > 1,
        per_unit=_UNITS.get(lines.get("unit", "")),
    )


def _ome(description: str, samples_of_page: int) -> Flavour:
    if "<!DOCTYPE" in description or "<!ENTITY" in description:
        raise ValueError("its OME description defines entities")
    images, apart, mpp = 0, False, set()
    parts = list(_PIXELS.finditer(description))
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        values = {name: html.unescape(one or other) for name, one, other in _ATTRIBUTE.findall(part[1])}
        inside = description[part.end() : following.start() if following else None]
        samples = max((int(number) for number in _SAMPLES.findall(inside)), default=1)
        channels, depth, times = (_count(values.get(f"Size{axis}", "1")) for axis in "CZT")
        apart |= samples_of_page == 1 and channels > samples
        images += depth * times * max(1, channels // max(1, samples))
        sides = [_number(values.get(f"PhysicalSize{axis}", "0")) for axis in "XY"]
        units = [_UNITS.get(values.get(f"PhysicalSize{axis}Unit", "µm"), 0.0) for axis in "XY"]
        mpp.add(plausible_mpp(sides[0] * units[0], sides[1] * units[1]))
    if len(mpp) > 1:
        raise ValueError("its images have several resolutions")
    return Flavour("OME-TIFF", images=images or None, colours_apart=apart, mpp=next(iter(mpp), None))


def _shaped(description: str, shape: tuple[int, int, int]) -> Flavour:
    """What tifffile notes: the shape of the array that was written."""
    try:
        sides = json.loads(description[:10_000])["shape"]
        count = 1
        for side in sides:
            count *= int(side)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError("its description of the shape is damaged") from error
    height, width, channels = shape
    images, rest = divmod(count, height * width * channels)
    if rest or not 1 <= images <= MAX_CROPS:
        raise ValueError("its description of the shape is not that of its pages")
    apart = channels == 1 and len(sides) > 2 and sides[-3] in (3, 4) and list(sides[-2:]) == [height, width]
    return Flavour("tifffile", images=images, colours_apart=apart)


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text.strip()):
        raise ValueError(f"its description counts '{text[:20]}'")
    return int(text)


def _number(text: str) -> float:
    """A number; 0 for what is none."""
    try:
        return float(text) if text.isascii() else 0.0
    except ValueError:
        return 0.0
