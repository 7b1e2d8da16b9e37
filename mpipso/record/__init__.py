"""What is kept of a run and what is shown of it; knows neither MPI nor processes.

``journal`` keeps every event (``place``: whether its file is still there), ``folders`` the files of each evaluation,
``recipe`` the incumbent as a file and as a start script; ``monitor`` shows a run while it lasts. From the journal
alone, later: ``outcome`` is what came of a run (``measured`` what the measurements of one configuration say together,
``interval`` how sure that is, ``usage`` what the groups did with their time, ``whatif`` which schedule would have saved
some), ``report`` and ``runstats`` show it. ``resume`` and ``warm`` read earlier runs for one that goes on with them, or
begins with what they found.
"""
