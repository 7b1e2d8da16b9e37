"""What to try next: pure computing, knows no MPI, no process, no file.

``agenda`` is the whole of it: what is measured next, of what the strategy proposes and of what is measured again.

``space`` turns points of the unit cube into configurations and back: ``definition`` makes the ``domains`` of its
parameters (``dependent`` ones follow other parameters), ``expressions`` are computed values and conditions, ``lattice``
snaps many points at a time. ``strategy`` is what every way to search has in common, ``strategies`` finds one by its
name: ``swarm`` is the classic one, ``surrogate`` flies over models. Both remember their proposals in ``history``, begin
at the points of ``start`` and draw their random numbers from ``draws``. For the models, ``design`` chooses the first
points; ``models`` predicts values and feasibility by the Gaussian processes of ``gp``, whose covariance is ``kernel``;
``acquisition`` says how promising a point is and finds such points; ``blas`` keeps linear algebra in one thread, and
``arrays`` names the type of its arrays.

``objective`` scores a measurement, ``trials`` holds all of them, ``leaders`` ranks what was measured and ``racing``
tells differences from noise; ``knowledge`` is what was measured before, ``effects`` what each change of a configuration
is worth. ``schedule`` says which results a proposal may see, ``durations`` how long an evaluation will take, and
``budgets`` when a search ends, ``fruitless`` when it gives up.
"""
