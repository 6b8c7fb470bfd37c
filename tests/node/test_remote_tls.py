"""Remote agents over TLS: who is let in."""

from __future__ import annotations

import pytest

from agentscope_async import AgentBase, ConfigError, Msg, NodeDown, Runtime

from .certificates import client_context, server_context


class Echo(AgentBase):
    async def reply(self, x: Msg | None = None) -> Msg:
        assert x is not None
        return Msg(self.name, x.content, "assistant")


async def test_an_agent_is_asked_over_tls_with_a_token() -> None:
    token = "t" * 40
    async with (
        Runtime(listen="wss://127.0.0.1:0", token=token, ssl=server_context(), exports=[Echo("e")]) as host,
        Runtime() as guest,
    ):
        assert host.url is not None
        assert host.url.startswith("wss://")
        remote = guest.agent(f"{host.url}/e", token=token, ssl=client_context())
        assert (await remote("hello")).text == "hello"


async def test_a_certificate_is_the_name_of_the_node_that_shows_it() -> None:
    context = server_context(wants_certificates=True)
    async with Runtime(listen="wss://127.0.0.1:0", ssl=context, exports=[Echo("e")]) as host:
        async with Runtime(node="ann") as ann:
            remote = ann.agent(f"{host.url}/e", ssl=client_context("ann"))
            assert (await remote("hello")).text == "hello"
        async with Runtime(node="bob") as bob:
            with pytest.raises(NodeDown):
                await bob.agent(f"{host.url}/e", ssl=client_context("ann"))("I am Bob")
            with pytest.raises(NodeDown):
                await bob.agent(f"{host.url}/e", ssl=client_context())("nobody")


async def test_a_node_that_does_not_trust_the_certificate_is_not_talked_to() -> None:
    token = "t" * 40
    async with (
        Runtime(listen="wss://127.0.0.1:0", token=token, ssl=server_context(), exports=[Echo("e")]) as host,
        Runtime() as guest,
    ):
        with pytest.raises(NodeDown, match="certificate"):
            await guest.agent(f"{host.url}/e", token=token)("hello")


async def test_nobody_listens_for_everybody_off_loopback() -> None:
    with pytest.raises(ConfigError, match="token"):
        async with Runtime(listen="ws://0.0.0.0:0"):
            pytest.fail("listened")
    with pytest.raises(ConfigError, match="token"):
        Runtime(listen="ws://127.0.0.1:0", allow=["DialogAgent"])
