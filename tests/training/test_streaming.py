"""Streams: what a reader reads, how it is packed, and that a place is all it takes to go on."""

from __future__ import annotations

import json
from itertools import islice

import pytest

from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import write_jsonl
from efficient_reasoning.scratch import make_tokenizer
from efficient_reasoning.training.sources import open_source
from efficient_reasoning.training.streaming import Place, Stream

LIMIT = 24


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer("bpe", ["row 0123456789"] * 9, 260)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three files of rows, 1,000 in all, each row with a number of its own."""
    folder = tmp_path_factory.mktemp("rows")
    for shard, (first, last) in enumerate([(0, 600), (600, 650), (650, 1000)]):
        write_jsonl(folder / f"{shard}.jsonl", ({"text": f"{number}", "other": None} for number in range(first, last)))
    return folder


def stream(source, tokenizer, **changes) -> Stream:
    settings = {"max_row_tokens": LIMIT, "shuffle_rows": 300, "packing": True, "seed": 3} | changes
    return Stream(open_source(str(source)), tokenizer, **settings)


def numbers(sequence: dict, tokenizer) -> list[int]:
    return [int(text) for text in tokenizer.decode(sequence["input_ids"]).split("<|end|>") if text]


def epoch(stream: Stream, reader: int = 0, num_readers: int = 1, number: int = 0) -> list[dict]:
    found = []
    for sequence in stream.sequences(reader, num_readers, Place(number)):
        if sequence["place"].epoch > number:
            return found
        found.append(sequence)


@pytest.mark.parametrize("num_readers", [1, 2, 3])
def test_an_epoch_has_every_row_once(folder, tokenizer, num_readers):
    """With three files: three readers have a file each, two every other row."""
    shares = []
    for reader in range(num_readers):
        sequences = epoch(stream(folder, tokenizer), reader, num_readers)
        shares.append([number for sequence in sequences for number in numbers(sequence, tokenizer)])
    assert sorted(number for share in shares for number in share) == list(range(1000))
    if num_readers == 3:
        assert [(min(share), max(share)) for share in shares] == [(0, 599), (600, 649), (650, 999)]


def test_orders_differ_between_epochs_and_seeds_and_are_repeatable(folder, tokenizer):
    first = epoch(stream(folder, tokenizer))
    assert first == epoch(stream(folder, tokenizer))
    assert first != epoch(stream(folder, tokenizer, seed=4))
    second = epoch(stream(folder, tokenizer), number=1)
    orders = [[n for sequence in sequences for n in numbers(sequence, tokenizer)] for sequences in (first, second)]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])
    following = islice(stream(folder, tokenizer).sequences(0, 1, Place()), len(first) + len(second))
    assert list(following) == first + second


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize(("reader", "num_readers"), [(0, 1), (1, 2), (2, 3)])
def test_any_place_is_enough_to_go_on(folder, tokenizer, packing, reader, num_readers):
    count = 300 if packing else 1200
    whole = list(islice(stream(folder, tokenizer, packing=packing).sequences(reader, num_readers, Place()), count))
    assert whole[-1]["place"].epoch > 0
    for position in range(0, count - 40, count // 40):
        place = Place(*json.loads(json.dumps(whole[position]["place"])))
        again = islice(stream(folder, tokenizer, packing=packing).sequences(reader, num_readers, place), 40)
        assert list(again) == whole[position + 1 : position + 41]


def test_what_lies_behind_is_not_tokenised_again(folder, tokenizer, monkeypatch):
    late = next(each for each in epoch(stream(folder, tokenizer)) if each["place"].row > 0 or each["place"].shard == 2)
    encoded = []
    encode = Stream.encode
    monkeypatch.setattr(Stream, "encode", lambda self, rows: encoded.append(len(rows)) or encode(self, rows))
    next(stream(folder, tokenizer).sequences(0, 1, late["place"]))
    assert len(encoded) == 1 and encoded[0] < 600


def test_rows_are_packed_to_the_limit(folder, tokenizer):
    sequences = epoch(stream(folder, tokenizer))
    assert all(sum(each["seq_lengths"]) == len(each["input_ids"]) <= LIMIT for each in sequences)
    full = sum(len(each["input_ids"]) for each in sequences) / len(sequences) / LIMIT
    assert full > 0.95
    single = epoch(stream(folder, tokenizer, packing=False))
    assert len(single) == 1000 and all(len(each["seq_lengths"]) == 1 for each in single)


def test_texts_are_learnt_whole_and_split(tmp_path, tokenizer):
    write_jsonl(tmp_path / "rows.jsonl", [{"text": "x" * 30}, {"text": ""}, {"text": None}, {"text": "y<|end|>"}])
    end = tokenizer.eos_token_id
    [x], [y] = tokenizer("x")["input_ids"], tokenizer("y")["input_ids"]
    rows = stream(tmp_path, tokenizer).encode([{"text": "x" * 30}, {"text": ""}, {"text": "y<|end|>"}])
    assert [row["input_ids"] for row in rows] == [[x] * 24, [x] * 6 + [end], [y, end]]
    assert [row["labels"] for row in rows] == [[-100] + [x] * 23, [-100] + [x] * 5 + [end], [-100, end]]
    found = sorted(ids for sequence in epoch(stream(tmp_path, tokenizer)) for ids in [sequence["input_ids"]])
    assert sum(map(len, found)) == 24 + 7 + 2


def test_of_pairs_the_completion_is_learnt(tmp_path, tokenizer):
    rows = [
        {"prompt": "a", "completion": "b", "truncated": False, "thinking": ""},
        {"prompt": "a", "completion": "b", "truncated": True, "thinking": ""},  # it did not end
        {"prompt": "a" * 20, "completion": "b" * 9, "truncated": False, "thinking": ""},  # too long
        {"prompt": "a", "completion": "b<|end|>", "truncated": False, "thinking": ""},
    ]
    write_jsonl(tmp_path / "traces.jsonl", rows)
    reader = stream(tmp_path, tokenizer)
    assert reader.source.columns == ("prompt", "completion", "truncated")
    [a], [b], end = tokenizer("a")["input_ids"], tokenizer("b")["input_ids"], tokenizer.eos_token_id
    encoded = reader.encode(rows)
    assert [row["input_ids"] for row in encoded] == [[a, b, end], [a, b], [a, b, end]]
    assert [row["labels"] for row in encoded] == [[-100, b, end], [-100, b], [-100, b, end]]
    assert reader.costs()[2].startswith("25.0% of the first rows")


def test_messages_are_rendered_where_there_is_a_template(tmp_path):
    template = "{% for m in messages %}{{ m['role'][0] }}{{ m['content'] }}<|end|>{% endfor %}"
    template += "{% if add_generation_prompt %}a{% endif %}"
    rows = [
        {"prompt": [{"role": "user", "content": "1"}], "completion": [{"role": "assistant", "content": "2"}]}
        for _ in range(3)
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    tokenizer = make_tokenizer("bpe", ["u1a2"], 260)
    with pytest.raises(BadInput, match="a row's prompt is list, where the tokenizer reads text"):
        stream(tmp_path, tokenizer).encode(rows)
    tokenizer.chat_template = template
    [encoded, *_] = stream(tmp_path, tokenizer).encode(rows)
    assert tokenizer.decode(encoded["input_ids"]) == "u1<|end|>a2<|end|>"
    assert tokenizer.decode([label for label in encoded["labels"] if label != -100]) == "2<|end|>"


def test_messages_are_rendered_once_whole_and_ended_if_they_did(tmp_path):
    """A template that begins a text begins it alone; thinking is learnt, and no turn ends that was cut off."""
    from tokenizers.processors import TemplateProcessing
    from trl.chat_template_utils import qwen3_chat_template

    rows = [
        {
            "prompt": [{"role": "user", "content": "1"}],
            "completion": [{"role": "assistant", "content": "<think>2</think>3"}],
            "truncated": truncated,
        }
        for truncated in (False, True)
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    tokenizer = make_tokenizer("bpe", ["u1a23"], 260)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    begin = tokenizer.bos_token_id
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m['role'][0] }}{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}a{% endif %}"
    )
    [encoded] = stream(tmp_path, tokenizer).encode(rows)
    assert tokenizer.decode(encoded["input_ids"]) == "<s>u1<|end|>a<think>2</think>3<|end|>"
    strips = "m['content'].split('</think>')[-1] if m['role'] == 'assistant' else m['content']"
    tokenizer.chat_template = tokenizer.chat_template.replace("m['content']", strips)
    with pytest.raises(BadInput, match="strips the thinking of finished turns"):
        stream(tmp_path, tokenizer).encode(rows)
    tokenizer.chat_template = qwen3_chat_template
    [encoded] = stream(tmp_path, tokenizer, max_row_tokens=99).encode(rows)
    assert "2</think>3" in tokenizer.decode(encoded["input_ids"]).replace("\n", "")


@pytest.mark.parametrize("prompt", [[{"content": "1"}], "1"])
def test_messages_that_cannot_be_rendered_are_told_and_none_at_all_left_out(tmp_path, prompt):
    row = {"prompt": [{"role": "user", "content": "1"}], "completion": [{"role": "assistant", "content": "2"}]}
    write_jsonl(tmp_path / "rows.jsonl", [row])
    tokenizer = make_tokenizer("bpe", ["u1a2"], 260)
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'][0] }}{{ m['content'] }}{% endfor %}"
    reader = stream(tmp_path, tokenizer)
    assert len(reader.encode([row | {"prompt": None}, row, row | {"completion": []}])) == 1
    with pytest.raises(BadInput, match="the chat template cannot render a row's messages"):
        reader.encode([row, row | {"prompt": prompt}])


def test_parquet_streams_as_lines_do(folder, tmp_path, tokenizer):
    from datasets import Dataset

    for path in folder.iterdir():
        Dataset.from_json(str(path), cache_dir=str(tmp_path / "cache")).to_parquet(tmp_path / f"{path.stem}.parquet")
    assert epoch(stream(tmp_path / "*.parquet", tokenizer)) == epoch(stream(folder, tokenizer))


# ---- bad input ----


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("rows.jsonl", '{"question": "a", "answer": "b"}\n', "neither a column text nor prompt .* it has question"),
        ("rows.jsonl", "", "no rows in it; give another source"),
        ("rows.txt", "a\n", "its files end in .txt; give .jsonl or .parquet, and of one kind"),
        ("rows.jsonl", '{"text": "a"\n', r"rows\.jsonl, line 1: not valid JSON"),
        ("rows.parquet", "no table", r"rows\.parquet: cannot be read \("),
    ],
)
def test_sources_that_cannot_be_used(tmp_path, name, content, sentence):
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=sentence):
        open_source(str(tmp_path / name))


def test_a_name_is_no_pattern_where_a_file_has_it(tmp_path):
    write_jsonl(tmp_path / "rows[1].jsonl", [{"text": "1"}])
    assert open_source(str(tmp_path / "rows[1].jsonl")).head(2) == [{"text": "1"}]


def test_places_without_rows(tmp_path):
    for name in (str(tmp_path), str(tmp_path / "no.jsonl"), f"{tmp_path}/*.jsonl"):
        with pytest.raises(BadInput, match=r"no \.jsonl or \.parquet file there; check the path, or write hub:NAME"):
            open_source(name)
    with pytest.raises(BadInput, match="unknown key 'splits' behind the question mark, did you mean split"):
        open_source("hub:openai/gsm8k?splits=train")


def test_a_reader_without_rows_is_told(tmp_path, tokenizer):
    write_jsonl(tmp_path / "one.jsonl", [{"text": "1"}])
    assert next(stream(tmp_path, tokenizer).sequences(0, 2, Place()))
    with pytest.raises(BadInput, match="too few rows for every worker of every process"):
        next(stream(tmp_path, tokenizer).sequences(1, 2, Place()))


def test_a_row_without_its_column_is_named(tmp_path, tokenizer):
    write_jsonl(tmp_path / "0.jsonl", [{"text": "1"}])
    write_jsonl(tmp_path / "1.jsonl", [{"text": "1", "metadata": {"any": [1]}}, {"txt": "2"}])
    with pytest.raises(BadInput, match=r"1\.jsonl, line 2: no 'text'; every row needs text"):
        epoch(stream(tmp_path, tokenizer))


def test_half_of_a_surrogate_pair_is_told(tmp_path, tokenizer):
    (tmp_path / "0.jsonl").write_text('{"text": "1"}\n{"text": "\\ud800"}\n')
    with pytest.raises(BadInput, match="half of a surrogate pair in a text; write it again"):
        epoch(stream(tmp_path, tokenizer))


def test_another_source_has_another_fingerprint(folder, tmp_path):
    write_jsonl(tmp_path / "0.jsonl", [{"text": "1"}, {"text": "2"}])
    before = open_source(str(tmp_path)).fingerprint
    assert before == open_source(str(tmp_path / "0.jsonl")).fingerprint
    write_jsonl(tmp_path / "0.jsonl", [{"text": "1"}, {"text": "3"}])
    assert before != open_source(str(tmp_path)).fingerprint != open_source(str(folder)).fingerprint
