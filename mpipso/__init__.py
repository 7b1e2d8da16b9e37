"""Particle swarm tuning of services that span nodes, many service groups at once, over MPI."""

__version__ = "0.1.0"
