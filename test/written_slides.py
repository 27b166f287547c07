"""Slides made of crops, and the same detections in every format, as scanners and programs write them."""

import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile

PAGE = {"photometric": "rgb", "metadata": None, "software": ""}
LOSSLESS = {"compression": "adobe_deflate"}
JPEG = {"compression": "jpeg", "compressionargs": {"level": 95}}
SPACING = 300
"""Pixels from one crop's middle to the next."""


def paste(crops: Sequence[np.ndarray], columns: int = 8) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """A bright image with crops on a grid, and the middle of each."""
    rows = -(-len(crops) // columns)
    image = np.full((rows * SPACING + 200, columns * SPACING + 200, 3), 235, dtype=np.uint8)
    centres = []
    for number, crop in enumerate(crops):
        x, y = 230 + number % columns * SPACING, 250 + number // columns * SPACING
        height, width = crop.shape[:2]
        image[y - height // 2 : y - height // 2 + height, x - width // 2 : x - width // 2 + width] = crop
        centres.append((x, y))
    return image, centres


def write_svs(
    path: Path, image: np.ndarray, mpp: float | None = 0.25, steps: Sequence[int] = (4,), **coding: Any
) -> Path:
    """An Aperio slide: tiles, and levels that are `steps` times smaller."""
    height, width = image.shape[:2]
    note = (
        f"Aperio Image Library v12.0.15\r\n{width}x{height} [0,0 {width}x{height}] (256x256) JPEG/RGB Q=95|AppMag = 40"
    )
    note += f"|MPP = {mpp:.4f}" if mpp is not None else ""
    coding = coding or JPEG
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image, tile=(256, 256), description=note, **PAGE, **coding)
        for step in steps:
            small = cv2.resize(image, (width // step, height // step), interpolation=cv2.INTER_AREA)
            less = (
                f"Aperio Image Library v12.0.15\r\n{width}x{height} -> {width // step}x{height // step} JPEG/RGB Q=95"
            )
            tiff.write(small, tile=(256, 256), description=less, **PAGE, **coding)
    return path


def write_tiled(path: Path, image: np.ndarray, mpp: float | None = 0.25, **coding: Any) -> Path:
    """A tiled TIFF that no scanner wrote, with its resolution in the tags."""
    tags = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, image, tile=(256, 256), **PAGE, **tags, **(coding or LOSSLESS))
    return path


def write_plain(path: Path, image: np.ndarray, mpp: float | None = 0.25, **coding: Any) -> Path:
    """A TIFF in strips."""
    tags = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, image, **PAGE, **tags, **coding)
    return path


def point(x: float, y: float, identity: object = None, **properties: Any) -> dict[str, Any]:
    """A feature as QuPath exports it."""
    feature: dict[str, Any] = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [x, y]}}
    if identity is not None:
        feature["id"] = identity
    name = properties.pop("label", "Mitotic figure")
    classification = {"name": name, "color": [200, 0, 0]}
    return feature | {"properties": {"objectType": "annotation", "classification": classification, **properties}}


def square(x: float, y: float, half: float, **properties: Any) -> dict[str, Any]:
    """A feature that is a square around a point."""
    corners = [[x - half, y - half], [x + half, y - half], [x + half, y + half], [x - half, y + half]]
    geometry = {"type": "Polygon", "coordinates": [[*corners, corners[0]]]}
    return point(x, y, **properties) | {"geometry": geometry}


def write_json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_geojson(path: Path, features: Sequence[dict[str, Any]]) -> Path:
    return write_json(path, {"type": "FeatureCollection", "features": list(features)})


def write_every_format(folder: Path, centres: Sequence[tuple[float, float]], slide: str, mpp: float) -> list[Path]:
    """The same points in each format that is read."""
    features = [point(x, y, f"id {number}") for number, (x, y) in enumerate(centres)]
    outlines = [square(x, y, 12) for x, y in centres]
    boxes = [
        {"id": n, "image_id": 7, "category_id": 1, "bbox": [x - 25, y - 25, x + 25, y + 25]}
        for n, (x, y) in enumerate(centres)
    ]
    midog = {
        "images": [{"id": 7, "file_name": slide}, {"id": 8, "file_name": "other.tiff"}],
        "annotations": [*boxes, {"id": 99, "image_id": 8, "category_id": 1, "bbox": [0, 0, 50, 50]}],
        "categories": [{"id": 1, "name": "mitotic figure"}, {"id": 2, "name": "hard negative"}],
    }
    xs, ys = zip(*centres, strict=True)
    packed = folder / "packed.geojson.gz"
    packed.write_bytes(gzip.compress(json.dumps(features).encode()))
    many = {"type": "Feature", "geometry": {"type": "MultiPoint", "coordinates": centres}, "properties": {}}
    nuclei = {"nuc": {str(n): {"centroid": place, "type": 1} for n, place in enumerate(centres)}}
    tables = {
        "plain.csv": (",", ["x", "y"], lambda x, y: [x, y]),
        "midog.csv": (",", ["image_id", "coordinateX", "coordinateY", "filename"], lambda x, y: [1, x, y, slide]),
        "qupath.tsv": ("\t", ["Image", "Centroid X µm", "Centroid Y µm"], lambda x, y: [slide, x * mpp, y * mpp]),
        "german.csv": (
            ";",
            ["X_px", "Y_px"],
            lambda x, y: [f"{x:.1f}".replace(".", ","), f"{y:.1f}".replace(".", ",")],
        ),
    }
    for name, (separator, header, row) in tables.items():
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=separator)
            writer.writerows([header, *(row(x, y) for x, y in centres)])
    return [
        write_geojson(folder / "points.geojson", features),
        write_json(folder / "bare.json", features),
        write_geojson(folder / "outlines.geojson", outlines),
        write_geojson(folder / "many.geojson", [many]),
        packed,
        write_json(folder / "midog.json", midog),
        write_json(
            folder / "arrays.json", {"x": xs, "y": ys, "classes": [1] * len(xs), "probabilities": [0.9] * len(xs)}
        ),
        write_json(folder / "list.json", [{"x": x, "y": y, "type": 1} for x, y in centres]),
        write_json(folder / "nuclei.json", nuclei),
        *(folder / name for name in tables),
    ]
