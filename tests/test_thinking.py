"""Splitting and counting: tokenizers built in memory and, where QWEN3_TOKENIZER names its folder, Qwen3's own."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import time
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from efficient_reasoning.checkpoint import load_tokenizer, resolve_model
from efficient_reasoning.errors import BadInput
from efficient_reasoning.thinking import KNOWN_DELIMITERS, Count, ThinkingFormat

THINK = ("<think>", "</think>")
EOS, PAD = "<eos>", "<pad>"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


def character_tokenizer(added=THINK, merges=(("Ċ", "Ċ"),), template=None) -> PreTrainedTokenizerFast:
    """Byte-level BPE in which every character is an id, but for `added` tokens and `merges`."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    model = models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=list(merges))
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=EOS, pad_token=PAD)
    tokenizer.add_tokens([AddedToken(text, special=False) for text in added])
    tokenizer.chat_template = template
    return tokenizer


def word_tokenizer(words: str) -> PreTrainedTokenizerFast:
    """One id per word, white space dropped, the rest unknown; no decoder, as in hand-made vocabularies."""
    vocabulary = {word: i for i, word in enumerate(["<unk>", EOS, PAD, *words.split()])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token=EOS, pad_token=PAD)


# "</", ">\n", ">\n\n" and "><" merge, as they do in real vocabularies; so do ">Y" and ".<", which straddle a border.
MERGES = (("<", "/"), ("Ċ", "Ċ"), (">", "Ċ"), (">", "ĊĊ"), (">", "</"), (">", "Y"), (".", "</"))


@pytest.fixture(scope="module")
def single() -> ThinkingFormat:
    return ThinkingFormat.from_tokenizer(character_tokenizer((*THINK, "<tool_call>")))


@pytest.fixture(scope="module")
def multi() -> ThinkingFormat:
    return ThinkingFormat.from_tokenizer(character_tokenizer((), MERGES), *THINK)


@pytest.fixture(scope="module")
def qwen3():
    found = sorted(Path(os.environ.get("QWEN3_TOKENIZER") or "/nonexistent").rglob("tokenizer.json"))
    if not found:
        pytest.skip("QWEN3_TOKENIZER does not name a folder with Qwen3's tokenizer.json")
    return AutoTokenizer.from_pretrained(found[0].parent)


def read(thinking_format: ThinkingFormat, text: str, prompt: str = "") -> tuple[str, str, bool, int]:
    """(thinking, answer, closed, blocks) of a text."""
    encode, decode = thinking_format.tokenizer.encode, thinking_format.tokenizer.decode
    split = thinking_format.split(encode(text), encode(prompt))
    return decode(split.thinking_ids), decode(split.answer_ids), split.closed, split.blocks


