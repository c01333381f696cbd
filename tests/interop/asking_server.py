"""An MCP server, made with the official Python SDK, whose tools send requests to any client."""

import warnings

from mcp import MCPError
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp.types import SamplingMessage, TextContent
from pydantic import BaseModel

warnings.simplefilter("ignore", MCPDeprecationWarning)

server = MCPServer("asking")


class Name(BaseModel):
    """The input that an elicitation requests."""

    name: str


async def answer_of(question):
    try:
        return f"answered: {await question}"
    except MCPError as error:
        return f"refused with {error.code}: {error.message}"


@server.tool()
async def ask_sampling(context: Context) -> str:
    """Requests sampling from the client's model."""
    message = SamplingMessage(role="user", content=TextContent(type="text", text="Who are you?"))
    return await answer_of(context.session.create_message([message], max_tokens=10))


@server.tool()
async def ask_elicitation(context: Context) -> str:
    """Requests input from the user of the client."""
    return await answer_of(context.elicit("Your name?", Name))


@server.tool()
async def ask_roots(context: Context) -> str:
    """Requests the client's roots."""
    return await answer_of(context.session.list_roots())


server.run("stdio")
