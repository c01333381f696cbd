"""Compares the answers of two programs to one session: every call of the tool examples, and the lists of a client.

    python3 tests/interop/compare.py OLD_PROGRAM NEW_PROGRAM

Texts may differ and are listed; any other difference (a key, a type, a number, the order) is a failure. Ids and times, which
differ from run to run, are masked.
"""

import json
import pathlib
import re
import subprocess
import sys

EXAMPLES = pathlib.Path(__file__).parents[2] / "docs/reference/tool-examples.md"
LISTS = ("tools/list", "resources/list", "resources/templates/list")
# What depends on the moment of the call.
VOLATILE = {
    "age_seconds", "avg_ms", "avg_wait_time_ms", "current_rate_per_minute", "duration_seconds", "history_bins", "missing",
    "oldest_ms", "oldest_task_age_ms", "predicted_rate_per_minute", "retry_after_seconds", "seen_until", "window_seconds",
}
TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
ALLOCATION = re.compile(r"alloc-[0-9a-f]{12}")


class Session:
    """One program as an MCP server with all toolsets."""

    def __init__(self, program):
        command = [program, "--toolsets", "all", "--log-level", "error"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        client = {"name": "compare", "version": "0"}
        self.ask("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client})

    def ask(self, method, params):
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(timeout=10) == 0


def masked(value, key=None):
    if key in VOLATILE:
        return "(volatile)"
    if isinstance(value, dict):
        # Structured content is the same as the text, which is JSON.
        return {name: masked(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [masked(item) for item in value]
    if isinstance(value, str):
        try:
            inner = json.loads(value) if value.startswith("{") else None
        except ValueError:
            inner = None
        if isinstance(inner, dict):
            return masked(inner)
        return ALLOCATION.sub("alloc-(id)", TIME.sub("(time)", value))
    return value


def differences(old, new, path=""):
    """Yields the path and both values of each difference."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            if key not in old or key not in new:
                # A description that says nothing may go.
                yield f"{path}/{key}", old.get(key), new.get(key)
            else:
                yield from differences(old[key], new[key], f"{path}/{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (one, other) in enumerate(zip(old, new)):
            yield from differences(one, other, f"{path}/{number}")
    elif old != new:
        yield path, old, new


def is_text(path, old, new):
    """Whether only words differ: sentences, or a description that one side leaves out."""
    if path.endswith("/description") and None in (old, new):
        return True
    return isinstance(old, str) and isinstance(new, str) and " " in old and " " in new


def main(old_program, new_program):
    blocks = re.findall(r"```json\n(.*?)\n```", EXAMPLES.read_text(), re.DOTALL)
    calls = blocks[::2]
    sessions = [Session(old_program), Session(new_program)]
    shown_ids, texts, failures, compared = [{}, {}], 0, 0, 0
    steps = [(method, {}, None) for method in LISTS]
    steps += [("tools/call", call, answer) for call, answer in zip(calls, blocks[1::2])]
    for method, params, shown in steps:
        answers = []
        for session, ids in zip(sessions, shown_ids):
            if isinstance(params, str):
                text = params
                for known, real in ids.items():
                    text = text.replace(known, real)
                sent = json.loads(text)
            else:
                sent = params
            answer = session.ask(method, sent)
            if shown is not None:
                known, content = json.loads(shown), answer["result"].get("structuredContent", {})
                if known.get("allocation_id") and content.get("allocation_id"):
                    ids[known["allocation_id"]] = content["allocation_id"]
            answers.append(masked(answer))
        name = json.loads(params)["name"] if isinstance(params, str) else method
        compared += 1
        for path, old, new in differences(*answers):
            # An empty object where there was none says the same.
            if path.endswith("/inputSchema/properties") and old is None and new == {}:
                continue
            if is_text(path, old, new):
                texts += 1
                print(f"text  {name} {path}\n  - {old}\n  + {new}")
            else:
                failures += 1
                print(f"DIFFERENT {name} {path}\n  - {old!r}\n  + {new!r}")
    for session in sessions:
        session.close()
    print(f"{compared} answers compared: {texts} texts differ, {failures} other differences")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
