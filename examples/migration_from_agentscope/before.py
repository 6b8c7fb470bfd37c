"""A script for AgentScope v0.0.2 (pip install agentscope==0.0.2); main.py is its port."""

import agentscope
from agentscope.agents import AgentBase, DialogAgent
from agentscope.message import Msg
from agentscope.models import ModelResponse, ModelWrapperBase
from agentscope.msghub import msghub
from agentscope.pipelines import sequentialpipeline


class CountingModel(ModelWrapperBase):
    model_type = "counting"

    def __init__(self, config_name, **kwargs):
        super().__init__(config_name=config_name)

    def format(self, *args):
        msgs = [msg for arg in args for msg in (arg if isinstance(arg, list) else [arg])]
        return [{"role": msg.role, "content": msg.content} for msg in msgs]

    def __call__(self, messages, **kwargs):
        return ModelResponse(text=f"I read {len(messages)} messages.")


class Teller(AgentBase):
    def __init__(self, name):
        super().__init__(name=name)
        self.rounds = 0

    def reply(self, x=None):
        self.rounds += 1
        msg = Msg(self.name, f"That was round {self.rounds}.", role="assistant")
        self.speak(msg)
        return msg


def main():
    agentscope.init(
        model_configs=[{"config_name": "mine", "model_type": "counting"}],
        save_log=False,
        save_code=False,
        save_api_invoke=False,
    )
    ann = DialogAgent("Ann", "You are Ann. Answer in one short sentence.", "mine")
    bob = DialogAgent("Bob", "You are Bob. Answer in one short sentence.", "mine")
    teller = Teller("Teller")
    opening = Msg("Host", "Where shall we go on Sunday?", role="user")
    with msghub([ann, bob, teller], announcement=opening):
        x = opening
        for _ in range(2):
            x = sequentialpipeline([ann, bob, teller], x)
    x.content = x.content + " The end."
    print(f"{x.content} Ann remembers {ann.memory.size()} messages.")


if __name__ == "__main__":
    main()
