"""Leases third-party MCP servers, and uses them through their endpoints with third-party SDKs.

usage: servers.py PROGRAM FOLDER VENV
FOLDER contains the servers from npm and `clients.mjs`, the clients in TypeScript; VENV contains mcp-server-time.
Each child gets a variable that names this run and its entry, so that its process tree can be found in /proc.
"""

import asyncio
import contextlib
import json
import logging
import os
import pathlib
import signal
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request
import warnings

import httpx2
from mcp import Client, MCPError
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ResourceUpdated
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp.types import ResourceUpdatedNotification

from processes import processes

# Features that 2026-07-28 removed are used on purpose, on connections of older protocol versions.
warnings.simplefilter("ignore", MCPDeprecationWarning)
# The SDK logs errors when a stream ends unexpectedly; the relevant ones are checked here.
logging.getLogger("mcp").setLevel(logging.CRITICAL)

PROGRAM, FOLDER, VENV = (os.path.abspath(argument) for argument in sys.argv[1:])
MODES = {"legacy": "2025-11-25", "auto": "2026-07-28", "2026-07-28": "2026-07-28"}
LEASED = ["filesystem", "everything", "memory", "time"]
ENTRY_VARIABLE = "INTEROP_ENTRY"

RUN_SECONDS = 180
CALL_SECONDS = 20
# Longer than the grace period of a process tree, including the time to kill it.
END_SECONDS = 15

SESSIONS = 20
CALLS_EACH = 10

NO_TOKEN = object()


class Checks:
    """Counts the conditions that hold."""

    def __init__(self):
        self.count = 0

    def __call__(self, holds, what, saw):
        if not holds:
            raise AssertionError(f"{what}: saw {saw!r}")
        self.count += 1


check = Checks()


