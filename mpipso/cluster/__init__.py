"""Where a configuration runs: ranks, groups of nodes, and the messages between them. The only room that knows MPI."""
