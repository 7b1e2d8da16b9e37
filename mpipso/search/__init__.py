"""What to try next: pure computing, knows no MPI, no process, no file."""
