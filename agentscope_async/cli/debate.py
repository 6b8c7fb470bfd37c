"""``agentscope-async debate``: one debate to listen to, or many to be counted."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..logging import ChatLog
from ..models.config import find_model
from ..pipelines import DebateSpec, debate, debates
from ..runtime import Runtime
from ._board import Board
from ._cast import Cast, load
from ._plan import BATCH, TRANSCRIPT, Plan, rebuild_transcript, with_number
from ._run import complain, problem
from ._talk import Talk

if TYPE_CHECKING:
    from ..message import Msg
    from ..pipelines import DebateResult

__all__ = ["Session"]

SHOWN_FAILURES = 3
"""So many failed debates are told in words, the others only counted."""


class Session:
    """One call of the command: from its options to its exit code."""

    def __init__(self, save_dir: Path, resume: Path | None, given: dict[str, Any]) -> None:
        """Take the options; ``given`` has those of the plan that were not left to their defaults."""
        self._save_dir = save_dir
        self._resume = resume
        self._given = given
        self._run: Path | None = None
        self._board: Board | None = None

    async def hold(self) -> int:
        """Hold the debates; 0 when all came to their end, else 1."""
        plan = Plan.new(self._given) if self._resume is None else Plan.of_run(self._resume, self._given)
        async with Runtime(model_configs=plan.model_configs, save_dir=self._save_dir) as runtime:
            model = find_model(plan.model, runtime, **plan.model_options)
            cast = Cast(plan.topic, model, max_tokens=plan.max_tokens, is_seeded=plan.is_seeded)
            self._run = run = self._resume or runtime.run.path
            plan.write(run)
            await load(cast.model)
            hold = self._hold_one if plan.debates == 1 else self._hold_many
            return await hold(plan, cast, run)

    def when_interrupted(self) -> str:
        """Return what to say after "interrupted"."""
        if self._run is None or not (self._run / TRANSCRIPT).exists():
            return ""
        if self._board is None:
            return f"; what was said is in {_shortest(self._run / TRANSCRIPT)}"
        return (
            f" after {self._board.done} of {self._board.total} debates; to go on: "
            f"agentscope-async debate --resume {shlex.quote(_shortest(self._run))}"
        )

    async def _hold_one(self, plan: Plan, cast: Cast, run: Path) -> int:
        talk = Talk()
        board = Board(1, plan.turns_each)
        transcript = ChatLog(file=run / TRANSCRIPT)

        def record(msg: Msg) -> None:
            transcript.show(msg)
            board.count(0, msg)
            if msg.role == "system":  # nobody streams the host
                talk.hear(msg.name, msg)

        pro, con, judge = (make(record, plan.seed) for make in (cast.pro, cast.con, cast.judge))
        failure: Exception | None = None
        try:
            await debate(pro, con, judge, topic=plan.topic, rounds=plan.rounds, on_speech=talk.hear)
        except BrokenPipeError:
            raise
        except Exception as error:  # of whatever kind: the command ends with a summary
            failure = error
        finally:
            talk.break_off()
            transcript.close()
        board.end(0, has_failed=failure is not None)
        if failure is not None:
            complain(f"debate failed: {problem(failure)}")
        talk.note(board.summary())
        talk.note(f"run directory: {_shortest(run)}")
        return 0 if failure is None else 1

    async def _hold_many(self, plan: Plan, cast: Cast, run: Path) -> int:
        if self._resume is not None:
            rebuild_transcript(run)
        self._board = board = Board(plan.debates, plan.turns_each)
        transcript = ChatLog(file=run / TRANSCRIPT)
        specs = [_spec(index, plan, cast, transcript, board) for index in range(plan.debates)]
        try:
            with board.shown():
                async with debates(specs, limit=plan.limit, resume=run / BATCH, seed=plan.seed) as results:
                    async for result in results:
                        _note(result, board)
        except ValueError as error:  # the file is another batch's
            raise ConfigError(str(error)) from error
        finally:
            transcript.close()
        board.print_table()
        board.say(f"run directory: {_shortest(run)}")
        return 1 if board.failed else 0


def _shortest(path: Path) -> str:
    """Return a path as it is best read and typed: relative if it is below the working directory."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _spec(index: int, plan: Plan, cast: Cast, transcript: ChatLog, board: Board) -> DebateSpec:
    def record(msg: Msg) -> None:
        transcript.show(with_number(msg, index))
        board.count(index, msg)

    return DebateSpec(
        lambda seed: cast.pro(record, seed),
        lambda seed: cast.con(record, seed),
        lambda seed: cast.judge(record, seed),
        topic=plan.topic,
        rounds=plan.rounds,
    )


def _note(result: DebateResult, board: Board) -> None:
    if result.resumed:
        board.skip()
        return
    board.end(result.index, has_failed=result.error is not None)
    if result.error is not None and board.failed <= SHOWN_FAILURES:
        board.say(f"debate {result.index} failed: {problem(result.error)}")
