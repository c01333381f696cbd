"""Runs jobs on misbehaving servers while servers and the daemon are killed.

usage: soak.py PROGRAM SERVER MINUTES SEED
SERVER is the example `misbehaving_server`. Every call must be answered or fail in time, and only with the caller's own
answer.
"""

import asyncio
import collections
import contextlib
import json
import logging
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

import httpx2
from mcp import Client, MCPError
from mcp.client.stdio import StdioServerParameters, stdio_client

from processes import processes

logging.getLogger("mcp").setLevel(logging.CRITICAL)

PROGRAM, SERVER = (os.path.abspath(argument) for argument in sys.argv[1:3])
MINUTES, SEED = int(sys.argv[3]), int(sys.argv[4])

JOBS = 500
JOBS_AT_ONCE = 24
CALLS_MAX = 20
SESSIONS = 4
# Jobs start in this share of the time; the last of them need the rest.
BEGINNING_SHARE = 0.9
# The duration of a job as a multiple of the pause between two starts, so that nearly the maximum run concurrently.
STAY_PAUSES = (4, 36)
RELEASED_SHARE = 0.7
SWEEP_SECONDS = 2

# Longer than every wait of the other side; a longer wait counts as a hang.
START_SECONDS = 10
CALL_SECONDS = 45
REQUEST_SECONDS = 90
# How long recovery takes after the daemon was killed.
LOSS_SECONDS = 15
QUIET_SECONDS = 90
END_SECONDS = 20

MCP_PORTS = range(9000, 9100)
TREE_VARIABLE = "CORTEX_PROCESS_TREE="
# The descriptors that an engine, a journal and a runtime open lazily.
DESCRIPTORS_SLACK = 8

CORTEX = {"idle_seconds": 3, "start_timeout_seconds": START_SECONDS}
SERVERS = {
    "steady": ([], {}),
    "crashing": (["--crash-after", "40"], {}),
    "slow": (["--start-delay-ms", "700"], {}),
    "stubborn": (["--ignore-term"], {}),
    "parental": (["--grandchild", "--grandchild-setsid"], {"sharing": "per_allocation"}),
}


