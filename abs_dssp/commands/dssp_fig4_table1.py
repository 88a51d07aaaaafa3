"""DSSP's Figure 4 and Table I: two workers, one 2.6 times as fast as the other.

    abs-dssp dssp-fig4-table1 --scale=laptop --data_dir=../shared/data

--ratio is how many times as long the slow worker takes.
"""

from absl import flags

from abs_dssp.experiment.reproduction import study_flags

flags.adopt_module_key_flags(study_flags)  # --help lists them


def run() -> None:
    """Runs the command."""
    study_flags.main("dssp_fig4_table1")
