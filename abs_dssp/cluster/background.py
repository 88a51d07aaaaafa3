"""A thread beside the serving one: does one kind of work, on copies, and reports."""

import functools
from collections.abc import Callable
from typing import Any

from abs_dssp.cluster.system import System

_LONG = 30.0  # seconds


class Background:
    """A thread that works off requests, one at a time. Used by the serving thread.

    Results and errors reach the serving thread through `tell`, which runs a function
    there; the thread itself touches nothing of the server.
    """

    def __init__(
        self,
        name: str,
        work: Callable[..., Any],
        done: Callable[[Any], None],
        tell: Callable[[Callable[[], None]], None],
        failed: Callable[[BaseException], None],
        system: System,
    ):
        """Starts the thread.

        Args:
          name: of the thread: what it does, a verb.
          work: called here with a request's arguments.
          done: called in the serving thread with what `work` returned.
          tell: has the serving thread call a function.
          failed: called in the serving thread if `work` raised.
          system: has the threads.
        """
        self.busy = False  # between `ask` and `done`; of the serving thread
        self._name = name
        self._work, self._done, self._tell, self._failed = work, done, tell, failed
        self._requests = system.queue.SimpleQueue()  # None: end
        self._thread = system.threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def ask(self, *arguments: Any) -> None:
        """One request more."""
        self.busy = True
        self._requests.put(arguments)

    def stop(self, say: Callable[[str], None]) -> None:
        """Ends the thread after what it is doing; later requests are dropped.

        Args:
          say: told now and then that this takes long, as on a disk that hangs.
        """
        self._requests.put(None)
        self._thread.join(_LONG)
        while self._thread.is_alive():
            say(f"the run is over, but still has to {self._name}")
            self._thread.join(_LONG)

    def _run(self) -> None:
        while (arguments := self._requests.get()) is not None:
            try:
                result = self._work(*arguments)
            except BaseException as error:
                self._tell(functools.partial(self._end, self._failed, error))
            else:
                self._tell(functools.partial(self._end, self._done, result))

    def _end(self, report: Callable[[Any], None], result: Any) -> None:
        self.busy = False
        report(result)
