"""By Ray: on this machine, or on a cluster by its address"""

import contextlib
import heapq
import os
import signal
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast, final

import torch

from robustprobe.core.device import cores
from robustprobe.core.errors import UserError
from robustprobe.evaluation.cells import PairKey
from robustprobe.evaluation.executors.base import Executor, LostError, Outcome
from robustprobe.evaluation.executors.work import CheckAttack, FitHeads, JudgeImages, RunSpec, WorkerState, WorkItem

ATTEMPTS = 4
FIRST_PAUSE = 1.0
# Seconds after which a look is taken at what waits for another attempt.
LOOK = 0.5
# Seconds between two looks whether Ray is there.
LOOK_AT_RAY = 2.0
# A shard that takes so many times what its images took elsewhere, and this many seconds, is started a second time.
SLOW = 3.0
LEAST_SLOW = 15.0
# Bytes of shared memory of a Ray that is started here: shards are small.
SHARED_MEMORY = 256 * 2**20


class Attempt(NamedTuple):
    """A unit under way: which try it is, and when that began."""

    item: WorkItem
    number: int
    began: float = 0.0


@final
class Ray(Executor):
    """Units are Ray tasks that ask for CPUs and GPUs; each worker process keeps what it has loaded."""

    def open(self) -> None:
        # Ray shows each worker the GPU it gave it, and no other.
        device = self.run_spec.device.partition(":")[0]
        self.run_spec = self.run_spec._replace(device=device)
        options, gpu = self.options, device == "cuda"
        self.stack = contextlib.ExitStack()
        wanted = options.threads or torch.get_num_threads()
        self.ray, self.threads = self.stack.enter_context(connected(options.address, options.workers, wanted))
        if self.threads != wanted and not gpu:
            self.watch.say(
                f"workers use {self.threads} threads each, not {wanted} as this process does, so that all have a core; "
                "convolutions round otherwise with another number (see --threads)"
            )
        # A worker that ran a task with a GPU is ended by default, and what it has loaded is lost.
        asked = {"num_cpus": self.threads, "num_gpus": int(gpu), "max_calls": 0, "max_retries": 0}
        self.task = self.ray.remote(**asked)(work_of)
        self.book = self.ray.put(self.run_spec)
        self.references: dict[PairKey, Any] = {}
        self.later: list[tuple[float, int, Attempt]] = []
        self.paces: list[float] = []
        self.door, self.looked = self._socket(), 0.0
        found = self.ray.cluster_resources()
        room = max(1, int(found.get("GPU", 0) if gpu else found.get("CPU", 1) // self.threads))
        self.workers = min(options.workers or room, room)
        # Where workers fill the cluster, one unit more for each waits in line, so that none pauses.
        self.most = 2 * self.workers if self.workers == room else self.workers

    def close(self) -> None:
        self.stack.close()

    @property
    def slots(self) -> int:
        return self.workers

    def results(self) -> Iterator[tuple[WorkItem, Outcome]]:
        under_way: dict[Any, Attempt] = {}
        while self.queue or under_way or self.later:
            self._start(under_way)
            self._start_again(under_way)
            if not under_way:
                time.sleep(LOOK)
                continue
            ready, _ = self.ray.wait(list(under_way), num_returns=1, timeout=LOOK)
            self._look()
            for reference in ready:
                attempt = under_way.pop(reference)
                copies = _copies(under_way, attempt.item)
                outcome = self._ended(reference, attempt, copies)
                if outcome is not None:
                    for copy in copies:
                        del under_way[copy]
                        self.ray.cancel(copy, force=True)
                    yield attempt.item, outcome

    def _start(self, under_way: dict[Any, Attempt]) -> None:
        """Hand out as many units as keep every worker busy."""
        now = time.monotonic()
        while self.later and self.later[0][0] <= now and len(under_way) < self.most:
            self._submit(heapq.heappop(self.later)[2], under_way)
        while self.queue and len(under_way) < self.most:
            self._submit(Attempt(heapq.heappop(self.queue)[2], 1), under_way)

    def _start_again(self, under_way: dict[Any, Attempt]) -> None:
        """A second copy of slow shards for workers that have nothing left to do: the first to end counts."""
        if self.queue or self.later or not self.paces:
            return
        now, pace = time.monotonic(), statistics.median(self.paces)
        for attempt in list(under_way.values()):
            item, seconds = attempt.item, now - attempt.began
            if len(under_way) >= self.workers or isinstance(item, FitHeads) or len(_copies(under_way, item)) > 1:
                continue
            if seconds > max(LEAST_SLOW, SLOW * pace * _images(item)):
                self.watch.say(f"a shard has taken {seconds:.0f} s; a second worker has begun it too, whoever is first")
                self._submit(attempt, under_way)

    def _submit(self, attempt: Attempt, under_way: dict[Any, Attempt]) -> None:
        heads = None if isinstance(attempt.item, FitHeads) else self.references[attempt.item.pair]
        reference = self.task.remote(self.book, attempt.item, heads, self.threads)
        under_way[reference] = attempt._replace(began=time.monotonic())

    def _ended(self, reference: Any, attempt: Attempt, copies: dict[Any, Attempt]) -> Outcome | None:
        """What came of a unit; None where it is tried again, later each time, or a copy of it is under way still."""
        item = attempt.item
        try:
            value, remarks = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            if isinstance(error, self.ray.exceptions.LocalRayletDiedError):
                raise self._lost() from error
            cause = getattr(error, "cause", None)
            if isinstance(cause, UserError):
                return cause
            reason = _first_line(cause or error)
            if copies:
                return None
            if attempt.number >= ATTEMPTS:
                return RuntimeError(f"{reason} (tried {ATTEMPTS} times)")
            pause = FIRST_PAUSE * 2 ** (attempt.number - 1)
            self.watch.say(
                f"a worker failed ({reason}); its shard is tried again in {pause:.0f} s, nothing else is lost"
            )
            self.added += 1
            heapq.heappush(self.later, (time.monotonic() + pause, self.added, Attempt(item, attempt.number + 1)))
            return None
        for remark in remarks:
            self.watch.say(remark)
        if isinstance(item, FitHeads):
            self.references[item.pair] = self.ray.put(value)
        if isinstance(item, JudgeImages):
            self.paces.append((time.monotonic() - attempt.began) / len(item.ids))
        return cast(Outcome, value)

    def _socket(self) -> str:
        """Where Ray on this machine listens; empty where it is asked through another machine."""
        own = self.ray.get_runtime_context().get_node_id()
        sockets = [node.get("RayletSocketName", "") for node in self.ray.nodes() if node["NodeID"] == own]
        return sockets[0] if sockets and Path(sockets[0]).exists() else ""

    def _look(self) -> None:
        """Raises LostError where Ray on this machine is gone: it would end this process within seconds, wordless."""
        if not self.door or time.monotonic() < self.looked + LOOK_AT_RAY:
            return
        self.looked = time.monotonic()
        try:
            with socket.socket(socket.AF_UNIX) as knock:
                knock.connect(self.door)
        except (ConnectionRefusedError, FileNotFoundError):
            raise self._lost() from None

    def _lost(self) -> LostError:
        # Ray is not shut down: it would wait for what is not there.
        self.stack.pop_all()
        return LostError("Ray on this machine has ended; start it again unless this run had started it")


def _images(item: JudgeImages | CheckAttack) -> int:
    """Images that a unit attacks; a check attacks each of its own twice."""
    return len(item.ids) if isinstance(item, JudgeImages) else 2 * max(map(len, item.kept))


def _copies(under_way: dict[Any, Attempt], item: WorkItem) -> dict[Any, Attempt]:
    """What is under way of a unit."""
    return {reference: attempt for reference, attempt in under_way.items() if attempt.item.rank == item.rank}


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


@contextlib.contextmanager
def connected(address: str, workers: int, threads: int = 1) -> Iterator[tuple[Any, int]]:
    """Ray at an address, or started on this machine, or as it is where it runs in this process already; and the
    threads that a worker is to use: `threads`, or fewer where a machine has not so many cores for each worker.

    Raises:
        UserError: it is not installed, or does not answer.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray, _threads_for_all(ray, threads)
        return
    quiet: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
    count = workers or max(1, cores() // threads)
    threads = threads if address else min(threads, max(1, cores() // count))
    asked_to_end = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            size = {"num_cpus": count * threads, "object_store_memory": SHARED_MEMORY}
            # Without "local" it would join any Ray that runs on this machine, whoever's it is.
            ray.init(address="local", include_dashboard=False, **size, **quiet)
    except Exception as error:  # a node that does not come up in time raises no other class than this
        where = f"at {address}" if address else "on this machine"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"Ray is not available {where}: {reason}. Nothing has begun; the same command tries again. See "
            "docs/guides/cluster.md, or leave --executor ray out."
        ) from error
    if threading.current_thread() is threading.main_thread():
        # Ray takes this signal for itself, and ends the process without a word of what is safe.
        signal.signal(signal.SIGTERM, asked_to_end)
    try:
        yield ray, _threads_for_all(ray, threads)
    finally:
        with contextlib.suppress(Exception):
            ray.shutdown()


def _threads_for_all(ray: Any, wanted: int) -> int:
    """So many threads, or as many as the machine with the fewest CPUs has: a task asks for a CPU for each."""
    counts = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    return max(1, min([wanted, *(count for count in counts if count)]))


def import_ray() -> Any:
    """Ray, told to keep to itself. Raises UserError where it is not installed."""
    # No statistics are sent; `uv run` does not make Ray copy this folder to every worker; threads are set by us.
    for name, value in (
        ("RAY_USAGE_STATS_ENABLED", "0"),
        ("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0"),
        ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"),
    ):
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "--executor ray needs Ray, which is not installed: pip install 'robustprobe[ray]', or leave it out."
        ) from error
    return ray


# The workshops of this process, by the key of their order: tasks come and go, a worker process stays.
_WORKER_STATES: dict[str, WorkerState] = {}


def work_of(run_spec: RunSpec, item: WorkItem, heads: Any, threads: int) -> tuple[Any, list[str]]:
    """Do a unit in a worker process; with what a user should know of it."""
    torch.set_num_threads(threads)
    with contextlib.suppress(OSError):
        os.chdir(run_spec.folder)
    if run_spec.key not in _WORKER_STATES:
        _WORKER_STATES.clear()
        _WORKER_STATES[run_spec.key] = WorkerState(run_spec)
    worker, remarks = _WORKER_STATES[run_spec.key], list[str]()
    if isinstance(item, FitHeads):
        return worker.fit(item, _unheard), remarks
    if isinstance(item, JudgeImages):
        return worker.judge(item, heads, _unheard, remarks.append), remarks
    return worker.check(item, heads), remarks


def _unheard(stage: str, done: int, total: int) -> None:
    """Progress within a unit stays where it is."""
