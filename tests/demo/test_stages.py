import pytest
from transformers import AutoTokenizer

from tea.demo import task
from tea.demo.stages import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_every_word_is_one_token_and_comes_back(tokenizer):
    assert len(tokenizer) == len(task.WORDS) + 4
    for word in task.WORDS:
        ids = tokenizer(word)["input_ids"]
        assert len(ids) == 1
        assert ids[0] not in tokenizer.all_special_ids
        assert tokenizer.decode(ids) == word


def test_prompt_and_completion_concatenate_as_trl_does_it(tokenizer):
    prompt, completion = task.prompt_text("calm", "rainy", "dusk"), "rose oat ember"
    joined = tokenizer(prompt + completion)["input_ids"]
    assert joined == tokenizer(prompt)["input_ids"] + tokenizer(completion)["input_ids"]
    assert tokenizer.decode(joined[-3:]) == completion
    assert tokenizer.unk_token_id not in joined


def test_the_end_token_is_skipped_when_decoding(tokenizer):
    ids = [*tokenizer("rose oat")["input_ids"], tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "rose oat"


def test_chat_template_gives_the_plain_text(tokenizer):
    prompt = task.prompt_text("bold", "sunny", "noon")
    user, assistant = {"role": "user", "content": prompt}, {"role": "assistant", "content": "rose oat"}
    asked = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    assert asked == prompt
    answered = tokenizer.apply_chat_template([user, assistant], tokenize=False)
    assert answered == prompt + "rose oat<eos>"


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = task.prompt_text("weary", "windy", "night") + " ".join([*task.MILD, *task.STRONG])
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.padding_side == "left"
    assert (loaded.pad_token, loaded.eos_token) == ("<pad>", "<eos>")
    assert set(loaded("oat")) == {"input_ids", "attention_mask"}  # what a Llama takes