CASES = {
    "one block": ("<think>\nab\n</think>\n\nc", ("ab", "c", True, 1)),
    "white space before the open": ("\n <think>ab</think>c", ("ab", "c", True, 1)),
    "inner white space stays": ("<think>a \n b</think>c\nd", ("a \n b", "c\nd", True, 1)),
    "no block": ("abc\n", ("", "abc\n", True, 0)),
    "nothing": ("", ("", "", True, 0)),
    "empty block": ("<think>\n\n</think>\n\nc", ("", "c", True, 1)),
    "empty block, nothing within": ("<think></think>c", ("", "c", True, 1)),
    "unclosed": ("<think>\nab", ("ab", "", False, 1)),
    "only an open": ("<think>\n", ("", "", False, 1)),
    "close without open": ("ab\n</think>\n\nc", ("ab", "c", True, 1)),
    "several blocks": ("<think>a</think>x<think>b</think>y", ("ab", "y", True, 2)),
    "second block unclosed": ("<think>a</think>x<think>b", ("ab", "", False, 2)),
    "open within a block": ("<think>a<think>b</think>y", ("ab", "y", True, 1)),
    "close behind a block": ("<think>a</think>x</think>y", ("a", "y", True, 1)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["single", "multi"])
def test_split(kind, name, request):
    text, expected = CASES[name]
    assert read(request.getfixturevalue(kind), text) == expected


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_prompt_that_opens_the_block(kind, request):
    thinking_format = request.getfixturevalue(kind)
    assert read(thinking_format, "ab\n</think>\n\nc", prompt="q<think>\n") == ("ab", "c", True, 1)
    assert read(thinking_format, "\nab", prompt="q<think>") == ("ab", "", False, 1)
    assert read(thinking_format, "", prompt="q<think>") == ("", "", False, 1)
    # The model repeats the delimiter: still one block.
    assert read(thinking_format, "<think>ab</think>c", prompt="q<think>\n") == ("ab", "c", True, 1)


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_delimiter_in_the_users_text_opens_nothing(kind, request):
    thinking_format = request.getfixturevalue(kind)
    for prompt in (
        "what is <think>?\n",
        "<think>\nhi|assistant|\n",
        "a</think>b<think>c|",
        "q<think>\n\n</think>\n\n",
    ):
        assert not thinking_format.prompt_opens(thinking_format.tokenizer.encode(prompt)), prompt
        assert read(thinking_format, "abc", prompt) == ("", "abc", True, 0)
    for prompt in ("q<think>", "q<think>\n", "<think>x</think> y <think> \n\n"):
        assert thinking_format.prompt_opens(thinking_format.tokenizer.encode(prompt)), prompt


def test_tool_call_closes_the_block_it_stands_in(single):
    assert read(single, "<think>ab\n<tool_call>{}") == ("ab", "<tool_call>{}", True, 1)
    assert read(single, "<think>ab<tool_call>{}</think>c") == ("ab", "c", True, 1)
    assert read(single, "ab<tool_call>{}", prompt="<think>\n") == ("ab", "<tool_call>{}", True, 1)
    assert read(single, "<think>a</think>\nb\n<tool_call>{}") == ("a", "b\n<tool_call>{}", True, 1)
    assert read(single, "b\n<tool_call>{}") == ("", "b\n<tool_call>{}", True, 0)
    # The call is no delimiter: its id is counted with the answer, the newline before it is not.
    assert single.count(single.tokenizer.encode("<think>ab\n<tool_call>{}")) == Count(2, 3, 7)


def test_merged_ids_are_delimiters_unless_they_carry_text(multi):
    tokens = multi.tokenizer.tokenize("<think>a.</think>Yes")
    assert ".</" in tokens and ">Y" in tokens
    assert read(multi, "<think>a.</think>Yes") == ("a.</", ">Yes", True, 1)
    ids = multi.tokenizer.encode("<think></think>\n\nc")
    assert {"></", ">ĊĊ"} < set(multi.tokenizer.convert_ids_to_tokens(ids))
    assert multi.count(ids) == Count(0, 1, len(ids))


def test_an_id_that_holds_a_delimiter_and_text_is_counted_once():
    tokenizer = character_tokenizer((), merges=(("a", ">"), ("a>", ">")))
    thinking_format = ThinkingFormat.from_tokenizer(tokenizer, "<<", ">>")
    assert tokenizer.tokenize("<<a>>c") == ["<", "<", "a>>", "c"]
    assert read(thinking_format, "<<a>>c") == ("a>>", "c", True, 1)
    assert thinking_format.count(tokenizer.encode("<<a>>c")) == Count(1, 1, 4)


def test_delimiter_of_several_bytes_per_character_split_into_bytes():
    tokenizer = character_tokenizer(())
    kimi = ThinkingFormat.from_tokenizer(tokenizer, "◁think▷", "◁/think▷")
    assert len(tokenizer.encode("◁")) == 3
    assert read(kimi, "◁think▷é◁/think▷ü") == ("é", "ü", True, 1)


def test_counts_leave_out_eos_padding_and_delimiters(single):
    encode = single.tokenizer.encode
    text = "<think>\nab\n</think>\n\nxyz"
    expected = Count(thinking_tokens=2, answer_tokens=3, total_tokens=10)
    assert single.count(encode(text)) == expected
    assert single.count(encode(text + EOS)) == expected
    assert single.count(encode(text + EOS + "junk</think>" + PAD)) == expected
    assert single.count(encode(text + 3 * PAD)) == expected
    assert single.split(encode(text + EOS + PAD)).answer_ids == encode("xyz")
    assert single.count(encode("<think>a</think>x<think>b</think>y")) == Count(2, 2, 8)
    assert single.count(encode(EOS)) == Count(0, 0, 0)


def test_eos_ids_of_the_generation_config_end_a_completion_too():
    tokenizer = character_tokenizer()
    end = tokenizer.convert_tokens_to_ids("~")
    thinking_format = ThinkingFormat.from_tokenizer(tokenizer, eos_ids=[end])
    assert thinking_format.eos_ids == {end, tokenizer.eos_token_id}
    assert thinking_format.count(tokenizer.encode("ab~cd")).total_tokens == 2


def test_arrays_split_as_lists_do(single):
    ids = single.tokenizer.encode("<think>ab</think>c")
    assert single.split(np.array(ids), np.array(ids)) == single.split(ids, ids)


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_every_id_is_accounted_for(kind, request):
    """Random ids, also beyond the vocabulary: nothing raises, the parts are disjoint pieces of the completion."""
    thinking_format = request.getfixturevalue(kind)
    encode = thinking_format.tokenizer.encode
    draw = random.Random(0)
    snippets = [encode(text) for text in ("<think>", "</think>", "\n\n", " ", "a.", "Yes", "<", ">", "</", "é", EOS)]
    for _ in range(2000):
        ids = [token for _ in range(draw.randrange(12)) for token in draw.choice([*snippets, [draw.randrange(400)]])]
        prompt_ids = draw.choice(snippets)
        generated = ids[: ids.index(thinking_format.tokenizer.eos_token_id)] if encode(EOS)[0] in ids else ids
        while generated and generated[-1] == thinking_format.pad_id:
            generated = generated[:-1]
        count, split = thinking_format.count(ids, prompt_ids), thinking_format.split(ids, prompt_ids)
        assert count.total_tokens == len(generated)
        assert count.thinking_tokens == len(split.thinking_ids)
        assert len(split.answer_ids) <= count.answer_tokens
        rest_tokens = count.total_tokens - count.thinking_tokens - count.answer_tokens
        if kind == "single":
            delimiters = sum(token in (*thinking_format.open_ids, *thinking_format.close_ids) for token in generated)
            blanks = sum(not thinking_format.tokenizer.decode([token]).strip() for token in generated)
            assert delimiters <= rest_tokens <= delimiters + blanks
        assert rest_tokens >= 0
        assert split.answer_ids == generated[len(generated) - len(split.answer_ids) :]
        assert split.closed or not split.answer_ids
        remaining = iter(generated)
        assert all(token in remaining for token in split.thinking_ids)  # a subsequence
        # What is forced does what it says, whatever came before.
        closed = thinking_format.split([*generated, *thinking_format.close(ids, prompt_ids)], prompt_ids)
        assert closed.closed


@pytest.mark.parametrize("pair", KNOWN_DELIMITERS)
def test_known_pairs_as_one_token_and_as_several(pair):
    one = ThinkingFormat.from_tokenizer(character_tokenizer(pair))
    several = ThinkingFormat.from_tokenizer(character_tokenizer((), MERGES, template=f"{pair[0]}\n{pair[1]}"))
    text = f"{pair[0]}\nab\n{pair[1]}\n\nc"
    for thinking_format in (one, several):
        assert (thinking_format.open_text, thinking_format.close_text) == pair
        assert read(thinking_format, text) == ("ab", "c", True, 1)
    assert len(one.open_ids) == len(one.close_ids) == 1 < len(several.open_ids)


def test_tokens_of_the_vocabulary_come_before_mentions_in_the_template():
    tokenizer = character_tokenizer(("[THINK]", "[/THINK]"), template="<think>")
    assert ThinkingFormat.from_tokenizer(tokenizer).open_text == "[THINK]"
    assert ThinkingFormat.from_tokenizer(tokenizer, *THINK).open_text == "<think>"


def test_word_level_delimiters_of_several_words():
    thinking_format = ThinkingFormat.from_tokenizer(word_tokenizer("< > </ think a b c"), *THINK)
    assert len(thinking_format.open_ids) == 3
    assert read(thinking_format, "<think> a b </think> c") == ("a b", "c", True, 1)


def test_sentencepiece_marks_and_bytes_are_white_space():
    pieces = ["<unk>", EOS, "<0x0A>", *"▁<>/thougabcq", "▁<", "▁</"]
    merges = [("▁", "<"), ("▁<", "/")]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token=EOS)
    thinking_format = ThinkingFormat.from_tokenizer(tokenizer, "<thought>", "</thought>")
    assert tokenizer.convert_ids_to_tokens(thinking_format.open_ids[0]) == "▁<"
    assert read(thinking_format, "<thought>\nab\n</thought>\n c") == ("ab", "c", True, 1)
    assert read(thinking_format, "<thought> ab </thought> c") == ("ab", "c", True, 1)
    assert thinking_format.prompt_opens(tokenizer.encode("q<thought>\n"))


