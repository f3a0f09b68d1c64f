"""A run's copy at a URL: the earlier state or the new one, and every failure in one line.

Against a real S3 server, which runs beside the tests, and a folder as `file://`.
"""

import hashlib
import importlib
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from lengthen.checkpoint import remote
from lengthen.checkpoint.remote import Remote, pull, push
from lengthen.checkpoint.verify import list_checkpoints, name_of, verify
from lengthen.checkpoint.write import write_checkpoint
from lengthen.cli.main import main
from lengthen.run.directory import RunPaths
from lengthen.training.start import resume, train
from lengthen.util.disk import Disk
from lengthen.util.errors import CheckpointError, SettingError, StorageError
from tests.checkpoint.test_read import save
from tests.conftest import Configure, in_a_child
from tests.distributed.test_sharded import steps
from tests.ways_out import takes

SECONDS = 60  # until the server must be there


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3 server with an empty bucket."""
    if not all(map(importlib.util.find_spec, ("moto", "s3fs", "flask_cors"))):
        pytest.skip("there is no S3 server on this machine: pip install '.[dev]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "moto.server", "-p", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    late = time.monotonic() + SECONDS
    while not answers(port):
        assert time.monotonic() < late, "it does not start"
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


def answers(port: int) -> bool:
    with socket.socket() as caller:
        return not caller.connect_ex(("127.0.0.1", port))


@pytest.fixture
def s3(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A URL in that server's bucket."""
    answer_from(server, monkeypatch)

    import s3fs  # here, or every child does it again

    # In a child, as all that talks to it: what is forked later has no threads of s3fs in it.
    in_a_child(lambda: s3fs.S3FileSystem().makedirs("bucket", exist_ok=True))
    return f"s3://bucket/{tmp_path.name}"


