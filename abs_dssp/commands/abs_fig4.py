"""ABS's Figure 4: the parameter a, at K^0 = 5 and N = 20.

python experiments/abs_fig4.py --scale=laptop --data_dir=../shared/data
"""

from absl import flags

from abs_dssp.experiment.reproduction import study_flags

flags.adopt_module_key_flags(study_flags)  # --help lists them

if __name__ == "__main__":
    study_flags.main("abs_fig4")
