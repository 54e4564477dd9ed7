"""A small masked-diffusion language model, built from scratch: model, checkpoints, tokenizer, tasks, training, weights.

Nothing is imported here: the tasks load in milliseconds, without torch. The reading order is `tasks`, `tokenizer`,
`config`, `layer`, `model`, `checkpoint`, `train`, `load`. The package knows nothing of decoding strategies and imports
none.
"""
