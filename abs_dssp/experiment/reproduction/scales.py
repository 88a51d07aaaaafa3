"""How large the reproduction is: from a check in CI to the papers' own size.

What the papers do not state (momentum, weight decay, augmentation, AlexNet's widths,
all of ABS's setting) is our choice; `describe` and the reports name it.
"""

import dataclasses
from typing import Any

from abs_dssp.experiment.reproduction import papers
from abs_dssp.experiment.run import Run


@dataclasses.dataclass(frozen=True)
class Scale:
    """One size of everything."""

    name: str
    seeds: int
    note: str  # what is reduced

    # DSSP
    task: str  # of AlexNet
    resnet_task: str
    limit_train: int | None
    limit_test: int | None
    shrink: int  # images are made so many times as small a side
    validation: int  # samples for tuning
    augment: bool
    networks: dict[str, str]  # what stands for the paper's networks
    batch_size: int
    epochs: float  # of Figure 3 and Table I; drops at 2/3 and 5/6 of them
    rates: dict[str, float]  # untuned step sizes, by network
    grid: dict[str, tuple[float, ...]]  # step sizes to tune over
    tuning_seeds: int
    tuning_steps: int  # how often a grid may be extended
    momentum: float
    weight_decay: float
    evaluations: int  # per run
    ssp: tuple[int, ...]  # thresholds of Figure 3
    target: float  # accuracy that decides who is faster in Figure 3
    table1_targets: tuple[float, float]  # in place of 0.67 and 0.68
    length: float  # of schedules without training, as a share of the paper's

    # ABS
    abs_task: str
    abs_model: str
    abs_batch: int
    abs_local_steps: int  # U of ABS and Local SGD
    abs_seconds: float  # virtual, in units of a mean local step
    abs_rate: float  # untuned
    abs_grid: tuple[float, ...]
    abs_latencies: tuple[float, ...]  # of a push, in mean local steps
    abs_ablations: bool  # whether Figures 2 and 3 have more than the four methods
    abs_target: float  # accuracy
    abs_taus: tuple[int, ...]  # Figure 1
    abs_as: tuple[int, ...]  # Figure 4: values of a
    abs_a: int  # of Figures 2 and 3
    abs_interval: float  # seconds between AdaSync's updates of K

    @property
    def samples(self) -> int:
        """Training samples in an epoch."""
        return self.limit_train or {"digits": 1437}.get(self.task, 50_000)

    def run(self, task: str, **settings: Any) -> Run:
        """A run on a task of this scale, with what is common to both papers."""
        return Run(
            task=task,
            augment=None if task == "digits" else self.augment,
            limit_train=self.limit_train,
            limit_test=self.limit_test,
            shrink=self.shrink,
            **settings,
        )

    def dssp_run(self, network: str, **settings: Any) -> Run:
        """A run of one of DSSP's networks, without its policy."""
        return self.run(
            self.task if network == "alexnet" else self.resnet_task,
            policy="",
            model=self.networks[network],
            batch_size=self.batch_size,
            learning_rate=self.rates[network],
            epochs=self.epochs,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            **settings,
        )

    def describe(self) -> str:
        """The sizes in one sentence."""
        some = "all" if self.limit_train is None else f"{self.limit_train:,}"
        networks = "; ".join(f"{k}: {v}" for k, v in self.networks.items())
        return (
            f"{self.note} Data {self.task} and {self.resnet_task} ({some} training "
            f"samples, images 1/{self.shrink} a side, augmented: {self.augment}), "
            f"batch {self.batch_size}, "
            f"{self.epochs:g} epochs; networks {networks}; momentum {self.momentum:g}, "
            f"weight decay {self.weight_decay:g}. ABS: {self.abs_model}, batch "
            f"{self.abs_batch}, U = {self.abs_local_steps}, {self.abs_seconds:g} mean "
            "local steps of virtual time."
        )


