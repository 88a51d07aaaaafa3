"""Wrong rules that hide, and what the checker must say of each.

`mutants.MUTANTS` are wrong at once. These are wrong where a checker may not look:
beside each stands the kind of property that it breaks, and from what it hides. `UNSEEN`
are those that nothing here can find, and what the report must then say was not tried.
"""

from collections.abc import Callable
from typing import NamedTuple

import hidden
import jax.numpy as jnp
from hidden import at_a_version, discards, not_released, seconds, weighs_nan
from mutants import ALONE, TWO, altered, answering, pusher

from abs_dssp import policies
from abs_dssp.policies import Properties


class Hidden(NamedTuple):
    """A wrong rule, and how it is found."""

    name: str
    make: Callable
    kind: str
    hides: str  # from what
    by: str = "search"  # "search", "progress" or "schedule"
    length: int = 0  # events of the counterexample, counted by hand; 0: not counted
    properties: Properties = Properties()
    num_workers: int = 2
    deaths: int = 1
    depth: int = 40


THE_SEVEN = [
    # Versions 9 and 19 stop one worker each.
    Hidden("not_released_at_9", not_released(lambda c, w: c.version % 10 == 9),
           "deadlock", "a shift of versions", length=20, deaths=0),
    Hidden("nan_at_9", weighs_nan(lambda c, w: c.version % 10 == 9),
           "weight", "a shift of versions", length=10, num_workers=3),
    # The death, and one push of each of the others.
    Hidden("commits_for_all_ever", hidden.commits_for_all_ever, "no commit",
           "nobody asks", "progress", num_workers=3),
    Hidden("discards_after_a_death", discards(lambda c, w: ~jnp.all(c.alive)),
           "no commit", "nobody asks", "progress", num_workers=3),
    Hidden("discards_worker_0", discards(lambda c, w: jnp.asarray(w) == 0),
           "never accepted", "nobody asks", "progress", num_workers=3),
    Hidden("one_over_whole_seconds", hidden.floored, "weight", "gaps of 1 s and 3 s",
           length=1, num_workers=3),
    Hidden("released_at_a_low_loss", hidden.released_at_a_low_loss, "starvation",
           "an estimate that helps", "progress", num_workers=3),
]  # fmt: skip

# Remainders, and single numbers.
REMAINDERS = [
    Hidden("clock_12_of_13", not_released(lambda c, w: c.clock[w] % 13 == 12),
           "deadlock", "a shift of clocks", length=24, deaths=0),
    Hidden("sum_of_clocks", weighs_nan(lambda c, w: jnp.sum(c.clock) % 11 == 10),
           "weight", "a shift of all clocks", length=10, deaths=0),
    # Six pushes of one, then one of the other.
    Hidden("version_less_clock",
           weighs_nan(lambda c, w: (c.version - c.clock[w]) % 7 == 5),
           "weight", "one shift for both", length=7),
    Hidden("second_36_of_37",
           weighs_nan(lambda c, w: jnp.floor(c.latest[w]) % 37 == 36),
           "weight", "a shift of times", length=12, deaths=0),
    Hidden("version_63_of_64", weighs_nan(lambda c, w: c.version % 64 == 63),
           "weight", "depth 40", length=64, deaths=0, depth=70),
    Hidden("two_remainders",
           weighs_nan(lambda c, w: (c.version % 4 == 3) & (c.clock[0] % 5 == 4)),
           "weight", "one remainder at a time", length=4),
    Hidden("bits", weighs_nan(lambda c, w: (c.version & 32) > 0),
           "weight", "small versions", length=33, deaths=0),
    Hidden("scattered",
           weighs_nan(lambda c, w: (c.version * 7919 >> 4) % 23 == 22),
           "weight", "any pattern", length=26, deaths=0),
    Hidden("version_12", weighs_nan(lambda c, w: c.version == 12),
           "weight", "one version alone", length=13, deaths=0),
    Hidden("clock_12", weighs_nan(lambda c, w: c.clock[w] == 12),
           "weight", "one clock alone", length=12),
    Hidden("stated_counter", hidden.counting(jnp.int32, ("count",)),
           "weight", "a counter that it states", length=17),
    Hidden("own_counter", hidden.counting(jnp.int32),
           "weight", "its own state", length=17),
    Hidden("float_counter", hidden.counting(jnp.float32),
           "weight", "a number taken for a time", length=17),
    # Ten pushes, a death and a return; and one state of some hundred, where the version
    # is the sum of the clocks: (4, 3, 5) is the first one.
    Hidden("a_return_at_9", hidden.nan_for_who_returns_at_9, "weight",
           "shifts of other states", length=12),
    Hidden("one_state", weighs_nan(hidden.one_state, "ssp(s=1)"), "weight",
           "shifts of other states", length=12, num_workers=3, deaths=0),
]  # fmt: skip

