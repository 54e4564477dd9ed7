"""One thread and one deterministic hypothesis profile, so that a failure here is a failure anywhere."""

import hypothesis
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("ci", derandomize=True, database=None, deadline=None, print_blob=False)
hypothesis.settings.load_profile("ci")
