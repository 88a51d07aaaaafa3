"""DSSP's Figure 3: four equal workers, networks with and without much to send.

    python experiments/dssp_fig3.py --scale=laptop --data_dir=../shared/data

BSP, ASP, DSSP(3, 15) and SSP with s = 3...15, each and averaged.
"""

from absl import flags

from abs_dssp.experiment.reproduction import study_flags

flags.adopt_module_key_flags(study_flags)  # --help lists them

if __name__ == "__main__":
    study_flags.main("dssp_fig3")
