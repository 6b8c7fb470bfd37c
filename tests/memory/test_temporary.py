import asyncio
import copy
import gc
import json
import math
import pickle
import sys
from types import SimpleNamespace

import orjson
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agentscope_async.errors import AgentScopeWarning, MessageError
from agentscope_async.memory import MemoryBase, TemporaryMemory
from agentscope_async.memory._vectors import cosine
from agentscope_async.memory.temporary import SMALL
from agentscope_async.message import ImagePart, Msg, TextPart, Tht, serialize
from agentscope_async.models.base import ModelResponse, ModelWrapperBase


def say(text="hello", **fields):
    return Msg("Ann", text, "user", **fields)


def sayings(count):
    return [say(str(number)) for number in range(count)]


def holding(units, **options):
    memory = TemporaryMemory(**options)
    memory.add(units)
    return memory


def copy_of(msg):
    """The same message as it comes back from another node."""
    return Msg.from_dict(msg.to_dict())


SIZES = [1, SMALL, SMALL + 1, SMALL + 2, 50]


# -- K01: add --


def test_K01_add_takes_a_message_a_list_a_tuple_a_dict_and_none():
    one, two, three, thought = say("1"), say("2"), say("3"), Tht("4")
    plain = {"name": "dict1", "content": "dict 1"}
    memory = TemporaryMemory()

    memory.add(one)
    memory.add([two, None])
    memory.add((three, thought))
    memory.add(plain)
    memory.add(None)
    memory.add([])

    assert memory.get_memory() == [one, two, three, thought, plain]
    assert memory.get_memory()[-1] is plain
    assert memory.size() == 5


@pytest.mark.parametrize("count", SIZES)
def test_K01_the_same_message_is_stored_once(count):
    msgs = sayings(count)
    memory = holding(msgs)
    for msg in msgs:
        memory.add(msg)
        memory.remember(msg)
    assert memory.get_memory() == msgs


@pytest.mark.parametrize("count", SIZES)
def test_K01_a_copy_with_the_same_id_is_the_same_message(count):
    msgs = sayings(count)
    memory = holding(msgs)
    for msg in msgs:
        memory.add(copy_of(msg))
    assert memory.size() == count


@pytest.mark.parametrize("count", SIZES)
def test_K01_a_copy_within_one_list_is_the_same_message(count):
    msgs = sayings(count)
    memory = holding([each for msg in msgs for each in (msg, msg, copy_of(msg))])
    assert memory.get_memory() == msgs


def test_K01_a_message_whose_id_is_made_after_it_was_added_is_still_recognised():
    msg = say()
    memory = holding(msg)
    memory.add(copy_of(msg))
    assert memory.size() == 1


def test_K01_equal_words_are_different_messages_and_equal_dicts_are_all_kept():
    memory = holding([say("same"), say("same"), {"a": 1}, {"a": 1}])
    memory.add({"a": 1})
    assert memory.size() == 5


def test_K01_a_dict_with_the_id_of_a_message_is_not_taken_for_it():
    msg = say()
    memory = holding([{"id": msg.id, "_id": msg.id}])
    memory.add(copy_of(msg))
    assert memory.size() == 2


def test_K01_a_small_memory_makes_no_ids():
    msgs = sayings(SMALL)
    memory = holding(msgs)
    memory.add(msgs)
    assert [msg._id for msg in msgs] == [None] * SMALL


def test_K01_a_large_memory_looks_messages_up_by_id():
    msgs = sayings(SMALL + 2)
    memory = holding(msgs)
    assert list(memory._ids) == [msg.id for msg in msgs]


@pytest.mark.parametrize("bad", ["hello", 3, {1}, object(), b"x", iter([])])
def test_K01_add_refuses_anything_else_and_says_what_to_do(bad):
    memory = TemporaryMemory()
    with pytest.raises(TypeError, match=rf"not {type(bad).__name__}. Wrap .*Msg\(name, content"):
        memory.add(bad)
    with pytest.raises(TypeError, match="Wrap"):
        memory.add([say(), bad])
    assert memory.size() == 0


