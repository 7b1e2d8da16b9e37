"""Fixtures that tests of several rooms share."""

import os

import pytest
from bed.fixture import _session_bed, bed, launcher
from hypothesis import HealthCheck, settings

# Examples are the same in every run, so that only a change makes a test fail; nor does a loaded machine.
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
pytest.register_assert_rewrite("service.node_interface")

__all__ = ["_session_bed", "bed", "launcher"]
