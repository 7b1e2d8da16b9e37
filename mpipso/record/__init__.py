"""What is kept of a run and what is shown of it; knows neither MPI nor processes.

``journal`` keeps every event, ``folders`` the files of each evaluation, ``recipe`` the incumbent as a file and as a
start script; ``monitor`` shows a run while it lasts, ``report`` when it is over.
"""
