"""What makes a latent of a hidden state: a small network, a fixed norm, both, or, where there is none, nothing.

1. CODI (arXiv 2502.21074) puts two layers with GELU between, and a LayerNorm behind, in front of the next input.
2. Hidden states are longer than embeddings, and recycled ones may grow with training. A norm brings each latent to the
   length that embeddings had on average when training began, and leaves its direction.
3. Training and decoding apply the same module. Its weights lie beside those of the model, in `latent.safetensors`; the
   norm is a number of `reasoning.json`.

Legend: D width.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from efficient_reasoning.checkpoint import LATENT_NAME, ReasoningMetadata
from efficient_reasoning.errors import BadInput


class LatentProjection(torch.nn.Module):
    """Makes latents of hidden states.

    Args:
        width: D.
        has_network: two layers with GELU, and a LayerNorm (CODI, arXiv 2502.21074).
        norm: Euclidean length of every latent; None leaves them as they come.
    """

    def __init__(self, width: int, has_network: bool, norm: float | None = None):
        super().__init__()
        self.norm = norm
        self.network = None
        if has_network:
            self.network = torch.nn.Sequential(
                torch.nn.Linear(width, width),
                torch.nn.GELU(),
                torch.nn.Linear(width, width),
                torch.nn.LayerNorm(width),
            )

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Latents (..., D) of the last hidden states (..., D)."""
        if self.network is not None:
            states = self.network(states.to(self.network[0].weight.dtype))
        if self.norm is not None:
            states = (torch.nn.functional.normalize(states.float(), dim=-1) * self.norm).to(states.dtype)
        return states

    def save(self, folder: str | Path) -> None:
        """Write the weights into a checkpoint; a norm alone has none."""
        if self.network is not None:
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
            save_file(tensors, Path(folder) / LATENT_NAME)


def load_projection(folder: str | Path, metadata: ReasoningMetadata, width: int) -> LatentProjection | None:
    """The projection of a local checkpoint; None where hidden states are latents as they are.

    Args:
        folder: of the checkpoint.
        metadata: of the checkpoint.
        width: D of its model.

    Raises:
        BadInput: weights that are cut off, or of another model.
    """
    if metadata.latent_projection is None and metadata.latent_norm is None:
        return None
    projection = LatentProjection(width, metadata.latent_projection is not None, metadata.latent_norm)
    if projection.network is not None:
        path = Path(folder) / LATENT_NAME
        try:
            projection.load_state_dict(load_file(path))
        except (RuntimeError, OSError, SafetensorError):
            raise BadInput(
                f"{path}: holds no projection of hidden states {width} wide; copy the checkpoint again."
            ) from None
    return projection.eval()
