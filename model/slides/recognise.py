"""Which kind of file holds the detections: told by its content, whatever its name is."""

import gzip
import json
import zlib

from model.errors import CropError
from model.files import open_regular
from model.slides.detections import MOST_DETECTIONS, Found
from model.slides.geojson import is_geojson, read_geojson
from model.slides.midog import is_midog, read_midog
from model.slides.points import is_points, read_points
from model.slides.table import read_table
from model.slides.wanted import Wanted

LARGEST = 1 << 27
"""Bytes that are read, after decompression; a point of QuPath has 300, the outline of a cell 2,000."""

_GZIP, _SQLITE = b"\x1f\x8b", b"SQLite format 3\0"


def read_detections(wanted: Wanted) -> Found:
    """The detections of a file: GeoJSON, MIDOG's JSON, points in JSON, or a table; compressed by gzip or not.

    Raises:
        CropError: it cannot be read, is too large, or is none of these.
    """
    path = wanted.path
    content = _content(wanted)
    if content.startswith(_SQLITE):
        raise CropError(f"{path} is a database; export it as GeoJSON (of TIAToolbox's AnnotationStore: to_geojson).")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CropError(f"{path} is no text in UTF-8; export the detections as GeoJSON or CSV.") from error
    if not text.strip():
        raise CropError(f"{path} is empty; export it again.")
    found = _from_json(text, wanted) if text.lstrip()[:1] in ("{", "[") else read_table(text, wanted)
    if wanted.region and not found.regions:
        raise CropError(f"{path} is no GeoJSON, so it has no region '{wanted.region}'; give --area-mm2 instead.")
    if len(found.detections) > MOST_DETECTIONS:
        raise CropError(f"{path} holds {len(found.detections)} detections, too many; export mitotic figures alone.")
    return found


def _content(wanted: Wanted) -> bytes:
    """The file's bytes, decompressed."""
    path = wanted.path
    try:
        with open_regular(path) as file:
            zipped = file.read(2) == _GZIP
            file.seek(0)
            source = gzip.GzipFile(fileobj=file) if zipped else file
            content = source.read(LARGEST + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CropError(f"{path} is damaged ({error}); export it again.") from error
    except OSError as error:
        raise CropError(f"{path} cannot be opened: {error.strerror}; give a readable file of detections.") from error
    if len(content) > LARGEST:
        raise CropError(f"{path} has more than the {LARGEST} bytes that are read; export mitotic figures alone.")
    return content


def _from_json(text: str, wanted: Wanted) -> Found:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CropError(f"{wanted.path} is not valid JSON ({error}); export it again.") from error
    if wanted.unit == "um" and (is_geojson(document) or is_midog(document)):
        raise CropError(f"{wanted.path} is of a kind that is always in pixels; leave out --unit um, or give a table.")
    if is_geojson(document):
        return read_geojson(document, wanted)
    if is_midog(document):
        return read_midog(document, wanted)
    if is_points(document):
        return read_points(document, wanted)
    raise CropError(f"{wanted.path} is JSON of an unknown kind; give QuPath's GeoJSON, MIDOG's JSON, or a CSV.")
