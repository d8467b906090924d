"""Benchmarks of the session engine; run them with ``python -m bench`` or ``make bench``.

``contents`` says what a session holds, ``scenarios`` what a request does with it,
``contenders`` who does it; ``driving`` sends the requests, ``placement`` binds them to
CPUs, ``delay`` slows down the network, ``filling`` fills Redis. ``measuring`` takes time, Redis
CPU and traffic; ``memory``, ``seal_cost`` and ``capacity`` the rest. ``plan`` says what is
measured, and how much. ``report`` compares, beside the targets, and prints; ``pages`` and
``charts`` write the figures for the documentation.
"""
