"""DSSP's Figure 3: four equal workers, networks with and without much to send.

    abs-dssp dssp-fig3 --scale=laptop --data_dir=../shared/data

BSP, ASP, DSSP(3, 15) and SSP with s = 3...15, each and averaged.
"""

from absl import flags

from abs_dssp.experiment.reproduction import study_flags

flags.adopt_module_key_flags(study_flags)  # --help lists them


def run() -> None:
    """Runs the command."""
    study_flags.main("dssp_fig3")
