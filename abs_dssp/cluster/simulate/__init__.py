"""The shipped cluster on a simulated machine: one seed, one history, byte for byte.

Server, workers, log, checkpoints and transports are those of a real run; clock,
threads, sockets and disks are simulated (see `system.System`), and fail at random:

    python -m abs_dssp.cluster.simulate --seed=1 --seeds=100
    python -m abs_dssp.cluster.simulate --seed=1 --seeds=100 --kind=fragments

A run is of one server that has all parameters, or of several that have a fragment each.
Time passes only where everybody waits, so a minute of a run takes milliseconds.
"""
