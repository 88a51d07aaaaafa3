"""ABS's Figure 1: K-async with K = 1 and N = 8 under several fixed tau_max.

abs-dssp abs-fig1 --scale=laptop --data_dir=../shared/data
"""

from absl import flags

from abs_dssp.experiment.reproduction import study_flags

flags.adopt_module_key_flags(study_flags)  # --help lists them


def run() -> None:
    """Runs the command."""
    study_flags.main("abs_fig1")
