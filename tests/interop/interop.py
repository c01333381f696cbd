"""Drives the server with the official Python SDK, in each of its modes: a client that shares no code with the server.

usage: interop.py SERVER
The SDK itself holds every structured result against the tool's output schema and fails if it does not fit.
The worker of the guide is taken out of it and run, also while its daemon is killed and its agent is lost.
"""

import asyncio
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile

from mcp import Client, MCPError
from mcp.client.stdio import StdioServerParameters, stdio_client

TOOLS = {
    "request_resources",
    "release_resources",
    "get_capacity",
    "get_allocation",
    "list_allocations",
    "cleanup_expired",
}

PLANNING_TOOLS = {"get_plan", "get_forecast", "get_scaling_history", "set_scaling_policy"}

SERVER_TOOLS = {
    "list_mcp_servers", "get_mcp_server", "restart_mcp_server", "list_workers", "get_worker", "drain_worker"
}

FLEET_TOOLS = {
    "register_agent",
    "heartbeat_agent",
    "unregister_agent",
    "list_agents",
    "submit_task",
    "claim_task",
    "assign_task",
    "get_task",
    "complete_task",
    "cancel_task",
    "update_task",
    "list_tasks",
    "get_resource_usage",
    "detect_bottlenecks",
    "set_token_budget",
    "set_agent_quota",
}

# The three result blocks of the Resource Allocation Module, with their exact keys.
USAGE = {
    "agents": {"total_quotas", "active_agents", "available_slots", "by_type"},
    "tokens": {"total_budget", "consumed", "remaining", "usage_ratio", "avg_per_task"},
    "queue": {"pending_tasks", "by_priority", "avg_wait_time_ms", "oldest_task_age_ms"},
}


def data(result):
    """The structured content of a successful result, after comparing it with its text."""
    assert not result.is_error, result
    assert json.loads(result.content[0].text) == result.structured_content, result
    return result.structured_content


def refusal(result):
    """The text of an error."""
    assert result.is_error, result
    return json.loads(result.content[0].text)["error"]


def connect(server, mode, *options, environment=None):
    parameters = StdioServerParameters(command=server, args=["--log-level", "warn", *options], env=environment)
    return Client(stdio_client(parameters), mode=mode)


async def drive_allocations(server, mode):
    async with connect(server, mode) as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        assert tools == TOOLS, tools

        request = {"job_id": "job-001", "mcp_servers": ["filesystem", "github"], "workers": 4, "priority": "high"}
        granted = data(await client.call_tool("request_resources", request))
        assert granted["status"] == "active", granted
        assert granted["resources"] == {"cpu": 4.0, "memory": 8192, "workers": 4}, granted
        assert [server["name"] for server in granted["mcp_servers"]] == ["filesystem", "github"], granted

        key = {"allocation_id": granted["allocation_id"]}
        read_back = data(await client.call_tool("get_allocation", key))
        assert read_back["state"] == "active" and read_back["timestamps"]["released_at"] is None, read_back
        resource = await client.read_resource("cluster://allocations/" + granted["allocation_id"])
        assert json.loads(resource.contents[0].text)["job_id"] == "job-001", resource

        refused = data(await client.call_tool("request_resources", {**request, "workers": 20}))
        assert refused["status"] == "failed", refused
        assert refused["error"] == "Insufficient workers: requested 20, available 6", refused

        released = data(await client.call_tool("release_resources", key))
        assert released["status"] == "released" and released["workers_released"] == 4, released
        again = data(await client.call_tool("release_resources", key))
        assert again["status"] == "already_released", again
        assert data(await client.call_tool("list_allocations", {}))["count"] == 2
        assert data(await client.call_tool("cleanup_expired", {})) == {"cleaned_up": [], "count": 0}
        assert data(await client.call_tool("get_capacity", {}))["available_workers"] == 10

        unknown = await client.call_tool("get_allocation", {"allocation_id": "nonexistent-id"})
        assert unknown.is_error, unknown
        assert json.loads(unknown.content[0].text)["error"] == "Allocation nonexistent-id not found", unknown


