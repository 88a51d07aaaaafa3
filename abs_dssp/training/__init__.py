"""What a push and a commit compute, and how a trace becomes parameters."""
