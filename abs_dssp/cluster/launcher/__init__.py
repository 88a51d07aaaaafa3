"""Starts the processes of a local cluster, shows their output, ends them all."""
