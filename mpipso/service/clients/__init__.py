"""Adapters of benchmark clients: one file each."""
