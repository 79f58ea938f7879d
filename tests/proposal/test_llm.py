"""A language model as the proposer: a stand-in on this machine answers, and nothing it says is trusted."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from typer.testing import CliRunner

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.cli.mapping import app
from ckptdbg.errors import ConfigError, MappingError
from ckptdbg.proposers.llm import CLIENTS, ask_for_mapping

KEY = "sk-not-to-be-seen"
SOURCE = {"layers.0.up.weight": [7, 3], "layers.1.up.weight": [7, 3], "norm.weight": [3]}
TARGET = {"h_0/up/kernel": [3, 7], "h_1/up/kernel": [3, 7], "norm/scale": [3]}
GOOD = """Here it is:
```yaml
version: 1
entries:
  - source: layers.{layer}.up.weight
    target: h_{layer}/up/kernel
    ops: [transpose]
  - source: norm.weight
    target: norm/scale
```
"""
WRONG_SHAPE = GOOD.replace("    ops: [transpose]\n", "")
UNUSED = GOOD.replace("```\n", "ignore: {source: [], target: []}\n```\n").replace("norm/scale", "norm/nothing")
LAZY = """version: 1
entries:
  - source: norm.weight
    target: norm/scale
ignore: {source: ["layers.*"], target: ["h_*"]}
"""


def specs(shapes):
    return {name: TensorSpec(tuple(shape), "float32") for name, shape in shapes.items()}


@contextmanager
def endpoint(*answers, status=200, location=None):
    """An OpenAI-compatible server that gives these answers one after the other, and what it was asked."""
    asked, waiting = [], list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
            text = json.dumps(
                {"choices": [{"message": {"content": waiting.pop(0)}}]} if status == 200 else {"error": KEY}
            )
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def chat_at(monkeypatch):
    def made(base, model="some-model"):
        monkeypatch.setenv("OPENAI_BASE_URL", base)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        return CLIENTS["openai"](model)

    return made


def test_a_mapping_that_binds_is_taken_and_names_and_shapes_are_all_that_is_sent(chat_at):
    with endpoint(GOOD) as (base, asked):
        mapping = ask_for_mapping(chat_at(base), specs(SOURCE), specs(TARGET), {"hidden_size": 3})
    assert [entry.name for entry in mapping.entries] == ["h.up.kernel", "norm.scale"]
    (question,) = asked
    assert (question["path"], question["key"], question["model"]) == (
        "/v1/chat/completions",
        f"Bearer {KEY}",
        "some-model",
    )
    told = question["messages"][-1]["content"]
    assert "layers.{layer}.up.weight [7, 3] (layer = 0 to 1)" in told
    assert "hidden_size = 3" in told


def test_chained_prompts_ask_for_the_pairs_first(chat_at):
    with endpoint("layers.N.up to h_N/up", GOOD) as (base, asked):
        ask_for_mapping(chat_at(base), specs(SOURCE), specs(TARGET), chained=True)
    assert "No YAML yet" in asked[0]["messages"][-1]["content"]
    assert asked[1]["messages"][-2] == {"role": "assistant", "content": "layers.N.up to h_N/up"}


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (WRONG_SHAPE, "gets shape (7, 3), expected (3, 7)"),
        (UNUSED, "target tensor norm/nothing is missing"),
        (LAZY, "2 target tensors are made by no entry"),
        ("no YAML: [", "not valid YAML"),
        ("version: 1\nentries: [{source: a, target: b, ops: [{execute: rm}]}]", "unknown op execute"),
    ],
)
def test_what_does_not_bind_goes_back_once_with_the_error(chat_at, bad, told):
    with endpoint(bad, GOOD) as (base, asked):
        ask_for_mapping(chat_at(base), specs(SOURCE), specs(TARGET))
    assert told in asked[1]["messages"][-1]["content"]
    with endpoint(bad, bad) as (base, asked), pytest.raises(MappingError, match="no mapping that can be used, twice"):
        ask_for_mapping(chat_at(base), specs(SOURCE), specs(TARGET))
    assert len(asked) == 2


def test_the_key_is_in_no_message(chat_at):
    with endpoint(status=401) as (base, _), pytest.raises(ConfigError, match="HTTP 401") as error:
        ask_for_mapping(chat_at(base), specs(SOURCE), specs(TARGET))
    assert KEY not in str(error.value)
    assert "[key]" in str(error.value)


def test_a_redirect_is_not_followed(chat_at):
    with endpoint(GOOD) as (other, stolen), endpoint(status=307, location=f"{other}/chat/completions") as (base, _):
        with pytest.raises(ConfigError, match="HTTP 307"):
            ask_for_mapping(chat_at(base), specs(SOURCE), specs(TARGET))
        assert stolen == []


@pytest.mark.parametrize(
    ("variables", "kind", "message"),
    [
        ({"OPENAI_BASE_URL": "http://somewhere.example/v1", "OPENAI_API_KEY": KEY}, "openai", "in the clear"),
        ({"OPENAI_BASE_URL": "file:///etc/passwd", "OPENAI_API_KEY": KEY}, "openai", "no address"),
        ({"OPENAI_API_KEY": ""}, "openai", "set OPENAI_API_KEY"),
        ({"OPENAI_API_KEY": KEY, "OPENAI_MODEL": ""}, "openai", "no language model named"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_sent(monkeypatch, variables, kind, message):
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message) as error:
        CLIENTS[kind](None if "OPENAI_MODEL" in variables else "m")
    assert KEY not in str(error.value)


def test_the_command_writes_what_binds_and_compares_it(tmp_path, chat_at):
    for name, shapes in (("a.json", SOURCE), ("b.json", TARGET)):
        (tmp_path / name).write_text(json.dumps(shapes))
    files = [str(tmp_path / name) for name in ("a.json", "b.json")]
    with endpoint(GOOD) as (base, _):
        chat_at(base)
        done = CliRunner().invoke(
            app, ["propose", *files, "--llm", "openai", "--llm-model", "m", "-o", str(tmp_path / "m.yaml")]
        )
    assert done.exit_code == 0, done.output
    assert "it binds; 3 of 3 tensors are made as by names and shapes" in done.output
    assert (tmp_path / "m.yaml").read_text().startswith("version: 1")
    assert KEY not in done.output
