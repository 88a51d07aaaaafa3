"""Whether a rule has its properties in every order of events: a small model checker.

`check` starts with N workers that compute, and tries every order of pushes, deaths and
joins, breadth first, through the same pure functions (`history.transition`) that
virtual time and a cluster use. A broken property comes with a shortest list of events
that leads to it, as a trace and as a table.

Every policy must keep these: somebody alive computes after every event; a worker that
waits can still be released by some sequence of pushes; only who pushed or waits is
released, nobody dead, and only who computes is restarted; weights are finite and not
negative; a commit holds an accepted push. To these are added what the rule states in
its `Policy.properties`, for instance bounds on staleness, gap and size of commits.

What a search covers: all orders of events up to a depth, or (`complete`) all there are,
with at most `deaths` deaths and `joins` joins, wherever they fall. Two states are taken
for one if they differ in what the rule does not look at (`abstraction`): what it never
reads (traced), and by shifts of clocks, versions, times and the rule's own counters, in
leads, staleness and ages from 16 or 32 on, in the clocks of the dead. The latter are
hypotheses, tried at every state visited by shifting it by 1 to 8 (by one of these where
a level has over 512 states) and by a million, and dropped where the rule answers
differently; then the search is bounded if versions or times grow for ever. So a rule
with a special case at, say, version 5000 alone escapes. A broken property is confirmed
without any abstraction, except starvation, which is about a whole graph of states.

What it does not cover: more workers than N; for rules that read times, other intervals
between events than 1 and 3 seconds, and simultaneous events; for rules that read the
loss, other estimates than 1, 1/4 and, never, none at all; a push that was refused
because it was not finite; messages that cross on their way, which the cluster answers
before a rule is asked; and fairness: "can be released" is not "will be".
"""

from abs_dssp.policies import Properties
from abs_dssp.verify._properties import examples, properties, stated
from abs_dssp.verify.counterexample import Violation
from abs_dssp.verify.search import Report, check, reachable
from abs_dssp.verify.step import Action

# Deprecated names.
Move, Promises, promises = Action, Properties, properties

__all__ = [
    "Action",
    "Properties",
    "Report",
    "Violation",
    "check",
    "examples",
    "properties",
    "reachable",
    "stated",
]
