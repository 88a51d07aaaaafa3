"""The papers' numbers, as data.

DSSP: Zhao, An, Liu, Chen, ICDCS 2019 (arXiv 1908.11848). ABS: Tan, Zhu, Zhang,
arXiv 2301.08895. Numbers of Table I are printed there; those of Figure 3 are read off
its plots, to about one per cent.
"""

from typing import NamedTuple

S_LOWER, S_UPPER = 3, 15  # DSSP's range; "average SSP" averages s = 3...15
SSP_RANGE = tuple(range(S_LOWER, S_UPPER + 1))
DSSP = f"dssp(s_lower={S_LOWER},s_upper={S_UPPER})"
BOUNDED = f'dssp(s_lower={S_LOWER},s_upper={S_UPPER},variant="bounded")'

EPOCHS = 300
DROPS = (200, 250)  # epochs, of the ResNets' step size, by 0.1
BATCH = 128
TRAINING_IMAGES = 50_000


class Figure3(NamedTuple):
    """One network of Figure 3: seconds, and accuracies between 0 and 1."""

    bsp_end: float
    bsp_accuracy: float
    dssp_end: float
    dssp_accuracy: float
    asp_accuracy: float
    stale_jump: float | None  # when the learning-rate drop shows, stale paradigms
    bsp_jump: float | None


FIGURE_3 = {
    "alexnet": Figure3(735, 0.66, 640, 0.635, 0.62, 165, None),
    "resnet50": Figure3(1950, 0.66, 2850, 0.662, 0.656, 490, 1295),
    "resnet110": Figure3(4400, 0.663, 6400, 0.672, 0.671, 1060, 2900),
}

# Seconds to accuracies 0.67 and 0.68; None: never.
TABLE_1: dict[str, tuple[float, float | None]] = {
    "bsp()": (6159.2, None),
    "asp()": (2993.1, 3017.2),
    "ssp(s=3)": (5678.2, None),
    "ssp(s=6)": (5703.8, 6908.2),
    "ssp(s=15)": (5564.9, 7255.6),
    DSSP: (3016.4, 3046.3),
}


def relative_to_asp() -> dict[str, float]:
    """Table I's times to 0.67 as multiples of ASP's."""
    return {name: times[0] / TABLE_1["asp()"][0] for name, times in TABLE_1.items()}
