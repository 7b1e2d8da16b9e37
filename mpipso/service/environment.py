"""The environment that a service inherits: what of it is passed on, and whether it is the same on all hosts."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from socket import gethostname

from mpipso import batch
from mpipso.wording import is_address, short_host

_MPI = ("OMPI_", "OPAL_", "PMI", "PRTE_", "HYDRA_", "HYDI_", "I_MPI_", "MPI")
_LEFT_BY_MPI = {"GFORTRAN_UNBUFFERED_PRECONNECTED", "HFI_NO_BACKTRACE", "IPATH_NO_BACKTRACE"}
"""What MPICH's launcher, and libraries of Open MPI 4, set."""
_RANKS = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
_OF_THE_HOST = re.compile(
    r"_.*|BASH_FUNC_.*|LMOD_.*|SSH_.*|XDG_.*|DBUS_.*|SUDO_.*|TMUX.*|STY|WINDOWID|DISPLAY|XAUTHORITY|GPG_TTY"
    r"|PWD|OLDPWD|SHLVL|SHELL|HOSTNAME|HOST|USER|LOGNAME|MAIL|TMPDIR|TMP|TEMP|INVOCATION_ID|JOURNAL_STREAM"
    r"|TERM.*|COLORTERM|COLUMNS|LINES|LS_COLORS|LESS.*|PAGER|EDITOR|VISUAL|PS\d|PROMPT_COMMAND|HIST.*"
    r"|LANG|LANGUAGE|LC_.*|VIRTUAL_ENV.*|DYLD_.*|GPU_DEVICE_ORDINAL|ZE_AFFINITY_MASK|.*VISIBLE_DEVICES"
)
"""Of the session, of the host, of its devices and of modules' own books: another value on each host by nature."""
_WEIGHTY = re.compile(
    r"(LD_|OMP_|KMP_|GOMP_|MKL_|OPENBLAS_|NCCL_|HCCL_|RCCL_|GLOO_|UCX_|FI_|CUDA_|ASCEND_|HSA_|HIP_|ATB_|NPU_|VLLM_|SGLANG_"
    r"|TORCH|PYTORCH_|HF_|TRANSFORMERS_|LOADEDMODULES$|PYTHONPATH$|PATH$|HOME$)"
)
"""What most often makes a service faster, slower or another one; such names are told first."""


def scrubbed_environment(base: Mapping[str, str]) -> dict[str, str]:
    """``base`` without what the launcher of the ranks put there, which a service would take for its own.

    Dropped: everything of Open MPI, PMIx, PRRTE, MPICH and Intel MPI, what batch systems say of the job, torchrun's
    rank variables and mpipso's own. ``OPAL_PREFIX`` is among them because it leads another Open MPI to foreign
    libraries; a service that needs one of these has it in its own configured environment, which is added afterwards.
    ``HOSTNAME`` is this host's name where it was another's: srun hands on that of the job's first node.
    """
    dropped = _RANKS | _LEFT_BY_MPI | batch.variables(base)
    kept = {name: value for name, value in base.items() if not name.startswith(_MPI) and name not in dropped}
    told = kept.get("HOSTNAME")
    if told and told != "localhost" and not is_address(told) and short_host(told) != short_host(gethostname()):
        kept["HOSTNAME"] = gethostname()
    return kept


@dataclass(frozen=True)
class Fingerprint:
    """The environment that services inherit on a host, for a comparison with that of other hosts.

    It travels without the values, which may be secrets: ``digests`` holds a digest of each with ``salt``, by name.
    """

    salt: str
    digests: Mapping[str, str]

    @classmethod
    def of(cls, environ: Mapping[str, str], salt: str = "") -> Fingerprint:
        """The fingerprint of what a service inherits from ``environ``; with a new salt unless one is given."""
        salt = salt or secrets.token_hex(16)
        names = [name for name in scrubbed_environment(environ) if not _OF_THE_HOST.fullmatch(name)]
        return cls(salt, {name: _digest(name, environ[name], salt) for name in names})

    def differing(self, environ: Mapping[str, str]) -> tuple[str, ...]:
        """The names of the variables that have another value in ``environ``, or are in only one of the two."""
        other = Fingerprint.of(environ, self.salt).digests
        names = {name for name in {*self.digests, *other} if self.digests.get(name) != other.get(name)}
        return by_weight(names)


def by_weight(names: set[str]) -> tuple[str, ...]:
    """Names of variables, those first that most often change how fast a service is."""
    return tuple(sorted(names, key=lambda name: (not _WEIGHTY.match(name), name)))


def _digest(name: str, value: str, salt: str) -> str:
    if name.endswith("PATH"):  # launchers put their own folders in front, once for each process between them and a rank
        value = ":".join(dict.fromkeys(filter(None, value.split(":"))))
    return hashlib.blake2b(os.fsencode(value), key=salt.encode(), digest_size=8).hexdigest()
