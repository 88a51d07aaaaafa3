"""The checker finds what is wrong, by a shortest way, and nothing where nothing is."""

import copy
import functools
import os
import subprocess
import sys

import mutants
import numpy as np
import pytest
import reference

import scripts
from abs_dssp import policies, traces, verify
from abs_dssp.history import rederivation
from abs_dssp.verify import search

WRONG = pytest.mark.parametrize(
    "mutant",
    mutants.MUTANTS,
    ids=lambda m: f"{m.make.__name__}-{m.kind}-{m.num_workers}-{m.deaths}",
)


@pytest.fixture(scope="module", autouse=True)
def steps():
    """Searches of one rule with one set of properties share their compiled program."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "Steps", functools.cache(search.Steps))
        yield


@functools.cache
def made(mutant):
    return mutant.make(mutant.num_workers)


def first_examples():
    """Examples of every rule; one that waits, cancels, ... each is not marked slow."""
    often = {"bsp", "dssp", "abs", "k_batch_async", "ringmaster", "zipline", "quorum"}
    for text in verify.examples():
        name = text.partition("(")[0]
        yield pytest.param(text, marks=[] if name in often else pytest.mark.slow)
        often.discard(name)


@pytest.mark.parametrize("text", first_examples())
def test_the_rules_have_their_properties(text):
    settings = {"max_states": 2_000, "schedule_depth": 20}
    if text == "abs_dssp()":
        settings = {"max_states": 40, "schedule_depth": 5, "probed": 0}
    report = verify.check(text, 3, **settings)
    assert report.violation is None, report.violation.table
    assert report.states > 1
    assert report.runs is not None
    assert report.runs.depth == settings["schedule_depth"]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [2, 3])
@pytest.mark.parametrize("text", verify.examples())
def test_the_rules_have_their_properties_when_more_happens(text, num_workers):
    report = verify.check(text, num_workers, deaths=2, joins=2, max_states=100_000)
    assert report.violation is None, report.violation.table


def test_every_rule_has_an_example():
    """Also one that the table does not know."""
    for name in policies.names():
        assert any(text.partition("(")[0] == name for text in verify.examples()), name
    for text in verify.examples():
        policies.parse(text, 3)


@pytest.mark.often(10)
@WRONG
def test_what_is_broken_is_named_by_a_shortest_way(mutant):
    policy = made(mutant)
    report = verify.check(
        policy, mutant.num_workers, deaths=mutant.deaths, properties=mutant.properties
    )
    found = report.violation
    assert found is not None
    assert (found.kind, len(found.actions)) == (mutant.kind, mutant.length), found.table
    assert found.property.endswith(".")
    assert len(found.table.splitlines()) == mutant.length + 1
    trace = found.trace.validate()
    assert len(trace) + len(trace.events) == mutant.length
    if mutant.kind != "weight":
        again = rederivation.rederive(policy, trace)
        assert rederivation.first_difference(trace, again) == ""
        assert again.open_restarts == trace.open_restarts


@pytest.mark.often(4)
@pytest.mark.parametrize("number", [0, 2, 14, 20, 1, 6, 19, 21])
def test_reductions_lengthen_and_hide_nothing(number):
    mutant = mutants.MUTANTS[number]
    report = verify.check(
        made(mutant),
        mutant.num_workers,
        deaths=mutant.deaths,
        properties=mutant.properties,
        reduced=False,
    )
    assert report.violation is not None
    assert report.violation.kind == mutant.kind
    assert len(report.violation.actions) == mutant.length


def test_the_counterexample_shows_the_broken_property(tmp_path):
    bounded = verify.properties('dssp(s_lower=0,s_upper=1,variant="bounded")', 2)
    printed = policies.dssp(2, s_lower=0, s_upper=1, variant="printed")
    report = verify.check(printed, 2, properties=bounded)
    assert report.violation is not None and not report.complete
    assert report.violation.kind == "gap"
    # Both push once, for an interval; one more push asks, the next one uses the grant.
    assert len(report.violation.actions) == 4
    trace = rederivation.rederive(printed, report.violation.trace)
    released = trace.wait == 0
    assert trace.gaps[released].max() == 2
    assert trace.gaps[released][:-1].max() == 1
    saved = traces.Trace.load(trace.save(tmp_path / "counterexample.npz"))
    assert traces.fingerprint(saved) == traces.fingerprint(trace)
    assert saved.policy == policies.describe(printed)


def test_bounded_dssp_keeps_what_printed_dssp_breaks():
    text = 'dssp(s_lower=0,s_upper=1,variant="bounded")'
    report = verify.check(text, 2, depth=8)
    assert report.properties.max_gap == 1
    assert report.violation is None
    assert report.depth == 8


def test_staleness_can_be_read_off_the_trace():
    mutant = next(m for m in mutants.MUTANTS if m.kind == "staleness")
    found = verify.check(mutant.make(2), 2, properties=mutant.properties).violation
    assert found is not None
    assert found.trace.staleness[found.trace.accepted].max() == 1


def test_a_worker_that_rejoins_may_push_twice_in_a_round_of_bsp():
    report = verify.check("bsp()", 2, properties=verify.Properties(max_commit=2))
    assert report.violation is not None
    kinds = [(action.kind, action.worker) for action in report.violation.actions]
    assert kinds == [
        ("push", 0), ("leave", 0), ("join", 0), ("push", 0), ("push", 1),
    ]  # fmt: skip
    trace = report.violation.trace.validate()
    assert [event.kind for event in trace.events] == ["leave", "join"]
    assert verify.check("bsp()", 2, joins=0).violation is None


def own(num_workers, **properties):
    """A rule of one's own that states something of SSP with a gap of 2."""
    return policies.ssp(num_workers, s=2)._replace(
        properties=policies.Properties(**properties)
    )


