"""What the commands share: flags, runs, outputs, reports.

Modules whose names end in `flags` define absl flags when they are imported.
"""
