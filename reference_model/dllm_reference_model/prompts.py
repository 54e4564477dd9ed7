"""The chat formats of LLaDA-Instruct and Dream-Instruct, as plain string functions.

They build the text that the instruct models were trained to answer; they know no tokenizer and no model. Text is put
in as it is: a message that spells a special token becomes that token when it is encoded. A folder's own chat template
is never rendered, since a template is a program.
"""

from collections.abc import Mapping, Sequence

Messages = str | Sequence[Mapping[str, str]]  # one user text, or {"role": .., "content": ..} each

ROLES = ("system", "user", "assistant")
DREAM_SYSTEM = "You are a helpful assistant."


def llada_chat(messages: Messages) -> str:
    """The prompt of LLaDA-8B-Instruct: headers as in Llama 3, `<|startoftext|>` once, no system text by default.

    Follows `chat_template` in the tokenizer_config.json of GSAI-ML/LLaDA-8B-Instruct, which strips each content.
    ValueError for messages without a role or content.
    """
    turns = [
        f"<|start_header_id|>{role}<|end_header_id|>\n\n{content.strip()}<|eot_id|>"
        for role, content in _turns(messages)
    ]
    return "<|startoftext|>" + "".join(turns) + "<|start_header_id|>assistant<|end_header_id|>\n\n"


def dream_chat(messages: Messages) -> str:
    """The prompt of Dream-v0-Instruct-7B: ChatML as in Qwen2, which Dream was made from.

    A conversation that does not begin with a system message gets Qwen2's default one. The format is that of Qwen2's
    `chat_template`. Dream's own file could not be compared; programs around Dream expect this very system text first.
    ValueError for messages without a role or content.
    """
    turns = _turns(messages)
    if turns[0][0] != "system":
        turns = [("system", DREAM_SYSTEM), *turns]
    return "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns) + "<|im_start|>assistant\n"


def _turns(messages: Messages) -> list[tuple[str, str]]:
    """Role and content of each message."""
    if isinstance(messages, str):
        return [("user", messages)]
    if not messages:
        raise ValueError("a chat prompt needs at least one message, got none")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise ValueError(f'message {number} must be {{"role": .., "content": TEXT}}, got {message!r}')
        if message.get("role") not in ROLES:
            raise ValueError(
                f"the role of message {number} must be one of {', '.join(ROLES)}, got {message.get('role')!r}"
            )
    return [(message["role"], message["content"]) for message in messages]
