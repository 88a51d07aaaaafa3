"""All figures and tables of both papers, by name, in the order of the report."""

import functools
from collections.abc import Callable

from abs_dssp.experiment.reproduction import (
    abs_fig1,
    abs_fig2_fig3,
    abs_fig4,
    dssp_fig3,
    dssp_fig4_table1,
    dssp_resnets,
    dssp_thresholds,
)
from abs_dssp.experiment.reproduction.study import Context
from abs_dssp.report.document import Section

# What makes a figure's runs, pictures, tables and claims, by its script's name.
FIGURES: dict[str, Callable[[Context], Section]] = {
    "dssp_fig4_table1": dssp_fig4_table1.build,
    "dssp_fig3": dssp_fig3.build,
    "dssp_thresholds": dssp_thresholds.build,
    "dssp_resnets": dssp_resnets.build,
    "abs_fig1": abs_fig1.build,
    "abs_fig2": functools.partial(abs_fig2_fig3.build, number=2, workers=10),
    "abs_fig3": functools.partial(abs_fig2_fig3.build, number=3, workers=20),
    "abs_fig4": abs_fig4.build,
}
