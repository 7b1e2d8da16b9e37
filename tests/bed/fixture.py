"""Fixtures: the bed, one for the session, handed to each test with every host up and nothing running; and the MPIs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import hosts
from .launchers import LAUNCHERS, Launcher


@pytest.fixture(scope="session")
def _session_bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hosts.Bed]:
    reason = hosts.missing()
    if reason is not None:
        pytest.skip(reason)
    checkout = Path(__file__).resolve().parents[2]
    share = [tmp_path_factory.getbasetemp(), checkout, Path(sys.prefix), Path(sys.base_prefix)]
    with hosts.Bed(8, share=share) as bed:
        yield bed


@pytest.fixture
def bed(_session_bed: hosts.Bed) -> Iterator[hosts.Bed]:
    """Eight hosts, node0 to node7. A test may harm them as it likes: the next one finds them whole."""
    yield _session_bed
    _session_bed.repair()


@pytest.fixture(params=LAUNCHERS, ids=lambda launcher: launcher.name)
def launcher(request: pytest.FixtureRequest) -> Launcher:
    """Each MPI in turn; tests of one that is not installed are skipped."""
    chosen: Launcher = request.param
    reason = chosen.available()
    if reason is not None:
        pytest.skip(reason)
    return chosen
