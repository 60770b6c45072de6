"""Publish a checkpoint with the measurement that speaks for it.

1. `publish` builds the exact folder that would go to the Hub (`folder`): checkpoint, card, evaluation, one example.
2. It is checked before it leaves (`checks`, `example`): no secret, no path of this machine, nothing missing, and a
   process that has nothing of ours but the folder repeats the example token for token. The folder appears only when
   all of it is right.
3. An upload is one commit, so nobody ever sees half a model, and it can be repeated until it is through (`upload`).
4. Samples and training rows go up beside it, as data sets, on request (`data_sets`).
"""

from __future__ import annotations

from efficient_reasoning.cards import write_training_card
from efficient_reasoning.hub.publish import publish
from efficient_reasoning.hub.upload import upload_folder

__all__ = ["publish", "upload_folder", "write_training_card"]
