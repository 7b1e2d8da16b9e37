"""What a launch tells its ranks."""

from __future__ import annotations

import socket

import pytest

from mpipso.launched import PREPENDED, restore_search_paths


@pytest.mark.parametrize(
    ("prepended", "before", "after"),
    [
        (
            "/mpi/lib:/usr/bin",
            {"PATH": "/usr/bin:/usr/bin:/venv/bin:/usr/bin:/bin", "LD_LIBRARY_PATH": "/mpi/lib:/mpi/lib"},
            {"PATH": "/venv/bin:/usr/bin:/bin"},
        ),
        ("/usr/bin", {"PATH": "/bin:/usr/bin"}, {"PATH": "/bin:/usr/bin"}),
        ("/usr/bin", {"PATH": "/usr/bin:/usr/bin:/bin"}, {"PATH": "/bin"}),
        ("/mpi/bin:/mpi/lib", {"LD_LIBRARY_PATH": "/mpi/lib:/a:/mpi/lib"}, {"LD_LIBRARY_PATH": "/a:/mpi/lib"}),
        ("=/usr/bin", {"PATH": "/usr/bin:/venv/bin:/usr/bin"}, {"PATH": "/venv/bin:/usr/bin"}),
        ("", {"PATH": ":/bin"}, {"PATH": ":/bin"}),
        (None, {"PATH": "/bin"}, {"PATH": "/bin"}),
    ],
)
def test_what_the_launcher_puts_in_front_of_search_paths_goes(
    prepended: str | None, before: dict[str, str], after: dict[str, str]
) -> None:
    told = {} if prepended is None else {PREPENDED: ":".join(filter(None, (socket.gethostname(), prepended)))}
    environ = {**told, **before}
    restore_search_paths(environ)
    assert environ == {**told, **after}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            {"PATH": "/mpi/bin:/usr/bin:/mpi/bin:/bin", "LD_LIBRARY_PATH": "/mpi/lib:/mpi/lib:/a"},
            {"PATH": "/bin:/mpi/bin:/usr/bin", "LD_LIBRARY_PATH": "/a"},
        ),
        ({"LD_LIBRARY_PATH": "/mpi/lib:"}, {}),
        ({"PATH": "/usr/bin:/bin:/usr/bin", "LD_LIBRARY_PATH": "/usr/lib:/usr/lib"}, {"PATH": "/bin:/usr/bin"}),
    ],
)
def test_on_another_host_what_the_user_has_here_goes_to_the_end(before: dict[str, str], after: dict[str, str]) -> None:
    told = {PREPENDED: "another.host:=/mpi/bin:/mpi/lib:=/usr/bin:/usr/lib"}
    environ = {**told, **before}
    restore_search_paths(environ)
    assert environ == {**told, **after}
