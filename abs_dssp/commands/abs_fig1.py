"""ABS's Figure 1: K-async with K = 1 and N = 8 under several fixed tau_max.

python experiments/abs_fig1.py --scale=laptop --data_dir=../shared/data
"""

from absl import flags

from abs_dssp.experiment.reproduction import study_flags

flags.adopt_module_key_flags(study_flags)  # --help lists them

if __name__ == "__main__":
    study_flags.main("abs_fig1")
