"""Which decoder an image file is for, by its suffix.

Apart from `model.images.read`, which decides in which process a file is decoded, so that both processes can import it.
"""

from pathlib import Path

from model.images.rgb import Stack

TIFF_SUFFIXES = (".tif", ".tiff")
SUFFIXES = (*TIFF_SUFFIXES, ".mha", ".png", ".jpg", ".jpeg")


def decode(path: Path) -> Stack:
    """The crops of an image file, decoded in this process.

    Raises:
        CropError: as `model.images.read.read_stack` does.
    """
    # Each reader brings libraries of its own, which take time to import.
    suffix = path.suffix.lower()
    if suffix in TIFF_SUFFIXES:
        from model.images.tiff import read_tiff

        return read_tiff(path)
    if suffix == ".mha":
        from model.images.mha import read_mha

        return read_mha(path)
    from model.images.picture import read_picture

    return read_picture(path)
