"""The command ``harness``: verbs that people type, each a thin skin over the floor that does the work."""
