"""Where a configuration runs: ranks, groups of nodes, and the messages between them. The only room that knows MPI.

``world`` is the ranks of the job, ``channel`` the messages between them, and ``facts`` what a rank knows before MPI is
asked. ``placement`` says which ranks form which groups, as a ``plan``, from the names of ``hosts``; ``shares`` divides
a host among its groups. While a run lasts, ``dispatch`` hands out evaluations to the groups and takes their results,
``health`` follows the signs of life of ranks and groups, and ``membership`` ends groups and forms new ones. ``ssh``
reaches nodes that have no rank.
"""
