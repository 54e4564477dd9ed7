"""`sweep`: a grid of configurations, resumable after a kill.

In reading order: grid, work, engines, journal, report, run.
"""
