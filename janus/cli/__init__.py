"""The `janus` command."""