@pytest.mark.parametrize(
    ("properties", "kind", "events"),
    [
        # The second push of a worker has gap 2, and it is released.
        ({"max_gap": 1}, "gap", 2),
        # The third one has gap 3, and waits.
        ({"waits": False}, "waiting", 3),
        ({"max_commit": 0}, "commit too large", 1),
        ({"max_gap": 2, "commits_every_push": True, "restarts": False}, None, 0),
    ],
)
def test_what_a_rule_states_is_checked(properties, kind, events):
    report = verify.check(own(2, **properties), 2)
    assert report.properties == policies.Properties(**properties)
    found = report.violation
    if kind is None:
        assert found is None
    else:
        assert found is not None
        assert (found.kind, len(found.actions)) == (kind, events)


def test_a_stated_field_must_be_one_of_the_state():
    with pytest.raises(ValueError, match="name 'k', which is no field of its state"):
        verify.check(own(2, never_falls=("k",)), 2)


def test_bounds_grow_with_each_join():
    joined = verify.properties("ssp(s=1)", 3, joins=2)
    # (2 s + 1) (N - 1 + joins)
    assert joined.max_staleness == 12 and joined.max_gap == 1
    assert verify.properties("bsp()", 3, joins=2).max_commit == 5


def test_properties_are_stated_on_top_of_those_known():
    known = verify.properties("abs(k0=1,a=2)", 3)
    stated = verify.stated(known, {"commit_size": 2, "max_gap": None})
    assert (stated.min_commit, stated.max_commit) == (2, 2)
    assert stated.commit_field == "" and stated.never_falls == ("k",)
    with pytest.raises(ValueError, match="max_gap must be at least 0, got -1"):
        verify.stated(known, {"max_gap": -1})


def test_a_number_that_only_counts_leaves_the_search_finite():
    """Ringleader numbers its rounds without end, and no decision depends on it."""
    assert verify.check("ringleader()", 2).complete


# The same states, found without the package.

ORACLES = {
    "bsp()": lambda: reference.Bsp(),
    "ssp(s=1)": lambda: reference.Ssp(1),
    "k_sync(k=1)": lambda: reference.k_sync(1),
    "k_async(k=2)": lambda: reference.k_async(2),
    "abs(k0=1,a=2,tau_max=1)": lambda: reference.Abs(1, a=2, tau_max=1),
}


def carry_out(world, decision, arrived, accepted, commits):
    """What the server does with a decision, from the definitions."""
    world.pending += accepted
    if commits:
        world.version += 1
        world.pending = 0
    released = set(decision.release) & arrived
    for worker in released | set(decision.restart):
        world.pulled[worker] = world.version
    world.computing |= released
    world.waiting = arrived - released


def nexts(state):
    """What may come after (world, rule, deaths, joins), slowly."""
    world, _, deaths, joins = state
    for worker in sorted(world.computing):
        world, rule, *_ = copy.deepcopy(state)
        world.computing.remove(worker)
        world.clock[worker] += 1
        decision = rule.push(world, worker, 0.0)
        arrived = world.waiting | {worker}
        carry_out(world, decision, arrived, decision.weight > 0, decision.commit)
        yield world, rule, deaths, joins
    for worker in sorted(state[0].alive if deaths else ()):
        world, rule, *_ = copy.deepcopy(state)
        for members in (world.alive, world.computing, world.waiting):
            members.discard(worker)
        decision = rule.leave(world)
        commits = decision.commit and world.pending > 0
        carry_out(world, decision, set(world.waiting), False, commits)
        yield world, rule, deaths - 1, joins
    dead = set(range(state[0].num_workers)) - state[0].alive
    for worker in sorted(dead if joins else ()):
        world, rule, *_ = copy.deepcopy(state)
        if world.alive:
            world.clock[worker] = min(world.clock[i] for i in world.alive)
        world.pulled[worker] = world.version
        world.alive.add(worker)
        world.computing.add(worker)
        yield world, rule, deaths, joins - 1


