"""csm-ft: hyper-parameter-sweep-first fine-tuning of conversational speech models."""

import logging

# torchtune and transformers import torchao, which complains about optional GPU kernels that nothing
# here uses.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
