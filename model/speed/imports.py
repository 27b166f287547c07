"""A shorter start for a process that only predicts: what PyTorch and timm import and a prediction never uses waits.

`import torch` takes a quarter less time without the modules of `DEFERRED`, and a case's start-up nearly half less when
timm is imported without

* torchvision, which timm's data pipeline needs. Stand-ins take its place, modules whose every attribute is an empty
  class. Afterwards they are gone, so whoever imports torchvision later gets the real one; but `timm.data`'s own
  transforms do not work in a process that imported timm this way.
* torch's compiler, which `torch.compiler.disable` imports where timm marks functions of one architecture (NaFlexViT) as
  not to be compiled. They stay unmarked.

Where PyTorch or torchvision is imported already, as in training and in the tests, it is used as it is. Whoever needs
timm writes `from model.speed.imports import timm`.
"""

import gc
import importlib
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from model.speed import PLAIN

META_FUNCTIONS = "torch._meta_registrations"
"""Shapes of results, in Python, for the operations on the meta device that have no definition in C++."""

DEFERRED = (META_FUNCTIONS, "torch.export", "torch.quantization")
"""Imported when one of their attributes is used."""

HIDDEN = ("huggingface_hub",)
"""Not there at all, which timm puts up with: it is for downloads, and the container has no network."""


class _Deferred(ModuleType):
    """A module whose code runs when one of its attributes is missed. (Dunder names are for who only lists modules.)"""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        _run(self)
        return getattr(self, name)


_one_at_a_time = threading.RLock()


def _run(module: ModuleType | None) -> None:
    """Runs a deferred module's code; does nothing with any other."""
    with _one_at_a_time:
        if isinstance(module, _Deferred):
            deferred: Any = module
            deferred.__class__ = ModuleType
            deferred.__spec__.loader.exec_module(deferred)


class _Later(Loader):
    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Deferred(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__:
            module.__spec__.loader = self.loader


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name in HIDDEN:
            raise ModuleNotFoundError(f"{name} is not imported for predictions.", name=name)
        spec = PathFinder.find_spec(name, path) if name in DEFERRED else None
        if spec and spec.loader:
            spec.loader = _Later(spec.loader)
        return spec


_finder = _Finder()


@contextmanager
def lean_start() -> Iterator[None]:
    """For the first imports of PyTorch and timm, and for loading a network.

    Garbage is not collected meanwhile: their million objects stay, and to go through them time and again takes 0.2 s.
    """
    if PLAIN:
        yield
        return
    if "torch" not in sys.modules:
        sys.meta_path.insert(0, _finder)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        if _finder in sys.meta_path:
            sys.meta_path.remove(_finder)


def import_meta_functions() -> None:
    """Makes up for the deferral of `META_FUNCTIONS`; without effect where they were not deferred."""
    _run(sys.modules.get(META_FUNCTIONS))


REPLACED = "torchvision"
"""What timm imports and a network here never uses."""


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
        import torch

        return _AnyAttribute(name, (torch.nn.Module,), {})


class _StandInFinder(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == REPLACED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


def __getattr__(name: str) -> ModuleType:
    """`timm`, imported when it is first asked for."""
    if name != "timm":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _without_torchvision():
        timm = importlib.import_module("timm")
    globals()["timm"] = timm
    return timm


@contextmanager
def _without_torchvision() -> Iterator[None]:
    if PLAIN or REPLACED in sys.modules or "timm" in sys.modules:
        yield
        return
    import torch

    finder = _StandInFinder()
    sys.meta_path.insert(0, finder)
    compiler: Any = torch.compiler
    disable = compiler.disable
    compiler.disable = lambda function: function
    try:
        yield
    finally:
        compiler.disable = disable
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] == REPLACED]:
            del sys.modules[name]