def test_delimiters_that_cannot_be_found_or_written():
    with pytest.raises(BadInput, match="pass its open_text and close_text"):
        ThinkingFormat.from_tokenizer(word_tokenizer("a b"))
    with pytest.raises(BadInput, match="pass both or neither"):
        ThinkingFormat.from_tokenizer(character_tokenizer(), open_text="<think>")
    with pytest.raises(BadInput, match="cannot write '<think>'"):
        ThinkingFormat.from_tokenizer(word_tokenizer("a b"), *THINK)


def test_open_close_and_empty_follow_the_template():
    tokenizer = character_tokenizer((*THINK, "<|im_start|>", "<|im_end|>"), template=CHATML)
    lines, bare = ThinkingFormat.from_tokenizer(tokenizer), ThinkingFormat.from_tokenizer(character_tokenizer())
    encode = tokenizer.encode
    assert lines.open(encode("q")) == encode("<think>\n") and bare.open(encode("q")) == encode("<think>")
    assert lines.open(encode("q<think>\n")) == []
    assert lines.close(encode("<think>\nab")) == encode("\n</think>\n\n")
    assert bare.close(encode("<think>ab")) == encode("</think>")
    assert lines.empty() == encode("<think>\n\n</think>\n\n") and bare.empty() == encode("<think></think>")
    assert lines.write("ab", "c") == "<think>\nab\n</think>\n\nc" and bare.write("ab", "c") == "<think>ab</think>c"
    # A prompt that opens the block gets the rest of the same empty block.
    assert lines.close([], encode("q<think>\n")) == encode("\n</think>\n\n")


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_close_forces_an_answer_once(kind, request):
    thinking_format = request.getfixturevalue(kind)
    encode = thinking_format.tokenizer.encode
    assert thinking_format.close(encode("<think>a</think>")) == []
    assert thinking_format.close(encode("ab")) == []  # it answers already
    assert thinking_format.close([]) == thinking_format.close(encode("\n")) == thinking_format.empty()
    assert thinking_format.close([], encode("q<think></think>\n")) == []
    assert thinking_format.close(encode("ab"), encode("q<think>")) == encode("</think>")
    assert thinking_format.close(encode("ab</think>"), encode("q<think>")) == []