class Home:
    """A state with its daemon, and the catalog."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": folder}
        self.state = ["--state", f"{folder}/cortex.db"]
        self.catalog = self.folder / "catalog.json"
        # The instances of the daemon, as named by the marks of their process trees.
        self.instances = set()
        entries = {
            name: {"command": SERVER, "args": flags, "env": {"SOAK": folder}, "cortex": {**CORTEX, **cortex}}
            for name, (flags, cortex) in SERVERS.items()
        }
        self.catalog.write_text(json.dumps({"mcpServers": entries}))

    def connect(self):
        settings = ["--catalog", str(self.catalog), "--sweep-seconds", str(SWEEP_SECONDS), "--log-level", "error"]
        parameters = StdioServerParameters(command=PROGRAM, args=[*self.state, *settings], env=self.environment)
        return Client(stdio_client(parameters), mode="auto")

    def run(self, command):
        line = [PROGRAM, command, *self.state]
        return subprocess.run(line, env=self.environment, capture_output=True, text=True, timeout=60)

    def status(self):
        return dict(line.split(": ", 1) for line in self.run("status").stdout.splitlines() if ": " in line)

    def daemon(self):
        pid = self.status().get("pid")
        return None if pid is None else int(pid)

    def children(self):
        """The servers with their descendants and guardians."""
        found = processes()
        children = [process for process in found if f"SOAK={self.folder}" in process.variables]
        variables = [variable for child in children for variable in child.variables]
        marks = [one.removeprefix(TREE_VARIABLE) for one in variables if one.startswith(TREE_VARIABLE)]
        self.instances.update(mark.partition("/")[0] for mark in marks)
        parents = {process.parent for process in children}
        guardians = [process for process in found if process.pid in parents and "guardian" in process.arguments[1:2]]
        return list({process.pid: process for process in children + guardians}.values())

    def left(self):
        """All processes that any of the daemons ran, by the marks of their process trees."""
        marks = tuple(TREE_VARIABLE + instance + "/" for instance in self.instances)
        return [process for process in processes() if any(one.startswith(marks) for one in process.variables)]

    def log(self):
        logs = sorted(self.folder.rglob("*.log"))
        return "\n".join(line for one in logs for line in one.read_text(errors="replace").splitlines()[-40:])


class Soak:
    """The jobs and their outcomes."""

    def __init__(self, home, clients):
        self.home, self.clients = home, clients
        self.random = random.Random(SEED)
        self.counts = collections.Counter()
        self.wrong = []
        self.at_once = 0
        self.places = asyncio.Semaphore(JOBS_AT_ONCE)
        self.pause = MINUTES * 60 * BEGINNING_SHARE / JOBS
        self.ended = False
        self.daemon_killed_at = -LOSS_SECONDS

    async def insist(self, tool, arguments):
        """Retries until the answer is not the error of a lost daemon."""
        deadline = time.monotonic() + REQUEST_SECONDS
        client = self.random.choice(self.clients)
        while True:
            try:
                result = await asyncio.wait_for(client.call_tool(tool, arguments), deadline - time.monotonic())
            except MCPError as error:
                if not (error.data or {}).get("retryable"):
                    raise
                told = "the daemon was lost"
            else:
                answer = json.loads(result.content[0].text)
                if not result.is_error or not answer.get("retryable"):
                    return answer
                told = answer
            self.counts["asked again"] += 1
            if time.monotonic() > deadline:
                raise TimeoutError(f"{tool} found no daemon within {REQUEST_SECONDS} s: {told}")
            await asyncio.sleep(0.1)

    async def job(self, number):
        async with self.places:
            self.at_once += 1
            self.counts["jobs at once"] = max(self.counts["jobs at once"], self.at_once)
            try:
                await self.live(number)
            except Exception as error:
                self.wrong.append(f"job {number}: {error!r}")
            finally:
                self.at_once -= 1

    async def live(self, number):
        stay_seconds = self.random.uniform(*STAY_PAUSES) * self.pause
        is_released = self.random.random() < RELEASED_SHARE
        request = {
            "job_id": f"job-{number}",
            "request_id": f"request-{number}",
            "mcp_servers": self.random.sample(list(SERVERS), self.random.choice([1, 1, 2, 3])),
            "ttl_seconds": 3_600 if is_released else max(1, round(stay_seconds)),
        }
        granted = await self.insist("request_resources", request)
        if granted["status"] != "active":
            # The server did not start in time or was killed repeatedly, or the lease expired before the restart.
            self.counts["jobs without a grant"] += 1
            self.counts[f"grants that failed: {granted.get('error', granted['status'])[:120]!r}"] += 1
            return
        self.counts["grants"] += 1
        entries = list(granted["mcp_config"]["mcpServers"].values())
        calls = self.random.randint(1, CALLS_MAX)
        held_until = time.monotonic() + request["ttl_seconds"] - 1
        callers = [Caller(self, entry, held_until) for entry in entries]
        try:
            for call in range(calls):
                await self.random.choice(callers).call(f"job {number}, call {call}")
                await asyncio.sleep(stay_seconds / calls)
        finally:
            for caller in callers:
                await caller.close()
        if is_released:
            released = await self.insist("release_resources", {"allocation_id": granted["allocation_id"]})
            if released["status"] not in ("released", "already_released"):
                self.wrong.append(f"job {number} was not released: {released}")
            self.counts["released"] += 1
        else:
            self.counts["left to expire"] += 1

    async def kill_servers(self):
        while not self.ended:
            await asyncio.sleep(self.pause * self.random.uniform(3, 9))
            children = await asyncio.to_thread(self.home.children)
            if children:
                self.kill(self.random.choice(children).pid)
                self.counts["servers killed"] += 1

    async def kill_daemon(self, after_seconds):
        await asyncio.sleep(after_seconds)
        pid = await asyncio.to_thread(self.home.daemon)
        if pid is not None:
            self.daemon_killed_at = time.monotonic()
            self.kill(pid)
            self.counts["daemons killed"] += 1

    @staticmethod
    def kill(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    async def run(self):
        killers = [asyncio.create_task(self.kill_servers())]
        killers += [asyncio.create_task(self.kill_daemon(MINUTES * 60 * share)) for share in (1 / 3, 2 / 3)]
        jobs = []
        begin = time.monotonic()
        for number in range(JOBS):
            jobs.append(asyncio.create_task(self.job(number)))
            await asyncio.sleep(max(0, begin + (number + 1) * self.pause - time.monotonic()))
        await asyncio.gather(*jobs)
        self.ended = True
        await asyncio.gather(*killers)


class Caller:
    """Calls one server, in a session of 2025-11-25 or with plain requests of 2026-07-28. Uses HTTP directly, so
    that the outcome of each call is known."""

    META = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "soak", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }

    def __init__(self, soak, entry, held_until):
        self.soak, self.url, self.held_until = soak, entry["url"], held_until
        headers = {"Accept": "application/json, text/event-stream", **entry["headers"]}
        self.http = httpx2.AsyncClient(headers=headers, timeout=CALL_SECONDS, trust_env=False)
        self.has_session = soak.random.random() < 0.5
        self.session = None
        self.number = 0

    async def close(self):
        if self.session:
            with contextlib.suppress(httpx2.HTTPError):
                await self.http.delete(self.url, headers=self.session)
        await self.http.aclose()

    async def call(self, what):
        counts = self.soak.counts
        counts["calls"] += 1
        tool, arguments, expected = self.choose(what)
        try:
            answer = await self.ask(tool, arguments)
        except (TimeoutError, httpx2.TimeoutException):
            counts["hung"] += 1
            self.soak.wrong.append(f"{what}: {tool} of {self.url} had no answer within {CALL_SECONDS} s")
        except httpx2.HTTPError as error:
            self.session = None
            self.fail(what, f"no connection ({type(error).__name__})", is_closed=True)
        else:
            if "result" in answer:
                counts["answered"] += 1
                if not expected(answer["result"]):
                    self.soak.wrong.append(f"{what}: {tool} {arguments} was answered with {json.dumps(answer)[:300]}")
            else:
                self.fail(what, answer["failure"], is_closed=answer["failure"] == "401")

    def fail(self, what, why, is_closed):
        """Counts a failed call. An endpoint must not refuse a live lease, except after the loss of a daemon."""
        now = time.monotonic()
        when = "when the daemon was lost" if now - self.soak.daemon_killed_at < LOSS_SECONDS else "with its lease"
        if is_closed and when == "with its lease" and now < self.held_until:
            self.soak.wrong.append(f"{what}: {self.url} failed while its lease was held: {why}")
        self.soak.counts["failed"] += 1
        self.soak.counts[f"failed: {why}" + (f" {when}" if is_closed else "")] += 1

    def choose(self, what):
        """A tool, its arguments, and the expected result."""
        rng = self.soak.random
        a, b = rng.randrange(1_000_000), rng.randrange(1_000_000)
        size = rng.randrange(1, 200_000)
        return rng.choices(
            [
                ("echo", {"what": what}, lambda result: result["structuredContent"]["arguments"] == {"what": what}),
                ("add", {"a": a, "b": b}, lambda result: result["structuredContent"]["sum"] == a + b),
                ("sleep", {"ms": a % 300}, lambda result: result["structuredContent"]["slept_ms"] == a % 300),
                ("progress", {"steps": a % 7, "ms": 5}, lambda result: result["structuredContent"]["steps"] == a % 7),
                ("big", {"bytes": size}, lambda result: len(result["content"][0]["text"]) == size),
                ("crash", {}, lambda _: False),
            ],
            weights=[40, 30, 10, 10, 9, 1],
        )[0]

    async def ask(self, tool, arguments):
        params = {"name": tool, "arguments": arguments}
        if not self.has_session:
            params["_meta"] = self.META
            headers = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": tool}
            return self.read(await self.post("tools/call", params, headers))
        if not self.session:
            client = {"name": "soak", "version": "1"}
            hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client}
            response = await self.post("initialize", hello, {})
            answer = self.read(response)
            if "result" not in answer:
                return answer
            self.session = {"MCP-Protocol-Version": "2025-11-25", "Mcp-Session-Id": response.headers["mcp-session-id"]}
        response = await self.post("tools/call", params, self.session)
        if response.status_code == 404:
            # The session has ended with its daemon.
            self.session = None
        return self.read(response)

    async def post(self, method, params, headers):
        self.number += 1
        body = {"jsonrpc": "2.0", "id": self.number, "method": method, "params": params}
        return await asyncio.wait_for(self.http.post(self.url, json=body, headers=headers), CALL_SECONDS)

    def read(self, response):
        """The result, or the reason for its absence."""
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            events = [line.removeprefix("data:") for line in response.text.splitlines() if line.startswith("data:")]
            messages = [json.loads(event) for event in events if event.strip()]
            answers = [message for message in messages if "id" in message and "method" not in message]
            if not answers:
                return {"failure": "a stream that broke off"}
            (answer,) = answers
        else:
            answer = response.json()
        if "jsonrpc" not in answer:
            return {"failure": f"{response.status_code}"}
        if answer["id"] != self.number:
            self.soak.wrong.append(f"the answer to {self.number} has the id {answer['id']}")
        if "result" in answer:
            return answer
        return {"failure": f"error {answer['error']['code']}"}


async def until(what, find, seconds, wrong):
    """Waits until nothing is found."""
    deadline = time.monotonic() + seconds
    while found := await asyncio.to_thread(find):
        if time.monotonic() > deadline:
            wrong.append(f"{what}, {seconds} s later: {found}")
            return
        await asyncio.sleep(0.1)


def ports_taken():
    taken = set()
    for port in MCP_PORTS:
        with socket.socket() as one:
            # Binds like a server, which lingering connections do not block.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                taken.add(port)
    return taken


def descriptors(pid):
    """The targets of a process's descriptors."""
    found = []
    for one in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{one}"))
    return sorted(found)


