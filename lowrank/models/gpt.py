"""A small language model: a decoder of transformer blocks (Radford et al. 2019), byte by byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from lowrank.config import Config


class Block(nn.Module):
    """x + attention(norm(x)), and of that y + feed_forward(norm(y)).

    Args:
        width: Of a token.
        heads: Of attention.
        dropout: Share of units dropped of each of the two.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, 4 * width)
        self.activation = nn.GELU()
        self.linear2 = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, later: Tensor) -> Tensor:
        """Adds the block's two functions of its input to it.

        Args:
            tokens: (B, T, width).
            later: (T, T), True where the column's token comes after the row's.

        Returns:
            (B, T, width).
        """
        normed = self.norm1(tokens)
        seen, _ = self.attention(
            normed, normed, normed, attn_mask=later, is_causal=True, need_weights=False
        )
        tokens = tokens + self.dropout(seen)
        inner = self.activation(self.linear1(self.norm2(tokens)))
        changed: Tensor = tokens + self.dropout(self.linear2(inner))
        return changed


class Decoder(nn.Module):
    """Tells every byte of a text from those before it.

    Args:
        depth: Number of blocks.
        heads: Of attention in each.
        width: Of a token.
        context: Bytes of a text at most.
        classes: Values of a byte.
        dropout: Share of units dropped of the embedding and in every block.
    """

    def __init__(
        self, depth: int, heads: int, width: int, context: int, classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, width)
        self.position = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, text: Tensor) -> Tensor:
        """Computes the logits of every next byte.

        Args:
            text: int64 of shape (B, T), T at most the context.

        Returns:
            (B, T, classes).
        """
        places = torch.arange(text.shape[-1], device=text.device)
        later = places > places[:, None]
        tokens = self.dropout(self.embedding(text) + self.position(places))
        for block in self.blocks:
            tokens = block(tokens, later)
        logits: Tensor = self.head(self.norm(tokens))
        return logits


def build(config: Config, image_shape: tuple[int], num_classes: int) -> nn.Module:
    """Builds the decoder.

    Linear layers and attention have PyTorch's default initialisation, as all models here, and so
    have the embeddings of bytes and positions. The head has a matrix of its own.

    Args:
        config: Reads ``gpt_depth``, ``gpt_heads``, ``gpt_width`` and ``dropout``, which acts on the
            embedding and after attention and feed-forward part of every block.
        image_shape: (context,).
        num_classes: Values of a byte.

    Returns:
        A network with 6 · depth + 1 weight matrices, all but the head counted: query, key, value,
        output and two feed-forward matrices of each block.
    """
    (context,) = image_shape
    return Decoder(
        config.gpt_depth, config.gpt_heads, config.gpt_width, context, num_classes, config.dropout
    )
