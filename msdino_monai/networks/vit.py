"""The ViT body: tokens in, features out; it knows neither pixels nor where a token came from."""

from __future__ import annotations

import torch
from monai.networks.blocks import TransformerBlock
from monai.networks.layers import DropPath
from torch import nn
from torch._jit_internal import is_scripting
from torch.utils.checkpoint import checkpoint


class Block(TransformerBlock):
    """MONAI's transformer block with stochastic depth on both of its branches, recomputed on the way back if wanted."""

    def __init__(
        self,
        hidden_size: int,
        mlp_dim: int,
        num_heads: int,
        drop_path_rate: float = 0.0,
        fused_attention: bool = False,
        recompute: bool = False,
    ) -> None:
        super().__init__(hidden_size, mlp_dim, num_heads, qkv_bias=True, use_flash_attention=fused_attention)
        self.norm_cross_attn = nn.Identity()  # DDP waits for the gradient of every parameter, used or not
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate > 0 else nn.Identity()
        self.recompute = recompute

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if not is_scripting():  # noqa: SIM102 (TorchScript knows no checkpointing and looks past exactly this)
            if self.recompute and self.training:
                return checkpoint(self.branches, hidden, use_reentrant=False)  # type: ignore[no-any-return]
        return self.branches(hidden)

    def branches(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.drop_path(self.attn(self.norm1(hidden)))
        return hidden + self.drop_path(self.mlp(self.norm2(hidden)))  # type: ignore[no-any-return]


class ViTBody(nn.Module):
    """Tokens (B, N, D) to a class token and token features (B, 1 + N, hidden_size).

    Without position codes its class token does not depend on the order of the tokens, and neither does any token's
    feature: this is why a shuffled export can be learnt from at all.

    Args:
        embedding_dim: D of the exported tokens; a linear map brings them to `hidden_size`.
        hidden_size: width of the body.
        mlp_dim: width inside the blocks.
        num_layers: transformer blocks.
        num_heads: attention heads.
        num_registers: tokens that belong to no patch, room for what concerns the whole image; not returned.
        num_positions: 0, or N: position codes, started at zero, so that at the start they change nothing.
        drop_path_rate: stochastic depth of the last block; earlier blocks have proportionally less.
        fused_attention: PyTorch's fused kernel, the faster one on GPUs; the same result.
        checkpoint_blocks: recompute the blocks on the way back: less memory, more time.
    """

    def __init__(
        self,
        embedding_dim: int = 128,
        hidden_size: int = 384,
        mlp_dim: int = 1536,
        num_layers: int = 12,
        num_heads: int = 6,
        num_registers: int = 0,
        num_positions: int = 0,
        drop_path_rate: float = 0.0,
        fused_attention: bool = False,
        checkpoint_blocks: bool = False,
    ) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size must be a multiple of num_heads {num_heads}, got {hidden_size}.")
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must be in [0, 1), got {drop_path_rate}.")
        if min(num_registers, num_positions) < 0:
            raise ValueError(f"num_registers and num_positions start at 0, got {num_registers} and {num_positions}.")
        self.hidden_size, self.num_registers = hidden_size, num_registers
        self.num_heads, self.mlp_dim = num_heads, mlp_dim
        self.to_hidden = nn.Linear(embedding_dim, hidden_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, hidden_size))
        self.registers = nn.Parameter(torch.zeros(1, num_registers, hidden_size)) if num_registers else None
        self.positions = nn.Parameter(torch.zeros(1, num_positions, hidden_size)) if num_positions else None
        rates = torch.linspace(0, drop_path_rate, num_layers).tolist()
        self.blocks = nn.ModuleList(
            Block(hidden_size, mlp_dim, num_heads, rate, fused_attention, checkpoint_blocks) for rate in rates
        )
        self.norm = nn.LayerNorm(hidden_size)
        self.apply(_start_small)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        if self.registers is not None:
            nn.init.trunc_normal_(self.registers, std=0.02)

    @torch.jit.unused
    def sizes(self) -> dict[str, int]:
        """What the constructor must be given to hold these weights, position codes aside."""
        return {
            "embedding_dim": self.to_hidden.in_features,
            "hidden_size": self.hidden_size,
            "mlp_dim": self.mlp_dim,
            "num_layers": len(self.blocks),
            "num_heads": self.num_heads,
            "num_registers": self.num_registers,
        }

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(tokens)
        for block in self.blocks:
            hidden = block(hidden)
        return self._without_registers(self.norm(hidden))

    def hidden_states(self, tokens: torch.Tensor, layers: list[int]) -> list[torch.Tensor]:
        """What leaves the blocks of these numbers, (B, 1 + N, hidden_size) each; the last block's is normalised."""
        hidden, states = self.embed(tokens), []
        for number, block in enumerate(self.blocks):
            hidden = block(hidden)
            if number in layers:
                last = number == len(self.blocks) - 1
                states.append(self._without_registers(self.norm(hidden) if last else hidden))
        return states

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens at the body's width behind the class token and the registers, (B, 1 + R + N, hidden_size)."""
        hidden = self.to_hidden(tokens)  # (B, N, D) -> (B, N, hidden_size)
        if self.positions is not None:
            hidden = hidden + self.positions
        count = hidden.shape[0]
        if self.registers is not None:
            hidden = torch.cat([self.registers.expand(count, -1, -1), hidden], dim=1)
        return torch.cat([self.cls_token.expand(count, -1, -1), hidden], dim=1)

    def _without_registers(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.num_registers == 0:
            return hidden
        return torch.cat([hidden[:, :1], hidden[:, 1 + self.num_registers :]], dim=1)


def _start_small(module: nn.Module) -> None:
    """ViT's usual start: small weights, no biases."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
