"""How text becomes tokens and loss weights: the keys that every command on documents and chats shares."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "documents": "documents.jsonl",  # JSONL rows {id, text, weights?} or {id, messages}
            "tokenizer": "tokenizer",  # directory: Hugging Face's (tokenizer.json), or made by data_gen.tokenizer
            "document_end": "",  # token after a document, as "<|endoftext|>"; empty: the tokenizer's eos token
            "chat": {  # data_gen/template.py states the rules
                "template": "",  # a jinja file to use instead of the tokenizer's own chat template
                "thinking": "ignore",  # ignore, cot, no_think or by_row
                "no_think_flag": "",  # in rows without thoughts appended to messages, as " /no_think"
                "no_think_flag_roles": ("system", "user"),  # to whose messages
                "supervise_empty_think": False,  # True: the model writes the empty think block; False: the prompt does
            },
        }
    )
