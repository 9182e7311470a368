"""Sesame's Conversational Speech Model: a backbone over frames, a depth decoder over the codebooks of a frame."""

import logging

# torchtune imports torchao, which complains about optional GPU kernels that nothing here uses.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
