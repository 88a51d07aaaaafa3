"""Whether a rule has its properties in every order of events: a small model checker.

`check` starts with N workers that compute, and tries every order of pushes, deadlines,
deaths and joins, breadth first, through the same pure functions (`history.transition`)
that virtual time and a cluster use. A broken property comes with a list of events that
leads to it, as a trace and as a table: a shortest one, unless it is about progress or
was found by a schedule.

Every policy must keep these: after every event somebody alive computes, or a deadline
is to come; only who pushed or waits is released, nobody dead, and only who computes is
restarted; weights are finite and not negative; a commit holds an accepted push; and
there is progress (`progress`): from every state a commit, an accepted push of each
living worker and a release of whoever waits can be reached, whatever losses and
intervals an adversary chooses, and in every fair order commits and releases come. To
these is added what the rule states in its `Policy.properties`, for instance bounds on
staleness, gap and size of commits, or that it `starves` somebody on purpose.

What is tried, and told by `Report.text`:

* A search of all orders of events up to a depth, or (`complete`) all there are, with at
  most `deaths` deaths and `joins` joins, wherever they fall. Two states are taken for
  one if they differ in what the rule does not look at (`abstraction`): what it never
  reads (traced), and by shifts of clocks, versions, times and the rule's own counters,
  in leads, staleness and ages from 16 or 32 on, in the clocks of the dead. The latter
  are hypotheses, tried at every state visited by shifting it by one number of 1 to 66
  and by a million, at some states by each of them, and dropped where the rule answers
  differently; then the search is bounded if versions or times grow for ever.
* For rules that read times the intervals between events are 1 and 3 seconds, and in a
  second, smaller search 0.40625 and 7.3125; for rules that read the loss the estimates
  are 1 and 1/4, and in the second search none yet and 0.
* Deadlines of rules that set them. Of a deadline only this is kept, whether there is
  one: while there is, it may come after any of the intervals, so also sooner or later
  than at the time that was set, and before or after any push. This is more than a run
  shows, and fewer states; a rule must do right by a deadline whenever it comes.
  Progress that a deadline brings is therefore shown for some time of it (`progress`);
  whether pushes put it off for ever is tried at the rule's own times (`postponement`).
* Thin schedules (`schedules`), from the start and without any reduction: some hundred
  of 40 events, with all of these intervals and some more estimates.

A broken property is confirmed without any reduction. States whose successors were not
looked at, because of the depth or `max_states`, never count as good: from those near
them progress is undecided.

What this does not cover: more workers than N, more deaths or joins; a rule with a
special case far away, say at version 5000 alone; other intervals and estimates, and
simultaneous events; a push that was refused because it was not finite; messages that
cross on their way, which the cluster answers before a rule is asked; and rules that are
no pure functions.
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
