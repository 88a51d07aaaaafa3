"""Time to a target on known problems: every method, in all kinds of worker times.

`regimes` are worker times, `problems` objectives with their targets, `measure` runs a
method at the step of the theory and at the best step of a grid, `report` shows it.
"""
