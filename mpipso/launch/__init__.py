"""How a run is started and kept going: the launcher's command line, its supervision, restarts on what is left.

``supervised`` is what ``mpipso launch`` does. ``jobs`` are the MPI job of a run, as the user asks for it and as it is
started again, ``allocation`` tells which hosts a batch job has, ``quota`` how many cores a container leaves to it,
and ``ranks`` how those of a run are spread over hosts; ``launchers`` know the families of MPI and compose their command
lines, ``mpirun`` runs one. ``supervise`` watches the ``traces`` that the run leaves and decides, by the patience of
``limits``, what is started again; ``survivors`` are the hosts that still answer, and a ``fence`` keeps what wakes up
of the lost job from the journal. ``log`` is what the user is told, ``source`` the configuration file of the launch.
Nothing here knows MPI itself, the search or services.
"""
