"""Any service that a command or a script starts: the configuration says how, this engine adds nothing."""

from __future__ import annotations

from mpipso.service.engines.base import ENGINES, Engine


@ENGINES.register("command")
class CommandEngine(Engine):
    """``service.command`` starts it; health by ``health_url``, ``health_command`` or its port being open."""
