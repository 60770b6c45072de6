"""The page reaches nobody but this machine, reads no file but its runs', and ends when it is told to."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gradio")

from efficient_reasoning.app import page as page_module
from efficient_reasoning.app.runs import open_runs
from efficient_reasoning.app.serve import start
from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import get_strategy
from tests.app.conftest import POINTS, make_sample, write_run

ROOT = Path(__file__).parents[2]
SECRET = "a secret beside the run"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    write_run(folder, [make_sample(*point, number) for number in range(5) for point in POINTS])
    (folder / "secret.txt").write_text(SECRET)
    (folder.parent / "beside.txt").write_text(SECRET)
    return folder


@pytest.fixture(scope="module")
def port(run_folder, free_port):
    number = free_port()
    page = start([run_folder], port=number)
    yield number
    page.close(verbose=False)


def get(port: int, path: str, method: str = "GET", host: str | None = None) -> tuple[int, str, dict]:
    """Status, body and headers of exactly this path: nothing is normalised on the way."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", f"127.0.0.1:{port}" if host is None else host)
    connection.endheaders()
    response = connection.getresponse()
    body = response.read().decode(errors="replace")
    connection.close()
    return response.status, body, dict(response.getheaders())


def test_the_page_is_there_and_may_talk_to_nobody_else(port):
    status, body, headers = get(port, "/")
    assert status == 200
    assert "gradio-app" in body
    assert "default-src 'self'" in headers["content-security-policy"]
    assert get(port, "/config")[0] == 200
    # Port 80 goes without saying.
    assert get(port, "/", host="127.0.0.1")[0] == get(port, "/", host=f"localhost:{port}")[0] == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/file=/etc/passwd",
        "/file/etc/passwd",
        "/gradio_api/file={run}/samples.jsonl",
        "/gradio_api/file={run}/secret.txt",
        "/gradio_api/file={run}/../beside.txt",
        "/gradio_api/file=http://127.0.0.1:{port}/config",
        "/gradio_api/proxy=http://127.0.0.1:{port}/config",
        "/gradio_api/upload",
        "/gradio_api/component_server",
        "/gradio_api/vibe-code/",
        "/static/../../../../../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/assets/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/assets//etc/passwd",
        "/static//etc/passwd",
        "/static/%00/etc/passwd",
        "/../../../../etc/passwd",
        "/gradio_api/queue/../file=/etc/passwd",
        "/config/../gradio_api/file=/etc/passwd",
    ],
)
def test_no_file_can_be_read(port, run_folder, path, method):
    status, body, _ = get(port, path.format(run=run_folder, port=port), method)
    assert 400 <= status < 500
    assert "root:" not in body
    assert SECRET not in body


@pytest.mark.parametrize("path", ["/etc/passwd", "{run}/samples.jsonl"])
def test_gradio_itself_would_refuse_as_well(run_folder, path):
    from fastapi.testclient import TestClient
    from gradio.routes import App

    page = page_module.build_page(open_runs([run_folder]))
    page.allowed_paths, page.blocked_paths = [], ["/"]
    page.max_file_size = None
    client = TestClient(App.create_app(page))
    assert client.get(f"/gradio_api/file={path.format(run=run_folder)}").status_code in (403, 404)


@pytest.mark.parametrize("host", ["evil.example", "", "0.0.0.0:{port}", "127.0.0.1.evil.example:1"])
def test_another_name_for_this_machine_is_refused(port, host):
    assert get(port, "/", host=host.format(port=port))[0] == 400


def test_it_listens_on_the_loopback_only(port):
    table = Path("/proc/net/tcp").read_text() if Path("/proc/net/tcp").is_file() else pytest.skip("needs /proc")
    listening = re.findall(rf": ([0-9A-F]{{8}}):{port:04X} 00000000:0000 0A", table)
    assert listening == ["0100007F"]


@pytest.mark.parametrize(("run", "point"), [(7, 0), (-1, 0), ("../../etc", 0), (0, 99), (None, 0), (0, [0])])
def test_runs_and_points_come_from_our_lists(run_folder, run, point):
    import gradio

    runs = open_runs([run_folder])
    with pytest.raises(gradio.Error, match="no such run or point"):
        page_module._at(page_module._at(runs, run).points, point)


def test_what_a_file_does_not_allow_is_told_on_the_page(run_folder):
    import gradio

    [run] = open_runs([run_folder])
    with pytest.raises(gradio.Error, match="has no sample 99"):
        page_module._telling(run.samples.read)(99)


def test_every_strategy_that_is_offered_is_known():
    assert all(get_strategy(name) for name in page_module.STRATEGIES)


def test_a_port_in_use_is_a_sentence(run_folder, free_port):
    with socket.socket() as taken:
        number = free_port()
        taken.bind(("127.0.0.1", number))
        taken.listen()
        with pytest.raises(BadInput, match=rf"Port {number} is in use"):
            start([run_folder], port=number)


@pytest.mark.parametrize("number", [65_536, 700_000])
def test_what_is_no_port_is_a_sentence(run_folder, number):
    with pytest.raises(BadInput, match=rf"Port {number} is"):
        start([run_folder], port=number)


def test_three_models_are_too_many(run_folder):
    with pytest.raises(BadInput, match="names 3 models"):
        start([run_folder], ["overthinker"] * 3)


def test_ctrl_c_ends_it(run_folder, free_port):
    words = [sys.executable, "-m", "efficient_reasoning.cli", "app", str(run_folder), "--port", str(free_port())]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) as process:
        said = ""
        while "Ctrl-C ends it" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
        assert "Traceback" not in process.stderr.read()
