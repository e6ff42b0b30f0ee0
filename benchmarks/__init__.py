"""Measurements: ratios to a peer or to the physical limit, written to ``benchmarks/results``.

``python -m benchmarks`` runs them all, ``python -m benchmarks.NAME`` one of them.
"""