def test_K01_a_list_inside_a_list_is_refused():
    with pytest.raises(TypeError, match="not list"):
        TemporaryMemory().add([[say()]])


# -- K02: get --


def test_K02_recent_n_gives_the_last_ones():
    msgs = sayings(5)
    memory = holding(msgs)
    assert memory.get_memory(recent_n=2) == msgs[3:]
    assert memory.get_memory(5) == msgs
    assert memory.get_memory() == msgs


def test_K02_recent_0_gives_none():
    assert holding(sayings(3)).get_memory(recent_n=0) == []


def test_K02_more_than_there_are_gives_all_and_warns():
    msgs = sayings(3)
    with pytest.warns(AgentScopeWarning, match="recent_n=4.*only 3") as warned:
        assert holding(msgs).get_memory(recent_n=4) == msgs
    assert warned[0].filename == __file__


def test_K02_a_negative_number_is_refused():
    with pytest.raises(ValueError, match="-1"):
        holding(sayings(3)).get_memory(recent_n=-1)


def test_K02_filter_func_sees_the_index_within_the_recent_ones_and_the_unit():
    msgs = sayings(4)
    seen = []

    def keep(index, unit):
        seen.append((index, unit))
        return unit.text != "2"

    assert holding(msgs).get_memory(recent_n=3, filter_func=keep) == [msgs[1], msgs[3]]
    assert seen == [(0, msgs[1]), (1, msgs[2]), (2, msgs[3])]


# -- K03: delete, clear, size --


@pytest.mark.parametrize("count", [5, 20])
@pytest.mark.parametrize("chosen", [[0, 3], (0, 3), {0, 3}, [3, 0, 3]])
def test_K03_delete_by_several_indices(count, chosen):
    msgs = sayings(count)
    memory = holding(msgs)
    memory.delete(chosen)
    assert memory.get_memory() == [msgs[1], msgs[2], *msgs[4:]]


@pytest.mark.parametrize("count", [5, 20])
def test_K03_a_deleted_message_can_be_added_again_and_the_others_cannot(count):
    msgs = sayings(count)
    memory = holding(msgs)
    memory.delete(0)
    memory.add(msgs)
    assert memory.get_memory() == [*msgs[1:], msgs[0]]


def test_K03_a_bad_index_warns_and_the_valid_ones_are_deleted():
    msgs = sayings(3)
    memory = holding(msgs)
    with pytest.warns(AgentScopeWarning, match=r"\[-1, 3, 100\].*were 3") as warned:
        memory.delete([100, 1, -1, 3])
    assert warned[0].filename == __file__
    assert memory.get_memory() == [msgs[0], msgs[2]]


def test_K03_a_bad_index_under_warnings_as_errors_still_deletes_the_valid_ones():
    memory = holding(sayings(3))
    with pytest.raises(AgentScopeWarning):  # the test suite runs with warnings as errors
        memory.delete([0, 7])
    assert memory.size() == 2


def test_K03_deleting_from_nothing_warns_and_deleting_nothing_does_not():
    memory = TemporaryMemory()
    memory.delete([])
    with pytest.warns(AgentScopeWarning, match="were 0"):
        memory.delete(0)


@pytest.mark.parametrize("bad", ["0", None, 1.0, True, [0, "1"], [[0]]])
def test_K03_delete_refuses_what_is_no_index_and_deletes_nothing(bad):
    memory = holding(sayings(3))
    with pytest.raises(TypeError):
        memory.delete(bad)
    assert memory.size() == 3


@pytest.mark.parametrize("count", [3, 20])
def test_K03_clear_forgets_everything(count):
    msgs = sayings(count)
    memory = holding(msgs)
    memory.clear()
    assert (memory.size(), memory.get_memory()) == (0, [])
    memory.add(msgs)
    assert memory.get_memory() == msgs


# -- K04: export --


def test_K04_export_to_a_list():
    msgs = sayings(2)
    assert holding(msgs).export(to_mem=True) == msgs


