"""The commented configuration files that come with mpipso: one beside each engine, and of services without one."""

from __future__ import annotations

from importlib import resources

EMBEDDED = "llamacpp"
"""The engine whose template is the default configuration."""

_FOLDER = resources.files("mpipso.service.engines")


def names() -> tuple[str, ...]:
    """The engines that have a template, and services that ``command`` starts."""
    return tuple(
        sorted(entry.name.removesuffix(".toml") for entry in _FOLDER.iterdir() if entry.name.endswith(".toml"))
    )


def template(engine: str) -> str:
    """The text of an engine's template."""
    return (_FOLDER / f"{engine}.toml").read_text(encoding="utf-8")
