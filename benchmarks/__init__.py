"""Benchmarks of tsloss_fast against the libraries that people use for the same work.

``suite.run`` measures and reports, ``suite.main`` is its command line; ``test_speed.py`` runs the
same work under pytest-benchmark. Nothing is imported here: thread counts must be in the environment
before torch and the baselines load.
"""
