"""Draws the picture in docs/slides.md: a slide with what slide mode says of the detections on it.

    make figure        # or: .venv/bin/python -m docs.slide_figure

The slide is synthetic: a drawn piece of tissue with the crops of the example case on it. The numbers are those of the
default weights.
"""

import io
import json
import tempfile
from pathlib import Path

import cv2
import numpy as np
import tifffile
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from docs.figure import REPOSITORY, STACK, WEIGHTS, source
from model.constants import MICROMETRES_PER_PIXEL
from model.images.read import read_crops
from model.modes.slide import classify_slide
from model.modes.slide_options import SlideOptions, SlideTask
from model.predictor import Predictor

PICTURE = REPOSITORY / "docs/slides.png"
WIDTH, HEIGHT = 6000, 4000
"""Pixels of 0.25 µm."""
FIGURES = 48
REGION = [[1500, 900], [3900, 700], [4300, 2500], [2600, 3200], [1300, 2400]]
"""Corners of the hot spot."""


def draw_slide() -> tuple[np.ndarray, list[tuple[int, int]]]:
    """A drawn slide (H, W, 3) uint8 RGB, and the middle of each figure on it."""
    random = np.random.default_rng(3)
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    radii = 1 + 0.05 * np.sin(3 * angles + 1) + 0.03 * np.sin(7 * angles)
    outline = np.stack([WIDTH / 2 + 2650 * radii * np.cos(angles), HEIGHT / 2 + 1750 * radii * np.sin(angles)], axis=1)
    tissue = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(tissue, [outline.astype(np.int32)], 1)
    noise = random.standard_normal((40, 60, 1))
    pink = (np.array([236, 205, 224]) + noise * np.array([6, 12, 8])).clip(0, 255).astype(np.uint8)
    image = cv2.resize(pink, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    image[tissue == 0] = 243
    nuclei = random.integers(0, [WIDTH, HEIGHT], (9000, 2))
    for x, y in nuclei[tissue[nuclei[:, 1], nuclei[:, 0]] == 1]:
        axes = tuple(int(axis) for axis in random.integers(9, 20, 2))
        cv2.ellipse(image, (int(x), int(y)), axes, int(random.integers(180)), 0, 360, (188, 160, 205), -1)
    crops = read_crops(STACK)
    free = cv2.erode(tissue[::10, ::10], np.ones((3, 3), np.uint8), iterations=8)  # far from the border
    places: list[tuple[int, int]] = []
    while len(places) < FIGURES:
        x, y = (int(value) for value in random.integers(100, (WIDTH - 100, HEIGHT - 100)))
        if free[y // 10, x // 10] and all(max(abs(x - other[0]), abs(y - other[1])) > 140 for other in places):
            crop = np.rot90(crops[len(places) % len(crops)], int(random.integers(4)))
            image[y - 64 : y + 64, x - 64 : x + 64] = crop
            places.append((x, y))
    return image, places


def write_inputs(folder: Path, image: np.ndarray, places: list[tuple[int, int]]) -> SlideTask:
    """Writes the slide, and its figures and the hot spot as GeoJSON, into a folder."""
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": place},
            "properties": {"objectType": "annotation", "classification": {"name": "Mitotic figure"}},
        }
        for place in places
    ]
    region = {"type": "Polygon", "coordinates": [[*REGION, REGION[0]]]}
    features.append({"type": "Feature", "geometry": region, "properties": {"name": "hot spot"}})
    slide, detections, target = (folder / file for file in ("slide.tif", "figures.geojson", "results"))
    tifffile.imwrite(slide, image, tile=(256, 256), photometric="rgb", compression="adobe_deflate", metadata=None)
    detections.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return SlideTask(slide, detections, target, mpp=MICROMETRES_PER_PIXEL)


def classify(image: np.ndarray, places: list[tuple[int, int]]) -> tuple[list[dict], dict]:
    """The features and the summary that slide mode writes."""
    with tempfile.TemporaryDirectory() as name:
        task = write_inputs(Path(name), image, places)
        done = classify_slide(Predictor(WEIGHTS, "cpu"), task, SlideOptions(region="hot spot"))
        written = json.loads((task.target / "detections.geojson").read_text(encoding="utf-8"))
    return written["features"], done.summary


def show(axes: Axes, image: np.ndarray, features: list[dict]) -> None:
    """The thumbnail with a point for each figure."""
    small = cv2.resize(image, (WIDTH // 6, HEIGHT // 6), interpolation=cv2.INTER_AREA)
    axes.imshow(small, extent=(0, WIDTH, HEIGHT, 0))
    axes.add_patch(Polygon(REGION, fill=False, edgecolor="#2d3748", linewidth=1.4, linestyle="--"))
    axes.text(*REGION[0], "hot spot ", ha="right", va="bottom", fontsize=9)
    for name in ("Normal mitosis", "Atypical mitosis"):
        chosen = [feature for feature in features if feature["properties"]["classification"]["name"] == name]
        colour = np.array(chosen[0]["properties"]["classification"]["color"]) / 255
        x, y = np.array([feature["geometry"]["coordinates"] for feature in chosen]).T
        axes.scatter(x, y, s=60, color=colour, edgecolor="white", linewidth=0.8, label=f"{name} ({len(chosen)})")
    bar = 200 / MICROMETRES_PER_PIXEL
    axes.plot([200, 200 + bar], [HEIGHT - 150] * 2, color="black", linewidth=3, solid_capstyle="butt")
    axes.text(200 + bar / 2, HEIGHT - 200, "200 µm", ha="center", va="bottom", fontsize=9)
    axes.legend(loc="upper right", fontsize=9)
    axes.axis("off")


def sentence(summary: dict) -> str:
    """What the summary says of the hot spot."""
    found = summary["statistics"]
    low, high = (100 * end for end in found["share_interval_95"])
    return (
        f"hot spot of {found['area_mm2']:.2f} mm²: {found['figures']} figures, {found['atypical']} atypical "
        f"({100 * found['share_atypical']:.0f} %, 95 % interval {low:.0f} to {high:.0f} %)"
    )


def main() -> None:
    """Writes the picture."""
    image, places = draw_slide()
    features, summary = classify(image, places)
    figure = Figure(figsize=(9, 6.4), dpi=100)
    show(figure.add_axes((0.01, 0.09, 0.98, 0.9)), image, features)
    figure.text(0.5, 0.055, sentence(summary), ha="center", fontsize=10)
    figure.text(0.5, 0.015, "Synthetic: drawn, not tissue.", ha="center", fontsize=10, weight="bold")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    information = PngInfo()
    information.add_text("Source", source())
    # An octree keeps the colours of the few pixels that the points are.
    small = Image.open(buffer).convert("RGB").quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    small.save(PICTURE, optimize=True, pnginfo=information)
    print(f"Wrote {PICTURE}: {sentence(summary)}")


if __name__ == "__main__":
    main()