class Entries:
    """The catalog, in a folder with the files that its servers use."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.files, self.rooted = self.folder / "files", self.folder / "rooted"
        for one in (self.files, self.rooted, self.folder / "graphs"):
            one.mkdir()
        # Each child has its own graph file. The shell stays, so that the server is its child.
        script = 'MEMORY_FILE_PATH="$(mktemp "$1/graphs/XXXXXX.jsonl")" node "$2"; exit $?'
        npm = ["exec", "--offline", "--no-update-notifier", "--logs-max=0", "--"]
        self.entries = {
            "filesystem": self.entry("npm", *npm, "mcp-server-filesystem", self.files, cwd=FOLDER),
            "rooted": self.entry("node", package("filesystem"), self.files, cortex={"roots": [str(self.rooted)]}),
            "everything": self.entry("node", package("everything")),
            "memory": self.entry(
                "sh", "-c", script, "memory", self.folder, package("memory"), cortex={"sharing": "per_allocation"}
            ),
            "time": self.entry(f"{VENV}/bin/mcp-server-time", "--local-timezone", "Europe/Paris"),
            "asking": self.entry(f"{VENV}/bin/python", pathlib.Path(__file__).with_name("asking_server.py")),
            "broken": self.entry("node", self.folder / "missing.js"),
        }
        for name, entry in self.entries.items():
            entry["env"] = {ENTRY_VARIABLE: self.mark(name)}
        self.path = self.folder / "catalog.json"
        self.path.write_text(json.dumps({"mcpServers": self.entries}))

    @staticmethod
    def entry(command, *arguments, cortex=None, **more):
        # A server ends as soon as it has no holder, so that its end can be checked.
        cortex = {"idle_seconds": 0, **(cortex or {})}
        return {"command": command, "args": [str(one) for one in arguments], "cortex": cortex, **more}

    def mark(self, name):
        return f"{self.folder}:{name}"

    def running(self, *names):
        """The processes of these entries, or of all."""
        marks = {f"{ENTRY_VARIABLE}={self.mark(name)}" for name in names or self.entries}
        return [process for process in processes() if not marks.isdisjoint(process.variables)]

    def left(self):
        """All processes that refer to the folder, except the manager, which has the catalog as an argument."""
        own = str(self.folder)
        about = [one for one in processes() if any(own in text for text in one.arguments + one.variables)]
        return [process for process in about if str(self.path) not in process.arguments]

    def managers(self):
        found = [process for process in processes() if str(self.path) in process.arguments]
        return [process for process in found if process.parent == os.getpid()]


def package(name):
    return f"{FOLDER}/node_modules/@modelcontextprotocol/server-{name}/dist/index.js"


class Lease:
    """A grant, with methods to use it."""

    def __init__(self, granted):
        check(granted["status"] == "active", "the request is granted", granted)
        self.id = granted["allocation_id"]
        self.config = granted["mcp_config"]["mcpServers"]
        self.token = granted["access_token"]
        for server in granted["mcp_servers"]:
            entry = self.config[server["name"]]
            check(entry["url"] == server["endpoint"] + "/mcp", "the configuration has the endpoint", granted)
            check(entry["headers"] == {"Authorization": f"Bearer {self.token}"}, "and its token", entry)
            check(entry["type"] == "http", "and its kind", entry)

    @contextlib.asynccontextmanager
    async def open(self, name, mode, **options):
        entry = self.config[name]
        timeout = httpx2.Timeout(CALL_SECONDS, read=60)
        async with httpx2.AsyncClient(headers=entry["headers"], timeout=timeout) as http:
            transport = streamable_http_client(entry["url"], http_client=http)
            async with Client(transport, mode=mode, read_timeout_seconds=CALL_SECONDS, **options) as client:
                yield client

    async def ask(self, name, token=None, path="/mcp", headers=None, method="POST"):
        """The status, headers and body of a plain request without a session."""
        token = self.token if token is None else token
        return await asyncio.to_thread(self.ask_plainly, name, token, path, headers or {}, method)

    def ask_plainly(self, name, token, path, headers, method):
        meta = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "plain", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "tools/list",
            **({} if token is NO_TOKEN else {"Authorization": f"Bearer {token}"}),
            **headers,
        }
        url = self.config[name]["url"].removesuffix("/mcp") + path
        data = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(url, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=CALL_SECONDS) as response:
                return response.status, response.headers, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read().decode()
        except urllib.error.URLError as error:
            return None, {}, str(error)


class Manager:
    """The manager, started by a client over standard input and output."""

    def __init__(self, entries, client):
        self.entries, self.client = entries, client

    @classmethod
    @contextlib.asynccontextmanager
    async def run(cls, entries):
        arguments = ["--catalog", str(entries.path), "--toolsets", "all", "--daemon", "never", "--log-level", "error"]
        parameters = StdioServerParameters(command=PROGRAM, args=arguments)
        async with Client(stdio_client(parameters), mode="auto") as client:
            yield cls(entries, client)

    async def call(self, tool, **arguments):
        result = await self.client.call_tool(tool, arguments, read_timeout_seconds=60)
        return result, json.loads(result.content[0].text)

    async def lease(self, job, *names):
        _, granted = await self.call("request_resources", job_id=job, mcp_servers=list(names))
        return Lease(granted)

    async def release(self, lease):
        _, released = await self.call("release_resources", allocation_id=lease.id)
        check(released["status"] == "released", "the lease is released", released)

    def pid(self):
        (manager,) = self.entries.managers()
        return manager.pid


async def until(what, condition, seconds=CALL_SECONDS):
    """Waits until a condition holds; it returns whether it does, and what was seen."""
    deadline = time.monotonic() + seconds
    while True:
        came, saw = await condition() if asyncio.iscoroutinefunction(condition) else condition()
        if came:
            check(True, what, saw)
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds} s; saw {saw!r}")
        await asyncio.sleep(0.05)


async def see_gone(what, find):
    def is_gone():
        found = find()
        return not found, found

    await until(what, is_gone, END_SECONDS)


def text(result):
    return result.content[0].text


async def tool_names(client):
    return {tool.name for tool in (await client.list_tools()).tools}


async def use_files(entries, lease, mode):
    async with lease.open("filesystem", mode) as client:
        check(client.protocol_version == MODES[mode], f"mode {mode} speaks {MODES[mode]}", client.protocol_version)
        names = await tool_names(client)
        check({"read_text_file", "write_file", "list_directory"} <= names, "the tools are listed", names)
        path = entries.files / f"python-{mode}.txt"
        content = f"written in mode {mode}\nä€😀"
        written = await client.call_tool("write_file", {"path": str(path), "content": content})
        check(not written.is_error and path.read_text() == content, "a file is written", written)
        read = await client.call_tool("read_text_file", {"path": str(path)})
        check(text(read) == content, "and read", read)
        listed = await client.call_tool("list_directory", {"path": str(entries.files)})
        check(f"[FILE] {path.name}" in text(listed), "and listed", listed)
        refused = await client.call_tool("read_text_file", {"path": "/etc/hostname"})
        check(refused.is_error and "Access denied" in text(refused), "other files are refused", refused)


async def use_time(_, lease, mode):
    async with lease.open("time", mode) as client:
        check(await tool_names(client) == {"get_current_time", "convert_time"}, "the tools are listed", None)
        now = json.loads(text(await client.call_tool("get_current_time", {"timezone": "Asia/Kolkata"})))
        check(now["timezone"] == "Asia/Kolkata" and now["datetime"].endswith("+05:30"), "the time in a zone", now)
        wanted = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
        converted = json.loads(text(await client.call_tool("convert_time", wanted)))
        check("T21:00:00" in converted["target"]["datetime"], "a time in another zone", converted)
        # The server rejects a time zone with its own error text.
        refused = await client.call_tool("get_current_time", {"timezone": "Nowhere/Atall"})
        check(refused.is_error and "Nowhere/Atall" in text(refused), "an unknown zone is refused", refused)


async def use_memory(_, lease, mode):
    name = f"python-{mode}"
    entity = {"name": name, "entityType": "client", "observations": [mode]}
    async with lease.open("memory", mode) as client, lease.open("memory", mode) as other:
        created = await client.call_tool("create_entities", {"entities": [entity]})
        check(created.structured_content == {"entities": [entity]}, "an entity is created", created)
        found = await other.call_tool("open_nodes", {"names": [name]})
        check(found.structured_content["entities"] == [entity], "another session of the lease finds it", found)


async def use_everything(_, lease, mode):
    steps = 3 + list(MODES).index(mode)
    seen = []

    async def on_progress(progress, total, _message):
        seen.append((progress, total))

    async with lease.open("everything", mode) as client:
        echoed = await client.call_tool("echo", {"message": mode})
        check(text(echoed) == f"Echo: {mode}", "an echo", echoed)
        structured = await client.call_tool("get-structured-content", {"location": "Chicago"})
        check("temperature" in structured.structured_content, "structured content", structured)
        image = await client.call_tool("get-tiny-image", {})
        check("image" in [block.type for block in image.content], "an image", [block.type for block in image.content])
        resource = await client.read_resource("demo://resource/dynamic/text/7")
        check(resource.contents[0].text.startswith("Resource 7:"), "a resource", resource)
        prompt = await client.get_prompt("args-prompt", {"city": "Oslo"})
        check("Oslo" in prompt.messages[0].content.text, "a prompt", prompt)
        long = {"duration": 1, "steps": steps}
        done = await client.call_tool("trigger-long-running-operation", long, progress_callback=on_progress)
        check(f"Steps: {steps}" in text(done), "the end of a long operation", done)
        check(seen == [(step, steps) for step in range(1, steps + 1)], "each of its steps", seen)
        # The bridge does not announce sampling and elicitation, so that tools that need them are not listed.
        names = await tool_names(client)
        asking = {"trigger-sampling-request", "trigger-elicitation-request", "get-roots-list"}
        check(names.isdisjoint(asking), "no tools that ask", names)


async def use_what_asks(entries, lease, mode):
    async with lease.open("asking", mode) as client:
        for tool in ("ask_sampling", "ask_elicitation", "ask_roots"):
            answer = text(await client.call_tool(tool, {}))
            is_clear = "refused with -32601" in answer and "cortex-resource-manager" in answer
            check(is_clear, f"{tool} is refused clearly", answer)
    async with lease.open("rooted", mode) as client:
        # The server uses the roots from the client instead of the folder of its arguments.
        async def is_told():
            allowed = text(await client.call_tool("list_allowed_directories", {}))
            return str(entries.rooted) in allowed and str(entries.files) not in allowed, allowed

        await until("a server is told the roots of the catalog", is_told)


async def hear_updates(_, lease, _mode):
    """Each session receives notices of its own subscriptions only; the server sends all notices to one client."""
    received = {name: [] for name in ("first", "second")}
    logs = {name: [] for name in received}

    def listener(name):
        async def on_message(message):
            if isinstance(message, ResourceUpdatedNotification):
                received[name].append(str(message.params.uri))

        async def on_log(message):
            logs[name].append((message.level, message.data))

        return {"message_handler": on_message, "logging_callback": on_log}

    uris = {name: f"demo://resource/dynamic/text/{number}" for number, name in enumerate(received, 1)}
    async with contextlib.AsyncExitStack() as stack:
        clients = {}
        for name in received:
            session = lease.open("everything", "legacy", **listener(name))
            clients[name] = await stack.enter_async_context(session)
        await clients["first"].set_logging_level("debug")
        await clients["second"].set_logging_level("emergency")
        for name, client in clients.items():
            await client.subscribe_resource(uris[name])
        third = await stack.enter_async_context(lease.open("everything", "2026-07-28"))
        third_uri = "demo://resource/dynamic/text/3"
        async with third.listen(resource_subscriptions=[third_uri]) as events:
            event = await asyncio.wait_for(anext(aiter(events)), CALL_SECONDS)
            check(event == ResourceUpdated(uri=third_uri), "a listener of 2026-07-28 hears of its resource", event)
        for name in received:
            what = f"the {name} session receives updates of its resource"
            await until(what, lambda name=name: (received[name], received))

        # Both streams are open now. The server logs a subscription at the level info.
        fourth = await stack.enter_async_context(lease.open("everything", "legacy"))
        await fourth.subscribe_resource("demo://resource/dynamic/text/4")
        expected = ("info", "Received Subscribe Resource request for URI: demo://resource/dynamic/text/4 ")
        await until("who asked for logs gets them", lambda: (expected in logs["first"], logs["first"]))
        await clients["second"].send_ping()
        check(expected not in logs["second"], "who asked for emergencies alone does not", logs["second"])
        for name, uri in uris.items():
            check(set(received[name]) == {uri}, f"the {name} session receives no other updates", received[name])


async def crowd(entries, lease):
    """Many sessions of all modes on one child, with interleaved calls."""
    modes = list(MODES)

    async def calls(session, client):
        seen = []

        async def on_progress(progress, total, _message):
            seen.append((progress, total))

        async def echo(number):
            message = f"session {session}, call {number}"
            echoed = text(await client.call_tool("echo", {"message": message}))
            check(echoed == f"Echo: {message}", f"{message} gets its own answer", echoed)

        async def add(number):
            a, b = session * 1_000, number
            added = text(await client.call_tool("get-sum", {"a": a, "b": b}))
            check(added == f"The sum of {a} and {b} is {a + b}.", f"session {session} gets its own sum", added)

        async def take_long():
            steps = 2 + session
            long = {"duration": 1, "steps": steps}
            done = text(await client.call_tool("trigger-long-running-operation", long, progress_callback=on_progress))
            check(f"Steps: {steps}" in done, f"session {session} gets its own end", done)
            expected = [(step, steps) for step in range(1, steps + 1)]
            check(seen == expected, f"session {session} sees its own steps", seen)

        async def one_by_one(call):
            for number in range(CALLS_EACH):
                await call(number)

        await asyncio.gather(take_long(), one_by_one(echo), one_by_one(add))

    async with contextlib.AsyncExitStack() as stack:
        opening = [lease.open("everything", modes[session % len(modes)]) for session in range(SESSIONS)]
        # A context must be left by the task that entered it, so that they are opened one after another.
        clients = [await stack.enter_async_context(one) for one in opening]
        await asyncio.gather(*(calls(session, client) for session, client in enumerate(clients)))
        children = [one for one in entries.running("everything") if pathlib.Path(one.arguments[0]).name == "node"]
        check(len(children) == 1, f"{SESSIONS} sessions share one child", children)


async def use_from_typescript(entries, lease):
    told = {"servers": lease.config, "folder": str(entries.files)}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("node", f"{FOLDER}/clients.mjs", stdin=pipe, stdout=pipe)
    try:
        output, _ = await process.communicate(json.dumps(told).encode())
    except asyncio.CancelledError:
        process.kill()
        raise
    check(process.returncode == 0, "the clients in TypeScript find all well", process.returncode)
    check.count += int(output.split()[-1])


async def see_unauthenticated_refused(lease, other):
    """A client without a token, or with that of another lease, is refused."""
    for what, name, token in [
        ("no token", "everything", NO_TOKEN),
        ("a made-up token", "everything", "0" * 64),
        ("an empty token", "everything", ""),
        ("the token of a lease that does not have the server", "time", other.token),
        ("the token of a lease that has a child of its own", "memory", other.token),
    ]:
        for method in ("POST", "GET", "DELETE"):
            status, headers, body = await lease.ask(name, token, method=method)
            has_reason = status == 401 and json.loads(body)["error"]
            check(has_reason, f"{method} with {what} gets 401 and a reason", (status, body))
            has_challenge = "bearer" in headers.get("WWW-Authenticate", "").lower()
            check(has_challenge, f"{method} with {what} gets a challenge", dict(headers))
    foreign = [("a foreign host", {"Host": "example.com"}), ("a foreign origin", {"Origin": "http://example.com"})]
    for what, headers in foreign:
        status, _, body = await lease.ask("everything", headers=headers)
        check(status == 403, f"{what} gets 403", (status, body))
    for path in ("/", "/mcp"):
        status, _, body = await lease.ask("everything", path=path)
        check(status == 200 and "get-sum" in body, f"the holder gets an answer at {path}", (status, body))


async def see_leases_apart(lease, other):
    async with lease.open("memory", "auto") as client, other.open("memory", "auto") as other_client:
        mine = (await client.call_tool("read_graph", {})).structured_content
        names = {entity["name"] for entity in mine["entities"]}
        check({"python-legacy", "typescript-0"} <= names, "all clients of a lease wrote to one graph", names)
        theirs = (await other_client.call_tool("read_graph", {})).structured_content
        check(theirs["entities"] == [], "another lease has a graph of its own", theirs)


async def see_what_is_told(manager, lease):
    """The information about a lease and its servers, and which tools return the token."""
    _, told = await manager.call("get_allocation", allocation_id=lease.id)
    is_same = told["access_token"] == lease.token and told["mcp_config"]["mcpServers"] == lease.config
    check(is_same, "a lease is returned as it was granted", told)
    check({server["status"] for server in told["mcp_servers"]} == {"running"}, "and that its servers run", told)
    for tool in ("list_allocations", "list_mcp_servers", "get_capacity"):
        _, told = await manager.call(tool)
        check(lease.token not in json.dumps(told), f"{tool} tells no token", told)
    _, told = await manager.call("list_mcp_servers")
    standing = {server["name"]: server for server in told["servers"]}
    check(standing.keys() == manager.entries.entries.keys(), "all of the catalog is told", told)
    check(standing["everything"]["holders_count"] == 2, "with how many hold it", standing["everything"])
    _, told = await manager.call("get_mcp_server", name="everything")
    (run,) = told["runs"]
    calls = {holder["allocation_id"]: holder["calls"] for holder in run["holders"]}
    is_counted = calls[lease.id]["count"] >= SESSIONS * CALLS_EACH * 2 and calls[lease.id]["bytes_out"] > 0
    check(is_counted, "calls are counted for each lease", calls)
    check(run["memory"] > 0 and run["processes"] >= 1 and run["restarts"] == 0, "and what the child takes", run)
    check("Starting default (STDIO) server..." in run["last_lines"], "and its last lines", run)


async def see_restart(manager, lease):
    """A server that is restarted on request keeps its endpoint and its sessions."""
    async with lease.open("everything", "legacy") as client:
        before = {process.pid for process in manager.entries.running("everything")}
        result, told = await manager.call("restart_mcp_server", name="everything")
        check(not result.is_error and told["status"] == "restarted", "a server is started again", told)
        check(told["runs"][0]["state"] == "running", "and runs when that is answered", told)
        echoed = await client.call_tool("echo", {"message": "again"})
        check(text(echoed) == "Echo: again", "and answers the same session", echoed)
        after = {process.pid for process in manager.entries.running("everything")}
        check(before.isdisjoint(after), "from another process", (before, after))


async def see_crash_mended(manager, lease):
    """A child that is killed is restarted at its endpoint, and the session continues."""
    async with lease.open("time", "legacy") as client:
        before = {process.pid for process in manager.entries.running("time")}
        for process in manager.entries.running("time"):
            if any("mcp-server-time" in argument for argument in process.arguments[:2]):
                os.kill(process.pid, signal.SIGKILL)

        async def is_back():
            try:
                answer = await client.call_tool("get_current_time", {"timezone": "UTC"})
            except MCPError as error:
                return False, error
            return not answer.is_error, answer

        await until("a child that was killed is started again for the same session", is_back)
        after = {process.pid for process in manager.entries.running("time")}
        check(before.isdisjoint(after), "it is another process", (before, after))


async def see_release(manager, lease, other):
    entries = manager.entries
    trees = {name: entries.running(name) for name in LEASED}
    for name, tree in trees.items():
        check(tree, f"{name} runs", tree)
    wrapped = [one.arguments[0] for one in trees["filesystem"]]
    check(len(wrapped) > 1, "npm is a tree of processes", trees["filesystem"])
    kept = {one.pid for one in trees["everything"]}

    async with lease.open("everything", "legacy") as open_still:
        await manager.release(lease)
        try:
            saw = await open_still.call_tool("echo", {"message": "after the end"})
        except Exception as error:  # The SDK may raise any kind of exception for a refusal.
            saw = error
        check(isinstance(saw, Exception), "an open session ends with its lease", saw)
        status, _, body = await lease.ask("everything")
        check(status == 401 and lease.token not in body, "a released lease gets 401", (status, body))
    for name in ("filesystem", "memory", "time"):
        status, _, body = await lease.ask(name)
        check(status in (401, None), f"{name} is closed to a released lease", (status, body))
    await see_gone("the trees that only this lease held are gone", lambda: entries.running("filesystem", "time"))
    tree = {one.pid for one in trees["memory"]}
    gone = [one.pid for one in entries.running("memory")]
    check(gone and not tree <= set(gone), "its own child is gone, and that of the other lease is there", (tree, gone))

    running = {one.pid for one in entries.running("everything")}
    check(running == kept, "servers of another lease keep running", kept)
    async with other.open("everything", "auto") as client:
        echoed = await client.call_tool("echo", {"message": "still here"})
        check(text(echoed) == "Echo: still here", "and answers", echoed)
    await manager.release(other)
    status, _, body = await other.ask("everything")
    check(status in (401, None), "the last lease gets nothing either", (status, body))
    await see_gone("no server runs without a lease", entries.left)


async def see_refusals(manager):
    result, refused = await manager.call("request_resources", job_id="refused", mcp_servers=["everythin"])
    is_refused = result.is_error and "everything" in refused["error"]
    check(is_refused, "an unknown server is refused with the names of the known ones", refused)
    result, refused = await manager.call("request_resources", job_id="refused", mcp_servers=["time", "broken"])
    is_failed = refused["status"] == "failed" and "missing.js" in refused["error"]
    check(is_failed, "a server that cannot start fails the grant with its own error", refused)


async def use_all(entries):
    async with Manager.run(entries) as manager:
        lease, other, asking = await asyncio.gather(
            manager.lease("interop", *LEASED),
            manager.lease("other", "everything", "memory"),
            manager.lease("asking", "asking", "rooted"),
        )
        # This server reads, changes and writes its file, so that one of two concurrent changes can be lost.
        for mode in MODES:
            await use_memory(entries, lease, mode)
        async with lease.open("everything", "legacy") as client:
            toggled = text(await client.call_tool("toggle-subscriber-updates", {}))
            check(toggled.startswith("Started"), "the server tells of updates from now on", toggled)
            async with asyncio.TaskGroup() as group:
                group.create_task(use_from_typescript(entries, lease))
                group.create_task(hear_updates(entries, lease, None))
                group.create_task(crowd(entries, lease))
                for mode in MODES:
                    for use in (use_files, use_time, use_everything):
                        group.create_task(use(entries, lease, mode))
                    group.create_task(use_what_asks(entries, asking, mode))
            toggled = text(await client.call_tool("toggle-subscriber-updates", {}))
            check(toggled.startswith("Stopped"), "and no more", toggled)
        await see_unauthenticated_refused(lease, other)
        await see_leases_apart(lease, other)
        await see_refusals(manager)
        await see_what_is_told(manager, lease)
        await see_crash_mended(manager, lease)
        await see_restart(manager, lease)
        await manager.release(asking)
        await see_release(manager, lease, other)

        # Servers that are not released end with the manager.
        await manager.lease("left", "filesystem", "memory")
    await see_gone("nothing is left of a manager that ended", entries.left)


async def kill(entries):
    """No process is left after the manager is killed."""
    with contextlib.suppress(Exception):
        async with Manager.run(entries) as manager:
            await manager.lease("killed", *LEASED)
            os.kill(manager.pid(), signal.SIGKILL)
    check(not entries.managers(), "the manager is gone", entries.managers())
    await see_gone("nothing is left of a manager that was killed", entries.left)


async def main():
    # Resolves links, since servers use the resolved path.
    with tempfile.TemporaryDirectory(dir=os.path.realpath(tempfile.gettempdir())) as folder:
        entries = Entries(folder)
        async with asyncio.timeout(RUN_SECONDS):
            await use_all(entries)
            await kill(entries)
    print(f"{check.count} checks passed")


def leaves(error):
    """The errors, without the exception groups that contexts of the SDK add."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in leaves(one)]
    return [error]


try:
    asyncio.run(main())
except Exception as failure:
    for leaf in leaves(failure):
        traceback.print_exception(leaf)
    sys.exit(1)