_NETWORKS = ("alexnet", "resnet50", "resnet110")
_SMALL, _USUAL = (0.02, 0.05, 0.1), (0.0125, 0.05, 0.1, 0.2)  # grids of step sizes
_CNN = "cnn(channels=[16,32],hidden=64)"
_STSYN = "cnn(channels=[64,64],hidden=[384,192],kernel=5)"  # of STSyn's public code
# What stands at "networks", "rates" and "grid" is in the order of `_NETWORKS`.
_SIZES: dict[str, tuple[Any, Any, Any]] = {
    "name": ("smoke", "laptop", "paper"),
    "seeds": (2, 3, 3),
    "note": (
        "A check that everything runs: 8x8 digits, tiny networks; no result.",
        "CIFAR-10 (JPEG copy) in place of CIFAR-100, a subset of it, small images and "
        "networks, few epochs.",
        "The papers' networks, epochs, batch and data, for one GPU. Never run: more "
        "than 7e18 floating-point operations and 750 runs, which were counted from the "
        "compiled gradients before tuning had three seeds; 100 hours at 20 TFLOP/s "
        "sustained.",
    ),
    "task": ("digits", "cifar10", "cifar10"),
    "resnet_task": ("digits", "cifar10", "cifar100"),
    "limit_train": (None, 6400, None),
    "limit_test": (None, 1000, None),
    "shrink": (1, 2, 1),
    "validation": (300, 1000, 5000),
    "augment": (False, False, True),
    "networks": (
        ("mlp(hidden=[48])", "mlp(hidden=[32])", "mlp(hidden=[32])"),
        (_CNN, "resnet(depth=8,width=16)", "resnet(depth=14,width=8)"),
        ("alexnet", "resnet(depth=50)", "resnet(depth=110)"),
    ),
    "batch_size": (32, 32, 128),
    "epochs": (6, 10, 300),
    "rates": ((0.05, 0.05, 0.05), (0.005, 0.05, 0.05), (0.001, 0.05, 0.05)),
    "grid": (
        ((0.02, 0.05), (0.05,), (0.05,)),  # one is enough to see that tuning works
        ((0.002, 0.005, 0.02), _SMALL, _SMALL),
        ((0.001, 0.003, 0.01, 0.03), _USUAL, _USUAL),
    ),
    "tuning_seeds": (1, 3, 3),
    "tuning_steps": (0, 4, 4),
    "momentum": (0.0, 0.9, 0.9),
    "weight_decay": (0.0, 5e-4, 1e-4),
    "evaluations": (16, 50, 150),
    "ssp": ((3, 15), papers.SSP_RANGE, papers.SSP_RANGE),
    "target": (0.5, 0.4, 0.6),
    "table1_targets": ((0.5, 0.6), (0.45, 0.47), (0.67, 0.68)),
    "length": (0.02, 1.0, 1.0),
    "abs_task": ("digits", "cifar10", "cifar10"),
    "abs_model": ("mlp(hidden=[32])", _CNN, _STSYN),
    "abs_batch": (16, 16, 100),
    "abs_local_steps": (4, 5, 10),
    "abs_seconds": (60, 400, 5000),
    "abs_rate": (0.1, 0.1, 0.1),
    "abs_grid": ((0.1,), (0.02, 0.05, 0.1, 0.2), (0.025, 0.05, 0.1, 0.2)),
    "abs_latencies": ((0.0, 2.0), (0.0, 2.0, 5.0), (0.0, 2.0, 5.0)),
    "abs_ablations": (False, False, True),
    "abs_target": (0.9, 0.42, 0.7),
    "abs_taus": ((0, 2, 16), (0, 1, 2, 4, 8, 16, 64), (0, 1, 2, 4, 8, 16, 64)),
    "abs_as": ((2, 50), (1, 5, 20, 80), (5, 20, 80, 320)),
    "abs_a": (10, 20, 80),
    "abs_interval": (5, 10, 60),
}


def _scale(column: int) -> Scale:
    values = {name: sizes[column] for name, sizes in _SIZES.items()}
    for name in ("networks", "rates", "grid"):
        values[name] = dict(zip(_NETWORKS, values[name], strict=True))
    return Scale(**values)


SMOKE, LAPTOP, PAPER = (_scale(column) for column in range(3))
SCALES = {scale.name: scale for scale in (SMOKE, LAPTOP, PAPER)}
