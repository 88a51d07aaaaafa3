"""Faults planted in the shipped cluster, one at a time, for the simulation to find.

planted.py NUMBER SEEDS: plants one, and runs seeds until one breaks.
"""

import importlib.abc
import importlib.util
import itertools
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Planted(NamedTuple):
    """A change of the source that must not go unnoticed."""

    module: str  # under abs_dssp.
    old: str
    new: str
    faults: str = ""  # what makes it show sooner; see `simulate --faults`
    kind: str = "whole"  # of the runs; see `simulate --kind`


PLANTED = (
    # The log.
    Planted("cluster.core", "        return wanted\n\n    def evaluated",
            "        wanted.append(wanted.pop(0))\n"
            "        return wanted\n\n    def evaluated"),
    Planted("cluster.log", "if zlib.crc32(body) != int.from_bytes(check, \"little\"):",
            "if False:", "flip_log=0.5"),
    Planted("cluster.log", "        while view:\n            view = view[",
            "        if view:\n            view = view["),
    Planted("cluster.log", "            self._os.fdatasync(self._file)\n        self",
            "            pass\n        self", "power=0.001"),
    Planted("cluster.log", "        self._end = end\n", "", "full=0.01"),
    Planted("cluster.log", "self._os.lseek(self._file, self._end, os.SEEK_SET)\n"
            "        if self._sync:  # a record",
            "pass\n        if self._sync:  # a record"),
    Planted("cluster.log", "parts = [body + zlib",
            "parts = [body[:-1] + b\"\\0\" + zlib"),
    # Recovery and checkpoints.
    Planted("cluster.recovery", "for entry in entries[first:]:",
            "for entry in entries[first:-1]:"),
    Planted("cluster.recovery", "if records <= len(entries) and mark ==",
            "if True or mark ==", "power=0.001"),
    Planted("cluster.recovery", "and mark == core.mark_of(entries[:records])",
            "and mark == mark", "power=0.002"),
    Planted("cluster.recovery", "    server.versions.restore(arrays, pulled, "
            "server.core.version)\n", ""),
    Planted("cluster.core", "        self._machine.restore(leaves)\n", ""),
    Planted("cluster.core", "            \"epoch\": self.epoch,\n",
            "            \"epoch\": 0.0,\n"),
    Planted("cluster.core",
            "self.workers = [Worker(**fields) for fields in note[\"workers\"]]",
            "pass"),
    Planted("training.parameters", "self._count, self._first = int(count), None",
            "self._count, self._first = 0, None"),
    Planted("training.parameters",
            "self.accumulator, self.optimizer = jax.tree.unflatten",
            "_ = jax.tree.unflatten"),
    Planted("cluster.versions", "        for buffer in found.values():\n"
            "            self._pool.hold(buffer)\n", "", "none,slow=0.05,kill=0.002"),
    Planted("cluster.versions", "        for buffer in retained.values():\n"
            "            self._pool.drop(buffer)\n", "        pass\n"),
    Planted("cluster.versions", "        self.drop(worker)\n        if self._present",
            "        if self._present"),
    Planted("cluster.server", "        self.membership.resume(", "        _ = ("),
    # Who may push.
    Planted("cluster.pushes", "return asked == answers and", "return"),
    Planted("cluster.pushes", "asked == answers and worker.state == COMPUTING",
            "asked == answers"),
    Planted("cluster.membership", "if not pushes.finite(message.payload, event.loss):",
            "if False:"),
    # Pushes that are decided together.
    Planted("cluster.pushes", "if worker in known:", "if False:"),
    Planted("cluster.pushes", "if count < 2 or not all(",
            "if count < 2 or False and ("),
    Planted("cluster.core", "single = self._pending == 0 and all(", "single = all("),
    Planted("cluster.core", "limits.pushes - self.pushes)", "9)"),
    Planted("history.machine", "& (state.grants[worker] == grant)", "& (grant > 0)",
            "pause=0.003,preempt=0.02"),
    Planted("cluster.arithmetic", "first = pushes[0][1].version + 1",
            "first = pushes[0][1].version"),
    Planted("cluster.membership",
            "wanted += self._addressed([effects.Tell(index)], now)",
            "pass", "none,lose=0.1"),
    Planted("cluster.worker", "        self.grant_id = 0  # the server",
            "        pass  # the server", "none,power=0.0005"),
    Planted("cluster.transport.base", "if not last:", "if self.message is None:"),
    # What arrives.
    Planted("cluster.messages", "if len(data) - start < HEADER_BYTES:", "if False:"),
    Planted("cluster.messages", "if not (isinstance(text, list) and len(text) == 2",
            "if not (isinstance(text, list)"),
    Planted("cluster.messages", "if type(worker) is not int or type(steps) is not int:",
            "if False:"),
    Planted("cluster.transport.shared",
            "if not 0 <= message.buffer < len(self._slots):", "if False:"),
    # Between hosts.
    Planted("cluster.transport.stream", "            if count:\n",
            "            if False:\n"),
    Planted("cluster.transport.stream", "if count == 0:", "if False:"),
    Planted("cluster.transport.stream", "        self._start += count\n", ""),
    Planted("cluster.transport.network", "            pool.hold(self._sending)", "#"),
    Planted("cluster.transport.network",
            "put(message, vector)", "put(message, vector); self._let_go()"),
    Planted("cluster.transport.network", "if message.nbytes != sizes.push:",
            "if False:"),
    Planted("cluster.transport.network",
            "if message.kind is not Kind.PUSH or not self.known:",
            "if message.kind is not Kind.PUSH:"),
    Planted("cluster.transport.network", " if peer not in self._given]", "]",
            "delay=0.3"),
    Planted("cluster.transport.network", "if message.grant_id < self._latest:",
            "if False:", "delay=0.3"),
    Planted("cluster.transport.network", "            self._acceptor.forget(self)\n",
            ""),
    Planted("cluster.transport.network", "if self._peers.pop(peer, peer) is None:",
            "if False:"),
    Planted("cluster.transport.network", "self._make_room(_STRANGERS - 1)", "pass"),
    Planted("cluster.transport.network",
            "if message.kind in (Kind.WELCOME, Kind.HEARTBEAT_ACK):", "if True:"),
    Planted("cluster.membership",
            "if any(s.nonce == nonce and s.peer is not None for s in self.sessions):",
            "if True:", "stranger=0.1"),
    # Deadlines of policies.
    Planted("cluster.core", "clocks.pending)\n        self.wake = self._machine.wake\n",
            "clocks.pending)\n"),
)  # fmt: skip


