"""Fixtures that tests of several rooms share."""

from bed.fixture import _session_bed, bed

__all__ = ["_session_bed", "bed"]
