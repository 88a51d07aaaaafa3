"""Every rule on the same fixed cases: what `leaderboard.py` runs."""
