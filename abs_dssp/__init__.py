"""Parameter-server SGD in which the server decides, push by push, who may run ahead.

One pure policy drives virtual time (`simulate`), the deterministic replay of a trace
(`replay`) and the tests of the theory.
"""

__version__ = "0.1.0"