def test_K04_export_to_a_file_writes_the_wire_form(tmp_path):
    path = tmp_path / "memory.json"
    msg = Msg("Ann", [TextPart("look"), ImagePart("http://a/b.png")], "user", score=3)

    assert holding([msg, {"key": [1, "é"]}]).export(file_path=path) is None

    assert json.loads(path.read_text("utf-8")) == [msg.to_dict(), {"key": [1, "é"]}]
    assert list(tmp_path.iterdir()) == [path]


def test_K04_export_can_do_both(tmp_path):
    msgs = sayings(2)
    assert holding(msgs).export(to_mem=True, file_path=str(tmp_path / "m.json")) == msgs
    assert (tmp_path / "m.json").exists()


def test_K04_export_to_nowhere_names_the_two_options():
    with pytest.raises(ValueError, match=r"to_mem=True.*file_path="):
        TemporaryMemory().export()


@pytest.mark.parametrize("bad", [math.nan, object(), {1}, "\ud800"])
def test_K04_what_has_no_json_form_is_named_and_the_old_file_stays(tmp_path, bad):
    path = tmp_path / "memory.json"
    path.write_text("old")
    with pytest.raises(MessageError, match=r"\[1\].deep\[0\]"):
        holding([say(), {"deep": [bad]}]).export(file_path=path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_K04_a_failing_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "memory.json"
    path.write_text("old")

    def full_disk(draft, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("agentscope_async.memory._files.os.replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        holding(say()).export(file_path=path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# -- K05: load --


def test_K05_load_a_list_or_a_dict_given_as_such_keeps_what_they_are():
    user, agent = {"name": "user", "content": "Hello"}, {"name": "agent", "content": "Hi"}
    msg = say()
    memory = TemporaryMemory()
    memory.load([user, msg])
    memory.load(agent)
    memory.load(copy_of(msg))
    assert memory.export(to_mem=True) == [user, msg, agent]


def test_K05_load_json_text_yields_messages():
    memory = TemporaryMemory()
    memory.load('[{"name": "Ann", "content": "Hello", "role": "user"}, {"other": 1}]')
    memory.load('{"name": "Bob", "content": [1], "role": "assistant"}')
    memory.load(b'{"__type": "Tht", "name": "thought", "content": "hm"}')

    ann, other, bob, thought = memory.get_memory()

    assert (type(ann), ann.name, ann.text) == (Msg, "Ann", "Hello")
    assert other == {"other": 1}
    assert (bob.name, bob.content) == ("Bob", [1])
    assert type(thought) is Tht


def test_K05_load_what_serialize_writes():
    msgs = [*sayings(2), Tht("3")]
    memory = TemporaryMemory()
    memory.load(serialize(msgs))
    assert memory.get_memory() == msgs


@pytest.mark.parametrize("as_path", [str, lambda path: path])
@pytest.mark.parametrize("count", [3, 30])
def test_K05_export_and_load_from_file_is_a_round_trip(tmp_path, as_path, count):
    msgs = [*sayings(count), Tht("hm"), Msg("Ann", [ImagePart("http://a/b.png")], "user", score=3)]
    holding([*msgs, {"key": 1}]).export(file_path=tmp_path / "m.json")
    memory = holding([say("old"), msgs[0]])

    memory.load(as_path(tmp_path / "m.json"), overwrite=True)

    assert memory.get_memory() == [*msgs, {"key": 1}]
    assert [type(unit) for unit in memory.get_memory()] == [type(msg) for msg in msgs] + [dict]


def test_K05_load_without_overwrite_adds_what_is_new(tmp_path):
    msgs = sayings(4)
    holding(msgs).export(file_path=tmp_path / "m.json")
    memory = holding([say("old"), msgs[2]])
    memory.load(tmp_path / "m.json")
    assert [msg.text for msg in memory.get_memory()] == ["old", "2", "0", "1", "3"]


@pytest.mark.parametrize(
    ("bad", "error", "says"),
    [
        ("not json", ValueError, "neither an existing file nor JSON"),
        ("/no/such/file.json", ValueError, "'/no/such/file.json' is neither"),
        ("", ValueError, "neither"),
        ("\0", ValueError, "neither"),
        ("x" * 5000, ValueError, "neither"),
        ("3", TypeError, "not 3"),
        ("null", TypeError, "not null"),
        ('["text"]', TypeError, "not str"),
        ('{"__type": "List"}', TypeError, "not null"),
        ('[{"name": "a", "content": "b", "role": "user"}, {"__type": "Nope"}]', MessageError, "Nope"),
        ('[{"name": "a", "content": "b", "role": "nobody"}]', MessageError, "nobody"),
        (['{"name": "a"}'], TypeError, "not str"),
        (3, TypeError, "not int"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_K05_a_bad_load_changes_nothing(bad, error, says, overwrite):
    msgs = sayings(2)
    memory = holding(msgs)
    with pytest.raises(error, match=says):
        memory.load(bad, overwrite=overwrite)
    assert memory.get_memory() == msgs


def test_K05_a_missing_path_object_and_a_broken_file_are_named(tmp_path):
    memory = holding(say())
    with pytest.raises(FileNotFoundError, match="missing"):
        memory.load(tmp_path / "missing.json", overwrite=True)
    (tmp_path / "broken.json").write_text('[{"name": "Ann", "con')
    with pytest.raises(ValueError, match=r"broken\.json' is not JSON"):
        memory.load(str(tmp_path / "broken.json"), overwrite=True)
    assert memory.size() == 1


# -- K06: embeddings --

VECTORS = {"east": [1.0, 0.0], "north": [0.0, 1.0], "north-east": [1.0, 1.0], "west": [-1.0, 0.0]}


class NorthAndEast:
    """An embedding model for directions, which counts what it is asked."""

    def __init__(self):
        self.asked = []

    async def __call__(self, text):
        self.asked.append(text)
        await asyncio.sleep(0)
        return VECTORS[text]


def plain(text):
    return VECTORS[text]


async def response(text):
    return ModelResponse(embedding=VECTORS[text])


async def nested(text):
    return ModelResponse(embedding=[VECTORS[text]])


class NorthAndEastWrapper(ModelWrapperBase):
    async def _call(self, messages, args):
        return ModelResponse(embedding=VECTORS[messages])

    def __init__(self):
        self.generate_args = {}


@pytest.mark.parametrize("model", [plain, response, nested, NorthAndEast(), NorthAndEastWrapper()])
async def test_K06_embeddings_of_plain_messages_are_computed(model):
    memory = holding([say("east"), {"content": "north"}], embedding_model=model)
    assert await memory.get_embeddings() == [[1.0, 0.0], [0.0, 1.0]]
    assert await holding(say("west")).get_embeddings(model) == [[-1.0, 0.0]]


async def test_K06_embeddings_a_unit_brings_along_are_used():
    memory = holding([say("x", embedding=[3, 4]), {"embedding": (5.0, 6.0)}])
    assert await memory.get_embeddings() == [[3.0, 4.0], [5.0, 6.0]]


@pytest.mark.parametrize("count", [2, 30])
async def test_K06_each_message_is_embedded_once_for_each_model(count):
    model, other = NorthAndEast(), NorthAndEast()
    memory = holding([say("east") for _ in range(count)], embedding_model=model)
    await memory.get_embeddings()
    memory.add(say("north"))
    await memory.get_embeddings()
    assert model.asked == ["east"] * count + ["north"]
    await memory.get_embeddings(other)
    assert len(other.asked) == count + 1


async def test_K06_the_vectors_handed_out_are_copies():
    memory = holding(say("east"), embedding_model=plain)
    for _ in range(2):
        (vector,) = await memory.get_embeddings()
        assert vector == [1.0, 0.0]
        vector.clear()


async def test_K06_vectors_survive_a_deletion_of_others_and_go_with_their_message():
    model = NorthAndEast()
    east, north = say("east"), say("north")
    memory = holding([east, north], embedding_model=model)
    await memory.get_embeddings()
    memory.delete(0)
    memory.add(east)
    assert await memory.get_embeddings() == [VECTORS["north"], VECTORS["east"]]
    assert model.asked == ["east", "north", "east"]


@pytest.mark.parametrize("deleting", [False, True])
async def test_K06_what_is_added_and_deleted_while_the_model_works_does_no_harm(deleting):
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slow(text):
        started.set()
        await go_on.wait()
        return VECTORS[text]

    east, north = say("east"), say("north")
    memory = holding([east, north], embedding_model=slow)
    search = asyncio.create_task(memory.retrieve_by_embedding([1, 0], top_k=3))
    await started.wait()
    memory.add(say("west"))
    if deleting:
        memory.delete(0)
    go_on.set()

    assert [hit["memory"] for hit in await search] == [east, north]
    assert memory.size() == 3 - deleting
    assert (east.id in memory._ids) is not deleting


async def test_K06_a_failing_model_is_heard_as_it_is_and_what_it_made_before_is_kept():
    asked = []

    async def moody(text):
        asked.append(text)
        if asked.count(text) == 1 and text == "north":
            raise ConnectionError("the model is away")
        return VECTORS[text]

    memory = holding([say("east"), say("north")], embedding_model=moody)
    with pytest.raises(ConnectionError, match="away"):
        await memory.get_embeddings()
    assert len(await memory.get_embeddings()) == 2
    assert asked == ["east", "north", "north"]


async def test_K06_not_more_than_a_few_texts_are_embedded_at_once():
    running, most = 0, 0

    async def model(text):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return [1.0]

    await holding(sayings(100), embedding_model=model).get_embeddings()
    assert 1 < most <= 16


def test_K06_embed_without_a_model_is_refused_and_adds_nothing():
    memory = TemporaryMemory()
    with pytest.raises(RuntimeError, match="embedding_model="):
        memory.add(say(), embed=True)
    assert memory.size() == 0


async def test_K06_embed_with_a_model_asks_it_only_when_vectors_are_needed():
    model = NorthAndEast()
    memory = TemporaryMemory(embedding_model=model)
    memory.add([say("east")], embed=True)
    assert model.asked == []
    await memory.get_embeddings()
    assert model.asked == ["east"]


async def test_K06_without_a_model_there_are_no_embeddings_to_make():
    memory = holding(say("east"))
    with pytest.raises(RuntimeError, match="has no embedding model"):
        await memory.get_embeddings()
    with pytest.raises(RuntimeError, match="has no embedding model"):
        await memory.retrieve_by_embedding("east")
    assert await TemporaryMemory().get_embeddings() == []


@pytest.mark.parametrize("bad", ["an-embedder", 3, object()])
async def test_K06_a_model_must_be_callable(bad):
    with pytest.raises(TypeError, match="embedding_model must be"):
        TemporaryMemory(embedding_model=bad)
    with pytest.raises(TypeError, match="embedding_model must be"):
        await TemporaryMemory().get_embeddings(bad)


@pytest.mark.parametrize("bad", [None, "text", [], [math.nan], [math.inf], ["a"], [[1.0], [2.0]], 5, [None]])
async def test_K06_what_is_no_vector_is_refused(bad):
    with pytest.raises(TypeError, match="list of finite numbers"):
        await holding(say("east")).get_embeddings(lambda text: bad)
    if not isinstance(bad, str):
        with pytest.raises(TypeError, match="list of finite numbers"):
            await TemporaryMemory().retrieve_by_embedding(bad)


@pytest.mark.parametrize("count", [0, 30])
async def test_K06_retrieve_gives_score_index_and_memory_in_the_order_of_the_memory(count):
    units = [say("west") for _ in range(count)] + [say("north-east"), {"content": "north"}, say("east")]
    memory = holding(units, embedding_model=plain)

    hits = await memory.retrieve_by_embedding("east", top_k=2)

    assert [set(hit) for hit in hits] == [{"score", "index", "memory"}] * 2
    assert [hit["index"] for hit in hits] == [count, count + 2]
    assert [hit["memory"] for hit in hits] == [units[count], units[count + 2]]
    assert [hit["score"] for hit in hits] == [pytest.approx(math.sqrt(0.5)), 1.0]


async def test_K06_retrieve_nearest_first():
    memory = holding([say(text) for text in ("west", "north", "north-east", "east")], embedding_model=plain)
    hits = await memory.retrieve_by_embedding([1, 0], top_k=9, preserve_order=False)
    assert [hit["memory"].text for hit in hits] == ["east", "north-east", "north", "west"]
    assert [hit["score"] for hit in hits] == [1.0, pytest.approx(math.sqrt(0.5)), 0.0, -1.0]


async def test_K06_retrieve_gives_one_by_default_and_ties_keep_their_order():
    memory = holding([say("west"), say("east", tag=1), say("east", tag=2)], embedding_model=plain)
    (hit,) = await memory.retrieve_by_embedding("east")
    assert hit["index"] == 1
    hits = await memory.retrieve_by_embedding("east", top_k=2, preserve_order=False)
    assert [hit["index"] for hit in hits] == [1, 2]


def minus_distance(a, b):
    return -math.dist(a, b)


def as_service(a, b):
    return SimpleNamespace(status="success", content=minus_distance(a, b))


async def as_async_service(a, b):
    return as_service(a, b)


@pytest.mark.parametrize("metric", [minus_distance, as_service, as_async_service])
async def test_K06_a_metric_may_be_plain_or_a_service(metric):
    memory = holding([say("west"), say("north-east"), say("east")], embedding_model=plain)
    hits = await memory.retrieve_by_embedding("north-east", metric, 2, False)
    assert [(hit["index"], hit["score"]) for hit in hits] == [(1, 0.0), (2, -1.0)]


@pytest.mark.parametrize("score", [math.nan, "near", None, SimpleNamespace(content="Error: no")])
async def test_K06_a_metric_that_gives_no_number_is_refused(score):
    with pytest.raises(ValueError, match="metric or score function gives a number"):
        await holding(say("east"), embedding_model=plain).retrieve_by_embedding("east", lambda a, b: score)


async def test_K06_retrieve_from_nothing_and_of_nothing():
    assert await TemporaryMemory(embedding_model=plain).retrieve_by_embedding("east") == []
    with pytest.raises(ValueError, match="top_k"):
        await TemporaryMemory(embedding_model=plain).retrieve_by_embedding("east", top_k=0)


async def test_K06_vectors_of_different_length_are_not_compared():
    with pytest.raises(ValueError, match=r"of 3 .* of 2 .*different models"):
        await holding(say("east"), embedding_model=plain).retrieve_by_embedding([1, 0, 0])


async def test_K06_a_message_without_text_is_embedded_by_its_speaker():
    asked = []

    def model(text):
        asked.append(text)
        return [1.0]

    await holding([Msg("Ann", [ImagePart("http://a")], "user"), {"a": 1}]).get_embeddings(model)
    assert asked == ["Ann: ", '{"a":1}']


def test_K06_cosine_stays_in_its_range():
    assert cosine([3.0, 4.0], [3.0, 4.0]) == 1.0
    assert cosine([0.1] * 3, [-0.1] * 3) == -1.0
    assert cosine([0.0, 0.0], [1.0, 0.0]) == 0.0


async def test_K06_a_search_in_many_lets_other_tasks_run():
    turns = 0

    async def neighbour():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    memory = holding([{"embedding": [1.0]} for _ in range(500)])
    task = asyncio.create_task(neighbour())
    await memory.retrieve_by_embedding([1.0])
    task.cancel()
    assert turns >= 5


# -- K07: copies --


def test_K07_changing_a_returned_list_leaves_the_memory_intact():
    msgs = sayings(3)
    memory = holding(msgs)
    for returned in (memory.get_memory(), memory.get_memory(3), memory.export(to_mem=True)):
        assert returned == msgs
        returned.clear()
    assert memory.get_memory() == msgs


def test_K07_changing_a_list_after_it_was_added_or_loaded_leaves_the_memory_intact():
    added, loaded = sayings(2), sayings(2)
    memory = TemporaryMemory()
    memory.add(added)
    memory.load(loaded)
    expected = [*added, *loaded]
    added.clear()
    loaded.append(say())
    assert memory.get_memory() == expected


# -- mark and rollback --


CHANGES = {
    "nothing": lambda memory: None,
    "add": lambda memory: memory.add(sayings(3)),
    "add many": lambda memory: memory.add(sayings(SMALL + 3)),
    "add a dict": lambda memory: memory.add({"a": 1}),
    "delete": lambda memory: memory.delete([0, 1]),
    "add and delete": lambda memory: (memory.add(say()), memory.delete([0, memory.size() - 1])),
    "clear": lambda memory: memory.clear(),
    "clear and add": lambda memory: (memory.clear(), memory.add(sayings(20))),
    "add and clear": lambda memory: (memory.add(sayings(20)), memory.clear()),
    "overwrite": lambda memory: memory.load(sayings(2), overwrite=True),
    "load": lambda memory: memory.load(sayings(2)),
}


@pytest.mark.parametrize("count", [2, SMALL, 20])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_rollback_undoes(change, count):
    msgs = sayings(count)
    memory = holding(msgs)
    mark = memory.mark()
    change(memory)
    undone = memory.get_memory()

    memory.rollback(mark)

    assert memory.get_memory() == msgs
    memory.add(msgs)
    assert memory.get_memory() == msgs
    memory.add(undone)
    assert memory.get_memory() == msgs + [unit for unit in undone if unit not in msgs]


def test_rollback_to_an_outer_mark_undoes_the_inner_turns():
    memory = holding(sayings(3))
    before = memory.get_memory()
    outer = memory.mark()
    memory.add(say())
    inner = memory.mark()
    memory.delete(0)
    memory.add(say())
    memory.rollback(inner)
    assert memory.size() == 4
    memory.rollback(outer)
    assert memory.get_memory() == before


def test_a_mark_can_be_gone_back_to_twice():
    memory = holding(sayings(3))
    before = memory.get_memory()
    mark = memory.mark()
    for change in CHANGES.values():
        change(memory)
        memory.rollback(mark)
        assert memory.get_memory() == before


async def test_rollback_keeps_the_vectors_of_what_stays():
    model = NorthAndEast()
    memory = holding(say("east"), embedding_model=model)
    await memory.get_embeddings()
    mark = memory.mark()
    memory.add(say("north"))
    memory.rollback(mark)
    await memory.get_embeddings()
    assert model.asked == ["east"]


def test_a_mark_copies_nothing():
    memory = holding(sayings(100))
    assert sys.getsizeof(memory.mark()) < 100
    assert memory.mark()[0] is memory._content


class ShelfMemory(MemoryBase):
    """A memory of somebody else's, with nothing but what it must have."""

    def __init__(self):
        self.shelf = []

    def get_memory(self, recent_n=None, filter_func=None):
        return list(self.shelf)

    def add(self, memories, embed=False):
        self.shelf += memories if isinstance(memories, list) else [memories]

    def delete(self, index):
        del self.shelf[index]

    def load(self, memories, overwrite=False):
        self.shelf = list(memories) if overwrite else self.shelf + memories

    def export(self, to_mem=False, file_path=None):
        return list(self.shelf)

    def clear(self):
        self.shelf = []

    def size(self):
        return len(self.shelf)


def test_a_memory_of_somebody_elses_can_remember_and_roll_back():
    memory = ShelfMemory()
    first, second = sayings(2)
    memory.remember(first)
    mark = memory.mark()
    memory.delete(0)
    memory.remember(second)
    memory.rollback(mark)
    assert memory.get_memory() == [first]


@pytest.mark.parametrize("name", ["get_memory", "add", "delete", "load", "export", "clear", "size"])
def test_a_memory_must_have_all_its_methods(name):
    methods = {key: value for key, value in vars(ShelfMemory).items() if callable(value) and key != name}
    with pytest.raises(TypeError, match=name):
        type("HalfMemory", (MemoryBase,), methods)()


# -- size and copies of a memory --


@pytest.mark.parametrize(("count", "most_bytes"), [(0, 112), (2, 150), (8, 180), (100, 4500)])
def test_a_memory_is_small(count, most_bytes):
    memory = holding(sayings(count))
    own = [memory, memory._content, *([memory._ids] if memory._ids is not None else [])]
    assert sum(sys.getsizeof(each) for each in own) <= most_bytes
    assert not hasattr(memory, "__dict__")
    assert gc.is_tracked(memory._content)


@pytest.mark.parametrize("count", [2, 20])
@pytest.mark.parametrize("how", [copy.deepcopy, lambda memory: pickle.loads(pickle.dumps(memory))])
def test_a_copy_of_a_memory_is_independent(count, how):
    msgs = sayings(count)
    memory = holding(msgs)
    twin = how(memory)
    twin.add(say())
    memory.delete(0)
    assert memory.get_memory() == msgs[1:]
    assert twin.get_memory()[:-1] == msgs


# -- against a naive model --


class NaiveComparison(RuleBasedStateMachine):
    """TemporaryMemory beside a list that does everything the slow and obvious way."""

    def __init__(self):
        super().__init__()
        self.memory = TemporaryMemory()
        self.naive = []
        self.pool = sayings(14)
        self.marks = []

    def naive_add(self, units):
        for unit in units:
            known = {each.id for each in self.naive if isinstance(each, Msg)}
            if isinstance(unit, dict) or unit.id not in known:
                self.naive.append(unit)

    @rule(which=st.lists(st.integers(0, 13), max_size=10), as_copies=st.booleans())
    def add_several(self, which, as_copies):
        msgs = [copy_of(self.pool[index]) if as_copies else self.pool[index] for index in which]
        self.memory.add(msgs)
        self.naive_add(msgs)

    @rule(which=st.integers(0, 13), as_copy=st.booleans())
    def remember(self, which, as_copy):
        msg = copy_of(self.pool[which]) if as_copy else self.pool[which]
        self.memory.remember(msg)
        self.naive_add([msg])

    @rule()
    def add_new(self):
        msg = say("new")
        self.memory.add(msg)
        self.naive.append(msg)

    @rule(number=st.integers(0, 3))
    def add_dict(self, number):
        self.memory.add({"number": number})
        self.naive.append({"number": number})

    @rule(chosen=st.sets(st.integers(0, 20), max_size=6))
    def delete(self, chosen):
        chosen = {index for index in chosen if index < len(self.naive)}
        self.memory.delete(chosen)
        self.naive = [unit for index, unit in enumerate(self.naive) if index not in chosen]

    @rule()
    def clear(self):
        self.memory.clear()
        self.naive = []

    @rule(overwrite=st.booleans(), which=st.lists(st.integers(0, 13), max_size=12))
    def load(self, overwrite, which):
        text = orjson.dumps([self.pool[index].to_dict() for index in which])
        self.memory.load(text, overwrite=overwrite)
        if overwrite:
            self.naive = []
        self.naive_add([copy_of(self.pool[index]) for index in which])

    @rule()
    def mark(self):
        self.marks.append((self.memory.mark(), list(self.naive)))

    @precondition(lambda self: self.marks)
    @rule(data=st.data())
    def rollback(self, data):
        position = data.draw(st.integers(0, len(self.marks) - 1))
        mark, self.naive = self.marks[position]
        self.naive = list(self.naive)
        self.memory.rollback(mark)
        del self.marks[position + 1 :]

    @invariant()
    def agree(self):
        assert self.memory.get_memory() == self.naive
        assert self.memory.size() == len(self.naive)

    @invariant()
    def index_is_exact(self):
        if self.memory._ids is not None:
            assert set(self.memory._ids) == {unit.id for unit in self.naive if isinstance(unit, Msg)}


TestNaiveComparison = NaiveComparison.TestCase
