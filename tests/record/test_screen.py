from __future__ import annotations

from mpipso.record.screen import terminal_size


def test_a_terminal_that_is_gone_has_no_size() -> None:
    assert terminal_size("/dev/pts/nowhere") is None
    assert terminal_size("/dev/null") is None