# What is far.
FAR = [
    Hidden("lead_20", weighs_nan(lambda c, w: policies.gap(c)[w] == 20),
           "weight", "leads from 16 on", length=20),
    Hidden("stale_20", weighs_nan(lambda c, w: c.version - c.pulled[w] == 20),
           "weight", "staleness from 16 on", length=21),
    Hidden("pending_20",
           weighs_nan(lambda c, w: c.pending == 20, "k_batch_async(k=24)"),
           "weight", "pushes pending from 16 on", length=21),
    Hidden("seconds_100", weighs_nan(lambda c, w: seconds(c, w) > 100),
           "weight", "ages from 32 s on", "schedule"),
]  # fmt: skip

# The dead, and who comes back.
MEMBERS = [
    Hidden("waits_for_the_dead_clock", hidden.waits_for_the_dead_clock, "deadlock",
           "clocks of the dead"),
    Hidden("on_leave_at_9", hidden.forgets_who_waits_on_leave, "deadlock",
           "departures at other versions"),
    Hidden("distrusts_who_returns", hidden.distrusts_who_returns, "never accepted",
           "whoever never died", "progress", num_workers=3),
    Hidden("after_two_deaths",
           weighs_nan(lambda c, w: jnp.sum(c.alive) == 1),
           "weight", "one death", length=3, num_workers=3, deaths=2),
]  # fmt: skip

# Estimates and intervals.
ADVERSARY = [
    Hidden("loss_below_a_tenth",
           weighs_nan(lambda c, w: (c.loss > 0) & (c.loss < 0.1)),
           "weight", "losses 1, 1/4 and 0", "schedule"),
    Hidden("no_estimate_yet",
           lambda n: altered(policies.asp(n),
                             answering(weight=lambda c, w, d: 1 / c.loss)),
           "weight", "finite estimates", length=1),
    Hidden("commits_at_a_low_loss",
           lambda n: altered(policies.asp(n),
                             answering(commit=lambda c, w, d: c.loss < 0.5)),
           "no commit", "an estimate that helps", "progress"),
    Hidden("nothing_from_version_12", discards(lambda c, w: c.version >= 12),
           "no commit", "small versions", "progress", deaths=0),
    Hidden("worker_1_until_version_12",
           discards(lambda c, w: (c.version >= 12) & (jnp.asarray(w) == 1)),
           "never accepted", "small versions", "progress", deaths=0),
    Hidden("falling_loss", hidden.falling_loss, "no commit",
           "an estimate that helps", "progress"),
    Hidden("accepts_the_slow", discards(lambda c, w: seconds(c, w) < 2),
           "no commit", "an interval that helps", "progress"),
    Hidden("interval_below_half",
           not_released(lambda c, w: seconds(c, w) < 0.5),
           "deadlock", "gaps of 1 s and 3 s", length=3, deaths=0),
    Hidden("ratio_of_intervals",
           weighs_nan(lambda c, w: seconds(c, w) > 17 * seconds(c, 1 - w)),
           "weight", "ratios below 17", deaths=0,
           properties=ALONE),
]  # fmt: skip

# Orders that are fair.
ORDERS = [
    Hidden("twice_in_a_row", hidden.twice_in_a_row, "livelock",
           "an order that helps", "progress"),
    Hidden("cancels_the_others", hidden.cancels_the_others, "livelock",
           "an order that helps", "progress", deaths=0),
    Hidden("released_by_two_in_a_row", hidden.released_by_two_in_a_row, "left waiting",
           "an order that helps", "progress", num_workers=3, deaths=0),
]  # fmt: skip

