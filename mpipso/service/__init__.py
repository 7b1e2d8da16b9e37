"""How one configuration is measured on one service group.

``group`` is the life cycle of an evaluation: ``running`` is a process of the service and its log, in which ``reasons``
finds the line that tells why it ended, without the ``boxes`` that some are drawn in; ``readiness`` says when the
service can be measured, ``measuring`` runs what measures it, ``early`` stops that where the best was far better,
``watch`` gives work up when the service dies, ``stops`` tells that a node was stopped meanwhile, ``timing`` keeps the
time of each phase. A configuration reaches the service by ``command`` (flags), ``template`` (a file) and
``environment``. Adapters are in ``engines``, for services, and in ``clients``, for what measures them; ``registry``
finds one by its name. ``loadgen`` is the program of mpipso's own client, ``embedded`` the default service.

``node`` is what a leader can do on each node of its group, and what of its host that may use: ``local`` does it on this
machine, ``remote`` by messages to another one; ``agent`` answers these, as lines of ``wire``, where no rank does. On a
machine, ``facts`` finds out its names, cores and accelerators; ``process`` starts commands and services, each under a
``keeper``, so that nothing of them is left; ``ports`` and ``devices`` say whether these are free again; ``leftovers``
removes work folders of processes that were killed.
"""
