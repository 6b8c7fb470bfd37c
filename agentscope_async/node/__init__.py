"""Agents on other nodes: mailboxes bridged over a websocket."""
