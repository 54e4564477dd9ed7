"""Bridges to other systems: the same scheduler in transformers, diffusers and SGLang. Each file needs its own extra.

transformers.py    any Hugging Face module as a model of ours; our decoding as `generate(custom_generate=...)`
diffusers.py       a scheduler of ours in a real `LLaDA2Pipeline`; diffusers' scheduler as one of ours
sglang.py          a scheduler of ours as an algorithm of SGLang's server
block.py           what the last two share: one step in a block that the host owns
hosts.py           what such a host cannot do, and how that is found out before it is asked to
"""