def at(thinking_format: ThinkingFormat, text: str, prompt: str = "") -> list[tuple[str, int]]:
    """The phases of a text as (phase, how many positions in a row)."""
    encode = thinking_format.tokenizer.encode
    return [(phase, len([*run])) for phase, run in groupby(thinking_format.phases(encode(text), encode(prompt)))]


PHASES = {
    "nothing": ("", "", ["unbegun"]),
    "white space": ("\n \n", "", ["unbegun"]),
    "a block": ("\n<think>\nab</think>\n\nc\n", "", ["unbegun", "thinking", "closed", "answering"]),
    "no block": ("ab c", "", ["unbegun", "answering"]),
    "the prompt opens": ("ab</think>c", "q<think>\n", ["thinking", "closed", "answering"]),
    "the prompt opens and closes": ("\nc", "q<think>\n\n</think>\n\n", ["closed", "answering"]),
    "the user names a delimiter": ("c", "what is <think>?", ["unbegun", "answering"]),
    "a second block": ("<think>a</think>x<think>b", "", ["unbegun", "thinking", "closed", "answering", "thinking"]),
    "a second close": ("<think>a</think>x</think>", "", ["unbegun", "thinking", "closed", "answering", "closed"]),
    "an open in a block": ("<think>a<think>b</think>", "", ["unbegun", "thinking", "closed"]),
    "behind the end": (f"<think>a{EOS}b</think>c", "", ["unbegun", "thinking"]),
    "padding": (f"{PAD}<think>a</think>{PAD}{PAD}c", "", ["unbegun", "thinking", "closed", "answering"]),
}


