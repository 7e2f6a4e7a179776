"""One real `headroom up` below this test: started, asked, ended by Ctrl-C, and what it left behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from serve_app.ops.local_cluster import RUN_VARIABLE, TOKEN_NAME
from tests.integration.default_models import HEADROOM, ROOT
from tests.integration.waiting import eventually

READY_S = 300.0
"""Deadline, not promise: a busy CI machine starts three engines one after the other."""
_STOP_S = 60.0
_TAIL_LINES = 40
_SHM = Path("/dev/shm")
_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True)
class Finished:
    """One run of the command line."""

    code: int
    out: str
    err: str


def free_ports(count: int) -> list[int]:
    """Ports nobody has now; held together until all are chosen, so that they differ."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in held]
    for one in held:
        one.close()
    return ports


def short_home() -> Path:
    """A home whose path leaves room for Ray's Unix sockets (107 bytes in all)."""
    return Path(tempfile.mkdtemp(prefix="hr-"))


def clean_environment(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Nothing of the caller's Ray, Headroom or OpenTelemetry settings."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {**kept, "HEADROOM_HOME": str(home), "NO_PROXY": "127.0.0.1,localhost", **(more or {})}


def headroom(*arguments: str, home: Path, timeout_s: float = 60.0) -> Finished:
    done = subprocess.run(
        [HEADROOM, *arguments],
        cwd=ROOT,
        env=clean_environment(home),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


class LiveCluster:
    """Serves `config` (the text of a cluster.yaml) on free ports from the home it is given."""

    def __init__(
        self,
        config: str,
        *,
        home: Path,
        environment: Mapping[str, str] | None = None,
        memory: str | None = None,
        role: str = "both",
    ) -> None:
        self.home = home
        http_port, self.ray_port, dashboard_port, self.grpc_port, self.zeromq_port = free_ports(5)
        config = config.replace("grpc_port: 7212", f"grpc_port: {self.grpc_port}")
        config = config.replace("zeromq_port: 7211", f"zeromq_port: {self.zeromq_port}")
        self.url = f"http://127.0.0.1:{http_port}"
        self.dashboard_url = f"http://127.0.0.1:{dashboard_port}"
        self.file = home / "cluster.yaml"
        self.file.write_text(re.sub(r"(?m)^  port: \d+$", f"  port: {http_port}", config))
        self._output = home / "up.log"
        self._seen: set[psutil.Process] = set()
        self._shared_memory: set[Path] = set()
        self._environment = dict(environment or {})
        self._stopped = False
        self._joined: list[subprocess.Popen[bytes]] = []
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    *(HEADROOM, "up", self.file, "--ray-port", str(self.ray_port)),
                    *("--dashboard-port", str(dashboard_port), *(("--memory", memory) if memory else ())),
                    *("--role", role),
                ],
                cwd=ROOT,
                env=clean_environment(home, environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def join(self, node: str, *, memory_bytes: int, role: str = "both") -> psutil.Process:
        """A second Ray node on this machine, started as `headroom up` started the first; gives its raylet."""
        exported = re.findall(r"^export (\w+)=(.*)$", self._output.read_text(), flags=re.MULTILINE)
        variables = {name: shlex.split(value)[0] for name, value in exported}
        (agent_port,) = free_ports(1)
        command = [
            str(Path(HEADROOM).with_name("ray")), "start", "--block", f"--address=127.0.0.1:{self.ray_port}",
            "--node-ip-address=127.0.0.1", "--num-cpus=2", f"--memory={memory_bytes}",
            "--object-store-memory=134217728", f"--labels=headroom.node={node},headroom.role={role}",
            f"--dashboard-agent-listen-port={agent_port}", "--disable-usage-stats",
        ]  # fmt: skip
        with (self.home / f"{node}.log").open("wb") as output:
            joined = subprocess.Popen(
                command,
                env=clean_environment(self.home, {**self._environment, **variables}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._joined.append(joined)
        process = psutil.Process(joined.pid)

        def raylets() -> list[psutil.Process]:
            return [one for one in process.children(recursive=True) if "raylet/raylet" in _title(one)]

        return eventually(raylets, deadline_s=60, what=f"a raylet of {node}")[0]

    def joined_processes(self) -> list[psutil.Process]:
        """Everything below the nodes that joined."""
        roots = [psutil.Process(one.pid) for one in self._joined if one.poll() is None]
        return [one for root in roots for one in root.children(recursive=True) if lives(one)]

    @contextlib.contextmanager
    def beside(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """A command that runs while the block does."""
        process = subprocess.Popen([HEADROOM, *arguments], cwd=ROOT, env=clean_environment(self.home))
        try:
            yield process
        finally:
            process.terminate()
            process.wait(_STOP_S)

    # -- asking --------------------------------------------------------------------------------------

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=10.0, trust_env=False)

    def health(self) -> dict[str, Any]:
        """Empty while nothing answers."""
        try:
            answer = self.get("/health").json()
        except (httpx.HTTPError, ValueError):
            return {}
        return answer if isinstance(answer, dict) else {}

    def wait_for_health(self, status: str, *, deadline_s: float = READY_S) -> dict[str, Any]:
        def reached() -> dict[str, Any]:
            assert self._process.poll() is None, f"`headroom up` ended:\n{self.said()}"
            health = self.health()
            return health if health.get("status") == status else {}

        return eventually(reached, deadline_s=deadline_s, what=f"health {status!r}")

    def dashboard(self, path: str) -> Any:
        """JSON of Ray's dashboard, which asks for this run's token."""
        token = (self.home / "run" / self.run_id / TOKEN_NAME).read_text()
        headers = {"Authorization": f"Bearer {token}"}
        answer = httpx.get(f"{self.dashboard_url}{path}", headers=headers, timeout=10.0, trust_env=False)
        return answer.raise_for_status().json()

    def headroom(self, *arguments: str, timeout_s: float = 60.0) -> Finished:
        return headroom(*arguments, home=self.home, timeout_s=timeout_s)

    def fleet(self) -> dict[str, Any]:
        fleet: dict[str, Any] = self.get("/admin/fleet").raise_for_status().json()
        return fleet

    def said(self) -> str:
        """What `headroom up` printed; its end, with those of Ray and Serve, when it is long."""
        files = [self._output, *sorted(self.home.glob("run/*/*.log"))]
        return "\n".join(f"-- {file}\n{_tail(file)}" for file in files if file.exists())

    # -- its processes -------------------------------------------------------------------------------

    @property
    def run_id(self) -> str:
        record = json.loads((self.home / "run" / "up.json").read_text())
        return str(record["run_id"])

    def processes(self) -> list[psutil.Process]:
        """Everything that lives below `headroom up` now; it and its shared memory must be gone in the end."""
        living = [one for one in psutil.Process(self._process.pid).children(recursive=True) if lives(one)]
        self._seen.update(living)
        self._shared_memory.update(*(_shared_memory_of(one) for one in living))
        return living

    def process_titled(self, start: str) -> psutil.Process:
        """The one process whose title begins so, such as `ray::ServeReplica:mini@head`."""
        (found,) = [one for one in self.processes() if _title(one).startswith(start)]
        return found

    def engine_core(self, model: str) -> psutil.Process:
        """The one engine core of the model. A replica of the pool that only waits for a slot has none."""
        (core,) = [one for one in self.family(model) if "EngineCore" in _title(one)]
        return core

    def family(self, model: str) -> list[psutil.Process]:
        """What the model's replicas have started: engine cores, also before they have a title, and helpers."""
        title = f"ray::ServeReplica:{model}@head"
        below = psutil.Process(self._process.pid).children(recursive=True)
        replicas = [one for one in below if _title(one).startswith(title)]
        return [child for one in replicas for child in _children(one)]

    def replica(self, model: str) -> psutil.Process:
        """The one replica with an engine."""
        return next(one for one in self.engine_core(model).parents() if "ServeReplica" in _title(one))

    # -- its end -------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ctrl-C. Raises AssertionError if it does not end well or leaves anything; the second call does nothing."""
        if self._stopped:
            return
        self._stopped = True
        self._end_joined()
        running = self._process.poll() is None
        run_id = self.run_id if running else ""
        if running:
            self.processes()
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        left = self._left_over(run_id)
        shared_memory = {path for path in self._shared_memory if path.exists()}
        for process in left:
            process.kill()
        assert not left, f"left running: {[(one.pid, name) for one, name in left.items()]}\n{self.said()}"
        assert not shared_memory, f"left in /dev/shm: {shared_memory}\n{self.said()}"
        assert self._process.returncode == 0 or not running, self.said()
        shutil.rmtree(self.home, ignore_errors=True)

    def _end_joined(self) -> None:
        """Nodes that joined, with everything on them. They are this test's, and nothing is promised of their end."""
        families = self.joined_processes()
        for joined in self._joined:
            joined.terminate()
        psutil.wait_procs(families, timeout=5)
        for process in families:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for joined in self._joined:
            joined.kill()
            joined.wait()

    def _left_over(self, run_id: str) -> dict[psutil.Process, str]:
        """Living processes we saw below it, and any that carries the mark of its run, each with its title."""
        marked = {one for one in psutil.process_iter() if run_id and _mark(one) == run_id}
        return {one: _title(one) for one in self._seen | marked if lives(one)}


def lives(process: psutil.Process) -> bool:
    """A pid that another process has now is not alive; nor is a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _mark(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(RUN_VARIABLE)
    except psutil.Error:
        return None


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _shared_memory_of(process: psutil.Process) -> set[Path]:
    """Files of /dev/shm that the process has mapped."""
    try:
        lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
    except OSError:
        return set()
    return {Path(path) for line in lines if (path := line[73:].strip()).startswith(f"{_SHM}/")}


def _tail(file: Path) -> str:
    return "\n".join(file.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
