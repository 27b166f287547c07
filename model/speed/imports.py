"""timm without what it imports and a network here never uses: nearly half of a case's start-up time.

Two things are kept out while timm is imported:

* torchvision, which timm's data pipeline needs. Stand-ins take its place, modules whose every attribute is an empty
  class. Afterwards they are gone, so whoever imports torchvision later gets the real one; but `timm.data`'s own
  transforms do not work in a process that imported timm this way.
* torch's compiler, which `torch.compiler.disable` imports where timm marks functions of one architecture (NaFlexViT) as
  not to be compiled. They stay unmarked.

Where torchvision is imported already, timm is imported as it is.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import torch
from torch import nn

REPLACED = "torchvision"


class _AnyAttribute(type):
    """Gives a class every attribute, so that lists of options can be made of it when a module is imported."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{cls.__name__}.{name}"


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _AnyAttribute(name, (nn.Module,), {})


class _StandInFinder(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == REPLACED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


@contextmanager
def _kept_lean() -> Iterator[None]:
    if REPLACED in sys.modules:
        yield
        return
    finder = _StandInFinder()
    sys.meta_path.insert(0, finder)
    disable = torch.compiler.disable
    torch.compiler.disable = lambda function: function
    try:
        yield
    finally:
        torch.compiler.disable = disable
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] == REPLACED]:
            del sys.modules[name]


with _kept_lean():
    import timm

__all__ = ["timm"]
