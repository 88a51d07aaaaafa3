"""ABS's Figure 4: the parameter a, at K^0 = 5 and N = 20.

abs-dssp abs-fig4 --scale=laptop --data_dir=../shared/data
"""

from absl import flags

from abs_dssp.experiment.reproduction import study_flags

flags.adopt_module_key_flags(study_flags)  # --help lists them


def run() -> None:
    """Runs the command."""
    study_flags.main("abs_fig4")
