"""A bed of emulated hosts on one machine, and the ways to start MPI programs on it."""
