"""JSON of the MIDOG challenges and of MIDOG++: boxes on many images in one file.

Format: `images` (id, file_name, width, height), `annotations` (id, image_id, category_id, bbox) and `categories`, as in
COCO, but a bbox is x1, y1, x2, y2. Category 1 is "mitotic figure", 2 "hard negative".
"""

from typing import Any

from model.errors import CropError
from model.slides.detections import Detection, Found
from model.slides.wanted import Wanted, shown, to_number

FIGURES = 1


def is_midog(content: Any) -> bool:
    """Whether a JSON document looks like it."""
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in ("images", "annotations"))


def read_midog(content: dict[str, Any], wanted: Wanted) -> Found:
    """The detections of one slide: its category 1, or both on `wanted.everything`.

    Raises:
        CropError: the file does not tell of the slide, or of several that may be it; or its boxes are not x1, y1, x2,
            y2.
    """
    image = _image(content, wanted)
    names = {
        category.get("id"): shown(category.get("name"))
        for category in content.get("categories") or []
        if isinstance(category, dict) and isinstance(category.get("id"), int)
    }
    detections = []
    for entry in content["annotations"]:
        if not isinstance(entry, dict) or entry.get("image_id") != image:
            continue
        category = entry.get("category_id")
        label = names.get(category, "") if isinstance(category, int) else ""
        box = entry.get("bbox")
        x1, y1, x2, y2 = map(to_number, box) if isinstance(box, list) and len(box) == 4 else [float("nan")] * 4
        if x2 <= x1 or y2 <= y1:
            raise CropError(
                f"{wanted.path} has a box {box}, which is not x1, y1, x2, y2 as MIDOG's are; convert its boxes."
            )
        is_wanted = (wanted.everything or category == FIGURES) and wanted.takes(label)
        label = label or shown(category)
        size = max(x2 - x1, y2 - y1)
        identity = shown(entry.get("id"))
        detections.append(Detection((x1 + x2) / 2, (y1 + y2) / 2, identity, "", "annotation", label, size, is_wanted))
    return Found("MIDOG JSON", detections)


def _image(content: dict[str, Any], wanted: Wanted) -> Any:
    """The id of the slide's image."""
    images = [image for image in content["images"] if isinstance(image, dict)]
    names = [shown(image.get("file_name")) for image in images]
    name = wanted.named_so({*names} - {""})
    found = [image.get("id") for image, its in zip(images, names, strict=True) if its == name]
    if len(found) != 1:
        raise CropError(
            f"{wanted.path} tells of {len(images)} images, and of {len(found)} that are called {wanted.slide}; give "
            "the detections of this slide."
        )
    return found[0]
