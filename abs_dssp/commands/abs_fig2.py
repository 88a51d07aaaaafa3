"""ABS's Figure 2: ABS against AdaSync, SA-AdaSync and Local SGD with 10 workers.

python experiments/abs_fig2.py --scale=laptop --data_dir=../shared/data
"""

from absl import flags

from abs_dssp.experiment.reproduction import study_flags

flags.adopt_module_key_flags(study_flags)  # --help lists them

if __name__ == "__main__":
    study_flags.main("abs_fig2")
