"""Deaths and returns in virtual time: at random against the oracle, and by hand."""

import math

import hypothesis
import numpy as np
import pytest
import reference
import support
from hypothesis import strategies as st

from abs_dssp import (
    absences,
    communication,
    delays,
    policies,
    simulate,
    traces,
    whatif,
)

PUSHES, N, MOST = 40, 4, 2
NAMED = ("bsp()", "ssp(s=0)", "k_sync(k=2)", "abs(k0=1,a=3,tau_max=2)", "quorum(k=2)")
NAMED += ("deadline(k=2.0,floor=0.0625)", "mindflayer(trials=2,seconds=4.0)")
CASES = [
    pytest.param(
        case, id=case.text, marks=[] if case.text in NAMED else pytest.mark.slow
    )
    for case in support.CASES
    if case.least <= N
]
HALVES = st.integers(0, 60).map(lambda halves: halves / 2)


@st.composite
def moments(draw):
    """Absences of all workers, at half seconds, so that much comes together."""
    found = []
    for worker in range(N):
        # Worker 0 has the most, so that one size is compiled.
        count = draw(st.integers(0, MOST)) if worker else MOST
        times = sorted(draw(st.lists(HALVES, min_size=2 * count, max_size=2 * count)))
        for dies, returns in zip(times[::2], times[1::2], strict=True):
            found.append((worker, dies, returns))
    for_ever = draw(st.integers(0, 5))  # whose last absence does not end
    mine = [number for number, (worker, _, _) in enumerate(found) if worker == for_ever]
    for number in mine[-1:]:
        found[number] = (for_ever, found[number][1], math.inf)
    return found


WHOLE = st.integers(1, 4).map(float)
TABLES = st.lists(st.lists(WHOLE, min_size=5, max_size=5), min_size=N, max_size=N)


def agree(case, table, away, detection, transfers):
    """Asserts that the compiled loop does what the oracle does; gives the trace."""
    model = absences.given(
        [(w, d, r if r < math.inf else None) for w, d, r in away],
        detection=detection,
        num_workers=N,
    )
    link = communication.Communication(
        transfers.get("seconds", 0.0),
        transfers.get("shared", False),
        transfers.get("update"),
    )
    given = (policies.parse(case.text, N), delays.recorded(table), PUSHES)
    events = []
    try:
        rows = reference.run(
            case.oracle(N), table, PUSHES,
            absences=away, detection=detection, events=events, **transfers,
        )  # fmt: skip
    except reference.Deadlock as error:
        with pytest.raises(simulate.DeadlockError, match=f"at push {error}[:;]"):
            simulate.schedule(*given, communication=link, absences=model)
        return None
    expected = support.trace_of(rows, N, events)
    found = simulate.schedule(*given, communication=link, absences=model)
    for name in traces.COLUMNS:
        if name != "weight":
            np.testing.assert_array_equal(
                getattr(found, name), getattr(expected, name), err_msg=name
            )
    np.testing.assert_allclose(found.weight, expected.weight, rtol=1e-6)
    assert found.events == expected.events
    return found


@pytest.mark.parametrize("case", CASES)
def test_deaths_at_random_agree_with_the_oracle(case):
    left = []

    @hypothesis.settings(max_examples=40, phases=(hypothesis.Phase.generate,))
    @hypothesis.given(TABLES, moments(), st.sampled_from([0.0, 1.0, 2.5]))
    def check(table, away, detection):
        trace = agree(case, table, away, detection, {})
        if trace is not None:
            left.append(sum(event.kind == "leave" for event in trace.events))

    check()
    assert sum(count > 1 for count in left) > 10


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("update", [None, 0.5])
def test_deaths_of_senders_agree_with_the_oracle(shared, update):
    case = next(case for case in support.CASES if case.text == "quorum(k=2)")
    transfers = {"seconds": 0.5, "shared": shared, "update": update or 0.0}

    @hypothesis.settings(max_examples=40, phases=(hypothesis.Phase.generate,))
    @hypothesis.given(TABLES, moments(), st.sampled_from([0.0, 1.0]))
    def check(table, away, detection):
        agree(case, table, away, detection, transfers)

    check()


@pytest.mark.parametrize("case", CASES)
def test_recorded_times_and_absences_give_the_run_back(case):
    policy = policies.parse(case.text, N)
    # Powers of two and multiples of 1/64, which nothing rounds.
    left = []

    @hypothesis.settings(max_examples=15, phases=(hypothesis.Phase.generate,))
    @hypothesis.given(TABLES, moments(), st.sampled_from([0.0, 1.0]))
    def check(table, away, detection):
        model = absences.given(
            [(w, d, r if r < math.inf else None) for w, d, r in away],
            detection=detection,
            num_workers=N,
        )
        try:
            trace = simulate.schedule(
                policy, delays.recorded(table), PUSHES, absences=model
            )
        except simulate.DeadlockError:
            return
        # The table that is recorded is as long as the most computations: one length.
        again = whatif.reschedule(
            trace, policy, replayable=True, absences=absences.recorded(trace)
        )
        for name in traces.COLUMNS:
            np.testing.assert_array_equal(
                getattr(again, name), getattr(trace, name), err_msg=name
            )
        assert again.events == trace.events
        left.append(len(trace.events))

    check()
    assert sum(count > 2 for count in left) > 3
