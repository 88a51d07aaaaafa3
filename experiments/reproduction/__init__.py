"""What the scripts of the papers' figures share: numbers, settings, runs, tuning."""
