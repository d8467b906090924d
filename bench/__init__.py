"""Benchmarks of the session engine; run them with ``python -m bench`` or ``make bench``.

``contents`` says what a session holds, ``scenarios`` what a request does with it,
``contenders`` who does it; ``driving`` sends the requests, ``placement`` binds them to
CPUs, ``measuring`` takes time, Redis CPU and traffic, ``report`` compares and prints.
"""