# The other kinds of properties, at one version in ten.
KINDS = [
    Hidden("dead_at_9",
           at_a_version({"release": lambda c, w: ~c.alive | pusher(c, w)}),
           "dead", "a shift of versions", length=11),
    Hidden("twice_at_9", at_a_version({"release": lambda c, w: c.alive}),
           "released twice", "a shift of versions", length=10),
    Hidden("restart_at_9", at_a_version({"restart": pusher}),
           "restart", "a shift of versions", length=10),
    Hidden("empty_at_9",
           at_a_version({"weight": lambda c, w: jnp.float32(0)}),
           "empty commit", "a shift of versions", length=10),
    Hidden("gap_at_9",
           at_a_version({"release": pusher}, "ssp(s=1)", 5),
           "gap", "a shift of versions", properties=Properties(max_gap=1)),
    Hidden("stale_at_9",
           at_a_version({"weight": lambda c, w: jnp.float32(1)},
                        "rennala(batch_size=1)"),
           "staleness", "a shift of versions", length=10,
           properties=Properties(max_staleness=0)),
    Hidden("small_at_9",
           at_a_version({"commit": lambda c, w: jnp.bool_(True)},
                        "k_batch_async(k=2)"),
           "commit too small", "a shift of versions", length=19, properties=TWO),
    Hidden("large_at_9",
           at_a_version({"commit": lambda c, w: c.pending >= 2}, "k_batch_async(k=2)"),
           "commit too large", "a shift of versions", length=21, properties=TWO),
    Hidden("k_falls", hidden.k_falls, "never falls", "one version alone",
           properties=Properties(never_falls=("k",))),
    Hidden("grows_now_and_then", hidden.grows_now_and_then, "never rises",
           "a shift of versions", properties=Properties(never_rises=("tau_max",))),
    Hidden("uncommitted_at_9",
           at_a_version({"commit": lambda c, w: jnp.bool_(False)}),
           "uncommitted push", "a shift of versions", length=10,
           properties=policies.base.EVERY_PUSH),
    Hidden("cancels_at_9",
           at_a_version({"restart": lambda c, w: c.alive & ~pusher(c, w)}),
           "cancellation", "a shift of versions", length=10,
           properties=Properties(restarts=False)),
    Hidden("waits_at_9",
           not_released(lambda c, w: c.version % 10 == 9),
           "waiting", "a shift of versions", length=10,
           properties=Properties(waits=False)),
    Hidden("stale_computation_at_9", hidden.no_restart_at_9, "stale computation",
           "a shift of versions", properties=Properties(max_computing=1)),
    Hidden("negative_at_9",
           at_a_version({"weight": lambda c, w: jnp.float32(-1)}),
           "weight", "a shift of versions", length=10),
]  # fmt: skip

OTHERS = (REMAINDERS, FAR, MEMBERS, ADVERSARY, ORDERS, KINDS)
ALL = [*THE_SEVEN, *(each for section in OTHERS for each in section)]


class Unseen(NamedTuple):
    """A wrong rule that is not found, and the sentence that says what was not tried."""

    name: str
    make: Callable
    said: str  # a part of the report
    num_workers: int = 2
    deaths: int = 1


UNSEEN = [
    # Nothing tells 5000 from any other number but looking there.
    Unseen("version_5000", weighs_nan(lambda c, w: c.version == 5000),
           "shifted by 1 to 66 and far away"),
    # What is far away shows that versions matter, but not which is reached.
    Unseen("version_from_60", not_released(lambda c, w: c.version >= 60),
           "tells apart: versions"),
    Unseen("age_1000", weighs_nan(lambda c, w: seconds(c, w) > 1000),
           "at the frontier not expanded"),
    Unseen("five_workers", lambda n: weighs_nan(lambda c, w: n > 4)(n), "N=2"),
    Unseen("two_deaths", weighs_nan(lambda c, w: jnp.sum(c.alive) == 1),
           "with up to 1 deaths", num_workers=3),
    Unseen("one_estimate",
           weighs_nan(lambda c, w: (c.loss > 0.3) & (c.loss < 0.35)),
           "for losses 1 and 0.25 only"),
    Unseen("one_interval",
           weighs_nan(lambda c, w: (seconds(c, w) > 0.5) & (seconds(c, w) < 0.75)),
           "for gaps of 1 and 3 s only"),
    # No release, no commit ever, but no state comes again that would prove it.
    # No release, no commit ever, but no state comes again that would prove it.
    Unseen("never_released", hidden.never_released,
           "the first of them after 1 events", num_workers=3),
    Unseen("after_a_death", hidden.after_a_death, "the first of them after 1 events"),
]  # fmt: skip
