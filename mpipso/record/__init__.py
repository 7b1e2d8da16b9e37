"""What is kept of a run and what is shown of it; knows neither MPI nor processes.

``journal`` keeps every event (``fields`` says what may be in one, ``judged`` is an evaluation with its verdict,
``place`` tells whether a file is still there and who holds its lock), ``folders`` the files of each evaluation,
``recipe`` the incumbent as a file and as a start script; ``monitor`` shows a run while it lasts (``screen`` on which
display, ``lasting`` whether or not somebody reads it). From the journal alone, later: ``outcome`` is what came of a run
(``measured`` what the measurements of one configuration say together, ``interval`` how sure that is, ``usage`` what the
groups did with their time, ``whatif`` which schedule would have saved some, ``again`` how to go on with it);
``report`` and ``runstats`` show it, ``pareto`` what its objective costs in another metric, ``table`` writes it as CSV,
``columns`` is how tables look, and ``figures`` how numbers are written. ``resume`` and ``warm`` read earlier runs for
one that goes on with them, or begins with what they found, and ``rows`` such a table.
"""
