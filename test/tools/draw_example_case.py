"""Draws the example case in test/input: a SYNTHETIC stack that looks roughly like H&E-stained mitotic figures.

    python test/tools/draw_example_case.py

No tissue is shown, so nobody can say which class is right; it shows that everything runs, and what goes in and out.
"""

import json
from pathlib import Path

import cv2
import numpy as np
import tifffile

SIDE = 128
FIGURES = ("plate", "plate", "two plates", "two plates", "three arms", "lagging", "ring", "scattered")
INPUT = Path(__file__).parent.parent / "input"
SLUG = "stacked-histopathology-roi-cropouts"

HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
EOSIN = np.array([0.07, 0.99, 0.11])


def smooth_noise(random: np.random.Generator, scale: float) -> np.ndarray:
    """(SIDE, SIDE) noise of mean 0 and standard deviation 1, `scale` pixels coarse."""
    noise = cv2.GaussianBlur(random.standard_normal((SIDE, SIDE)), (0, 0), scale)
    return (noise - noise.mean()) / noise.std()


def chromatin(figure: str, random: np.random.Generator) -> np.ndarray:
    """(SIDE, SIDE) density in [0, 1] of the condensed chromosomes of a figure in the middle."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    middle = SIDE // 2

    def blob(x: float, y: float, length: float, width: float, angle: float) -> None:
        centre = (round(middle + x), round(middle + y))
        cv2.ellipse(mask, centre, (round(length), round(width)), angle, 0, 360, 255, -1)

    if figure == "plate":
        blob(0, 0, 15, 5, 0)
    elif figure == "two plates":
        blob(0, -11, 13, 4, 4)
        blob(0, 11, 13, 4, -4)
    elif figure == "three arms":
        for angle in (90, 210, 330):
            blob(8 * np.cos(np.radians(angle)), 8 * np.sin(np.radians(angle)), 10, 4, angle)
    elif figure == "lagging":
        blob(0, -12, 13, 4, 8)
        blob(0, 12, 12, 4, -6)
        blob(-3, 1, 3, 6, 0)
        blob(7, -2, 2, 2, 0)
    elif figure == "ring":
        cv2.circle(mask, (middle, middle), 11, 255, 6)
    else:
        for _ in range(14):
            x, y = random.normal(0, 9, 2)
            blob(x, y, random.uniform(2, 6), random.uniform(2, 4), random.uniform(0, 180))
    turn = cv2.getRotationMatrix2D((middle, middle), random.uniform(0, 360), random.uniform(0.9, 1.15))
    turned = cv2.warpAffine(mask, turn, (SIDE, SIDE))
    ragged = cv2.GaussianBlur(turned.astype(float) / 255, (0, 0), 1.5) + 0.12 * smooth_noise(random, 1.5)
    return cv2.GaussianBlur(np.clip((ragged - 0.35) * 4, 0, 1), (0, 0), 0.9)


def draw(figure: str, random: np.random.Generator) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8 RGB crop: cytoplasm, neighbouring nuclei, a clear cell body, and the figure."""
    haematoxylin = 0.12 + 0.04 * smooth_noise(random, 2)
    eosin = 0.35 + 0.08 * smooth_noise(random, 6) + 0.04 * smooth_noise(random, 1.5)
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    for angle in random.uniform(0, 2 * np.pi) + np.arange(3) * 2.1 + random.normal(0, 0.3, 3):
        x, y = 48 * np.cos(angle), 48 * np.sin(angle)
        nucleus = ((columns - x) / 14) ** 2 + ((rows - y) / 11) ** 2
        haematoxylin += 0.35 / (1 + np.exp(np.clip((nucleus - 1) * 6, -30, 30))) * (1 + 0.3 * smooth_noise(random, 2.5))
    body = 1 / (1 + np.exp((np.hypot(columns, rows) - 27) / 2))
    eosin *= 1 - 0.45 * body
    haematoxylin = haematoxylin * (1 - 0.5 * body) + 1.7 * chromatin(figure, random)
    density = np.clip(haematoxylin, 0, None)[..., None] * HAEMATOXYLIN + np.clip(eosin, 0, None)[..., None] * EOSIN
    colour = 245 * np.exp(-density) + random.normal(0, 2, (SIDE, SIDE, 3))
    return np.clip(cv2.GaussianBlur(colour, (0, 0), 0.7), 0, 255).astype(np.uint8)


def main() -> None:
    """Writes the case."""
    random = np.random.default_rng(2025)
    folder = INPUT / "images" / SLUG
    folder.mkdir(parents=True, exist_ok=True)
    stack = folder / "synthetic-not-tissue.tiff"
    with tifffile.TiffWriter(stack) as tiff:
        for figure in FIGURES:
            crop = draw(figure, random)
            tiff.write(
                crop,
                photometric="rgb",
                compression="adobe_deflate",
                resolution=(40000, 40000),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    socket = {"slug": SLUG, "kind": "Image", "super_kind": "Image", "relative_path": f"images/{SLUG}"}
    entry = {"file": None, "image": {"name": stack.name}, "value": None, "socket": socket}
    (INPUT / "inputs.json").write_text(json.dumps([entry], indent=4) + "\n", encoding="utf-8")
    print(f"Wrote {stack}")


if __name__ == "__main__":
    main()