def key(world, deaths, joins):
    workers = range(world.num_workers)
    return (
        tuple(world.clock),
        tuple(world.pulled),
        world.version,
        world.pending,
        tuple(i in world.waiting for i in workers),
        tuple(i in world.alive for i in workers),
        deaths,
        joins,
    )


@pytest.mark.often(3)
@pytest.mark.parametrize("text", ORACLES)
def test_the_reachable_states_are_those_of_plain_python(text):
    depth = 6
    level = [(reference.World(2), ORACLES[text](), 1, 1)]
    expected = {key(level[0][0], 1, 1)}
    for _ in range(depth):
        following = {}
        for state in level:
            for world, rule, deaths, joins in nexts(state):
                # Equal worlds after equally many events: the rule's state is a
                # function of the version here.
                name = key(world, deaths, joins)
                following[name] = (world, rule, deaths, joins)
        expected |= set(following)
        level = list(following.values())
    found = set()
    for carry in verify.reachable(text, 2, depth=depth, deaths=1, joins=1):
        clocks = carry.clocks
        columns = [
            tuple(np.asarray(value).tolist())
            for value in (clocks.clock, clocks.pulled, clocks.waiting, clocks.alive)
        ]
        found.add(
            (*columns[:2], int(clocks.version), int(clocks.pending), *columns[2:],
             int(carry.deaths), int(carry.joins))
        )  # fmt: skip
    assert found == expected


# The command.


def command(*arguments, path="."):
    environment = dict(os.environ, JAX_PLATFORMS="cpu", PYTHONPATH=str(path))
    return subprocess.run(
        [sys.executable, "-m", "abs_dssp.verify", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )


def test_the_command_writes_the_counterexample(tmp_path):
    (tmp_path / "my_rules.py").write_text(
        "from abs_dssp import policies\n"
        "def eager(num_workers, *, s):\n"
        "    policy = policies.ssp(num_workers, s=s + 1)\n"
        "    def on_push(*arguments):\n"
        "        return policy.on_push(*arguments)\n"
        "    return policy._replace(on_push=on_push)\n"
    )
    out = tmp_path / "broken.npz"
    done = command(
        "--policy=my_rules:eager(s=1)", "--max_gap=1", f"--out={out}", path=tmp_path
    )
    assert done.returncode == 1, done.stderr
    assert "VIOLATED (gap, 2 events)" in done.stdout
    assert "A worker is released at a gap of at most 1 clocks." in done.stdout
    assert traces.Trace.load(out).policy == "my_rules:eager(s=1)"
    assert out.with_suffix(".png").exists()


def test_a_report_names_what_was_checked():
    report = verify.check("ssp(s=2)", 2, max_states=50, schedule_depth=0)
    assert "checked of every order: max_staleness=" in report.text
    assert "max_gap=2" in report.text
    free = policies.asp(2)._replace(properties=policies.base.Properties())
    report = verify.check(free, 2, max_states=50, schedule_depth=0)
    assert "checked of every order: no property of its own; that some" in report.text


def test_the_command_is_content_with_a_good_rule():
    done = command("--policy=bsp()", "--num_workers=2")
    assert done.returncode == 0, done.stderr
    assert "complete" in done.stdout and "holds" in done.stdout
    assert "no broken" in done.stdout


WRONG_FLAGS = [
    (("--policy=nope()",), "unknown name 'nope'"),
    (("--policy=ssp(s=-1)",), "s must be at least 0"),
    (("--max_gap=1",), "--max_gap needs --policy"),
    (("--policy=bsp()", "--depth=0"), "depth must be at least 1"),
    (("--policy=bsp()", "extra"), "unexpected arguments: extra"),
]


def test_mistakes_are_told_in_a_sentence():
    commands = [["-m", "abs_dssp.verify", *arguments] for arguments, _ in WRONG_FLAGS]
    answers = scripts.start_many(commands)
    for (arguments, sentence), (code, _, errors) in zip(
        WRONG_FLAGS, answers, strict=True
    ):
        assert code == 2, arguments
        assert sentence in errors and "Traceback" not in errors, (arguments, errors)
        assert len(errors.strip().splitlines()) == 1, (arguments, errors)


@pytest.mark.parametrize(
    "decide, sentence",
    [
        (lambda s, c, w, n: 1 / 0, "fails for 2 workers with ZeroDivisionError"),
        (lambda s, c, w, n: (s, None), "NoneType instead of the Decision"),
        (lambda s, c, w, n: None, r"must return \(state, Decision\)"),
        (
            lambda s, c, w, n: (c, policies.Decision(1, True, c.alive, ~c.alive)),
            "must give its state back",
        ),
    ],
)
def test_a_rule_that_cannot_be_asked_is_refused(decide, sentence):
    with pytest.raises(ValueError, match=sentence):
        verify.check(policies.Policy(tuple, decide, decide), 2)
