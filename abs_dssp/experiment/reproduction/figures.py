"""All figures of both papers, by name, in the order of the report."""

from abs_dssp.experiment.reproduction import (
    abs_fig1,
    abs_fig2_fig3,
    abs_fig4,
    dssp_fig3,
    dssp_fig4_table1,
)

_ALL = (
    dssp_fig4_table1.FIGURE,
    dssp_fig3.FIGURE,
    abs_fig1.FIGURE,
    abs_fig2_fig3.FIGURE_2,
    abs_fig2_fig3.FIGURE_3,
    abs_fig4.FIGURE,
)
FIGURES = {figure.name: figure for figure in _ALL}
