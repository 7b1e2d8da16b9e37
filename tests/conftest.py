"""Fixtures that tests of several rooms share."""

import pytest
from bed.fixture import _session_bed, bed

pytest.register_assert_rewrite("service.node_interface")

__all__ = ["_session_bed", "bed"]
