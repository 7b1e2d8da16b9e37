"""``python -m mpipso``."""

from mpipso.cli import main

raise SystemExit(main())
