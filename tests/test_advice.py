"""optimality.py and advise.py as a user runs them."""

import json
import re
import shlex

import pytest

from abs_dssp import delays, policies, simulate
from abs_dssp.experiment import advice, methods
from scripts import ROOT, run_fewer, start_many


def ranking(printed):
    """Policies of the table, the best first, with their seconds at the theory's step
    and at a tuned one."""
    lines = printed.split("\n\n")[1].splitlines()[2:]
    pattern = r"(.+?) +(\S+) +\S+ +(\S+) +\S+ +\S+x "
    rows = [re.match(pattern, line) for line in lines]
    return {row[1]: (float(row[3]), float(row[2])) for row in rows if row[3] != "-"}


FEW = pytest.mark.parametrize(
    "few", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["few", "all"]
)


@FEW
def test_advice_for_given_times_avoids_the_straggler(few):
    methods = "BSP;ASP;SSP, s = 3;K-batch-sync, K = 16;abs_dssp" if few else ""
    arguments = ("constant(seconds=[1,1,1,40])", "--noise_ratio=8", "--pushes=2000")
    code, printed, errors = run_fewer("advise.py", methods, "", *arguments)
    assert code == 0, errors
    found = ranking(printed)
    # BSP makes 4 pushes in 40 s, at a step of 4 / 16; three workers make one a second.
    assert found["BSP"][0] == pytest.approx(40 / (4 / 16), rel=0.01)
    assert found["K-batch-sync, K = 16"][0] == pytest.approx(16 / 3, rel=0.15)
    # Tuned, 1 / (1 / 2 + 8 / 4) is BSP's step, 2 being the limit of stability.
    assert found["BSP"][1] == pytest.approx(40 / 0.4, rel=0.01)
    times = [tuned for _, tuned in found.values()]
    assert times == sorted(times)
    # The first three that differ, to be pasted.
    texts = re.findall(r"--policy='([^']+)'", printed)
    assert len(set(texts)) == len(texts) == 3
    for text in texts:
        policies.parse(text.partition(";")[0], 4)
    by_theory = run_fewer("advise.py", methods, "", *arguments, "--steps=theory")[1]
    best = list(ranking(by_theory))[0]
    assert best in ("abs_dssp", "K-batch-sync, K = 16")


@FEW
def test_advice_for_a_recorded_run(few, tmp_path):
    speed = delays.shifted_exponential([1.0, 1, 3], 0.2)
    trace = simulate.schedule(policies.asp(3), speed, 300)
    trace.save(tmp_path / "trace.npz")
    methods = "BSP;ASP;Malenia, S = 3" if few else ""
    code, printed, errors = run_fewer(
        "advise.py", methods, "", tmp_path, "--pushes=500"
    )
    assert code == 0, errors
    assert printed.startswith("3 workers, R = 3") and "ASP" in ranking(printed)


def test_the_reason_is_what_limits_the_step():
    trace = simulate.schedule(policies.asp(8), delays.constant(1.0, 8), 4000)
    asp = methods.Method("ASP", "asp()")
    # x + 2 x^2 7^2 = 1 without noise, and x R = 1 / 2 with much of it.
    found = advice.advise(asp, trace, ratio=0.01)
    assert found.step == pytest.approx(((1 + 8 * 49) ** 0.5 - 1) / (4 * 49), rel=1e-5)
    assert "staleness up to 7, on average 7, limits the step" in found.reason
    found = advice.advise(asp, trace, ratio=1000)
    assert found.step == pytest.approx(1 / 2000, rel=0.02)
    assert "noise limits the step" in found.reason


def test_a_sum_of_unequal_weights_shortens_the_step():
    """Rescaled: one push of the slow worker weighs as many of the others' as it missed,
    and the step of that commit alone has to be allowed."""
    speed = delays.constant([1.0, 1.0, 1.0, 40.0])
    trace = simulate.schedule(policies.parse("rescaled()", 4), speed, 2000)
    weights = trace.weight[trace.committed]
    one = methods.Method("Rescaled", "rescaled()", "sum")
    longest = advice.advise(one, trace, ratio=0.01).step * weights.max()
    assert longest / weights.mean() < 1  # of a commit, in units of 1 / L
    mean = advice.advise(methods.Method("ASP", "asp()"), trace, ratio=0.01).step
    assert mean * weights.max() / weights.mean() > 1


