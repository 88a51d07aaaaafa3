"""Theorems A and B once more, in plain numbers: the proofs' steps, added up in loops.

A schedule is a list of rounds, a round a list of pushes (share p, staleness tau). What
is known only to be nonnegative, E||grad F(w^t)||^2 and E||G_t||^2, is carried along by
its coefficients, one per round, and nothing is simplified. Where a theorem gives up
something on the way it is larger than what comes out here, and its test says by how
much. L = 1 throughout.
"""

from typing import NamedTuple

import numpy as np

Rounds = list[list[tuple[float, int]]]


class Derived(NamedTuple):
    """sum_t steps_t E||grad F(w^t)||^2 <= bound, if every slack is at least 0."""

    bound: float
    slack: np.ndarray  # of E||G_s||^2, by s


def kappa(pushes) -> float:
    return sum(p**2 for p, _ in pushes)


def theorem_a(rounds: Rounds, steps, gap: float, variance: float) -> Derived:
    """Twice the descent lemma of every round, with its own step.

    eta E||grad F||^2 + eta (1 - eta) E||G||^2 <= 2 (decrease of F)
    + eta E||grad F - G||^2 + eta^2 V kappa.
    """
    bound, slack = 2 * gap, np.zeros(len(rounds))
    for t, (pushes, step) in enumerate(zip(rounds, steps, strict=True)):
        slack[t] += step * (1 - step)
        bound += step**2 * variance * kappa(pushes)
        # ||grad F(w^t) - G_t||^2 <= sum p ||w^t - w^{t - tau}||^2, a sum of
        # steps (G + N): ||sum G + sum N||^2 <= 2 tau sum ||G||^2 + 2 sum ||N||^2.
        for p, tau in pushes:
            for s in range(t - tau, t):
                slack[s] -= step * p * 2 * tau * steps[s] ** 2
                bound += step * p * 2 * steps[s] ** 2 * variance * kappa(rounds[s])
    return Derived(bound, slack)


def theorem_b(
    rounds: Rounds, step, local_steps: int, local_step, gap, variance
) -> Derived:
    """The same for U local steps; alpha = eta U is a round's step."""
    alpha, u, gamma = step * local_steps, local_steps, local_step
    beta = 4 * alpha  # of ||G + N||^2 <= (1 + 1 / beta) ||G||^2 + (1 + beta) ||N||^2
    bound, slack, weight = 2 * gap, np.zeros(len(rounds)), 0.0
    for t, pushes in enumerate(rounds):
        noise = variance * kappa(pushes) / u
        slack[t] += alpha * (1 - alpha * (1 + 1 / beta))
        bound += alpha**2 * (1 + beta) * noise
        # Mean over pushes and u of ||w^t - y_u||^2, halves of which are drift and
        # staleness: D <= 2 stale + 2 drift. A drift is gamma times u gradients and u
        # noises, gradients at most 2 ||grad F(w^t)||^2 + 2 ||y - w^t||^2.
        noises = 2 * gamma**2 * sum(range(u)) * variance / u
        # Of ||grad F(y_v)||^2, in the mean over u > v of u terms; most at v = 0.
        gradients = (
            2
            * gamma**2
            * max((sum(range(v + 1, u)) / u for v in range(u)), default=0.0)
        )
        own = 2 * gradients * u * 2  # of D, and of ||grad F(w^t)||^2, in D
        constant = 2 * noises
        for p, tau in pushes:
            for s in range(t - tau, t):
                earlier = variance * kappa(rounds[s]) / u
                constant += 2 * p * 2 * alpha**2 * earlier
                slack[s] -= alpha * 2 * p * 2 * alpha**2 * tau / (1 - own)
        bound += alpha * constant / (1 - own)
        weight += 1 - own / (1 - own)
    # Every round leaves the same part of alpha ||grad F||^2.
    return Derived(bound * len(rounds) / weight / u, slack)


def constant_delay(tau: int, length: int, share: float = 1.0) -> Rounds:
    """Rounds of 1 / `share` pushes, all `tau` stale as soon as there are versions."""
    pushes = round(1 / share)
    return [[(share, min(tau, t))] * pushes for t in range(length)]
