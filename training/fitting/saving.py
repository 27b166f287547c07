"""What a fit leaves: files that are whole or absent, also where the power fails or the disk is full."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from model.errors import first_line
from training.config import ConfigError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a path to write a file to, which afterwards is put on the disk and takes its place.

    Raises:
        ConfigError: it cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:  # the second is PyTorch's for a full disk
        raise ConfigError(
            f"{path} cannot be written ({first_line(error)}); make room, and the same command goes on after the last "
            "whole epoch."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def damaged(path: Path, remove: Path, error: Exception) -> ConfigError:
    """The error that what a fit has left cannot be read, and must be made again where `remove` is gone."""
    return ConfigError(f"{path} cannot be used ({first_line(error)}); remove {remove}, and it is made again.")
