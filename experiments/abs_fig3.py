"""ABS's Figure 3: ABS against AdaSync, SA-AdaSync and Local SGD with 20 workers.

python experiments/abs_fig3.py --scale=laptop --data_dir=../shared/data
"""

from reproduction import abs_setting, study
from reproduction.study import Context

from abs_dssp.report.document import Section

NAME = "abs_fig3"


def build(context: Context) -> Section:
    """All runs, pictures, tables and claims of the figure."""
    return abs_setting.compare(context, NAME, number=3, workers=20)


if __name__ == "__main__":
    study.main(build, NAME)