async def settled(find, before):
    """The descriptors once they are as few as before, or when the wait times out."""
    deadline = time.monotonic() + END_SECONDS
    while len(found := find()) > len(before) and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    return found


async def soak(home):
    taken_before, wrong = ports_taken(), []
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(home.connect()) for _ in range(SESSIONS)]
        await clients[0].call_tool("get_capacity", {})
        first = home.daemon()
        descriptors_before = descriptors(first)
        run = Soak(home, clients)
        wrong = run.wrong
        await run.run()

        def live_leases():
            leases = home.status().get("leases")
            return [] if leases == "0" else [leases]

        await until("leases are live", live_leases, QUIET_SECONDS, wrong)
        await until("servers run for nobody", home.children, QUIET_SECONDS, wrong)
        last = home.daemon()
        descriptors_after = await settled(lambda: descriptors(last), descriptors_before)
        if len(descriptors_after) > len(descriptors_before) + DESCRIPTORS_SLACK:
            wrong.append(f"descriptors are open that were not before: {descriptors_before} and now {descriptors_after}")
    stopped = home.run("stop")
    if stopped.returncode:
        wrong.append(f"stop: {stopped.stderr}")
    await until("processes are left", home.left, END_SECONDS, wrong)
    await until("ports are left", lambda: ports_taken() - taken_before, END_SECONDS, wrong)
    verdict = home.run("verify")
    if verdict.returncode or not verdict.stdout.rstrip().endswith("sound"):
        wrong.append(f"verify: {verdict.stdout}{verdict.stderr}")
    if not re.search(r"\b0 of them live", verdict.stdout):
        wrong.append(f"leases are live in the state: {verdict.stdout}")
    return run, first != last, len(descriptors_before), len(descriptors_after)


