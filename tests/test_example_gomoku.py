"""Gomoku: rules of the board, scripted games to known ends, and its picture."""

from __future__ import annotations

import sys

import pytest
from run_examples import EXAMPLES, load, run

from agentscope_async import FunctionModel, Msg, ScriptedModel


@pytest.fixture
def gomoku(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES / "game_gomoku"))
    yield load("game_gomoku")
    sys.modules.pop("board", None)


def moves(*points):
    return ScriptedModel([{"thought": f"secret {point}", "move": point} for point in points])


async def played(module, alice, bob, **options):
    """Play with models that give these answers; returns winner, board, players."""
    from board import Board

    players = [module.Player("Alice", "", alice), module.Player("Bob", "", bob)]
    board = Board(picture=options.pop("picture", None))
    winner = await module.play(*players, board, **options)
    return winner, board, players


@pytest.mark.parametrize(
    "points",
    [
        ["A1", "B1", "C1", "D1", "E1"],
        ["O11", "O12", "O13", "O14", "O15"],
        ["A1", "B2", "C3", "D4", "E5"],
        ["O1", "N2", "M3", "L4", "K5"],
        ["A1", "B1", "D1", "E1", "C1"],  # closed in the middle
    ],
)
async def test_p09_five_in_a_row_end_the_game_at_once(gomoku, points):
    winner, board, _ = await played(gomoku, moves(*points), moves("A8", "C9", "E8", "G9"), max_moves=99)
    assert winner == "Alice"
    assert sum(row.count("o") for row in board.points) == 5


async def test_p09_second_player_can_win(gomoku):
    alice, bob = moves("A1", "C1", "E1", "G1", "I1"), moves("A3", "B3", "C3", "D3", "E3")
    assert (await played(gomoku, alice, bob))[0] == "Bob"


async def test_p09_game_ends_after_ten_moves(gomoku):
    alice, bob = moves("A1", "C1", "E1", "G1", "I1", "K1"), moves("A3", "C3", "E3", "G3", "I3", "K3")
    winner, board, _ = await played(gomoku, alice, bob)
    assert winner is None
    assert sum(row.count(".") for row in board.points) == 15 * 15 - 10
    assert (len(alice.calls), len(bob.calls)) == (5, 5)


async def test_p09_illegal_move_is_explained_and_asked_for_again(gomoku):
    alice, bob = moves("A1"), moves("A1", "B1")
    _, board, _ = await played(gomoku, alice, bob, max_moves=2)
    assert bob.calls[1][-1]["content"] == "Host: A1 is taken. Name another point."
    assert board.points[0][:2] == ["o", "x"]


async def test_p09_three_illegal_moves_lose_the_turn(gomoku, capsys):
    alice, bob = moves("A1", "C1"), moves("A1", "A1", "A1", "B1")
    _, board, _ = await played(gomoku, alice, bob, max_moves=3)
    assert "Bob has named no free point and loses the turn." in capsys.readouterr().out
    assert board.points[0][:3] == ["o", ".", "o"]


async def test_p09_answer_without_a_point_is_an_illegal_move(gomoku):
    alice = ScriptedModel(["I rather not"] * 9)
    _, board, _ = await played(gomoku, alice, moves("B1"), max_moves=2)
    assert len(alice.calls) == 3 * 3  # attempts to be understood, and to move
    assert board.points[0][:2] == [".", "x"]


@pytest.mark.parametrize("point", ["P1", "A0", "A16", "", "8H", "A-1"])
async def test_p09_board_refuses_points_it_does_not_have(gomoku, point):
    from board import Board, IllegalMove

    with pytest.raises(IllegalMove, match="not on the board"):
        await Board()(Msg("Alice", "", "user", move=point))


async def test_p09_thoughts_stay_with_who_thinks_them(gomoku):
    _, _, (alice, bob) = await played(gomoku, moves("A1", "C1"), moves("A3", "C3"), max_moves=4)
    heard = [msg.text for msg in bob.memory.get_memory()]
    assert "I put a stone on A1." in heard
    assert not any("secret A1" in text or "secret C1" in text for text in heard)
    assert any("secret A1" in msg.text for msg in alice.memory.get_memory())


async def test_p09_player_is_shown_the_position_of_now_and_only_free_points(gomoku):
    asked = []

    def answer(messages, response_format, **_):
        points = response_format.model_json_schema()["properties"]["move"]["enum"]
        asked.append((str(messages), points))
        return {"thought": "the first", "move": points[0]}

    _, board, (alice, _) = await played(gomoku, FunctionModel(answer), FunctionModel(answer), max_moves=4)
    assert [points[0] for _, points in asked] == ["A1", "B1", "C1", "D1"]
    assert [len(points) for _, points in asked] == [225, 224, 223, 222]
    assert [text.count(" A B C D ") for text, _ in asked] == [1, 1, 1, 1]
    assert " 1 o x o . ." in asked[-1][0]
    assert " 1 . . ." not in str([dict(msg) for msg in alice.memory.get_memory()])
    assert board.points[0][:5] == ["o", "x", "o", "x", "."]


def test_p09_command_says_who_thinks(tmp_path):
    lines = run(tmp_path, "game_gomoku", "--model", "fake:echo", "--max-moves", "2")
    assert [line for line in lines if line.startswith("Move")] == [
        "Move 1 of 2: Alice thinks ...",
        "Move 2 of 2: Bob thinks ...",
    ]


async def test_p09_picture_shows_white_stones_for_o_and_black_ones_for_x(gomoku, tmp_path):
    image_of = pytest.importorskip("PIL.Image", reason="needs Pillow").open
    path = tmp_path / "board.png"
    await played(gomoku, moves("A1"), moves("B1"), max_moves=2, picture=path)
    with image_of(path) as image:
        assert image.format == "PNG"
        assert image.getpixel((40, 40)) == (255, 255, 255)
        assert image.getpixel((80, 40)) == (0, 0, 0)
        assert image.getpixel((60, 60)) == (220, 179, 92)


def test_p09_command_loses_turns_rather_than_breaking(tmp_path):
    lines = run(tmp_path, "game_gomoku", "--model", "fake:echo", "--max-moves", "2")
    assert lines[-1] == "Nobody has won."
    assert lines.count("Alice: I put a stone on no point.") == 3
