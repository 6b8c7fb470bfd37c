"""Similarity of vectors, and the best of a list by any score."""

from __future__ import annotations

import asyncio
import math

import pytest

from agentscope_async import Msg, TemporaryMemory
from agentscope_async.errors import ConfigError
from agentscope_async.service import ServiceExecStatus, cos_sim, retrieve_from_list


@pytest.mark.parametrize(
    ("a", "b", "value"),
    [
        ([1, 0], [0, 1], 0.0),
        ([1.0, 2.0], [2.0, 4.0], 1.0),
        ([1, 0], [-3, 0], -1.0),
        ((3, 4), [4, 3], 24 / 25),
    ],
)
async def test_l15_cos_sim_is_the_cosine_of_the_angle(a, b, value):
    response = await cos_sim(a, b)
    assert response.status == ServiceExecStatus.SUCCESS
    assert response.content == pytest.approx(value)


async def test_l15_vectors_of_different_length_are_an_error():
    response = await cos_sim([1.0, 2.0], [1.0])
    assert response.status == ServiceExecStatus.ERROR
    assert "2" in response.content
    assert "1" in response.content


async def test_l15_a_vector_without_length_is_like_nothing_and_gives_a_number():
    assert await cos_sim([0.0, 0.0], [1.0, 0.0]) == {"status": ServiceExecStatus.SUCCESS, "content": 0.0}


@pytest.mark.parametrize("bad", ["12", [math.nan, 1.0], [math.inf, 1.0], ["a", "b"], 7, None, [10**400, 1]])
async def test_l15_what_is_no_vector_is_an_error(bad):
    response = await cos_sim(bad, [1.0, 2.0])
    assert response.status == ServiceExecStatus.ERROR


def _message(text, embedding, minute):
    timestamp = f"2023-12-18 21:{minute:02}:59"
    return Msg("env", text, role="user", embedding=embedding, timestamp=timestamp)


QUERY = _message("test query", [0, 1], 40)
M1, M2, M3 = _message("1", [1, 0], 45), _message("2", [0.5, 0.5], 50), _message("3", [0.2, 0.8], 42)


async def _relevance_and_recency(query, item):
    relevance = (await cos_sim(query.embedding, item.embedding)).content
    minutes = int(query.timestamp[14:16]) - int(item.timestamp[14:16])
    return relevance + 0.99**minutes


async def test_l16_the_best_come_first_when_their_order_is_not_kept():
    response = await retrieve_from_list(QUERY, [M1, M2, M3], _relevance_and_recency, preserve_order=False)
    assert response.status == ServiceExecStatus.SUCCESS
    assert [item for _, _, item in response.content] == [M3, M2, M1]
    assert [index for _, index, _ in response.content] == [2, 1, 0]


async def test_l16_the_best_stand_in_the_order_of_the_list_by_default():
    response = await retrieve_from_list(QUERY, [M1, M2, M3], _relevance_and_recency, top_k=2)
    assert [(index, item) for _, index, item in response.content] == [(1, M2), (2, M3)]


@pytest.mark.parametrize(("top_k", "kept"), [(0, 0), (2, 2), (3, 3), (9, 3), (None, 3)])
async def test_l16_top_k_says_how_many(top_k, kept):
    response = await retrieve_from_list("q", [1, 2, 3], lambda query, item: item, top_k=top_k)
    assert len(response.content) == kept


async def test_l16_equal_scores_keep_the_order_of_the_list():
    response = await retrieve_from_list("q", "abcd", lambda query, item: 1, top_k=2, preserve_order=False)
    assert response.content == [(1.0, 0, "a"), (1.0, 1, "b")]


async def test_l16_a_dict_without_embedding_gets_one_in_a_copy():
    query = {"content": "hello"}
    seen = []

    async def model(text):
        seen.append(text)
        return [1.0, 0.0]

    def score(query, item):
        return cos_sim(query["embedding"], item)

    response = await retrieve_from_list(query, [[0.0, 1.0], [1.0, 0.0]], score, 1, model)
    assert response.content == [(1.0, 1, [1.0, 0.0])]
    assert query == {"content": "hello"}
    assert seen == ["hello"]


async def test_l16_a_message_without_embedding_gets_one_in_a_copy():
    query = Msg("Ann", "hello", role="user")

    def score(query, item):
        return query.embedding[item]

    response = await retrieve_from_list(query, [0, 1], score, 1, lambda text: [[0.25, 0.75]])
    assert response.content == [(0.75, 1, 1)]
    assert query.get("embedding") is None


async def test_l16_an_embedding_that_is_there_is_not_made_again():
    def model(text):
        raise AssertionError("not asked for")

    response = await retrieve_from_list(QUERY, [M1], _relevance_and_recency, embedding_model=model)
    assert response.status == ServiceExecStatus.SUCCESS


@pytest.mark.parametrize("score", [lambda q, i: "much", lambda q, i: math.nan, lambda q, i: 1 / 0])
async def test_l16_a_score_that_is_no_number_is_an_error(score):
    response = await retrieve_from_list("q", [1], score)
    assert response.status == ServiceExecStatus.ERROR


async def test_l16_a_failing_model_is_an_error_and_a_wrong_argument_raises():
    def model(text):
        raise RuntimeError("no model today")

    response = await retrieve_from_list({"content": "x"}, [1], lambda q, i: 1, embedding_model=model)
    assert response.content == "RuntimeError: no model today"
    with pytest.raises(ConfigError, match="score_func"):
        await retrieve_from_list("q", [1], None)
    assert (await retrieve_from_list("q", [1], lambda q, i: 1, top_k=-1)).status == ServiceExecStatus.ERROR


async def test_l16_scoring_many_lets_other_tasks_run():
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(others())
        await retrieve_from_list("q", range(1000), lambda query, item: item)
        task.cancel()
    assert turns > 10


async def test_k06_cos_sim_is_a_metric_of_the_memory():
    vectors = {"north": [0.0, 1.0], "east": [1.0, 0.0], "nowhere": [0.0, 0.0]}
    memory = TemporaryMemory(embedding_model=lambda text: vectors[text])
    memory.add([Msg("a", text, role="user") for text in vectors])
    [hit] = await memory.retrieve_by_embedding([0.1, 0.9], metric=cos_sim, top_k=1)
    assert hit["memory"].text == "north"
    assert hit["index"] == 0
    assert hit["score"] == pytest.approx(0.9938837)
