"""Adapters of services: one file each. A file ``NAME.toml`` is what ``mpipso init --engine NAME`` writes.

One that has no adapter beside it, as ``mindie.toml``, is of a service that ``command`` starts.
"""
