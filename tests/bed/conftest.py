"""Tests of the bed use the fixture that other tests import."""

from .fixture import _session_bed, bed

__all__ = ["_session_bed", "bed"]