async def drive_fleet(server, mode):
    async with connect(server, mode, "--toolsets", "all") as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        assert tools == TOOLS | FLEET_TOOLS | PLANNING_TOOLS | SERVER_TOOLS | {"renew_allocation"}, tools

        async def call(tool, **arguments):
            return data(await client.call_tool(tool, arguments))

        assert "--catalog FILE" in refusal(await client.call_tool("list_mcp_servers", {}))
        agent = {"agent_id": "agent-001"}
        registered = await call("register_agent", **agent, agent_type="backend", capabilities=["rust"])
        assert registered["status"] == "registered" and registered["max_concurrent"] == 3, registered
        task = {
            "task_id": "task-001", "agent_type": "backend", "priority": "HIGH", "payload": {"file": "lib.rs"},
            "lease_seconds": 1,
        }
        submitted = await call("submit_task", **task)
        assert submitted["state"] == "queued" and submitted["estimated_tokens"] == 1000, submitted
        assert (await call("submit_task", **task))["status"] == "already_submitted"

        # The first attempt exceeds its lease, the second completes the task.
        key = {"task_id": "task-001"}
        claimed = (await call("claim_task", **agent, wait_seconds=5))["tasks"][0]
        assert claimed["payload"] == task["payload"] and claimed["attempt"] == 1, claimed
        held = (await call("heartbeat_agent", **agent))["tasks"]
        assert [one["fencing_token"] for one in held] == [claimed["fencing_token"]], held
        assert (await call("get_resource_usage"))["tokens"]["reserved"] == 1000
        late = {**agent, **key, "fencing_token": claimed["fencing_token"], "result": "success"}
        claimed = (await call("claim_task", **agent, wait_seconds=30))["tasks"][0]
        assert claimed["fencing_token"] > late["fencing_token"] and claimed["attempt"] == 2, claimed

        # A late report has no effect.
        assert "fencing_token" in refusal(await client.call_tool("complete_task", late))
        running = await call("get_task", **key)
        assert running["state"] == "running" and running["lease"]["attempt"] == 2, running

        second = {**agent, **key, "fencing_token": claimed["fencing_token"]}
        done = await call("complete_task", **second, result="success", tokens_used=1100, output=["lib.rs"])
        assert done["status"] == "completed" and done["attempts"] == 2, done
        ended = await call("get_task", **key)
        assert ended["output"] == ["lib.rs"] and ended["tokens_used"] == 1100, ended
        assert [attempt["outcome"] for attempt in ended["attempts"]] == ["lease_expired", "success"], ended

        usage = await call("get_resource_usage")
        for block, keys in USAGE.items():
            assert keys <= usage[block].keys(), usage
        tokens = usage["tokens"]
        assert (tokens["consumed"], tokens["reserved"], tokens["overrun"]) == (1100, 0, 100), tokens
        assert usage["agents"]["by_type"]["backend"]["active"] == 1, usage
        assert usage["queue"]["by_priority"].keys() == {"CRITICAL", "HIGH", "MEDIUM", "LOW"}, usage

        # With few tokens left, a task is deferred.
        assert (await call("detect_bottlenecks"))["bottlenecks"] == []
        assert (await call("set_token_budget", budget_tokens=1200))["tokens"]["remaining"] == 100
        assert (await call("submit_task", task_id="task-002"))["deferred_reason"] == "insufficient_tokens"
        found = (await call("detect_bottlenecks"))["bottlenecks"]
        assert [one["bottleneck_type"] for one in found] == ["token_exhaustion"], found
        assert (await call("claim_task", **agent))["reason"] == "no_tokens"
        assert (await call("set_token_budget", budget_tokens=200000))["conservation"]["deferred_tasks"] == 0
        assert (await call("claim_task", **agent))["count"] == 1

        left = await call("unregister_agent", **agent)
        assert left["tasks"] == [{"task_id": "task-002", "state": "queued"}], left
        assert "agent-001" in refusal(await client.call_tool("heartbeat_agent", agent))


