"""`POST /mcp`: tools for agents (Model Context Protocol). A client of the public API under the rights of the token."""
