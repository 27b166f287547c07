"""MHA (MetaImage) stacks into crops, one a slice."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.errors import CropError
from model.images.rgb import Stack, check_size, to_rgb


def read_mha(path: Path) -> Stack:
    """Reads every slice of an MHA.

    Raises:
        CropError: the file is damaged or too large, or its slices have no obvious meaning as crops.
    """
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    _check_mha_header(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("MetaImageIO")
    try:
        with utf8_path(path) as name:
            reader.SetFileName(name)
            reader.ReadImageInformation()
            size = reader.GetSize()
            channels = reader.GetNumberOfComponents()
            if len(size) not in (2, 3) or channels > 4:
                raise CropError(
                    f"{path} has {len(size)} dimensions and {channels} channels; give a 3-D stack (x, y, crop) of RGB "
                    "crops."
                )
            check_size(path, size[2] if len(size) == 3 else 1, size[0] * size[1])
            image = reader.Execute()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].rstrip(".")
        raise CropError(f"{path} cannot be read as MHA ({reason}); export it again.") from error
    array = sitk.GetArrayFromImage(image)
    spatial = array.ndim - (image.GetNumberOfComponentsPerPixel() > 1)
    return Stack(to_rgb(path, list(array) if spatial == 3 else [array]))


def _check_mha_header(path: Path) -> None:
    """Refuses what the reader would take silently: pixels in another file, or more of them than the header says."""
    with path.open("rb") as file:
        header = {}
        for _ in range(100):
            key, separator, value = file.readline(4096).partition(b"=")
            if not separator:
                break
            header[key.strip().lower()] = value.strip()
            if key.strip().lower() == b"elementdatafile":
                break
        start = file.tell()
    if header.get(b"elementdatafile", b"").upper() != b"LOCAL":
        raise CropError(f"{path} is no MHA with its pixels inside; export it again as one .mha file.")
    widths = {b"MET_UCHAR": 1, b"MET_CHAR": 1, b"MET_USHORT": 2, b"MET_SHORT": 2, b"MET_FLOAT": 4, b"MET_DOUBLE": 8}
    width = widths.get(header.get(b"elementtype", b"").upper())
    if header.get(b"compresseddata", b"False").lower() == b"true" or width is None:
        return
    try:
        count = int(header.get(b"elementnumberofchannels", b"1"))
        for side in header.get(b"dimsize", b"").split():
            count *= int(side)
    except ValueError as error:
        raise CropError(f"{path} has a damaged header; export it again.") from error
    if path.stat().st_size - start != count * width:
        raise CropError(f"{path} does not have the number of pixels its header says; export it again.")


@contextmanager
def utf8_path(path: Path) -> Iterator[str]:
    """A name of the file that is UTF-8, by a temporary link if need be: SimpleITK aborts the process on any other."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / f"image{path.suffix}"
            link.symlink_to(path.absolute())
            yield str(link)
    else:
        yield str(path)
