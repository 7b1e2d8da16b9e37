"""The configuration file and the hostfile of a launch as they were then: users edit theirs for the next run while this
one goes on.

A restart needs them, and a batch job that comes back needs the first, for which its script looks.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import tomli
import tomli_w

from mpipso.config import Config
from mpipso.errors import RunFailed
from mpipso.record.folders import write_whole
from mpipso.startup import Options

KEPT = "launched"
"""How the names of what is kept in a run's folder begin."""
FILE = f"{KEPT}.toml"
HOSTS = f"{KEPT}.hosts"


@dataclass(frozen=True)
class Source:
    """A configuration file, the template that it may name, and a hostfile.

    Attributes
    ----------
    path, text:
        The file and its text; None and empty for a run that is resumed as it was configured.
    template, content:
        The path and the text of the service's configuration file, both empty without one.
    hostfile, hosts:
        The path and the text of the hostfile, likewise.
    """

    path: Path | None
    text: str
    template: str = ""
    content: str = ""
    hostfile: str = ""
    hosts: str = ""

    @classmethod
    def of(cls, options: Options, config: Config) -> Source | None:
        """What has just been read as ``config``, without what cannot be read twice; None if nothing is left."""
        text = (options.config is not None and _text(options.config)) or ""
        hosts = (options.hostfile is not None and _text(options.hostfile)) or ""
        file = config.service.config_file if text else None
        named = (file.template, file.content) if file is not None and file.template else ("", "")
        listed = (str(options.hostfile), hosts) if hosts else ("", "")
        return cls(options.config if text else None, text, *named, *listed) if text or hosts else None

    def changed(self) -> list[str]:
        """The paths under which there is something else now, or nothing."""
        texts = {str(self.path or ""): self.text, self.template: self.content, self.hostfile: self.hosts}
        return [path for path, text in texts.items() if path and _text(Path(path)) != text]

    def is_kept(self, folder: Path) -> bool:
        """Whether it is what an earlier launch of the run in this folder has kept."""
        with contextlib.suppress(OSError):
            return self.path is not None and self.path.samefile(folder / FILE)
        return False

    def keep(self, folder: Path, options: Options) -> Options:
        """Write the files as they were into the run's folder; returns the options with these in place of their own.

        They are for their owner alone: they may have secrets.

        Raises
        ------
        RunFailed
            They cannot be written.
        """
        text, path = self.text, folder / FILE
        if self.template:
            # Of its name, the end tells the format.
            template = folder.absolute() / f"{KEPT}-{Path(self.template).name}"
            if os.fsencode(template).decode(errors="ignore") != str(template):
                raise RunFailed(f"{path}: cannot name {template}, which is no UTF-8")
            write_whole(template, self.content, 0o600)
            tree = tomli.loads(text)
            tree["service"]["config_file"]["template"] = str(template)
            text = tomli_w.dumps(tree)
        if text:
            write_whole(path, text, 0o600)
            options = replace(options, config=path)
        if self.hosts:
            write_whole(hostfile := folder / HOSTS, self.hosts, 0o600)
            options = replace(options, hostfile=hostfile)
        return options


def _text(path: Path) -> str | None:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_bytes().decode("utf-8-sig")
    return None
