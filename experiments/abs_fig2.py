"""ABS's Figure 2: ABS against AdaSync, SA-AdaSync and Local SGD with 10 workers.

python experiments/abs_fig2.py --scale=laptop --data_dir=../shared/data
"""

from reproduction import abs_setting, study
from reproduction.study import Context

from abs_dssp.report.document import Section

NAME = "abs_fig2"


def build(context: Context) -> Section:
    """All runs, pictures, tables and claims of the figure."""
    return abs_setting.compare(context, NAME, number=2, workers=10)


if __name__ == "__main__":
    study.main(build, NAME)