async def main():
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(dir=os.path.realpath(tempfile.gettempdir())) as folder:
        home = Home(folder)
        try:
            run, was_replaced, before, after = await soak(home)
        finally:
            home.run("stop")
        counts, wrong = run.counts, run.wrong
        if counts["daemons killed"] != 2 or not was_replaced:
            wrong.append(f"{counts['daemons killed']} daemons were killed")
        if len(home.instances) != 3:
            wrong.append(f"three daemons ran servers, and what they ran has the marks {home.instances}")
        if counts["answered"] + counts["failed"] + counts["hung"] != counts["calls"]:
            wrong.append("the calls do not add up")
        if counts["answered"] <= counts["failed"] or counts["grants"] <= JOBS / 2:
            wrong.append("more failed than not")
        for why, count in sorted(counts.items()):
            if why.startswith(("failed: ", "grants that failed: ")):
                print(f"{count} {'calls ' if why.startswith('failed') else ''}{why}")
        if wrong:
            print(*wrong[:40], home.log(), sep="\n", file=sys.stderr)
    print(
        f"{'WRONG: ' if wrong else ''}{JOBS} jobs in {round(time.monotonic() - begun)} s, "
        f"at most {counts['jobs at once']} at once: "
        f"{counts['grants']} granted, {counts['jobs without a grant']} not, {counts['released']} released, "
        f"{counts['left to expire']} left to expire; {counts['calls']} calls: {counts['answered']} answered, "
        f"{counts['failed']} failed, {counts['hung']} hung; "
        f"{counts['servers killed']} servers and {counts['daemons killed']} daemons killed, "
        f"{counts['asked again']} requests asked again; descriptors {before} before, {after} after; "
        f"{len(wrong)} findings"
    )
    sys.exit(1 if wrong else 0)


asyncio.run(main())
