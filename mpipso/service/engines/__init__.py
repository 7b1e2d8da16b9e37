"""Adapters of services: one file each. A file ``NAME.toml`` beside one is what ``mpipso init --engine NAME`` writes."""
