"""Adapters of benchmark clients: what measures a service, as a command that is run and whose result is read.

``base`` is the contract. ``openai`` is mpipso's own client, whose command is ``mpipso.service.loadgen``: that
sends requests of words of the ``vocabulary``, or the ``prompts`` of a file, reads the answers with ``stream`` and
sums them up with ``stats``; both say by ``asking`` what they ask for, and find the service's key with ``apikey``.
``command`` is any other program: ``result`` finds values in what it writes, and ``quantity`` reads them with their
units. ``quality`` is one that is run after the benchmark.
"""
