"""Imported first by a program: Ctrl-C ends it at once while it imports the others.

An exception in the middle of an import may be swallowed, shown as a traceback, or crash
an extension module; and where nothing has begun there is nothing to tidy. Whoever can
handle Ctrl-C afterwards sets a handler of its own, as the launcher does, or lets it
`raise_again`.
"""

import os
import signal
import threading

if threading.current_thread() is threading.main_thread():
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda number, _: os._exit(128 + number))


def raise_again() -> None:
    """From here on Ctrl-C is a KeyboardInterrupt, unless it is ignored."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
