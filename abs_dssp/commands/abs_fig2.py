"""ABS's Figure 2: ABS against AdaSync, SA-AdaSync and Local SGD with 10 workers.

abs-dssp abs-fig2 --scale=laptop --data_dir=../shared/data
"""

from absl import flags

from abs_dssp.experiment.reproduction import study_flags

flags.adopt_module_key_flags(study_flags)  # --help lists them


def run() -> None:
    """Runs the command."""
    study_flags.main("abs_fig2")
