"""Adapters by name: every module of a folder registers the classes it defines."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """The adapters of one kind; ``package`` is searched for modules when they are first asked for."""

    def __init__(self, package: str) -> None:
        self._package = package
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator that makes the adapter known as ``name``."""

        def registered(adapter: type[T]) -> type[T]:
            self._classes[name] = adapter
            return adapter

        return registered

    def names(self) -> tuple[str, ...]:
        self._import_all()
        return tuple(sorted(self._classes))

    def create(self, name: str) -> T:
        self._import_all()
        return self._classes[name]()

    def _import_all(self) -> None:
        package: ModuleType = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")
