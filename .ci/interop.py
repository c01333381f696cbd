"""Drives the server with the official Python SDK, in each of its modes: a client that shares no code with the server.

usage: interop.py SERVER
The SDK itself holds every structured result against the tool's output schema and fails if it does not fit.
"""

import asyncio
import json
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


def data(result):
    """The structured content of a success, after comparing it with the text that stands beside it."""
    assert not result.is_error, result
    assert json.loads(result.content[0].text) == result.structured_content, result
    return result.structured_content


async def drive(server, mode):
    parameters = StdioServerParameters(command=server, args=["--log-level", "warn"])
    async with Client(stdio_client(parameters), mode=mode) as client:
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
    print(f"interop: the Python SDK in mode {mode}: ok")


async def main():
    for mode in ("legacy", "2026-07-28", "auto"):
        await asyncio.wait_for(drive(sys.argv[1], mode), timeout=60)


asyncio.run(main())
