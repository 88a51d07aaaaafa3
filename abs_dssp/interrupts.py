"""Imported first by a program: Ctrl-C ends it at once while it imports the others.

An exception in the middle of an import may be swallowed, shown as a traceback, or crash
an extension module; and where nothing has begun there is nothing to tidy. Whoever can
handle Ctrl-C afterwards sets a handler of its own, as `entry.run` and the launcher do.
"""

import os
import signal
import threading

if threading.current_thread() is threading.main_thread():
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda number, _: os._exit(128 + number))
