"""`sweep`: a grid of configurations, resumable after a kill.

In reading order: grid, sources, work, engines, journal, report, run.
"""
