"""One run: start-up, this rank's role, and the end of it."""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING

from mpipso import roles
from mpipso.cluster.plan import Plan
from mpipso.cluster.world import MpiWorld, World
from mpipso.config import Config
from mpipso.errors import MpipsoError, Relayed, UserError, print_error
from mpipso.launched import note_refusing, restore_search_paths
from mpipso.rendezvous import meet, prepare
from mpipso.signals import Interrupts, die_with_launcher
from mpipso.startup import Options

if TYPE_CHECKING:
    from mpipso.runrecord import RunRecord


def tune(given: Options | UserError) -> int:
    """Take part in a run, as the rank that this process is; returns its exit code.

    ``given`` is what the command line says, or what is wrong with it, which the other ranks have to be told.
    """
    die_with_launcher()
    restore_search_paths(os.environ)
    with Interrupts() as interrupts:
        try:
            world = MpiWorld()
        except UserError as error:  # what is wrong with the command line comes first
            raise (given if isinstance(given, UserError) else error) from None
        try:
            code = _take_part(world, given, interrupts)
        except MpipsoError as error:
            if not isinstance(error, Relayed):
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


def _take_part(world: World, given: Options | UserError, interrupts: Interrupts) -> int:
    try:
        options = meet(world, given)
        context, record = prepare(world, options, lambda config, plan: _open_record(config, plan, options, world))
    except UserError as error:
        if world.rank == 0:
            print_error(error)
            note_refusing(given.resume if isinstance(given, Options) else None, error.hosts)
        return error.exit_code if world.rank == 0 else 0
    return record.keep(context, interrupts) if record is not None else roles.serve(context, interrupts)


def _open_record(config: Config, plan: Plan, options: Options, world: World) -> RunRecord:
    # What only the root needs takes a second to import, which is too much for a thousand ranks at once.
    from mpipso.runrecord import RunRecord

    return RunRecord(config, plan, options, world)
