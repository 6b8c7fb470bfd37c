"""Werewolf: played to known ends by scripted players, and what each of them may know."""

from __future__ import annotations

import sys

import pytest
from run_examples import EXAMPLES, load

from agentscope_async import FunctionModel

WOLVES, OTHERS = ("Player1", "Player2"), ("Player3", "Player4", "Player5", "Player6")
ALL = WOLVES + OTHERS


@pytest.fixture
def werewolf(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES / "game_werewolf"))
    yield load("game_werewolf")
    sys.modules.pop("players", None)


class Script:
    """What the players answer: by player and form a list, one each time; ``votes`` by player."""

    def __init__(self, **votes):
        self.healing = [False] * 9
        self.poison = ["nobody"] * 9
        self.votes = {name: list(votes.get(name, ())) for name in ALL}
        self.agreements = [True] * 99
        self.asked = []  # (player, form), in the order asked

    def game(self, module):
        from players import Player

        models = {name: FunctionModel(lambda _, *, response_format, name=name: self(name, response_format))
                  for name in ALL}  # fmt: skip
        return module.Game([Player(name, f"You are {name}.", models[name]) for name in ALL])

    def __call__(self, name, form):
        kind = form.__name__
        self.asked.append((name, kind))
        match kind:
            case "Proposal":
                return {"speak": f"Whisper of {name}, you wolf.", "agreement": self.agreements.pop(0)}
            case "Speech":
                return {"speak": f"Here speaks {name}."}
            case "Healing":
                return {"resurrect": self.healing.pop(0)}
            case "Poison":
                return {"eliminate": self.poison.pop(0)}
        return {"vote": self.votes[name].pop(0)}


def memory_of(game, name, players):
    (player,) = [each for each in players if each.name == name]
    return [msg.text for msg in player.memory.get_memory()]


def villagers_win():
    """Player3 is killed and healed, wolf Player1 voted out; Player5 is killed and wolf Player2 poisoned."""
    script = Script(
        Player1=["Player3", "Player4"],
        Player2=["Player3", "Player1", "Player5"],
        Player3=["Player1"],
        Player4=["Player1"],
        Player5=["Player1", "Player1", "Player3"],
        Player6=["Player1"],
    )
    script.healing, script.poison = [True], ["Player2"]
    return script


async def test_p08_villagers_win_a_scripted_game_with_a_known_list_of_dead(werewolf):
    game = villagers_win().game(werewolf)
    assert await game.play() == "villagers"
    assert game.dead == ["Player1", "Player5", "Player2"]


async def test_p08_wolves_win_a_scripted_game_with_a_known_list_of_dead(werewolf):
    script = Script(
        Player1=["Player4", "Player5"],
        Player2=["Player3", "Player5", "Player6", "Player4"],
        Player4=["Player1", "Player2"],
        Player5=["Player6", "Player1", "Player4", "Player4"],
        Player6=["Player4"],
    )
    game = script.game(werewolf)
    assert await game.play() == "werewolves"
    # Both first votes are ties: Player3 before Player4; then two votes each, Player1 before Player5.
    assert game.dead == ["Player3", "Player1", "Player6", "Player4"]


async def test_p08_game_without_a_winner_ends_after_its_rounds(werewolf):
    script = Script(**{name: [name] * 9 for name in ALL})

    def nobody(name, form):
        return {} if form.__name__ == "Vote" else Script.__call__(script, name, form)

    script.__class__ = type("Nobody", (Script,), {"__call__": lambda self, *args: nobody(*args)})
    game = script.game(werewolf)
    assert await game.play(max_rounds=2) is None
    assert game.dead == []


async def test_p08_each_potion_is_used_once_and_not_both_in_one_night(werewolf):
    script = villagers_win()
    game = script.game(werewolf)
    await game.night()
    assert [kind for name, kind in script.asked if name == "Player6"] == ["Healing"]
    assert (game.can_heal, game.can_poison) == (False, True)
    script.asked.clear()
    script.votes.update({"Player1": ["Player3"], "Player2": ["Player3"], "Player5": ["Player3"]})
    assert await game.night() == ["Player3", "Player2"]
    assert [kind for name, kind in script.asked if name == "Player6"] == ["Poison"]
    script.asked.clear()
    script.votes.update({"Player1": ["Player3"], "Player2": ["Player3"], "Player5": ["Player3"]})
    await game.night()
    assert [kind for name, kind in script.asked if name == "Player6"] == []


async def test_p08_wolves_talk_until_they_agree_three_rounds_at_most(werewolf):
    script = villagers_win()
    script.agreements = [False, False, False, True]
    await script.game(werewolf).wolves_choose()
    assert script.asked.count(("Player2", "Proposal")) == 2
    script = villagers_win()
    script.agreements = [False] * 9
    await script.game(werewolf).wolves_choose()
    assert script.asked.count(("Player2", "Proposal")) == 3


async def test_p08_the_text_false_is_no_agreement(werewolf):
    script = villagers_win()
    script.agreements = ["false"] * 99
    await script.game(werewolf).wolves_choose()
    assert script.asked.count(("Player2", "Proposal")) == 3 * 3  # rounds, and attempts in each


async def test_p08_an_answer_that_names_no_player_counts_as_none(werewolf):
    script = villagers_win()
    script.votes["Player1"] = ["the tall one"] * 3
    assert await script.game(werewolf).wolves_choose() == "Player3"


async def test_p08_nobody_hears_what_is_not_for_them(werewolf):
    game = villagers_win().game(werewolf)
    players = list(game.alive)
    await game.play()
    heard = {name: memory_of(game, name, players) for name in ALL}
    knows = {
        "Whisper": {*WOLVES},
        "only you hear this": {*WOLVES},
        "The werewolves choose": {*WOLVES},
        "healing potion": {"Player6"},
        "whom do you poison": {"Player6"},
        "Player1 is a werewolf.": {"Player5"},
        "It is day": {*ALL},
        "Here speaks Player4": {*ALL},
    }
    for words, allowed in knows.items():
        assert {name for name in ALL if any(words in text for text in heard[name])} == allowed, words


async def test_p08_votes_are_not_heard_by_others(werewolf):
    game = villagers_win().game(werewolf)
    players = list(game.alive)
    await game.night()
    await game.day([])
    for name in ALL:  # one knows one's own votes only, and the results
        votes = [text for text in memory_of(game, name, players) if text in ALL]
        assert len(votes) == (name in WOLVES or name == "Player5") + 1
