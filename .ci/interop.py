"""Drives the server with the official Python SDK, in each of its modes: a client that shares no code with the server.

usage: interop.py SERVER
The SDK itself holds every structured result against the tool's output schema and fails if it does not fit.
The worker of the README is taken out of it and run.
"""

import asyncio
import json
import pathlib
import re
import sys

from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

TOOLS = {
    "request_resources",
    "release_resources",
    "get_capacity",
    "get_allocation",
    "list_allocations",
    "cleanup_expired",
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

# The three blocks of the Resource Allocation Module, key for key.
USAGE = {
    "agents": {"total_quotas", "active_agents", "available_slots", "by_type"},
    "tokens": {"total_budget", "consumed", "remaining", "usage_ratio", "avg_per_task"},
    "queue": {"pending_tasks", "by_priority", "avg_wait_time_ms", "oldest_task_age_ms"},
}


def data(result):
    """The structured content of a success, after comparing it with the text that stands beside it."""
    assert not result.is_error, result
    assert json.loads(result.content[0].text) == result.structured_content, result
    return result.structured_content


def refusal(result):
    """The reason of an error."""
    assert result.is_error, result
    return json.loads(result.content[0].text)["error"]


def connect(server, mode, *options):
    parameters = StdioServerParameters(command=server, args=["--log-level", "warn", *options])
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
        assert tools == TOOLS | FLEET_TOOLS | {"renew_allocation"}, tools

        async def call(tool, **arguments):
            return data(await client.call_tool(tool, arguments))

        agent = {"agent_id": "agent-001"}
        registered = await call("register_agent", **agent, agent_type="backend", capabilities=["rust"])
        assert registered["status"] == "registered" and registered["max_concurrent"] == 3, registered
        task = {"task_id": "task-001", "agent_type": "backend", "priority": "HIGH", "payload": {"file": "lib.rs"}, "lease_seconds": 1}
        submitted = await call("submit_task", **task)
        assert submitted["state"] == "queued" and submitted["estimated_tokens"] == 1000, submitted
        assert (await call("submit_task", **task))["status"] == "already_submitted"

        # The first attempt overruns its lease, the second does it.
        key = {"task_id": "task-001"}
        claimed = (await call("claim_task", **agent, wait_seconds=5))["tasks"][0]
        assert claimed["payload"] == task["payload"] and claimed["attempt"] == 1, claimed
        held = (await call("heartbeat_agent", **agent))["tasks"]
        assert [one["fencing_token"] for one in held] == [claimed["fencing_token"]], held
        assert (await call("get_resource_usage"))["tokens"]["reserved"] == 1000
        late = {**agent, **key, "fencing_token": claimed["fencing_token"], "result": "success"}
        claimed = (await call("claim_task", **agent, wait_seconds=30))["tasks"][0]
        assert claimed["fencing_token"] > late["fencing_token"] and claimed["attempt"] == 2, claimed

        # Who comes late changes nothing.
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

        # With hardly any tokens left, a task has to wait for more.
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


async def drive_readme_worker(server, mode):
    readme = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
    (worker,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    names = {"__name__": "readme"}
    exec(compile(worker, "README.md", "exec"), names)

    async def double(payload):
        if payload["is_hopeless"]:
            raise ValueError("that cannot be done")
        return payload["number"] * 2, 10

    async with connect(server, mode, "--toolsets", "all") as client:
        for number in range(5):
            task = {"task_id": f"task-{number}", "payload": {"number": number, "is_hopeless": number == 3}}
            data(await client.call_tool("submit_task", task))
        working = asyncio.create_task(names["work"](client, "agent-001", double))
        ended = {"completed": 4, "failed": 1}
        while any([await total(client, state) != count for state, count in ended.items()]):
            assert not working.done(), working
            await asyncio.sleep(0.02)
        working.cancel()
        outputs = [data(await client.call_tool("get_task", {"task_id": f"task-{n}"}))["output"] for n in range(5)]
        assert outputs == [0, 2, 4, None, 8], outputs


async def total(client, state):
    return data(await client.call_tool("list_tasks", {"state": state}))["total"]


async def main():
    for mode in ("legacy", "2026-07-28", "auto"):
        for drive in (drive_allocations, drive_fleet, drive_readme_worker):
            await asyncio.wait_for(drive(sys.argv[1], mode), timeout=60)
        print(f"interop: the Python SDK in mode {mode}: ok")


asyncio.run(main())