WRONG = [
    (["advise.py", "nowhere"], "'nowhere' is neither the folder of a run"),
    (
        ["advise.py", "exponential(mean=1)"],
        "exponential: num_workers must be given where",
    ),
    (["advise.py", "constant(seconds=[1])"], "one worker needs no policy"),
    (["optimality.py", "--problems=cubic:3"], "unknown 'cubic'; known: tridiagonal"),
    (["optimality.py", "--beside=tridiagonal:1"], "such as tridiagonal:10:8"),
    (["optimality.py", "--where=dead"], "--where: unknown 'dead'; known: equal, sqrt"),
    (["optimality.py", "--problems=logistic"], "ratio above 0, such as tridiagonal:10"),
    (["optimality.py", "--only=Nobody"], "no method is called"),
]


def test_mistakes_get_one_sentence(tmp_path):
    commands = []
    for (script, *arguments), _ in WRONG:
        more = [f"--out={tmp_path}"] if script == "optimality.py" else []
        commands.append([ROOT / "experiments" / script, *arguments, *more])
    for given, answer in zip(WRONG, start_many(commands), strict=True):
        code, printed, errors = answer
        assert code == 1 and given[1] in errors + printed, (given, answer)
        assert "Traceback" not in errors, (given, errors)


@pytest.mark.slow
@FEW
def test_optimality_measures_and_keeps(few, tmp_path):
    regimes = ["one straggler, 100 x"] if few else []
    size = "--num_workers=4 --dim=40 --target=1e-3 --seeds=1 --max_pushes=2000"
    chosen = "--problems=tridiagonal:4 --only=BSP --only=abs_dssp"
    arguments = [*size.split(), *chosen.split(), f"--out={tmp_path}"]
    fewer = ("optimality.py", "", ";".join(regimes), *arguments)
    code, printed, errors = run_fewer(*fewer)
    assert code == 0, errors
    report = (tmp_path / "report.md").read_text()
    rows: dict[str, list[str]] = {}
    for line in report.splitlines():
        if line.startswith("| "):  # the first table is that of seconds
            rows.setdefault(line.split("|")[1].strip(), line.split("|")[2:-2])
    # 100 times slower: BSP waits for it, abs_dssp does not.
    straggler = 0 if few else 3
    bsp, mine = (
        float(rows[name][straggler].split("(")[0]) for name in ("BSP", "abs_dssp")
    )
    assert bsp > 20 * mine
    kept = (tmp_path / "outcomes.jsonl").read_bytes()
    code, _, errors = run_fewer(*fewer)
    assert code == 0 and (tmp_path / "outcomes.jsonl").read_bytes() == kept
    assert list(tmp_path.glob("*.png")) and (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_own_rules_are_ranked_beside_the_others_and_paste_into_compare(tmp_path):
    """A rule of one's own that is by far the best: what is printed is run as it is."""
    (tmp_path / "own_rules.py").write_text(
        "from abs_dssp import policies\n"
        "def make(num_workers, *, name='it'):\n"
        "    inner = policies.k_batch_sync(num_workers, k=num_workers)\n"
        "    stated = inner.properties._replace(aggregate='sum')\n"
        "    return inner._replace(properties=stated)\n"
    )
    record_of = tmp_path / "steps.csv"
    slow = [f"{worker},{seconds},{n}" for n in range(9)
            for worker, seconds in enumerate((1, 1, 1, 40))]  # fmt: skip
    record_of.write_text("\n".join(["worker,seconds,step", *slow]))
    times = f"csv({str(record_of)!r})"
    own = "own_rules:make(name='x')"
    advise = ROOT / "experiments" / "advise.py"
    few = [ROOT / "tests" / "fewer.py", "BSP", "", advise, times, "--pushes=200"]
    answers = start_many(
        [
            [*few, f"--policy={own}", "--policy=bsp(); aggregate=sum"],
            [*few, f"--policy={own}; local_steps=2"],
            [*few, "--policy=asp(); aggregate=most"],
        ],
        path=tmp_path,
    )
    code, printed, errors = answers[0]
    assert code == 0, errors
    labels = [f"{own}; aggregate=sum", "bsp(); aggregate=sum", "BSP"]
    assert set(ranking(printed)) == set(labels)
    assert "unknown setting 'local_steps'; known: aggregate." in "".join(answers[1][1:])
    assert "aggregate must be one of" in "".join(answers[2][1:])
    command = shlex.split(re.search(r"Use (--policy=.+?)\. How", printed)[1])
    assert command == [f"--policy={own}; aggregate=sum"]
    small = "--epochs=1 --evaluations=2 --limit_train=160 --seeds=1".split()
    out = tmp_path / "out"
    pasted = [ROOT / "experiments" / "compare.py", *command, f"--delays={times}"]
    ((code, _, errors),) = start_many(
        [[*pasted, *small, f"--out={out}"]], path=tmp_path
    )
    assert code == 0, errors
    (entry,) = json.loads((out / "summary.json").read_text())
    assert entry["policy"] == command[0].removeprefix("--policy=")