@pytest.mark.parametrize("name", PHASES)
@pytest.mark.parametrize("kind", ["single", "multi"])
def test_phases(kind, name, request):
    thinking_format = request.getfixturevalue(kind)
    text, prompt, expected = PHASES[name]
    phases = thinking_format.phases(thinking_format.tokenizer.encode(text), thinking_format.tokenizer.encode(prompt))
    assert [phase for phase, _ in groupby(phases)] == expected


def test_phases_stand_before_and_behind_every_id(single, multi):
    text = "<think>ab</think>\n\nc"
    assert at(single, text) == [("unbegun", 1), ("thinking", 3), ("closed", 2), ("answering", 1)]
    tokens = multi.tokenizer.tokenize(text)
    assert tokens == ["<", *"think", ">", "a", "b", "</", *"think", ">ĊĊ", "c"]
    # A delimiter of several ids changes the phase with its last one.
    assert at(multi, text) == [("unbegun", 7), ("thinking", 9), ("closed", 1), ("answering", 1)]


def test_a_tool_call_ends_thinking_in_every_phase(single):
    assert at(single, "<think>ab<tool_call>{}") == [("unbegun", 1), ("thinking", 3), ("answering", 3)]
    assert at(single, "<think>a</think>\n<tool_call>") == [
        *[("unbegun", 1), ("thinking", 2), ("closed", 2), ("answering", 1)]
    ]
    assert at(single, "<tool_call>") == [("unbegun", 1), ("answering", 1)]
    assert single.tool_ids == {single.tokenizer.convert_tokens_to_ids("<tool_call>")}


def test_ids_that_hold_a_delimiter_and_text_change_the_phase(multi):
    assert multi.tokenizer.tokenize("</think>Yes")[-3:] == [">Y", "e", "s"]
    # ">Y" is text behind the close, so the ids before it have closed the block.
    assert at(multi, "<think>a</think>Yes")[-2:] == [("closed", 1), ("answering", 3)]
    tokenizer = character_tokenizer((), merges=(("a", ">"), ("a>", ">")))
    swallowed = ThinkingFormat.from_tokenizer(tokenizer, "<<", ">>")
    assert at(swallowed, "<<a>>") == [("unbegun", 2), ("thinking", 1), ("closed", 1)]
    assert swallowed.close(tokenizer.encode("<<a>>")) == []


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_phases_agree_with_split(kind, request):
    thinking_format = request.getfixturevalue(kind)
    encode = thinking_format.tokenizer.encode
    draw = random.Random(1)
    texts = ["<think>", "</think>", "\n\n", " ", "a.", "Yes", "<", ">", "</", "a</think>", "</think>Y", EOS]
    snippets = [*map(encode, texts)]
    for _ in range(2000):
        ids = [token for _ in range(draw.randrange(9)) for token in draw.choice([*snippets, [draw.randrange(256)]])]
        prompt_ids = draw.choice(snippets)
        split, phases = thinking_format.split(ids, prompt_ids), thinking_format.phases(ids, prompt_ids)
        assert len(phases) == (ids.index(encode(EOS)[0]) if encode(EOS)[0] in ids else len(ids)) + 1
        assert (phases[-1] != "thinking") == split.closed
        said = thinking_format.tokenizer.decode(split.answer_ids).strip()
        assert not said or phases[-1] == "answering"


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_reopen_takes_the_last_close_back(kind, request):
    thinking_format = request.getfixturevalue(kind)
    encode, decode = thinking_format.tokenizer.encode, thinking_format.tokenizer.decode
    for text, before in [
        ("<think>ab</think>", "<think>ab"),
        ("<think>ab\n\n</think>\n\n", "<think>ab"),
        ("<think>a</think>x<think>b </think>c", "<think>a</think>x<think>b"),
        ("ab</think>", "ab"),
        ("<think>ab", "<think>ab"),
    ]:
        assert decode(thinking_format.reopen(encode(text))).strip() == before, text
    # Here "></" is one id, and ids are never cut.
    assert decode(thinking_format.reopen(encode("<think></think>"))) == ("<think>" if kind == "single" else "")