def answer_from(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture(params=["file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        found: str = request.getfixturevalue("s3")
        return found
    return f"file://{tmp_path}/remote"


def make_run(folder: Path, *numbers: int, log: str = "") -> Path:
    """A run's directory with checkpoints of these steps."""
    paths = RunPaths(folder)
    folder.mkdir(exist_ok=True)
    paths.config.write_text("[model]\n")
    paths.environment.write_text('{"host": "one"}')
    paths.metrics.write_text(log or f"{numbers}\n")
    for number in numbers:
        save(paths.checkpoints, number)
    return folder


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def pulled(url: str, tmp_path: Path) -> dict[str, bytes]:
    """What a pull gives at this moment."""
    target = tmp_path / "pulled"
    shutil.rmtree(target, ignore_errors=True)
    assert in_a_child(lambda: pull(url, target)) == 0
    return files_in(target)


def refused(*words: str | Path, code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command ends with."""
    assert main([*map(str, words)]) == code
    said = capsys.readouterr().err
    assert said.startswith("lengthen: ")
    assert said.count("\n") == 1
    return said


def test_a_run_that_was_pulled_has_every_file_of_the_one_that_was_pushed(
    url: str, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", 1, 2)
    (run / ".lock").write_text("{}")
    assert in_a_child(lambda: push(run, url)) == 0
    assert pulled(url, tmp_path) == files_in(run)
    assert verify(tmp_path / "pulled")


def test_what_is_there_is_not_sent_again_and_what_the_run_deleted_goes(tmp_path: Path) -> None:
    run, url = make_run(tmp_path / "run", 1, 2), f"file://{tmp_path}/remote"
    push(run, url)
    written = {path: path.stat().st_ino for path in (tmp_path / "remote" / "data").iterdir()}
    assert push(run, url).endswith(", 0 pieces sent")
    assert all(path.stat().st_ino == number for path, number in written.items())
    shutil.rmtree(run / "checkpoints" / "step-00000001")
    make_run(run, 3)
    push(run, url)
    hashes = {hashlib.sha256(data).hexdigest() for data in files_in(run).values()}
    assert {path.name for path in (tmp_path / "remote" / "data").iterdir()} == hashes
    assert pulled(url, tmp_path) == files_in(run)


@pytest.mark.parametrize("name", ["-lr[1]", "-lr*", "-lr?"])
def test_a_push_deletes_nothing_of_a_run_whose_name_its_url_would_match(
    url: str, name: str, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", 1, 2)
    before = files_in(run)
    for place in (f"{url}-lr1", f"{url}{name}"):
        assert in_a_child(partial(push, run, place)) == 0
    shutil.rmtree(run / "checkpoints" / "step-00000001")
    assert in_a_child(lambda: push(run, f"{url}{name}")) == 0
    assert pulled(f"{url}-lr1", tmp_path) == before
    assert pulled(f"{url}{name}", tmp_path) == files_in(run)


def test_a_push_that_fails_at_any_of_its_writes_leaves_the_old_state_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, left, done = f"file://{tmp_path}/remote", [0], False
    run = make_run(tmp_path / "run", 1, 2)
    push(run, url)
    old = files_in(run)
    shutil.rmtree(run / "checkpoints" / "step-00000001")
    new = files_in(make_run(run, 3, log="longer"))

    def counted(work: Any) -> Any:
        def call(*arguments: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise StorageError("gone")
            return work(*arguments)

        return call

    for name in ("put", "delete", "get", "hashes"):
        monkeypatch.setattr(Remote, name, counted(getattr(Remote, name)))
    number = 0
    while not done:
        left[0] = number
        try:
            push(run, url)
            done = True
        except StorageError:
            number += 1
        left[0] = 1000
        assert pulled(url, tmp_path) in (old, new)
    assert number > 5
    assert pulled(url, tmp_path) == new


def test_what_a_push_that_ended_early_had_sent_goes_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, url = make_run(tmp_path / "run", 1), f"file://{tmp_path}/remote"
    push(run, url)
    mine = tmp_path / "remote" / "data" / "corpus.txt"  # in a bucket it may be anybody's
    mine.write_text("mine")
    make_run(run, 2)
    with monkeypatch.context() as ended:
        ended.setattr(Remote, "delete", lambda *_: sys.exit(1))
        with pytest.raises(SystemExit):
            push(make_run(run, log="longer"), url)
        ended.setattr(remote, "files_of", lambda _: sys.exit(1))
        with pytest.raises(SystemExit):
            push(make_run(run, 3), url)
    for number in (1, 2, 3):
        shutil.rmtree(run / "checkpoints" / name_of(number))
    push(make_run(run, 4), url)
    hashes = {hashlib.sha256(data).hexdigest() for data in files_in(run).values()}
    assert {path.name for path in mine.parent.iterdir()} == {*hashes, mine.name}


def test_a_copy_that_lacks_a_piece_is_mended_by_a_push_of_a_run_that_went_on(
    url: str, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", 1)
    assert in_a_child(lambda: push(run, url)) == 0
    lost = hashlib.sha256((run / "metrics.jsonl").read_bytes()).hexdigest()
    assert in_a_child(lambda: Remote(url, 60).delete({lost})) == 0
    make_run(run, 2, log="longer")
    assert in_a_child(lambda: push(run, url, overwrite=True)) == 0
    assert pulled(url, tmp_path) == files_in(run)


@pytest.mark.slow
def test_a_push_killed_at_20_random_moments_leaves_the_old_state_or_the_new(
    s3: str, tmp_path: Path
) -> None:
    run, dice = make_run(tmp_path / "run", 1, 2), random.Random(3)
    assert in_a_child(lambda: push(run, s3)) == 0
    states = [files_in(run)]
    begun = time.monotonic()
    assert in_a_child(lambda: push(run, f"{s3}-beside")) == 0
    longest = 1.2 * (time.monotonic() - begun)
    for number in range(3, 23):
        shutil.rmtree(list_checkpoints(run / "checkpoints")[-1])
        state, new = states[-1], files_in(make_run(run, number))
        child = os.fork()
        if not child:
            push(run, s3)
            os._exit(0)
        time.sleep(dice.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        states.append(pulled(s3, tmp_path))
        assert states[-1] in (state, new)
    assert 1 < len({tuple(state) for state in states}) < 21  # both came about


@pytest.mark.slow
def test_a_checkpoint_of_100_MB_is_equal_after_push_and_pull(s3: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    made = torch.Generator().manual_seed(0)
    tensors = {"model": {"w": torch.randn(25_000_000, generator=made)}}
    write_checkpoint(Disk(), run / "checkpoints", 7, tensors, {})
    assert in_a_child(lambda: push(run, s3)) == 0
    assert pulled(s3, tmp_path) == files_in(run)
    assert sum(map(len, files_in(run).values())) > 100e6


def test_training_goes_on_from_a_run_that_was_pulled(configured: Configure, tmp_path: Path) -> None:
    config = configured(budget={"tokens": 6000}, saving={"every_steps": 5, "keep": 2})
    train(config, tmp_path / "run", quiet=True)
    push(tmp_path / "run", f"file://{tmp_path}/remote")
    pull(f"file://{tmp_path}/remote", tmp_path / "again")
    more = {"budget.tokens": 9000}
    for name in ("run", "again"):
        resume(tmp_path / name, settings=more, quiet=True)
    runs = [steps(tmp_path / name) for name in ("run", "again")]
    assert [step.loss for step in runs[0]] == [step.loss for step in runs[1]]


def test_a_run_begun_again_by_the_same_words_is_another_run(
    configured: Configure, tmp_path: Path
) -> None:
    run, url = tmp_path / "run", f"file://{tmp_path}/remote"
    for tokens in (3000, 6000):
        shutil.rmtree(run, ignore_errors=True)
        train(configured(budget={"tokens": tokens}), run, quiet=True)
        if tokens == 3000:
            push(run, url)
    with pytest.raises(SettingError, match="holds another run"):
        push(run, url)


@pytest.mark.parametrize("deleted", [[1], [1, 2]])
def test_a_checkpoint_that_training_deletes_meanwhile_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deleted: list[int]
) -> None:
    run, url, put = make_run(tmp_path / "run", 1, 2), f"file://{tmp_path}/remote", Remote.put

    def deleting(self: Remote, name: str, data: bytes) -> None:
        monkeypatch.setattr(Remote, "put", put)
        make_run(run, 3)
        for number in deleted:
            shutil.rmtree(run / "checkpoints" / name_of(number))
        put(self, name, data)

    monkeypatch.setattr(Remote, "put", deleting)
    push(run, url)
    kept = {name.split("/")[1] for name in pulled(url, tmp_path) if "/" in name}
    assert kept == ({name_of(2)} if deleted == [1] else {name_of(3)})


@takes("give another URL, or --overwrite to replace it")
def test_the_copy_of_another_run_or_of_a_later_step_is_replaced_only_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"file://{tmp_path}/remote"
    run, other = make_run(tmp_path / "run", 1, 20), make_run(tmp_path / "other", 30)
    push(run, url)
    (other / "environment.json").write_text('{"host": "two"}')
    said = refused("push", other, url, code=2, capsys=capsys)
    assert f"URL: holds another run than {other}" in said
    shutil.rmtree(run / "checkpoints" / "step-00000020")
    said = refused("push", run, url, code=2, capsys=capsys)
    assert f"URL: has step 20 and {run} step 1" in said
    assert main(["push", str(run), f"{url}2"]) == 0
    assert main(["push", str(other), url, "--overwrite"]) == 0
    assert pulled(url, tmp_path) == files_in(other)


@takes("{}; remove it, and push again")
def test_a_damaged_checkpoint_is_named_and_not_pushed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, url = make_run(tmp_path / "run", 1, 2), f"file://{tmp_path}/remote"
    damaged = run / "checkpoints" / "step-00000002"
    damaged.joinpath("state.json").write_text("{}")
    said = refused("push", run, url, code=4, capsys=capsys)
    assert "checkpoint step-00000002 damaged: state.json has 2 bytes" in said
    shutil.rmtree(damaged)
    assert main(["push", str(run), url]) == 0
    assert pulled(url, tmp_path) == files_in(run)


@takes(
    "pull again, or send all of it again by `lengthen push --overwrite`",
    "{}: no run is there; `lengthen push RUN {}` puts it there",
    "give another directory",
)
def test_a_pull_is_whole_or_nothing_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, url, target = make_run(tmp_path / "run", 1), f"file://{tmp_path}/remote", tmp_path / "new"
    said = refused("pull", url, target, code=4, capsys=capsys)
    assert "no run is there; `lengthen push RUN " in said
    assert main(["push", str(run), url]) == 0
    whole = hashlib.sha256((run / "metrics.jsonl").read_bytes()).hexdigest()
    piece = tmp_path / "remote" / "data" / whole
    piece.write_bytes(b"x" * piece.stat().st_size)
    assert "metrics.jsonl is damaged;" in refused("pull", url, target, code=4, capsys=capsys)
    piece.unlink()
    assert "metrics.jsonl lacks a piece;" in refused("pull", url, target, code=4, capsys=capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["remote", "run"]
    assert main(["push", str(run), url, "--overwrite"]) == 0
    assert "new or empty" in refused("pull", url, run, code=2, capsys=capsys)
    assert main(["pull", url, str(target)]) == 0
    assert files_in(target) == files_in(run)


@pytest.mark.parametrize("name", ["../x", "/x", ".lock", "a/b", "checkpoints/../x", "x\n", ""])
def test_a_manifest_never_names_a_file_elsewhere(name: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(
        json.dumps({"format": 1, "files": {name: {"size": 0, "sha256": "0" * 64, "chunks": []}}})
    )
    with pytest.raises(CheckpointError, match="manifest.json cannot be used"):
        pull(f"file://{tmp_path}", tmp_path / "run")


@takes("another push changed it meanwhile; wait for that one, and push again")
def test_two_pushes_at_once_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, url, send = make_run(tmp_path / "run", 1), f"file://{tmp_path}/remote", remote._send
    push(run, url)

    def beside(*arguments: Any) -> Any:
        monkeypatch.setattr(remote, "_send", send)
        push(run, url, overwrite=True)
        return send(*arguments)

    make_run(run, 2)
    monkeypatch.setattr(remote, "_send", beside)
    with pytest.raises(StorageError, match="another push changed it meanwhile"):
        push(run, url)
    push(run, url)
    assert pulled(url, tmp_path) == files_in(run)


def both(run: Path, url: str) -> list[list[str]]:
    return [["push", str(run), url], ["pull", url, str(run.parent / "new")]]


DENIED = ("Access Denied", "Forbidden")  # by the kind of request


class Denied(BaseHTTPRequestHandler):
    """What S3 answers to whom it does not know."""

    def do_GET(self) -> None:
        body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.usefixtures("s3")
def test_no_rights_no_bucket_and_no_server_are_one_line_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", 1)
    said = refused("push", run, "s3://nobody/x", code=8, capsys=capsys)
    assert said == "lengthen: storage s3://nobody/x: The specified bucket does not exist\n"
    with HTTPServer(("127.0.0.1", 0), Denied) as denying:
        threading.Thread(target=denying.serve_forever, daemon=True).start()
        answer_from(f"http://127.0.0.1:{denying.server_port}", monkeypatch)
        for words in both(run, "s3://bucket/x"):
            said = refused(*words, code=8, capsys=capsys)
            assert said in (f"lengthen: storage s3://bucket/x: {rule}\n" for rule in DENIED)
        denying.shutdown()
    said = refused("push", run, "s3://bucket/x", code=8, capsys=capsys)
    assert "storage s3://bucket/x: Could not connect to the endpoint URL" in said


@takes("no answer within {} s; try again, or give a longer --timeout")
@pytest.mark.usefixtures("s3")
def test_a_server_that_hangs_is_said_within_the_time_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, server = make_run(tmp_path / "run", 1), os.environ["AWS_ENDPOINT_URL"]
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        answer_from(f"http://127.0.0.1:{deaf.getsockname()[1]}", monkeypatch)
        begun = time.monotonic()
        words = [*both(run, "s3://bucket/hangs")[0], "--timeout", "1"]
        said = refused(*words, code=8, capsys=capsys)
        assert time.monotonic() - begun < 5
    assert "storage s3://bucket/hangs: no answer within 1 s; try again, " in said
    answer_from(server, monkeypatch)
    assert main(["push", str(run), "s3://bucket/hangs", "--timeout", "60"]) == 0


def test_a_url_that_no_package_serves_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", 1)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    known = importlib.import_module("fsspec.registry")._registry
    monkeypatch.delitem(known, "s3", raising=False)
    for url, rule in {
        "s3://bucket/x": "cannot be used (Install s3fs to access S3)",
        "sss://bucket/x": "cannot be used (Protocol not known: sss)",
        "bucket/x": "must begin with s3://, gs:// or file://",
    }.items():
        for words in both(run, url):
            said = refused(*words, code=2, capsys=capsys)
            assert said == f"lengthen: URL: {rule}, got '{url}'\n"


def test_a_folder_that_cannot_be_made_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", 1)
    said = refused("push", run, "file:///proc/none", code=8, capsys=capsys)
    assert "storage file:///proc/none: [Errno 2] No such file or directory" in said


@pytest.mark.parametrize("place", ["run", "other", "other/file"])
def test_a_folder_that_holds_other_things_stays_as_it_is(place: str, tmp_path: Path) -> None:
    run, other = make_run(tmp_path / "run", 1), tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("mine")
    before = files_in(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(SettingError, match="URL: must be a"):
            push(run, f"file://{tmp_path}/{place}", overwrite=overwrite)
    assert files_in(tmp_path) == before


def test_what_a_killed_push_left_is_in_no_push_s_way(tmp_path: Path) -> None:
    run, folder = make_run(tmp_path / "run", 1), tmp_path / "remote"
    folder.mkdir()
    (folder / ".tmp-manifest.json-1-ab").write_text("{")
    push(run, f"file://{folder}")
    assert pulled(f"file://{folder}", tmp_path) == files_in(run)


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf"])
def test_a_time_out_is_a_number_of_seconds(
    timeout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in both(make_run(tmp_path / "run", 1), f"file://{tmp_path}/remote"):
        said = refused(*words, "--timeout", timeout, code=2, capsys=capsys)
        assert "timeout: must be above 0 and at most 86400 seconds, got" in said


def test_a_pull_that_is_told_to_end_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, url, pieces = make_run(tmp_path / "run", 1), f"file://{tmp_path}/remote", remote._pieces
    push(run, url)

    def ended(*arguments: Any) -> Iterator[bytes]:
        yield from pieces(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(remote, "_pieces", ended)
    child = os.fork()
    if not child:
        try:
            main(["pull", url, str(tmp_path / "new")], alone=True)
        except SystemExit as end:
            os._exit(int(str(end.code)))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143
    assert sorted(path.name for path in tmp_path.iterdir()) == ["remote", "run"]


def test_a_run_is_pulled_to_where_a_link_leads(tmp_path: Path) -> None:
    run, url = make_run(tmp_path / "run", 1), f"file://{tmp_path}/remote"
    push(run, url)
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    pull(url, tmp_path / "link")
    assert files_in(tmp_path / "disk") == files_in(run)


def test_what_is_no_run_is_not_pushed(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="RUN: must be a run's directory"):
        push(tmp_path, f"file://{tmp_path}/remote")
    assert not list(tmp_path.iterdir())