def _parts(module: str, old: str, new: str, faults: str = "") -> Planted:
    """A change that runs of fragments must show."""
    return Planted(module, old, new, faults, "fragments")


FRAGMENTS = (
    # Before the log says so.
    _parts("cluster.fragment_server",
           "        return super().execute([self._with_vector(effect) "
           "for effect in wanted])",
           "        first = [e for e in wanted if isinstance(e, effects.Append)]\n"
           "        super().execute(first)\n"
           "        rest = [e for e in wanted if e not in first]\n"
           "        return super().execute([self._with_vector(e) for e in rest])"),
    _parts("cluster.push_store",
           "            self._write(self._turns, line(worker, clock, turn))\n", ""),
    _parts("cluster.push_store",
           "        if self._sync:\n            self._os.fdatasync(descriptor)",
           "        return", "power=0.001"),
    _parts("cluster.fragment_server", "steps[0] if len(steps) > 1 else 0",
           "steps[-1] if steps else 0", "flip_checkpoint=0.5"),
    _parts("cluster.push_store", "            self._os.ftruncate(self._turns, end)\n",
           "", "short=0.5,kill=0.005"),
    # What a worker says and takes.
    _parts("cluster.fragment_worker",
           "taken = tuple((fragment, *took[fragment]) for fragment in sorted(took))",
           "taken = ()"),
    _parts("cluster.fragment_worker",
           "                    took[link.fragment] = link.grant.version, "
           "link.grant.mark\n", ""),
    _parts("cluster.fragment_worker", "if link.part is not None:",
           "if link.part is not None and link.grant.text is None:"),
    _parts("cluster.fragment_worker",
           "if link.ahead or link.grant.clock > grant.clock:",
           "if True:"),
    _parts("cluster.pushes", "asked == answers and worker.state == COMPUTING",
           "asked[1:] == answers[1:] and worker.pushes < 99"),
    # As it was before the simulation.
    _parts("cluster.fragment_server",
           "        known = 0 <= message.worker",
           "        if message.kind is Kind.BYE and isinstance(text, dict):\n"
           "            self.stop(str(text.get(OVER)))\n"
           "        known = 0 <= message.worker"),
    _parts("cluster.fragment_server", "!= self._fragment:", "is False:"),
    _parts("cluster.fragment_server", "    def _join(self, session",
           "    def _joined(self, session"),
    _parts("cluster.push_store",
           "zlib.crc32(data, zlib.crc32(_HEAD.pack(worker, clock, 0)))",
           "zlib.crc32(data)", "flip_vectors=0.5"),
    _parts("cluster.push_store", "        except OSError:  # as on a full disk",
           "        except ZeroDivisionError:  # as on a full disk", "full=0.01"),
    _parts("cluster.push_store", "        except OSError as error:\n"
           "            raise UnwritableError(\n"
           "                f\"{where} cannot",
           "        except ZeroDivisionError as error:\n"
           "            raise UnwritableError(\n"
           "                f\"{where} cannot", "disk_error=0.005"),
    _parts("cluster.fragment_links", "if late and not self._answered:",
           "if False:", "lose=0.1"),
    _parts("cluster.fragment_links", " or message.grant_id < self._least:", ":",
           "delay=0.3"),
    _parts("cluster.fragment_links", "self.acknowledged = False  # what answers",
           "pass  # what answers", "lose=0.1,delay=0.2"),
    _parts("cluster.fragment_worker", "            if self._waits:",
           "            if False:", "partition=0.01"),
    _parts("cluster.fragment_run", "                if over := places.over():",
           "                if over := \"\":", "kill=0.005"),
    _parts("cluster.fragment_log", "least = len(entries) if whole else 0",
           "least = 0", "flip_checkpoint=0.5"),
    _parts("cluster.fragment_log", "if any((v, mark) not in parts[f].granted for",
           "if any(v < 0 for", "power=0.001"),
    _parts("training.checkpoints", "        return max(self.usable(), default=None)",
           "        return max(self.steps(), default=None)", "flip_checkpoint=0.5"),
    _parts("cluster.server", "            self._resumes = True  # workers",
           "            pass  # workers", "full=0.01"),
    _parts("cluster.fragment_worker", "if link.logged and self._waits and",
           "if False and", "partition=0.01"),
    _parts("cluster.fragment_server", "session.greeted = True  # not by READY",
           "pass  # not by READY"),
    _parts("cluster.membership", "            session.ready = True  # it has said so",
           "            if not session.ready:\n                continue\n            #",
           "lose=0.1,partition=0.01"),
    _parts("cluster.fragment_server", "        if welcome and self._worker",
           "        if False and self._worker", "none,kill=0.005"),
    _parts("cluster.fragment_server", "self._store is None or not self._store.unread",
           "True", "disk_error=0.005"),
)  # fmt: skip
ALL = (*PLANTED, *FRAGMENTS)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module with its planted fault."""

    def __init__(self, planted: Planted):
        self._planted = planted
        self._path = ROOT.joinpath("abs_dssp", *planted.module.split("."))
        self._path = self._path.with_suffix(".py")

    def find_spec(self, name, path, target=None):
        del path, target
        if name != f"abs_dssp.{self._planted.module}":
            return None
        return importlib.util.spec_from_loader(name, self, origin=str(self._path))

    def exec_module(self, module):
        source = patched(self._planted)
        module.__file__ = str(self._path)
        exec(compile(source, str(self._path), "exec"), module.__dict__)


def patched(planted: Planted) -> str:
    """The source of the module with the fault."""
    path = ROOT.joinpath("abs_dssp", *planted.module.split(".")).with_suffix(".py")
    source = path.read_text()
    assert source.count(planted.old) == 1, (planted, source.count(planted.old))
    return source.replace(planted.old, planted.new)


def main(number: int, seeds: int) -> int:
    """1 if a seed broke."""
    planted = ALL[number]
    sys.meta_path.insert(0, _Finder(planted))
    sys.path.insert(0, str(ROOT))
    from abs_dssp.cluster.simulate import faults
    from abs_dssp.cluster.simulate import seeds as kinds

    scenario = kinds.scenario(planted.kind)
    chances = faults.parse(planted.faults)
    for seed in itertools.islice(itertools.count(), seeds):
        outcome = scenario(seed, chances).run()
        if outcome.violation:
            print(f"seed {seed}: {outcome.violation[:300]}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
