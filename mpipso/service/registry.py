"""Adapters by name: every module of a folder registers the classes it defines."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """The adapters of one kind, by name: engines, or benchmark clients.

    Parameters
    ----------
    package:
        The name of the package whose modules define the adapters; all are imported when an adapter is first asked for.
    """

    def __init__(self, package: str) -> None:
        self._package = package
        self._classes: dict[str, type[T]] = {}
        self._complete = False

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator that makes the adapter known as ``name``."""

        def registered(adapter: type[T]) -> type[T]:
            self._classes[name] = adapter
            return adapter

        return registered

    def names(self) -> tuple[str, ...]:
        """The names of all adapters, in alphabetical order."""
        self._import_all()
        return tuple(sorted(self._classes))

    def create(self, name: str) -> T:
        """A new adapter; ``KeyError`` for a name that is not among :meth:`names`."""
        self._import_all()
        return self._classes[name]()

    def _import_all(self) -> None:
        if self._complete:
            return
        package: ModuleType = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        self._complete = True
