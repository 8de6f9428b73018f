"""The files for GitHub, GitLab and pre-commit: valid by the schemas of others, and run as scripts, without a network."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import jsonschema
import pytest
import yaml
from pre_commit.clientlib import load_manifest

from robustbench_cli.pytest_plugin import gate

from ..benchmarks.reports.pipeline_files import read_junit, read_sarif

ROOT = Path(__file__).parents[2]

SUITE = """\
n: 20
defenses: [none]
attacks: [fgsm]
eps: [0.1]
train: {epochs: 1}
gates:
  - robust_accuracy=LIMIT
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a suite, and the commands of a runner, some of which only write down their arguments.

    These are gh, ``python -m pip``, and advdef where ``PRETENDED`` has its exit code.
    """
    folder = tmp_path_factory.mktemp("project")
    (folder / "gate.yaml").write_text(SUITE.replace("LIMIT", "0.99"))
    commands = folder / "bin"
    commands.mkdir()
    python = shlex.quote(sys.executable)
    scripts = {
        "advdef": f'[ -z "$PRETENDED" ] || {{ printf "%s\\n" "$*" >>calls; exit $PRETENDED; }}\nexec {python} -m robustbench_cli "$@"',
        "python": f'if [ "$1" = -m ]; then printf "%s\\n" "$*" >>calls; else exec {python} "$@"; fi',
        "gh": 'printf "%s\\n" "$*" >>calls; for word; do case $word in body=@*) cp "${word#body=@}" body;; esac; done\n'
        'case "$*" in *graphql*) echo "advdef[bot]";; *--paginate*) cat ids 2>/dev/null || true;; esac; [ ! -e refused ]',
    }
    for name, script in scripts.items():
        (commands / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (commands / name).chmod(0o755)
    return folder


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a script as a runner does; the trained model and the results of earlier runs are there."""
    monkeypatch.chdir(folder)
    for name in ("calls", "body", "ids", "refused", "output", "summary"):
        Path(name).unlink(missing_ok=True)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    usual = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "PRETENDED": ""}

    def run(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", script]
        return subprocess.run(command, env=usual | variables, capture_output=True, text=True, check=False)

    return run


def action() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    return content


def script_of(name: str) -> str:
    (step,) = (step for step in action()["runs"]["steps"] if step["name"] == name)
    return str(step["run"])


def validate(content: Any, schema: str) -> None:
    """By a schema of SchemaStore, as the package check-jsonschema has it."""
    text = (files("check_jsonschema") / f"builtin_schemas/vendor/{schema}.json").read_text(encoding="utf-8")
    jsonschema.Draft7Validator(json.loads(text)).validate(content)


def test_the_action_follows_the_schema() -> None:
    """Each input is used, and none is written into a script, where it could run."""
    validate(action(), "github-actions")
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    assert all(f"inputs.{name}" in text for name in action()["inputs"])
    assert not any("${{" in step.get("run", "") for step in action()["runs"]["steps"])
    (upload,) = (step for step in action()["runs"]["steps"] if "upload-sarif" in step.get("uses", ""))
    assert upload["with"]["category"].endswith("${{ inputs.suite }}")


def test_the_action_installs_itself_or_what_it_is_told(run: Run) -> None:
    """By pip."""
    install = script_of("Install advdef")
    run(install, INSTALL="", ACTION="/action")
    run(install, INSTALL="advdef==0.1.0", ACTION="/action")
    lines = Path("calls").read_text().splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == ["/action", "advdef==0.1.0"]


def test_the_action_attacks_judges_and_reports(run: Run, folder: Path) -> None:
    """A broken gate is an annotation, a step summary, four files, and the exit code of the last step alone."""
    variables = {
        "SUITE": "gate.yaml",
        "STORE": "runs",
        "ARGUMENTS": "--seed 0",
        "INFORMATIONAL": "false",
        "GITHUB_OUTPUT": str(folder / "output"),
        "GITHUB_STEP_SUMMARY": str(folder / "summary"),
    }
    sweep = script_of("Attack and judge")
    done = run(sweep, **variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("::error file=gate.yaml,line=7,title=advdef fail-under::")
    assert Path("output").read_text() == "exit-code=1\n"
    assert "- ✗ --fail-under robust_accuracy=0.99" in Path("summary").read_text(encoding="utf-8")
    assert read_junit(Path("advdef.xml").read_text(encoding="utf-8")).failures == 1
    assert len(read_sarif(Path("advdef.sarif").read_text(encoding="utf-8"))["runs"][0]["results"]) >= 1
    assert Path("advdef.csv").read_text().count("\n") == 2
    assert run(script_of("Obey the gates"), CODE="1").returncode == 1
    run(sweep, **variables | {"INFORMATIONAL": "true", "ARGUMENTS": "--seed 0\n--n 5", "PRETENDED": "0"})
    assert Path("calls").read_text().endswith(" -o advdef.sarif --seed 0 --n 5 --informational\n")
    run(sweep, **variables | {"SUITE": "missing.yaml", "PRETENDED": "2"})
    assert Path("output").read_text() == "exit-code=1\nexit-code=0\nexit-code=2\n"
    assert not Path("advdef.md").exists()


def test_the_action_comments_once_on_a_pull_request(run: Run, folder: Path) -> None:
    """The first run adds a comment, and later ones change it; no name notifies a person; a token may not write."""
    Path("advdef.md").write_text("| a@b |\n" + "é" * 40_000, encoding="utf-8")
    variables = {
        "SUITE": "gate.yaml",
        "PULL_REQUEST": "7",
        "GH_TOKEN": "t",
        "GITHUB_REPOSITORY": "owner/name",
        "RUNNER_TEMP": str(folder),
    }
    comment = script_of("Comment on the pull request")
    assert run(comment, **variables).returncode == 0
    viewer, asked, written = Path("calls").read_text().splitlines()
    assert viewer == "api graphql -f query={viewer{login}} --jq .data.viewer.login"
    assert asked.startswith(
        "api --paginate repos/owner/name/issues/7/comments --jq "
        '.[] | select(.user.login == "advdef[bot]" and (.body | startswith("<!-- '
    )
    assert written.startswith("api repos/owner/name/issues/7/comments -F body=@")
    body = Path("body").read_text(encoding="utf-8")
    assert re.match(r"<!-- advdef \d+ -->\n\| a@<!-- -->b \|\n", body)
    assert len(body.encode()) < 65_536
    Path("ids").write_text("123\n456\n")
    assert run(comment, **variables).returncode == 0
    assert "api --method PATCH repos/owner/name/issues/comments/123 -F body=@" in Path("calls").read_text()
    Path("refused").touch()
    done = run(comment, **variables)
    assert (done.returncode, done.stdout.startswith("::warning title=advdef::")) == (0, True)
    Path("advdef.md").unlink()
    assert run(comment, **variables).stdout == ""


class Notes(BaseHTTPRequestHandler):
    """The notes of a merge request of GitLab."""

    notes: ClassVar[list[dict[str, Any]]] = []
    asked: ClassVar[list[str]] = []

    def _answer(self) -> None:
        assert self.headers["PRIVATE-TOKEN"] == "secret"
        self.asked.append(f"{self.command} {self.path}")
        length = int(self.headers.get("Content-Length", 0))
        answer: Any = {"id": 7}
        if length:
            body = parse_qs(self.rfile.read(length).decode())["body"][0]
            if self.command == "POST":
                self.notes.append({"id": 5, "author": {"id": 7}, "body": body})
            else:
                (note,) = (note for note in self.notes if note["id"] == int(self.path.rpartition("/")[2]))
                note["body"] = body
        elif not self.path.endswith("/user"):
            page = int(parse_qs(urlsplit(self.path).query)["page"][0])
            answer = self.notes[100 * (page - 1) : 100 * page]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    do_GET = do_POST = do_PUT = _answer  # noqa: N815 - the names that http.server calls

    def log_message(self, *args: Any) -> None:
        """Nothing on stderr."""


@pytest.fixture
def gitlab() -> Iterator[str]:
    """The address of a server that holds the notes."""
    server = HTTPServer(("127.0.0.1", 0), Notes)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/api/v4"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_job_of_gitlab_judges_and_comments(run: Run, gitlab: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its script ends as advdef does; the comment is added once, and then changed."""
    content = yaml.safe_load((ROOT / "ci/gitlab.yml").read_text(encoding="utf-8"))
    validate(content, "gitlab-ci")
    job = content["advdef"]
    assert job["cache"]["paths"] == ["$STORE"]
    refused = run("\n".join(job["before_script"]), INSTALL="")
    assert (refused.returncode, refused.stdout.count("\n")) == (2, 1)
    assert run("\n".join(job["before_script"]), INSTALL="advdef").returncode == 0
    assert Path("calls").read_text().startswith("-m pip install")
    done = run("\n".join(job["script"]), SUITE="gate.yaml", STORE="runs")
    assert done.returncode == 1, done.stderr
    arguments = {"SUITE": "gate.yaml", "STORE": "runs", "ARGUMENTS": "--seed 0 --informational"}
    assert run("\n".join(job["script"]), **arguments, PRETENDED="0").returncode == 0
    assert Path("calls").read_text().endswith(" -o advdef.xml --seed 0 --informational\n")
    assert read_junit(Path(job["artifacts"]["reports"]["junit"]).read_text(encoding="utf-8")).failures == 1
    variables = {
        "SUITE": "gate.yaml",
        "CI_API_V4_URL": gitlab,
        "CI_PROJECT_ID": "3",
        "CI_MERGE_REQUEST_IID": "9",
        "COMMENT_TOKEN": "secret",
    }
    (comment,) = job["after_script"]
    marker = f"<!-- advdef {zlib.crc32(b'gate.yaml')} -->"
    # Somebody else's, with the marker of ours, which is on the second page.
    others = [{"id": number, "author": {"id": 8}, "body": f"{marker} {number}"} for number in range(100, 200)]
    monkeypatch.setattr(Notes, "notes", [dict(note) for note in others])
    monkeypatch.setattr(Notes, "asked", [])
    for _ in range(2):
        done = run(comment, **variables)
        assert (done.returncode, done.stderr) == (0, "")
    notes = "/api/v4/projects/3/merge_requests/9/notes"
    pages = [f"GET {notes}?per_page=100&page={page}" for page in (1, 2)]
    read = ["GET /api/v4/user", *pages]
    assert Notes.asked == [*read, f"POST {notes}", *read, f"PUT {notes}/5"]
    assert Notes.notes[:-1] == others
    assert re.match(rf"{marker}\n### Adversarial robustness", Notes.notes[-1]["body"])
    assert "no comment" in run(comment, **variables | {"COMMENT_TOKEN": ""}).stdout


def test_the_hook_of_pre_commit_checks_suites(run: Run, folder: Path) -> None:
    """pre-commit's own reader takes the hook, and its try-repo runs it on the files that look like suites."""
    (hook,) = load_manifest(str(ROOT / ".pre-commit-hooks.yaml"))
    for name, is_suite in {
        "suites/a.yaml": True,
        "gate.yaml": True,
        "my-suite.yml": True,
        ".github/workflows/ci.yaml": False,
        "delegate.yaml": False,
    }.items():
        assert bool(re.search(hook["files"], name)) is is_suite, name
    for name in ("hooks", "user"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    shutil.copy(ROOT / ".pre-commit-hooks.yaml", "hooks")
    Path("user/gate.yaml").write_text(SUITE.replace("fgsm", "fgms"))
    Path("user/other.yaml").write_text("a: 1")
    commit = "git init -q && git add . && git -c user.name=a -c user.email=a@b -c commit.gpgsign=false commit -qm a"
    assert run(f"cd hooks && {commit} && cd ../user && {commit}").returncode == 0
    pre_commit = f"{shlex.quote(sys.executable)} -m pre_commit try-repo ../hooks advdef-suite --all-files"
    done = run(f"cd user && {pre_commit}", PRE_COMMIT_HOME=str(folder / "pre-commit"))
    assert done.returncode == 1
    assert "advdef: error: gate.yaml, line 3: unknown attack 'fgms': did you mean 'fgsm'?" in done.stdout
    assert "other.yaml" not in done.stdout


def page_blocks(language: str) -> list[str]:
    page = (ROOT / "docs/pipelines.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def test_the_page_on_the_first_gate_holds(
    advdef: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commands run on its files, one after the other, and end with 0; so do its pytest example and its pyproject.toml."""
    monkeypatch.chdir(tmp_path)
    suite, *_ = page_blocks("yaml")
    Path("gate.yaml").write_text(suite)
    for line in "".join(page_blocks("sh")).splitlines():
        program, *words = shlex.split(line)
        done = advdef(*words)
        assert (program, done.code) == ("advdef", 0), (line, done.out, done.err)
    assert "::notice title=advdef::gates: " in done.out
    example, *_ = page_blocks("python")
    content: dict[str, Any] = {}
    exec(example, content)
    content["test_robust"](gate)
    (toml,) = page_blocks("toml")
    Path("pyproject.toml").write_text(toml)
    shutil.move("advdef-runs", "runs")
    done = advdef("sweep")
    assert (done.code, "cells cached in" in done.err) == (0, True), done.err


def test_the_workflows_of_the_page_are_valid() -> None:
    """By the schema of GitHub, for an action with these inputs."""
    _, workflow, gitlab, hooks = page_blocks("yaml")
    # In YAML 1.1, "on" is true.
    content = {"on" if key is True else key: value for key, value in yaml.safe_load(workflow).items()}
    validate(content, "github-workflows")
    restore, gate_step, save = content["jobs"]["robustness"]["steps"][-3:]
    assert restore["with"]["key"] != save["with"]["key"]
    assert save["with"]["key"].startswith(restore["with"]["restore-keys"])
    assert save["if"] == "always()"
    assert gate_step["with"].keys() <= action()["inputs"].keys()
    assert (
        yaml.safe_load(gitlab)["advdef"].keys() <= yaml.safe_load((ROOT / "ci/gitlab.yml").read_text())["advdef"].keys()
    )
    assert yaml.safe_load(hooks)["repos"][0]["hooks"][0]["id"] == "advdef-suite"
