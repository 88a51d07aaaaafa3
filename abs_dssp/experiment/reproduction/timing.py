"""How long an iteration takes on the DSSP paper's homogeneous cluster.

Three things happen to a push: it is computed (c seconds), it crosses the server's link
one at a time (x = bytes up and down / bandwidth), and the server applies it (u = number
of parameter arrays x seconds per array, since MXNet's server updates array by array).
With N equal workers a round takes

    BSP             c + N x + u              one update per round
    ASP and kin     max(c + x + u, N x, N u) N updates per round, overlapped

With few arrays and many bytes (fully connected layers) x dominates and BSP is slower;
with many small arrays (ResNets with BatchNorm) u dominates and BSP is faster.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from abs_dssp import communication
from abs_dssp.communication import Communication
from abs_dssp.experiment.reproduction import papers
from abs_dssp.tasks import models

WORKERS = 4
# Epochs are shared by the workers, as MXNet's example training script does it.
ROUNDS = papers.EPOCHS * papers.TRAINING_IMAGES / papers.BATCH / WORKERS
_TEXTS = {
    "alexnet": ("alexnet", 10),
    "resnet50": ("resnet(depth=50)", 100),
    "resnet110": ("resnet(depth=110)", 100),
}


class Footprint(NamedTuple):
    """What travels of a network."""

    num_bytes: int  # of parameters
    arrays: int  # of parameters


class Cluster(NamedTuple):
    """The constants that explain the ends of Figure 3's runs."""

    bandwidth: float  # bytes/s of the server's link
    seconds_per_array: float  # of one update
    compute: dict[str, float]  # seconds per gradient, by network


@functools.cache
def footprint(network: str) -> Footprint:
    """Parameters of the paper's networks as we build them (widths are ours)."""
    text, classes = _TEXTS[network]
    module = models.parse(text, classes)
    image = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    leaves = jax.tree.leaves(shapes["params"])
    return Footprint(sum(4 * math.prod(s.shape) for s in leaves), len(leaves))


def calibrate() -> Cluster:
    """Five constants from five of the figure's six ends; ResNet-110's DSSP is left.

    Only the differences that the plots show enter: bandwidth from AlexNet's DSSP run
    (bound by the link), seconds per array from ResNet-50's (bound by updates), the
    three computation times from BSP's ends.
    """
    stale = {name: figure.dssp_end / ROUNDS for name, figure in papers.FIGURE_3.items()}
    alexnet = footprint("alexnet")
    bandwidth = WORKERS * 2 * alexnet.num_bytes / stale["alexnet"]
    per_array = stale["resnet50"] / WORKERS / footprint("resnet50").arrays
    compute = {}
    for name, figure in papers.FIGURE_3.items():
        size = footprint(name)
        transfers = WORKERS * 2 * size.num_bytes / bandwidth
        compute[name] = figure.bsp_end / ROUNDS - transfers - per_array * size.arrays
    return Cluster(bandwidth, per_array, compute)


def link(cluster: Cluster, network: str) -> Communication:
    """The network and server of that cluster, for one of its networks."""
    size = footprint(network)
    update = size.arrays * cluster.seconds_per_array
    num_bytes = 2 * size.num_bytes
    return communication.link(num_bytes, cluster.bandwidth, shared=True, update=update)


def round_seconds(cluster: Cluster, network: str) -> tuple[float, float]:
    """Seconds per round of BSP and of ASP by the formulas above."""
    size, compute = footprint(network), cluster.compute[network]
    transfer = 2 * size.num_bytes / cluster.bandwidth
    update = size.arrays * cluster.seconds_per_array
    stale = max(compute + transfer + update, WORKERS * transfer, WORKERS * update)
    return compute + WORKERS * transfer + update, stale
