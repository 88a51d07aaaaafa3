"""The file with a run's key: private, whole, and refused where it is not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from abs_dssp.cluster import keys

ROOT = Path(__file__).parents[2]


def test_a_key_file_is_private_new_and_read_back(tmp_path):
    before = os.umask(0)
    try:
        made = keys.make(tmp_path / "key")
    finally:
        os.umask(before)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert keys.load(tmp_path / "key") == made
    assert keys.make(tmp_path / "other") != made
    assert "PRIVATE KEY" in made.pem and "PRIVATE" not in repr(made)
    (tmp_path / "key").chmod(0o400)  # a secret as Kubernetes mounts it
    assert keys.load(tmp_path / "key") == made
    with pytest.raises(keys.KeyFileError, match="exists already"):
        keys.make(tmp_path / "key")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o777])
def test_a_key_file_open_to_others_is_refused(mode, tmp_path):
    keys.make(tmp_path / "key")
    (tmp_path / "key").chmod(mode)
    with pytest.raises(keys.KeyFileError, match=f"has mode {mode:o}.*chmod 600"):
        keys.load(tmp_path / "key")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_a_key_file_of_another_user_is_refused(tmp_path):
    keys.make(tmp_path / "key")
    os.chown(tmp_path / "key", 12345, -1)
    with pytest.raises(keys.KeyFileError, match="belongs to user 12345"):
        keys.load(tmp_path / "key")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: "", id="empty"),
        pytest.param(lambda text: '{"server_public": "x"}', id="of-an-old-version"),
        pytest.param(lambda text: text[:-80], id="cut"),
        pytest.param(lambda text: text.partition("-----BEGIN CERT")[0], id="half"),
        pytest.param(lambda text: text.replace("KEY-----\nM", "KEY-----\nN"), id="key"),
        pytest.param(lambda text: text + " " * 5000 + "x", id="long"),
        pytest.param(lambda text: "\udcff", id="not-text"),
    ],
)
def test_a_file_without_keys_is_refused(change, tmp_path):
    keys.make(tmp_path / "key")
    text = change((tmp_path / "key").read_text())
    (tmp_path / "key").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(keys.KeyFileError, match="does not hold the key") as caught:
        keys.load(tmp_path / "key")
    assert len(str(caught.value)) < 300  # it does not quote the file


def test_halves_of_different_keys_are_refused(tmp_path):
    one, other = keys.make(tmp_path / "one"), keys.make(tmp_path / "other")
    mark = "-----BEGIN CERT"
    secret, _, _ = one.pem.partition(mark)
    _, _, certificate = other.pem.partition(mark)
    (tmp_path / "one").write_text(secret + mark + certificate)
    with pytest.raises(keys.KeyFileError, match="does not hold the key"):
        keys.load(tmp_path / "one")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused(make, tmp_path):
    make(tmp_path / "key")
    with pytest.raises(keys.KeyFileError, match="is not a file"):
        keys.load(tmp_path / "key")


def test_the_key_command(tmp_path):
    command = [sys.executable, "-m", "abs_dssp.cluster.keys", str(tmp_path / "key")]
    assert subprocess.run(command, cwd=ROOT).returncode == 0
    keys.load(tmp_path / "key")
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 1
    assert re.fullmatch("error: key file .* exists already.*\n", again.stderr)
