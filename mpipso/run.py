"""One run: start-up, this rank's role, and the end of it."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING

from mpipso import roles
from mpipso.cluster.plan import Plan
from mpipso.cluster.world import MpiWorld, World
from mpipso.config import Config
from mpipso.crew import prepare
from mpipso.errors import MpipsoError, UserError, print_error
from mpipso.signals import Interrupts, die_with_launcher
from mpipso.startup import Options

if TYPE_CHECKING:
    from mpipso.books import Books


def tune(options: Options) -> int:
    """Take part in a run, as the rank that this process is; returns its exit code."""
    die_with_launcher()
    with Interrupts() as interrupts:
        world = MpiWorld()
        try:
            code = _take_part(world, options, interrupts)
        except MpipsoError as error:
            print_error(error)
            world.abort(error.exit_code)
            raise
        except Exception:  # the other ranks would wait for this one for ever
            traceback.print_exc()
            sys.stderr.flush()
            world.abort(1)
            raise
        sys.stdout.flush()
        world.leave(code)
        return code


def _take_part(world: World, options: Options, interrupts: Interrupts) -> int:
    books: list[Books] = []
    try:
        crew = prepare(world, options, lambda config, plan: books.append(_open_books(config, plan, options, world)))
    except UserError as error:
        if world.rank == 0:
            print_error(error)
        return error.exit_code if world.rank == 0 else 0
    return books[0].keep(crew, interrupts) if books else roles.serve(crew, interrupts)


def _open_books(config: Config, plan: Plan, options: Options, world: World) -> Books:
    # What only the root needs takes a second to import, which is too much for a thousand ranks at once.
    from mpipso.books import Books

    return Books(config, plan, options, world)
