"""``python -m mpipso``."""

from __future__ import annotations


def main() -> int:
    """Run a command as :func:`mpipso.cli.main` does; its modules take a second to import, and Ctrl-C may come then."""
    try:
        from mpipso import cli
    except KeyboardInterrupt:
        return 130
    return cli.main()


if __name__ == "__main__":
    raise SystemExit(main())
