"""The `elinvar` command. One module per engine, thin: parse, call, print."""
