"""Models of real clusters' worker times, fitted to published measurements.

    abs-dssp fit-times --data_dir=DIR --out=out/fit_times

DIR/traces holds `alibaba_gpu_2020/job_1_norm.csv` to `job_4_norm.csv` and
`straggler_analysis/trace-AR.parquet`, `-SE` and `-ST`; what is missing is said, with
where it comes from. Writes to --out: fitted_times.toml, which is what
`delays.measured` knows, and report.md, report.html and PNGs, model and data side by
side: docs/measured_times.md.
"""

from pathlib import Path

import jax
from absl import flags

from abs_dssp import files
from abs_dssp.experiment import entry, fit_report, fit_times, outputs
from abs_dssp.report.document import Section
from abs_dssp.simulation import fitted_times, public_times

_DATA = flags.DEFINE_string(
    "data_dir", None, "Folder with traces/ in it.", required=True
)
_OUT = flags.DEFINE_string("out", "out/fit_times", "Output folder.")
_PUBLISH = flags.DEFINE_string(
    "publish", None, "Also write the report to this Markdown file, pictures beside it."
)
_REPLACE = flags.DEFINE_bool("replace", False, "Replace the numbers that ship, too.")


def main(argv):
    del argv
    out = outputs.folder(_OUT.value)
    folder = str(Path(_DATA.value, "traces"))
    jobs = {name: fit_times.fit_job(name, folder) for name in public_times.JOBS}
    table = fit_times.table_text(jobs)
    files.write(out / fitted_times.TABLE.name, table)
    if _REPLACE.value:
        files.write(fitted_times.TABLE, table)
    fits = [fit_report.load(name, folder, job) for name, job in jobs.items()]
    parts = fit_report.sections(fits, out)
    made = f"Made on {outputs.today()}, {outputs.machine(jax.devices()[0])}."
    parts[-1] = Section(parts[-1].title, [*parts[-1].parts, made])
    outputs.save_report(fit_report.TITLE, parts, out, _PUBLISH.value)
    print(f"Written to {out}: {fitted_times.TABLE.name}, report.md, report.html, PNGs")


def run() -> None:
    """Runs the command."""
    entry.run(main)