def guide_worker():
    """The definitions of the guide's worker."""
    guide = (pathlib.Path(__file__).parents[2] / "docs/guides/agents-and-tasks.md").read_text()
    (worker,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    names = {"__name__": "guide"}
    exec(compile(worker, "agents-and-tasks.md", "exec"), names)
    return names


@contextlib.asynccontextmanager
async def at_work(client, do):
    """Runs the worker of the guide as agent-001."""
    working = asyncio.create_task(guide_worker()["work"](client, "agent-001", do))
    try:
        yield working
    finally:
        working.cancel()


async def until(condition, working):
    """Waits for a condition while the worker runs."""
    while not await condition():
        assert not working.done(), working
        await asyncio.sleep(0.02)


async def drive_guide_worker(server, mode):
    begun = {0: asyncio.Event(), 1: asyncio.Event()}

    async def double(payload):
        # One claim returns both tasks of the batch, and each waits until the other has started.
        if payload["number"] in begun:
            begun[payload["number"]].set()
            await begun[1 - payload["number"]].wait()
        if payload["is_hopeless"]:
            raise ValueError("that cannot be done " * 1_000)
        return payload["number"] * 2, 10

    async with connect(server, mode, "--toolsets", "all") as client:
        for number in range(5):
            task = {"task_id": f"task-{number}", "payload": {"number": number, "is_hopeless": number == 3}}
            batch = {"batch_key": "batch"} if number in begun else {}
            data(await client.call_tool("submit_task", {**task, **batch}))

        async def have_ended():
            ended = {"completed": 4, "failed": 1}
            return all([await total(client, state) == count for state, count in ended.items()])

        async with at_work(client, double) as working:
            await until(have_ended, working)
        outputs = [data(await client.call_tool("get_task", {"task_id": f"task-{n}"}))["output"] for n in range(5)]
        assert outputs == [0, 2, 4, None, 8], outputs


async def total(client, state):
    return data(await client.call_tool("list_tasks", {"state": state}))["total"]


class Home:
    """A state in its own folder, with the daemon that owns it."""

    def __init__(self, server):
        self.server = server

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": self.folder.name}
        self.state = ["--state", self.folder.name + "/cortex.db"]
        return self

    def __exit__(self, *_):
        self.run("stop")
        self.folder.cleanup()

    def connect(self, mode):
        options = [*self.state, "--toolsets", "all", "--heartbeat-seconds", "1"]
        return connect(self.server, mode, *options, environment=self.environment)

    def run(self, command):
        line = [self.server, command, *self.state]
        return subprocess.run(line, env=self.environment, capture_output=True, text=True, timeout=30).stdout

    def daemon(self):
        (pid,) = re.findall(r"^pid: (\d+)$", self.run("status"), re.MULTILINE)
        return int(pid)


class Spied:
    """A client, with its pending calls, and the calls that a daemon loss interrupted."""

    def __init__(self, client):
        self.client, self.in_flight, self.lost = client, [], []

    async def call_tool(self, tool, arguments):
        self.in_flight.append(tool)
        try:
            return await self.client.call_tool(tool, arguments)
        except MCPError as error:
            assert error.data == {"retryable": True}, error
            self.lost.append(tool)
            raise
        finally:
            self.in_flight.remove(tool)


class Coordinator:
    """Submits tasks for agent-001 and checks their results."""

    def __init__(self, client):
        self.client = client

    async def call(self, tool, **arguments):
        # This session uses the same daemon, and loses it too.
        return await guide_worker()["insist"](self.client, tool, **arguments)

    async def submit(self, task_id, payload=None):
        await self.call("submit_task", task_id=task_id, payload=payload)

    async def see_done(self, task_id, working):
        async def is_done():
            return (await self.call("get_task", task_id=task_id))["state"] == "completed"

        await until(is_done, working)

    async def see_waiting(self, worker, working):
        """A claim has reached the daemon if the agent was seen, since the agent makes no other call then."""

        async def is_claiming():
            return worker.in_flight == ["claim_task"]

        async def heard_at():
            return [agent["heard_at"] for agent in (await self.call("list_agents"))["agents"]]

        async def is_heard():
            return await is_claiming() and await heard_at() > heard_before

        await until(is_claiming, working)
        heard_before = await heard_at()
        await until(is_heard, working)


async def drive_guide_worker_through_losses(server, mode):
    with Home(server) as home:
        async with home.connect(mode) as client, home.connect(mode) as other:
            worker, coordinator, seen, stopped = Spied(client), Coordinator(other), [], []

            async def do(payload):
                seen.append(payload)
                if payload == "stop the daemon":
                    stopped.append(home.daemon())
                    os.kill(stopped[0], signal.SIGSTOP)
                if payload == "unregister" and seen.count(payload) == 1:
                    await coordinator.call("unregister_agent", agent_id="agent-001")
                    await asyncio.Event().wait()
                return payload, 10

            # An earlier process claimed a task and ended without a report.
            await coordinator.submit("left-behind")
            await coordinator.call("register_agent", agent_id="agent-001", agent_type="backend")
            assert (await coordinator.call("claim_task", agent_id="agent-001"))["count"] == 1
            async with at_work(worker, do) as working:
                await coordinator.see_done("left-behind", working)

                await coordinator.see_waiting(worker, working)
                await coordinator.call("unregister_agent", agent_id="agent-001")
                await coordinator.submit("unregistered-while-waiting")
                await coordinator.see_done("unregistered-while-waiting", working)

                await coordinator.see_waiting(worker, working)
                assert worker.lost == [], worker.lost
                os.kill(home.daemon(), signal.SIGKILL)
                await coordinator.submit("killed-while-waiting")
                await coordinator.see_done("killed-while-waiting", working)
                assert worker.lost == ["claim_task"], worker.lost

                # The daemon is lost before it answers the report.
                async def is_reporting():
                    return stopped and worker.in_flight == ["complete_task"]

                await coordinator.submit("killed-at-report", "stop the daemon")
                await until(is_reporting, working)
                os.kill(stopped[0], signal.SIGKILL)
                await coordinator.see_done("killed-at-report", working)
                assert seen.count("stop the daemon") == 1, seen

                # A heartbeat shows that the task was requeued, and it is assigned again.
                await coordinator.submit("unregistered-at-work", "unregister")
                await coordinator.see_done("unregistered-at-work", working)
            assert seen.count("unregister") == 2, seen


async def main():
    for mode in ("legacy", "2026-07-28", "auto"):
        for drive in (drive_allocations, drive_fleet, drive_guide_worker, drive_guide_worker_through_losses):
            await asyncio.wait_for(drive(sys.argv[1], mode), timeout=60)
        print(f"interop: the Python SDK in mode {mode}: ok")


asyncio.run(main())
