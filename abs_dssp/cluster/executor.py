"""Does what the core wants done, in order, and takes the time of its parts."""

from collections.abc import Callable, Sequence
from typing import Any

from abs_dssp.cluster import effects
from abs_dssp.cluster.arithmetic import Arithmetic
from abs_dssp.cluster.effects import Effect
from abs_dssp.cluster.log import Log
from abs_dssp.cluster.measures import Measures
from abs_dssp.cluster.messages import Kind, Message
from abs_dssp.cluster.versions import Versions

_LOG, _APPLY, _PUBLISH, _SEND, _REST = range(5)  # after the decision, as in `PARTS`


class Executor:
    """Has the log, the parameters and their versions. Belongs to the serving thread."""

    def __init__(
        self,
        log: Log,
        arithmetic: Arithmetic,
        versions: Versions,
        measures: Measures,
        say: Callable[[str], None],
        clock: Callable[[], float],
    ):
        """Nothing is done.

        Args:
          log: for the entries.
          arithmetic: for pushes and commits.
          versions: for those who compute.
          measures: told of grants.
          say: prints a line for the user.
          clock: seconds.
        """
        self._arithmetic, self._versions = arithmetic, versions
        self._measures, self._clock = measures, clock
        # What is called with the fields of an effect.
        self._do: dict[type, tuple[int, Callable[..., None]]] = {
            effects.Append: (_LOG, lambda entries: log.append(entries)),
            effects.Accumulate: (_APPLY, self._accumulate),
            effects.Commit: (_APPLY, arithmetic.commit),
            effects.Advance: (_APPLY, arithmetic.advance),
            effects.Hold: (_PUBLISH, versions.hold),
            effects.Drop: (_PUBLISH, versions.drop),
            effects.Tell: (_REST, lambda worker: None),  # nobody is connected
            effects.Send: (_SEND, self._send),
            effects.Say: (_REST, say),
        }

    def execute(self, wanted: Sequence[Effect]) -> list[float]:
        """Does it.

        Args:
          wanted: the effects, in order.

        Returns:
          Seconds of each of `measures.PARTS` after the decision, and of the rest.
        """
        clock, known, spent = self._clock, self._do, [0.0] * (_REST + 1)
        last, before = clock(), _REST
        for effect in wanted:
            part, do = known[type(effect)]
            if part != before:
                now = clock()
                spent[before] += now - last
                last, before = now, part
            do(*effect)
        spent[before] += clock() - last
        return spent

    def _accumulate(self, *push: Any) -> None:
        effect = effects.Accumulate(*push)
        pulled = self._versions.array(effect.worker)
        local = self._arithmetic.accumulate(effect, pulled)
        if local is not None:
            self._versions.keep(effect.worker, local)

    def _send(self, peer: Any, message: Message) -> None:
        if message.kind is Kind.GRANT:
            message.buffer = self._versions.buffer(message.worker)
            self._measures.granted(message)
        peer.send(message)