def test_what_is_blank(single, multi):
    assert single.blank_allowance == multi.blank_allowance == 0
    lines = ThinkingFormat.from_tokenizer(character_tokenizer(template=CHATML))
    assert lines.newline == "\n" and lines.blank_allowance == 1  # "\n\n" is one id
    assert ThinkingFormat.from_tokenizer(character_tokenizer(merges=(), template=CHATML)).blank_allowance == 2
    tokens = single.tokenizer.convert_ids_to_tokens(sorted(single.blank_ids))
    assert {"Ċ", "ĊĊ", "Ġ", "ĉ", PAD} <= {*tokens} and not {"a", "<", "</think>", EOS} & {*tokens}
    breaks = single.tokenizer.convert_ids_to_tokens(sorted(single.break_ids))
    assert {*breaks} == {"Ċ", "ĊĊ"}
    assert single.has_single_ids and not multi.has_single_ids


def test_equal_formats_are_equal_and_survive_a_pickle(single):
    copy = pickle.loads(pickle.dumps(single))
    assert copy == single and hash(copy) == hash(single)
    assert copy.split(single.tokenizer.encode("<think>\nab</think>c")).blocks == 1
    assert "tokenizer" not in repr(single)


def test_a_reward_can_split_thousands_of_completions(single):
    ids = single.tokenizer.encode("<think>\n" + "a" * 190 + "\n</think>\n\n42" + EOS)
    start = time.perf_counter()
    for _ in range(2000):
        single.split(ids)
    assert time.perf_counter() - start < 1.0  # about 0.1 s; a linear scan in Python per id and decode would be far off


def test_thinking_and_prompts_load_without_torch():
    program = "import sys, efficient_reasoning.thinking, efficient_reasoning.prompts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.parametrize(
    "pair", [THINK, ("<thought>", "</thought>"), ("◁think▷", "◁/think▷"), ("[THINK]", "[/THINK]")]
)
def test_split_with_qwen3s_tokenizer(qwen3, pair):
    thinking_format = ThinkingFormat.from_tokenizer(qwen3, *pair)
    for name, (text, (thinking, answer, *rest)) in CASES.items():
        # Its vocabulary merges ">a" and ".</"; blanks keep the letters apart from the delimiters.
        got = read(thinking_format, text.replace("<think>", f" {pair[0]} ").replace("</think>", f" {pair[1]} "))
        assert (got[0].replace(" ", ""), got[1].strip(), *got[2:]) == (
            thinking.replace(" ", ""),
            answer.strip(),
            *rest,
        ), name


def test_qwen3s_tokenizer(qwen3):
    thinking_format = ThinkingFormat.from_tokenizer(qwen3)
    assert (thinking_format.open_ids, thinking_format.close_ids) == ((151667,), (151668,))
    assert thinking_format.newline == "\n" and thinking_format.eos_ids == {151645}
    question = [{"role": "user", "content": "Why <think>"}]
    plain = qwen3.apply_chat_template(question, add_generation_prompt=True, return_dict=False)
    without = qwen3.apply_chat_template(question, add_generation_prompt=True, return_dict=False, enable_thinking=False)
    assert 151667 in plain and not thinking_format.prompt_opens(plain)
    assert plain + thinking_format.empty() == plain + thinking_format.close([], plain) == without
    assert thinking_format.close([], without) == [] and not thinking_format.prompt_opens(without)
    assert thinking_format.prompt_opens(plain + thinking_format.open(plain))
    ids = qwen3.encode("<think>\nOne two.\n</think>\n\nThree<|im_end|><|endoftext|>")
    assert thinking_format.count(ids) == Count(thinking_tokens=3, answer_tokens=1, total_tokens=8)
    assert thinking_format.count([*ids[:5], 151900]).total_tokens == 6  # the embedding is larger than the vocabulary
    call = thinking_format.split(qwen3.encode('<think>\nLook up.\n<tool_call>\n{"name": "f"}\n</tool_call>'))
    assert call.closed and qwen3.decode(call.thinking_ids) == "Look up.\n"  # ".\n" is one id, and ids are never cut
    assert qwen3.decode(call.answer_ids).startswith("<tool_call>")


def test_white_space_is_counted_from_the_last_close():
    thinking = ThinkingFormat.from_tokenizer(load_tokenizer(resolve_model("overthinker")))
    [open_id], [close_id] = thinking.open_ids, thinking.close_ids
    word, line = (thinking.tokenizer.encode(text)[0] for text in ("so", "\n"))
    states = thinking.states([open_id, word, close_id, line, line, close_id, line])
    assert [blanks for _, blanks in states] == [0, 0, 0, 0, 1, 2, 0, 1]
    assert states[-1] == ("closed", 1)
