"""Progress where there is no terminal."""

from abs_dssp.experiment import progress


def test_a_line_says_how_much_is_left(capsys, monkeypatch):
    now = iter([0.0, 4.0, 20.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    shown = progress.Progress("demo", "runs", every=10.0)
    shown.update(1, 10)  # too early for a line
    shown.update(5, 10, "accuracy 0.9")
    shown.close()
    # 5 in 20 s, so the other 5 take 20 s more.
    expected = "demo: 5/10 runs, 0.25/s, 20 s left; accuracy 0.9\n"
    assert capsys.readouterr().err == expected
